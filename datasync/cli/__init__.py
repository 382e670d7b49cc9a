"""The commands of `python -m datasync`, without click and output, which are in datasync/cli.py."""
