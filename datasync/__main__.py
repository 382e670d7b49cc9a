"""The command line, `python -m datasync` or `bin/datasync`: `--help` lists the commands."""

import io
import os
import sys
from datetime import UTC, datetime

try:
    from datasync.cli.main import cli
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise
    sys.exit(
        "python -m datasync needs the packages of this project. Activate the environment "
        "(. .venv/bin/activate, Windows: .venv\\Scripts\\activate) or run make install"
    )

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Windows code pages may lack the arrow in flow names
    name = os.environ.get("DATASYNC_COMMAND") or "python -m datasync"  # bin/datasync sets it
    cli(prog_name=name, obj=datetime.now(UTC), complete_var="_DATASYNC_COMPLETE")
