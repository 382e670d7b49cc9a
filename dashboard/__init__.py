"""The page for operators. `blueprint.py` has its routes; it shows the answers of `datasync.operate`."""
