"""The ending of an attempt: the value that admit or call hands to settle."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from datasync.model.run import Outcome


class Ending(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    outcome: Outcome
    error: str | None = None
    """One line, unless it succeeded."""
    traceback: str = ""
    failure: Exception | None = None
    """The exception to raise for the host."""
    delay: timedelta | None = None
    """The time after which the flow asked to run again."""
    window_end: datetime | None = None
    """End of the window that the flow was given; None where it did not start."""
    counts: dict[str, int] = {}
    http: dict[str, Any] = {}
    """The HTTP requests, as `HttpUsage.attributes` has them."""
