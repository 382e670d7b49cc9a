"""The last tick, and the time after which a tick is missing."""

from datetime import datetime, timedelta

import msgspec

from datasync import cron
from datasync.errors import CronInvalid
from datasync.services import Services

_GRACE = timedelta(minutes=5)
"""How late a tick may start: the host may have to be started first."""

_PERIOD = timedelta(hours=1)
"""The assumed time between two ticks where the schedule is a form that only the host reads."""


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


def second_tick_after(schedule: str, at: datetime) -> datetime:
    """Return the instant by which two further ticks have started, unless they are missing."""
    return tick_after(schedule, tick_after(schedule, at)) + _GRACE


def tick_after(schedule: str, at: datetime) -> datetime:
    """Return the time of the next tick after an instant (aware)."""
    try:
        return cron.parse(schedule).next(at) or at + _PERIOD
    except CronInvalid:
        return at + _PERIOD
