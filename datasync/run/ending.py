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
    """The exception that the host has to hear of."""
    again: timedelta | None = None
    """The delay after which the job comes back, where the flow asked for that."""
    window_end: datetime | None = None
    """End of the window that the flow was given; None where it did not start."""
    counts: dict[str, int] = {}
    http: dict[str, Any] = {}
    """The HTTP requests, as `HttpStory.attributes` has them."""
