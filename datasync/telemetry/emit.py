"""Writes events to the log: a sentence for people, then `key=value`, on one line.

On Azure a log line arrives as text, so the line holds every attribute that operators search for. The attributes are
also on the log record, as `fields`, and the parts of the event, as `facts`, for local handlers that show them.
"""

import logging
from collections.abc import Mapping

from datasync.model.display import shown, shown_line, shown_lines
from datasync.telemetry.events import Event

logger = logging.getLogger("datasync")

LONGEST = 4000
"""The most characters of a sentence. A longer one is cut, so that its attributes follow."""

_CHATTY = ("azure", "httpx", "httpx_retries", "msal", "urllib3")


def configure() -> None:
    """Log the app's own events, and stop the libraries from logging every request with its URL."""
    logger.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def emit(event: Event) -> None:
    """Log an event."""
    attributes = {shown(key): _safe(value) for key, value in event.attributes().items() if value is not None}
    text = "\n".join(filter(None, [line(event.sentence(), attributes), event.details()]))
    logger.log(event.level, "%s", shown_lines(text), extra={"fields": attributes, "facts": event.facts()})


def _safe(value: object) -> object:
    return shown(value) if isinstance(value, str) else value


def line(sentence: str, attributes: Mapping[str, object]) -> str:
    """Return a sentence followed by its attributes, on one line: `DONE acme/weather in 1.2s run=5f… attempt=1`."""
    pairs = (f"{key}={value}" for key, value in attributes.items())
    return " ".join([shown_line(sentence, LONGEST), *pairs])
