"""The last ticks, and the time after which a tick is missing."""

from datetime import datetime
from enum import StrEnum

import msgspec

from datasync.model.tick import TickRecord
from datasync.schedule import second_tick_after
from datasync.services import Services


class TickStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The last tick."""

    started_utc: datetime | None
    """None if no tick has started yet."""
    schedule: str
    """The cron of the ticks."""
    is_missing: bool
    """Whether two ticks in a row have not started."""


async def tick_status(services: Services, now: datetime) -> TickStatus:
    """Return the last tick, as of `now` (aware). Raises ServiceUnavailable."""
    started, schedule = await services.fleet.last_tick(), services.settings.schedule
    is_missing = started is None or now > second_tick_after(schedule, started)
    return TickStatus(started_utc=started, schedule=schedule, is_missing=is_missing)


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
        over = [each for each in self.ticks if each.result is not Result.RUNNING]
        return not self.last.is_missing and all(each.result is Result.COMPLETE for each in over[:1])


async def ticks(services: Services, now: datetime, most: int) -> Ticks:
    """Return up to `most` ticks, as of `now` (aware). Raises ServiceUnavailable."""
    records = await services.fleet.ticks(most)
    timeout = services.settings.function_timeout
    lines = [_line(record, may_run=record is records[0] and now - record.started_utc < timeout) for record in records]
    return Ticks(last=await tick_status(services, now), ticks=tuple(lines))


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
