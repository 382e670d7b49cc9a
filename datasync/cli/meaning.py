"""Says what enabled entries mean: their times, the part of the timer, the settings and the secrets."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache
from itertools import islice
from zoneinfo import ZoneInfo

import msgspec

from datasync import cron
from datasync.cli.cron_words import describe
from datasync.errors import CronInvalid
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import declared_secret
from datasync.model.display import quoted, shown
from datasync.model.tenant import FlowEntry, Tenant
from datasync.operate.load import Conditions
from datasync.schedule import find_zone
from datasync.tick.check import entry_problems
from datasync.tick.forecast import Schedule, Timer
from datasync.tick.plan import spread_share

_LOOKED_AT = 3  # occurrences that are compared with the ticks
_INSTANT = timedelta(microseconds=1)


class Meaning(msgspec.Struct, frozen=True, rename="camel"):
    """The meaning of an enabled entry."""

    tenant_id: str
    flow: str
    problems: int
    """With any, the entry does not run, and the rest is unknown."""
    schedule: str | None = None
    """The times of the cron in words, or the cron itself."""
    timer: str | None = None
    """The effect of the timer where it is not fast enough for the cron."""
    timezone: str | None = None
    next_utc: datetime | None = None
    """The start of the next run; None if there is none."""
    has_settings: bool = False
    """Whether the flow declares the type of its settings, which then fit."""
    secrets: tuple[str, ...] = ()
    """The declared secrets, by their names in the vault."""
    missing: tuple[str, ...] | None = None
    """Those that the vault does not have; None where it was not read."""

    def line(self, now: datetime) -> str:
        """Return the meaning in a line."""
        subject = f"{shown(self.tenant_id)}/{shown(self.flow)}"
        if self.problems:
            return f"{subject}: does not run until its problems are corrected"
        times = ", ".join(each for each in (self.schedule, self.timer) if each)
        settings = ["settings fit"] if self.has_settings else []
        return f"{subject}: {'; '.join([times, self._next(now), *settings, self._secrets()])}"

    def _next(self, now: datetime) -> str:
        if self.next_utc is None:
            return "no next time"
        zone = ZoneInfo(self.timezone or "UTC")
        local, today = self.next_utc.astimezone(zone), now.astimezone(zone).date()
        day = "" if local.date() == today else f"{local:%a %Y-%m-%d} "
        return f"next {day}{local:%H:%M}{f':{local:%S}' if local.second else ''} {zone.key}"

    def _secrets(self) -> str:
        if not self.secrets:
            return "no secrets declared"
        found = (
            "not checked" if self.missing is None else f"{len(self.missing)} missing" if self.missing else "all there"
        )
        return f"secrets needed: {len(self.secrets)} ({found})"


def meanings_of(
    tenants: Iterable[Tenant], registry: FlowRegistry, now: datetime, conditions: Conditions
) -> Iterator[Meaning]:
    """Yield the meaning of each enabled entry at an instant (aware). The vault is not read."""
    reader = _Reader(registry, now, conditions)
    return (reader.meaning(tenant, entry) for tenant in tenants for entry in tenant.flows if entry.enabled)


class _Reader:
    def __init__(self, registry: FlowRegistry, now: datetime, conditions: Conditions) -> None:
        self._registry = registry
        self._now = now
        self._timer = Timer(conditions.schedule, conditions.lookahead)
        self._spread = conditions.spread
        self._lag = cache(self._lag_of)  # many entries have the same schedule

    def meaning(self, tenant: Tenant, entry: FlowEntry) -> Meaning:
        """Return the meaning of an entry."""
        if problems := [*entry_problems(tenant, entry, self._registry, self._now)]:
            return Meaning(tenant_id=tenant.id, flow=entry.name, problems=len(problems))
        flow = self._registry.resolve(entry.name)
        schedule = Schedule(entry.cron, tenant.zone_of(entry))
        start = next(self._timer.starts(schedule, entry.next_run, self._now), None)
        return Meaning(
            tenant_id=tenant.id,
            flow=entry.name,
            problems=0,
            schedule=describe(cron.parse(entry.cron)),
            timer=self._lag(schedule),
            timezone=schedule.zone,
            next_utc=start and start + self._spread * spread_share(tenant.id, entry.name),
            has_settings=flow.settings is not None,
            secrets=tuple(declared_secret(tenant.id, name) for name in dict.fromkeys(flow.secrets)),
        )

    def _lag_of(self, schedule: Schedule) -> str | None:
        """Return the effect of the timer on the next occurrences; None if they run to the second."""
        times, zone = cron.parse(schedule.cron), find_zone(schedule.zone)
        first = self._timer.first(self._now)
        if first is None:
            return "but the timer never looks"
        occurrences: list[datetime] = []
        following = times.next(first, zone)
        while following and len(occurrences) < _LOOKED_AT:
            occurrences.append(following)
            following = times.next(following, zone)
        starts = [*islice(self._timer.starts(schedule, None, first - _INSTANT), len(occurrences))]
        if starts == occurrences:
            return None
        if any(start >= following for start, following in zip(starts, occurrences[1:], strict=False)):
            return f"but the timer looks {self._looks()}"
        return "at the next tick of the timer"

    def _looks(self) -> str:
        """Describe the schedule of the timer."""
        try:
            return describe(cron.parse(self._timer.schedule))
        except CronInvalid:  # a form that only the host reads
            return f"by the schedule {quoted(self._timer.schedule)}"
