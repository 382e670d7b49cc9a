"""`python -m datasync schedule | validate | check`: questions about schedules, documents and services, answered."""

import io
import sys
from datetime import UTC, datetime

try:
    from datasync.cli.main import cli
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise
    sys.exit("The command line needs click, which the app itself does not: pip install -r requirements-dev.txt")

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a Windows code page may lack the arrow of a flow's name
    cli(prog_name="python -m datasync", obj=datetime.now(UTC))
