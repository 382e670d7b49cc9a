"""The jobs of a span of time, by minute and provider: those of the next 24 hours, or with other settings and crons."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import msgspec
from msgspec.structs import replace

from datasync.errors import ActionInvalid, FlowUnknown, TenantInvalid
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.tenant import FlowEntry, Tenant, is_tenant_document
from datasync.model.times import utc_text
from datasync.services import Services
from datasync.settings import DEFAULT_SCHEDULE, Settings
from datasync.tick.check import entry_problems, tenant_problems
from datasync.tick.forecast import MINUTE, Forecast, Schedule, Timer
from datasync.tick.plan import spread_share

MINUTES = 24 * 60

_INSTANT = timedelta(microseconds=1)

MOST = 1_000_000
"""The most starts that are planned. Entries that have the same schedule are planned once."""


LONGEST = timedelta(days=31)
"""The longest span."""


class ProviderLoad(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs whose flows have one provider."""

    provider: str | None
    """None for flows without a provider."""
    flows: tuple[str, ...]
    jobs: int
    minutes: tuple[int, ...]
    """The jobs that start in each minute."""


class Load(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs of a span, the provider with the most jobs first."""

    from_utc: datetime
    """The start of the first minute."""
    providers: tuple[ProviderLoad, ...]


class Conditions(msgspec.Struct, frozen=True):
    """The settings of the ticks, and crons in place of those of the documents."""

    schedule: str = DEFAULT_SCHEDULE
    lookahead: timedelta = timedelta()
    spread: timedelta = timedelta()
    crons: Mapping[str, str] = {}
    """By the name of the flow."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the conditions of an app."""
        return cls(schedule=settings.schedule, lookahead=settings.lookahead, spread=settings.spread)


class Span(msgspec.Struct, frozen=True):
    """The time to simulate."""

    start: datetime
    end: datetime
    """The end of the last minute."""
    as_stored: bool
    """Whether the documents count as they are at the start, with their `nextRunUtc`. If not, the app has always run."""

    @classmethod
    def of(cls, start: datetime, end: datetime, *, as_stored: bool) -> Self:
        """Return a span between two instants (aware).

        Raises:
            ActionInvalid: it is empty, too long, or too near to the ends of the calendar.

        """
        if end <= start:
            raise ActionInvalid(f"the end {utc_text(end)} is not after the start {utc_text(start)}")
        if end - start > LONGEST:
            days = (end - start) / timedelta(days=1)
            raise ActionInvalid(f"the span has {days:,.0f} days; at most {LONGEST.days} are simulated at once")
        if not _FIRST_YEAR <= start.year < _LAST_YEAR:
            raise ActionInvalid(f"the start {utc_text(start)} is not in the years {_FIRST_YEAR} to {_LAST_YEAR - 1}")
        minute = end.replace(second=0, microsecond=0)
        return cls(start, minute if minute == end else minute + MINUTE, as_stored)

    @property
    def first_minute(self) -> datetime:
        """The start of the first minute."""
        return self.start.replace(second=0, microsecond=0)

    @property
    def minutes(self) -> int:
        """The number of minutes."""
        return (self.end - self.first_minute) // MINUTE


_FIRST_YEAR, _LAST_YEAR = 1970, 9000


class Busiest(msgspec.Struct, frozen=True, rename="camel"):
    """The first of the minutes in which the most jobs start."""

    minute_utc: datetime
    jobs: int


class HourLoad(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs that start in one hour of the clock."""

    start_utc: datetime
    """The start of the hour, or that of the span."""
    jobs: int
    busiest: int
    """The most jobs that start in one of its minutes."""


class Simulated(msgspec.Struct, frozen=True, rename="camel"):
    """The jobs of a span, and the conditions that make them so."""

    from_utc: datetime
    to_utc: datetime
    schedule: str
    lookahead_seconds: float
    spread_seconds: float
    crons: Mapping[str, str]
    """Crons that were used in place of those of the documents, by flow."""
    entries: int
    """Entries that run."""
    disabled: int
    wrong: int
    """Enabled entries with a problem, which do not run."""
    unreadable: int
    """Documents that cannot be used as a whole."""
    jobs: int
    busiest: Busiest | None
    """None where no job starts."""
    unchanged: Busiest | None
    """The busiest minute with the settings and crons as they are; None where nothing was changed."""
    hours: tuple[HourLoad, ...]
    providers: tuple[ProviderLoad, ...]


async def load(services: Services, registry: FlowRegistry, now: datetime) -> Load:
    """Return the jobs of the 24 hours from `now` (aware) on, if nobody edits anything.

    Entries with a problem have none.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.
        ActionInvalid: there are too many.

    """
    span = Span.of(now, now.replace(second=0, microsecond=0) + MINUTES * MINUTE, as_stored=True)
    simulation = _Simulation(registry, Conditions.of(services.settings), span)
    async for page in services.tenants.all():
        for tenant in readable(filter(is_tenant_document, page)):
            simulation.add(tenant)
    return Load(from_utc=span.first_minute, providers=await asyncio.to_thread(simulation.providers))


def readable(documents: Iterable[Mapping[str, Any]]) -> Iterator[Tenant]:
    """Yield the tenants whose documents can be used as a whole."""
    for document in documents:
        with suppress(TenantInvalid):
            yield Tenant.from_document(document)


async def stored(services: Services, tenant_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the documents of some tenants, or of all where none is named.

    Raises:
        TenantUnknown: a tenant has no document.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    if tenant_ids:
        return [await services.tenants.document(each) for each in dict.fromkeys(tenant_ids)]
    return [each async for page in services.tenants.all() for each in page if is_tenant_document(each)]


def simulate(
    documents: Sequence[Mapping[str, Any]],
    registry: FlowRegistry,
    span: Span,
    conditions: Conditions,
    *,
    unchanged: Conditions,
    provider: str | None = None,
) -> Simulated:
    """Return the jobs of some tenants.

    Args:
        documents: Those of the tenants.
        registry: The flows.
        span: The time.
        conditions: The settings and crons to simulate.
        unchanged: Those that the app has.
        provider: The provider whose jobs are counted; None for all.

    Raises:
        ActionInvalid: no flow has the provider, a cron is for an unknown flow, or there are too many jobs.

    """
    known = sorted({flow.provider for flow in registry if flow.provider})
    if provider and provider not in known:
        others = f"known: {', '.join(known)}" if known else "no flow has any"
        raise ActionInvalid(f"no flow has the provider {provider!r}; {others}")
    tenants = [*readable(documents)]
    simulation = _Simulation(registry, conditions, span, provider)
    before = _Simulation(registry, unchanged, span, provider) if unchanged != conditions else None
    for tenant in tenants:
        simulation.add(tenant)
        if before:
            before.add(tenant)
    providers = simulation.providers()
    minutes = _together(providers, span)
    return Simulated(
        from_utc=span.first_minute,
        to_utc=span.end,
        schedule=conditions.schedule,
        lookahead_seconds=conditions.lookahead.total_seconds(),
        spread_seconds=conditions.spread.total_seconds(),
        crons=conditions.crons,
        entries=simulation.entries,
        disabled=simulation.disabled,
        wrong=simulation.wrong,
        unreadable=len(documents) - len(tenants),
        jobs=sum(minutes),
        busiest=_busiest(minutes, span),
        unchanged=_busiest(_together(before.providers(), span), span) if before else None,
        hours=tuple(HourLoad(start, sum(part), max(part)) for start, part in by_hour(span.first_minute, minutes)),
        providers=providers,
    )


def by_hour[T](start: datetime, minutes: Sequence[T]) -> Iterator[tuple[datetime, Sequence[T]]]:
    """Yield the minutes of each hour of the clock in UTC, and their start. The first and the last hour may be parts."""
    at = 0
    while at < len(minutes):
        hour = start + at * MINUTE
        end = at + 60 - hour.minute
        yield hour, minutes[at:end]
        at = end


def _together(providers: Iterable[ProviderLoad], span: Span) -> list[int]:
    return [sum(numbers) for numbers in zip([0] * span.minutes, *(each.minutes for each in providers), strict=True)]


def _busiest(minutes: Sequence[int], span: Span) -> Busiest | None:
    most = max(minutes)
    return Busiest(span.first_minute + minutes.index(most) * MINUTE, most) if most else None


class _Entry(NamedTuple):
    """An entry that runs."""

    entry: FlowEntry
    flow: Flow
    schedule: Schedule
    late: timedelta
    """Its part of the spread."""


class _Simulation:
    """Counts the jobs that the ticks enqueue, as `tick.plan` decides about each."""

    def __init__(self, registry: FlowRegistry, conditions: Conditions, span: Span, provider: str | None = None) -> None:
        self._registry = registry
        self._conditions = conditions
        try:
            self._crons = {registry.resolve(name).name: each for name, each in conditions.crons.items()}
        except FlowUnknown as error:
            raise ActionInvalid(str(error)) from None
        self._span = span
        self._provider = provider
        timer = Timer(conditions.schedule, conditions.lookahead)
        # Jobs that wait on the queue at the start are those of ticks from this one on.
        self._first_tick = timer.last(span.start - conditions.spread) or span.start
        self._waiting = Forecast(timer, span.first_minute, span.minutes)
        self._coming = Forecast(timer, span.first_minute, span.minutes)
        self._flows: defaultdict[str | None, set[str]] = defaultdict(set)
        self.entries = 0
        self.disabled = 0
        self.wrong = 0

    def add(self, tenant: Tenant) -> None:
        """Add the enabled entries of a tenant."""
        for entry, flow, schedule, late in self._entries(tenant):
            always = (flow.provider, schedule, None, self._first_tick - _INSTANT, late)
            if not self._span.as_stored:
                self._coming.add(*always)
                continue
            self._coming.add(flow.provider, schedule, entry.next_run, self._span.start, late)
            if entry.is_planned and entry.next_run and entry.next_run > self._span.start:
                self._waiting.add(*always)

    def providers(self) -> tuple[ProviderLoad, ...]:
        """Return the jobs by provider. Call it once.

        Raises:
            ActionInvalid: there are too many.

        """
        try:
            waiting = self._waiting.count(self._span.start + _INSTANT, MOST)
            coming = self._coming.count(self._span.end, MOST)
        except ValueError:
            raise ActionInvalid(
                f"the different schedules have more than {MOST:,} times in this span: take a shorter one"
            ) from None
        found = [
            ProviderLoad(
                provider=provider,
                flows=tuple(sorted(flows)),
                jobs=sum(waiting[provider]) + sum(coming[provider]),
                minutes=tuple(map(sum, zip(waiting[provider], coming[provider], strict=True))),
            )
            for provider, flows in self._flows.items()
        ]
        return tuple(sorted(found, key=lambda each: (-each.jobs, each.provider or "")))

    def _entries(self, tenant: Tenant) -> Iterator[_Entry]:
        is_zone_wrong = any(each.path == "timezone" for each in tenant_problems(tenant))
        self.wrong += len(tenant.problems)
        for entry in tenant.flows:
            if not entry.enabled:
                self.disabled += 1
                continue
            changed = self._changed(entry)
            is_wrong = any(entry_problems(tenant, changed, self._registry, self._span.start))
            if is_wrong or (is_zone_wrong and entry.timezone == "tenant"):
                self.wrong += 1
                continue
            flow = self._registry.resolve(entry.name)
            if self._provider and flow.provider != self._provider:
                continue
            self.entries += 1
            self._flows[flow.provider].add(flow.name)
            late = self._conditions.spread * spread_share(tenant.id, entry.name)
            yield _Entry(changed, flow, Schedule(changed.cron, tenant.zone_of(entry)), late)

    def _changed(self, entry: FlowEntry) -> FlowEntry:
        """Return an entry with the cron of its flow that was given in place of its own."""
        name = self._registry.names_of(entry.name)[0]
        return replace(entry, cron=self._crons[name]) if name in self._crons else entry
