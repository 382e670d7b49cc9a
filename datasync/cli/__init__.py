"""What the commands of `python -m datasync` do. They neither print nor know click: datasync/cli.py does."""
