"""The last ticks, and the time after which a tick is missing."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from itertools import takewhile

import msgspec

from datasync.model.tick import TickRecord
from datasync.schedule import second_tick_after
from datasync.services import Services

_LAST = 24  # ticks among which those that failed are counted


class TickStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The last ticks."""

    started_utc: datetime | None
    """The start of the last one; None if no tick has started yet."""
    schedule: str
    """The cron of the ticks."""
    is_missing: bool
    """Whether two ticks in a row have not started."""
    failed: int = 0
    """How many of the last 24 ticks failed or were killed since the last complete one. One that goes on is none."""
    failure: str | None = None
    """The error of the last of these; None if it was killed."""


class Result(StrEnum):
    """How a tick ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    """A tenant, or all of them, could not be handled. The host repeats the tick within minutes."""
    KILLED = "killed"
    """Its process died before its end. The next tick does the rest."""
    RUNNING = "running"


class TickLine(msgspec.Struct, frozen=True, rename="camel"):
    """One tick."""

    started_utc: datetime
    ended_utc: datetime | None
    seconds: float
    result: Result
    is_scan: bool
    """Whether it examined all documents, and not only those that were changed or due."""
    tally: dict[str, int | None]
    """The numbers of the `TICK` line. Empty if it has not ended."""
    failure: str | None
    """The first error."""


class Ticks(msgspec.Struct, frozen=True, rename="camel"):
    """The last ticks, the newest first."""

    last: TickStatus
    ticks: tuple[TickLine, ...]

    @property
    def is_well(self) -> bool:
        """Whether ticks come, and the last one that is over was complete."""
        return not self.last.is_missing and not self.last.failed


async def tick_status(services: Services, now: datetime) -> TickStatus:
    """Return the state of the ticks, as of `now` (aware). Raises ServiceUnavailable."""
    started, found = await asyncio.gather(services.fleet.last_tick(), _last(services, now, _LAST))
    return _status(services, now, started, found)


async def ticks(services: Services, now: datetime, most: int) -> Ticks:
    """Return up to `most` ticks, as of `now` (aware). Raises ServiceUnavailable."""
    started, found = await asyncio.gather(services.fleet.last_tick(), _last(services, now, max(most, _LAST)))
    return Ticks(last=_status(services, now, started, found), ticks=tuple(found[:most]))


def _status(services: Services, now: datetime, started: datetime | None, found: Sequence[TickLine]) -> TickStatus:
    schedule = services.settings.schedule
    over = [each for each in found if each.result is not Result.RUNNING]
    failed = [*takewhile(lambda each: each.result is not Result.COMPLETE, over[:_LAST])]
    return TickStatus(
        started_utc=started,
        schedule=schedule,
        is_missing=started is None or now > second_tick_after(schedule, started),
        failed=len(failed),
        failure=failed[0].failure if failed else None,
    )


async def _last(services: Services, now: datetime, most: int) -> list[TickLine]:
    records = await services.fleet.ticks(most)
    timeout = services.settings.function_timeout
    return [_line(record, may_run=record is records[0] and now - record.started_utc < timeout) for record in records]


def _line(record: TickRecord, *, may_run: bool) -> TickLine:
    if record.ended_utc:
        result = Result.FAILED if record.failure else Result.COMPLETE
    else:
        result = Result.RUNNING if may_run else Result.KILLED
    return TickLine(
        started_utc=record.started_utc,
        ended_utc=record.ended_utc,
        seconds=record.seconds,
        result=result,
        is_scan=record.is_scan,
        tally=record.tally,
        failure=record.failure,
    )
