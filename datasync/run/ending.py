"""The endings of a delivery: the values that admit and call hand on."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import msgspec

from datasync.model.failure import Failure
from datasync.model.job import JobMessage, PlannedJob
from datasync.model.run import LogLine, Outcome, RunWindow


class Ending(msgspec.Struct, frozen=True):
    """The end of an attempt, which is recorded."""

    outcome: Outcome
    error: Failure | None = None
    """None if it succeeded or continues."""
    traceback: str = ""
    place: str | None = None
    """The module and the function of the flow in which it failed; None where it did not."""
    raised: BaseException | None = None
    """The exception to raise for the host, so that it delivers the message again."""
    is_permanent: bool = False
    """Whether another attempt would fail as well."""
    delay: timedelta | None = None
    """The time after which the flow asked to run again."""
    is_outage: bool = False
    """Whether it is deferred because a service is away, and not because the flow asked for it."""
    window: RunWindow | None = None
    """The window that the flow was given; None where it did not start, or has none."""
    window_end: datetime | None = None
    """End of the part of the window that is done."""
    cursor: Any = None
    """The cursor to keep, if it succeeded or continues."""
    cursor_before: Any = None
    """The cursor at the start of the attempt."""
    counts: dict[str, int] = {}
    http: dict[str, float] = {}
    log: tuple[LogLine, ...] = ()
    log_left_out: int = 0
    secrets: dict[str, datetime] = {}
    recording: str | None = None
    """The name of the recording of its HTTP exchanges; None where none was stored."""
    abandoned: tuple[asyncio.Future[Any], ...] = ()
    """Tasks and calls in threads that the flow has left behind, and that still run."""


class Drop(msgspec.Struct, frozen=True):
    """The message is not needed. Nothing is recorded."""

    why: str
    send: tuple[PlannedJob, ...] = ()
    """Messages to send before, since the process may have died before it sent them."""
    stays_dead: bool = False
    """Whether the run is dead, could not be attempted again, and stays dead."""


class PutBack(msgspec.Struct, frozen=True):
    """The message goes back on the queue, hidden for a time. No attempt is counted."""

    message: JobMessage
    delay: timedelta
    why: str
