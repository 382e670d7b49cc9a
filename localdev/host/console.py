"""Writes the log lines of the host and the app to standard error: `[2026-01-31T09:00:00.123Z] text`.

On Azure the host drops every line that the app logs outside an executing invocation: at import, or in a task that
outlives its invocation. Here such a line is shown with the mark `NOT_SEEN`. Lines logged in `asyncio.to_thread` are not
marked, but on Azure they can be lost too (Azure/azure-functions-python-worker, issue 1860).
Source: Azure/azure-functions-host, GrpcWorkerChannel.cs (InvokeRpcLog, IgnoringRpcLog).

For a parent process that shows the lines in its own way, each can be a JSON object instead: see `Objects`.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import override

from localdev.host.worker import LIBRARY_LOGGER, current_invocation

NOT_SEEN = "(outside an invocation: not seen on Azure)"

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}
_PLAIN = "\x1b[0m"

# They log each request with its URL, and each token request.
_CHATTY = ("azure.core.pipeline.policies.http_logging_policy", "azure.identity")


class _Lines(logging.Formatter):
    def __init__(self, *, coloured: bool) -> None:
        super().__init__("%(message)s")
        self._coloured = coloured

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        if not _is_dropped_on_azure(record):
            return message
        first, *rest = message.split("\n")
        return "\n".join([f"{first} {NOT_SEEN}", *rest])

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = f"[{_time(record)}] {super().format(record)}"
        colour = _COLOURS.get(record.levelno) if self._coloured else None
        return f"\x1b[{colour}m{line}{_PLAIN}" if colour else line


class Objects(logging.Formatter):
    """Makes a JSON object of each record.

    `line` is the line as `_Lines` writes it, `at` its time, `level` a number, `logger` a name, and `text` the message
    with its traceback. `seen` is false for a line that Azure drops. `facts` is the attribute of this name that the app
    has given to the record, if any. `reported` is true for the failure of an invocation in which the app has logged an
    error with facts: the failure is known already.
    """

    def __init__(self) -> None:
        super().__init__("%(message)s")
        self._lines = _Lines(coloured=False)
        self._with_errors = set[str]()

    @override
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None)
        if facts and record.levelno >= logging.ERROR and (invocation := current_invocation()):
            self._with_errors.add(invocation)
        ended = getattr(record, "ended", None)
        shown = {
            "line": self._lines.format(record),
            "at": _time(record),
            "level": record.levelno,
            "logger": record.name,
            "text": super().format(record),
            "seen": not _is_dropped_on_azure(record),
            "facts": facts,
            "reported": ended in self._with_errors,
        }
        self._with_errors.discard(ended or "")
        return json.dumps(shown, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_dropped_on_azure(record: logging.LogRecord) -> bool:
    is_of_host = record.thread == threading.main_thread().ident or record.name == LIBRARY_LOGGER
    return not is_of_host and current_invocation() is None


def configure(*, objects: bool) -> None:
    """Send all log records to standard error, as lines or as JSON objects. The app may change this, as on Azure."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Objects() if objects else _Lines(coloured=sys.stderr.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
