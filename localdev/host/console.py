"""What the host and the app log, as lines for people on standard error: `[2026-01-31T09:00:00.123Z] text`."""

import logging
import sys
from datetime import UTC, datetime
from typing import override

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_PLAIN = "\x1b[0m"

# Every request with its URL, every token: nothing a flow's author wants to read.
_CHATTY = ("azure.core.pipeline.policies.http_logging_policy", "azure.identity")


class _Lines(logging.Formatter):
    def __init__(self, *, coloured: bool) -> None:
        super().__init__("%(message)s")
        self._coloured = coloured

    @override
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = f"[{at}] {super().format(record)}"
        colour = _COLOURS.get(record.levelno) if self._coloured else None
        return f"\x1b[{colour}m{line}{_PLAIN}" if colour else line


def configure() -> None:
    """Send all logging to standard error; the app may change this, as on Azure."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(coloured=sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
