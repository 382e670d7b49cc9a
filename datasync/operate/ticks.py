"""The last tick, and the time after which a tick is missing."""

from datetime import datetime

import msgspec

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
