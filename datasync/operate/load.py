"""The jobs of the next 24 hours, by minute and provider, if nobody edits anything."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from functools import cached_property
from itertools import takewhile

import msgspec

from datasync import cron
from datasync.errors import TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.tenant import FlowEntry, Tenant, is_tenant_document
from datasync.schedule import find_zone, tick_after
from datasync.services import Services
from datasync.tick.check import entry_problems, tenant_problems
from datasync.tick.plan import MOST_AHEAD, spread_share

MINUTES = 24 * 60


class ProviderLoad(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs whose flows have one provider."""

    provider: str | None
    """None for flows without a provider."""
    flows: tuple[str, ...]
    jobs: int
    minutes: tuple[int, ...]
    """The jobs that start in each of the 1,440 minutes."""


class Load(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs of the next 24 hours, the provider with the most jobs first."""

    from_utc: datetime
    """The start of the first minute."""
    providers: tuple[ProviderLoad, ...]


async def load(services: Services, registry: FlowRegistry, now: datetime) -> Load:
    """Return the jobs of the 24 hours from `now` (aware) on. Entries with a problem have none.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    settings = services.settings
    forecast = _Forecast(now, settings.schedule, settings.lookahead, settings.spread, registry)
    async for page in services.tenants.all():
        for document in page:
            if is_tenant_document(document):
                try:
                    forecast.add(Tenant.from_document(document))
                except TenantInvalid:  # it does not run
                    continue
    return forecast.load()


class _Forecast:
    """Counts the jobs that the coming ticks enqueue, as `tick.plan` decides about each."""

    def __init__(
        self, now: datetime, schedule: str, lookahead: timedelta, spread: timedelta, registry: FlowRegistry
    ) -> None:
        self._start = now.replace(second=0, microsecond=0)
        self._end = self._start + timedelta(minutes=MINUTES)
        self._now = now
        self._schedule = schedule
        self._lookahead = lookahead
        self._spread = spread
        self._registry = registry
        self._known: dict[tuple[str, str, datetime | None], tuple[datetime, ...]] = {}
        """Times by cron, zone and `nextRunUtc`, which many entries have in common."""
        self._minutes: defaultdict[str | None, Counter[int]] = defaultdict(Counter)
        self._flows: defaultdict[str | None, set[str]] = defaultdict(set)

    def add(self, tenant: Tenant) -> None:
        """Count the jobs of a tenant."""
        is_zone_wrong = any(each.path == "timezone" for each in tenant_problems(tenant))
        for entry in tenant.flows:
            is_wrong = any(entry_problems(tenant, entry, self._registry, self._now))
            if not entry.enabled or is_wrong or (is_zone_wrong and entry.timezone == "tenant"):
                continue
            flow = self._registry.resolve(entry.name)
            self._flows[flow.provider].add(flow.name)
            late = self._spread * spread_share(tenant.id, entry.name)
            minutes = ((at + late - self._start) // timedelta(minutes=1) for at in self._times(tenant, entry))
            self._minutes[flow.provider].update(minute for minute in minutes if minute < MINUTES)

    def load(self) -> Load:
        """Return the numbers."""
        providers = [
            ProviderLoad(
                provider=provider,
                flows=tuple(sorted(flows)),
                jobs=self._minutes[provider].total(),
                minutes=tuple(self._minutes[provider][minute] for minute in range(MINUTES)),
            )
            for provider, flows in self._flows.items()
        ]
        providers.sort(key=lambda each: (-each.jobs, each.provider or ""))
        return Load(from_utc=self._start, providers=tuple(providers))

    def _times(self, tenant: Tenant, entry: FlowEntry) -> tuple[datetime, ...]:
        key = (entry.cron, tenant.zone_of(entry), entry.next_run)
        if key not in self._known:
            self._known[key] = tuple(self._planned(cron.parse(entry.cron), find_zone(key[1]), entry.next_run))
        return self._known[key]

    def _planned(self, times: cron.CronSchedule, zone: tzinfo, next_run: datetime | None) -> Iterator[datetime]:
        """Yield the times at which the jobs of an entry start. Occurrences that a tick finds passed are one job."""
        upcoming = next_run or times.next(self._ticks[0], zone)  # a tick fills it in, without a job
        for at in self._ticks:
            if upcoming and upcoming <= at:
                yield at
                upcoming = times.next(at, zone)
            for _ in range(MOST_AHEAD):
                if upcoming is None or upcoming > at + self._lookahead:
                    break
                yield upcoming
                upcoming = times.next(upcoming, zone)

    @cached_property
    def _ticks(self) -> list[datetime]:
        def coming() -> Iterator[datetime]:
            at = self._now
            while True:
                yield (at := tick_after(self._schedule, at))

        return [*takewhile(lambda at: at < self._end, coming())] or [self._end]
