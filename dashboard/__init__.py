"""The page for operators. `blueprint.py` has its routes; it shows what `datasync.operate` answers."""
