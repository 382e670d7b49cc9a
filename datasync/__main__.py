"""The command line, `python -m datasync` or `bin/datasync`: `--help` lists the commands."""

import io
import os
import signal
import sys
from datetime import UTC, datetime

signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # the imports take a second: Ctrl-C needs no traceback

try:
    from datasync.cli.common import MODULE
    from datasync.cli.main import cli
except ModuleNotFoundError as missing:
    if missing.name != "click":
        raise
    sys.exit(
        "python -m datasync needs the packages of this project. Activate the environment "
        "(. .venv/bin/activate, Windows: .venv\\Scripts\\activate) or run make install"
    )

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Windows code pages may lack the arrow in flow names
    name = os.environ.get("DATASYNC_COMMAND", MODULE)  # bin/datasync sets it
    cli(prog_name=name, obj=datetime.now(UTC), complete_var="_DATASYNC_COMPLETE")
