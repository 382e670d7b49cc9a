"""The times at which a flow of a tenant is expected to succeed, and those of the ticks. Pure."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from datasync import cron
from datasync.errors import CronInvalid
from datasync.model.decode import shorten
from datasync.model.tenant import FlowEntry, Tenant

GRACE = timedelta(minutes=5)
"""How late a tick may start: the host may have to be started first."""

_PERIOD = timedelta(hours=1)
"""The assumed time between two ticks where the schedule is a form that only the host reads."""
_SECOND = timedelta(seconds=1)
_LAST = datetime.max.replace(microsecond=0, tzinfo=UTC)


class Expectation(msgspec.Struct, frozen=True):
    """How often an enabled entry should succeed."""

    cron: str
    zone: str
    freshness: timedelta | None
    """How old the last success may get; None to derive that from the cron."""
    ticks: str
    """The cron of the ticks."""

    @classmethod
    def of(cls, tenant: Tenant, entry: FlowEntry, ticks: str) -> Self:
        """Return the expectation of an entry."""
        return cls(cron=entry.cron, zone=tenant.zone_of(entry), freshness=entry.freshness, ticks=ticks)

    @property
    def rev(self) -> str:
        """A hash that changes with the expectation."""
        parts = (self.cron, self.zone, str(self.freshness or ""), self.ticks)
        return sha256("\n".join(parts).encode(errors="backslashreplace")).hexdigest()[:16]

    @property
    def is_readable(self) -> bool:
        """Whether the cron and the time zone can be read."""
        try:
            cron.parse(self.cron)
            find_zone(self.zone)
        except (CronInvalid, ValueError):
            return False
        return True

    def stale_after(self, at: datetime, usual_seconds: float = 0) -> datetime | None:
        """Return the time (aware, in whole seconds) by which the flow should succeed again after an instant (aware).

        Without a freshness, it is the first tick after the second next occurrence, and three times the usual duration
        of a run. None if the cron cannot be read, or has no such occurrence.
        """
        try:
            end = at + self.freshness if self.freshness else self._end(at, timedelta(seconds=usual_seconds))
        except (CronInvalid, ValueError, OverflowError):
            return None
        return end and (end if not end.microsecond else end.replace(microsecond=0) + _SECOND)

    def last_until(self, at: datetime, window: timedelta) -> datetime | None:
        """Return the last occurrence of the cron until an instant (aware); None if none lies in a window before it."""
        try:
            times, zone = cron.parse(self.cron), find_zone(self.zone)
            upcoming = times.next(at - window, zone)
            last = None
            while upcoming and upcoming <= at:
                last, upcoming = upcoming, times.next(upcoming, zone)
        except (CronInvalid, ValueError, OverflowError):
            return None
        return last

    def _end(self, at: datetime, usual: timedelta) -> datetime | None:
        times, zone = cron.parse(self.cron), find_zone(self.zone)
        first = times.next(at, zone)
        second = first and times.next(first, zone)
        return tick_after(self.ticks, second) + 3 * usual if second else None


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name.

    Raises:
        ValueError: the zone does not exist; the message states the expected form.

    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{shorten(repr(name))} is not a time zone; expected an IANA name such as America/Chicago"
        ) from None


def tick_after(ticks: str, at: datetime) -> datetime:
    """Return the time of the next tick after an instant (aware)."""
    try:
        return cron.parse(ticks).next(at) or at + _PERIOD
    except CronInvalid:
        return at + _PERIOD


def second_tick_after(ticks: str, at: datetime) -> datetime:
    """Return the instant by which two further ticks have started, unless they are missing."""
    try:
        return tick_after(ticks, tick_after(ticks, at)) + GRACE
    except OverflowError:
        return _LAST
