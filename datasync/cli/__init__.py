"""The commands of `python -m datasync`. Only `main.py` imports click."""
