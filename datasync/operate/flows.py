"""The flows of the fleet: one line for each entry of a tenant document, with the memory of its runs."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import msgspec

from datasync.errors import TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.state import FlowState
from datasync.model.tenant import FlowEntry, Tenant, is_tenant_document
from datasync.model.usual import Unusual
from datasync.schedule import second_tick_after
from datasync.services import Services
from datasync.stores.fleet import StandingProblem
from datasync.stores.overview import UnreadableState

type State = FlowState | UnreadableState


class Health(StrEnum):
    """The state of a flow of a tenant, the most urgent that applies."""

    PROBLEM = "problem"
    """The document, or the stored state, has to be corrected."""
    FAILING = "failing"
    """The last attempts failed, or the flow gave up."""
    LATE = "late"
    """It has not succeeded, or has not been enqueued, when it should have."""
    UNUSUAL = "unusual"
    """A count of its last successful run is zero, which it is not usually, or the run took long."""
    RUNNING = "running"
    DEFERRED = "deferred"
    """A run waits for a time that the flow or its provider has asked for."""
    DISABLED = "disabled"
    NEW = "new"
    """It has not run yet."""
    WELL = "well"


class UnusualLine(msgspec.Struct, frozen=True, rename="camel"):
    """A number of a run that differs from the usual ones."""

    text: str
    """`orders=0, usually 120`."""
    count: str | None
    """The name of the count that was zero; None for the seconds that the run took."""
    value: float
    usual: float
    since_utc: datetime

    @classmethod
    def all(cls, found: Iterable[Unusual]) -> tuple[Self, ...]:
        """Return the lines of unusual numbers."""
        return tuple(
            cls(text=str(each), count=each.count, value=each.value, usual=each.usual, since_utc=each.since_utc)
            for each in found
        )


class FlowLine(msgspec.Struct, frozen=True, rename="camel"):
    """One flow of one tenant."""

    tenant_id: str
    flow_name: str | None
    """None for a problem of the document as a whole."""
    health: Health
    enabled: bool = False
    cron: str | None = None
    timezone: str | None = None
    """That of the tenant; None where the document cannot be read. The entry may have another one."""
    next_run_utc: datetime | None = None
    last_run_utc: datetime | None = None
    last_outcome: str | None = None
    last_success_utc: datetime | None = None
    consecutive_failures: int = 0
    late_since_utc: datetime | None = None
    """The occurrence that was not enqueued, or the time by which it should have succeeded; None if it is not late."""
    overdue_utc: datetime | None = None
    """The time from which it is late, unless it is enqueued before. None if no time is set, or it is disabled."""
    stale_utc: datetime | None = None
    """The time from which it is late, unless it succeeds before."""
    outcomes: tuple[str, ...] = ()
    """The outcomes of the last 24 attempts, oldest first."""
    unusual: tuple[UnusualLine, ...] = ()
    """The unusual numbers of its last successful run."""
    usual_seconds: float | None = None
    """The mean duration of its last successful runs."""
    usual_counts: dict[str, float] = {}
    """The means of its counts."""
    problem: str | None = None
    """The field, the value found, and the value expected."""
    problem_since_utc: str | None = None
    """When a tick found the problem first."""
    pause_reason: str | None = None
    """Why an operator has paused the flow."""

    @property
    def is_failing(self) -> bool:
        """Whether it is enabled, and its last attempts failed."""
        return self.enabled and self.consecutive_failures > 0

    @property
    def is_unusual(self) -> bool:
        """Whether it is enabled, and its last successful run was unusual."""
        return self.enabled and bool(self.unusual)

    @property
    def is_wrong(self) -> bool:
        """Whether somebody should look into it."""
        return self.is_failing or self.late_since_utc is not None or self.is_unusual or self.problem is not None


async def flows(
    services: Services,
    registry: FlowRegistry,
    now: datetime,
    *,
    tenant_id: str | None = None,
    flow: str | None = None,
    problems: Sequence[StandingProblem] | None = None,
) -> list[FlowLine]:
    """Return the flows of the fleet, or of one tenant, as of `now` (aware), by tenant and flow.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases. A flow that it does not have is looked for under its name alone.
        now: The present time.
        tenant_id: Only this tenant.
        flow: Only the flow of this name.
        problems: The standing problems, if they are read already.

    Raises:
        TenantUnknown: the tenant does not exist.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    found = [line async for line, _ in _lines(services, registry, now, tenant_id, problems)]
    names = registry.names_of(flow) if flow is not None else ()
    wanted = [line for line in found if flow is None or line.flow_name in names]
    return sorted(wanted, key=lambda line: (line.tenant_id, line.flow_name or ""))


async def failing_states(services: Services, registry: FlowRegistry, now: datetime) -> list[FlowState]:
    """Return the states of the flows that are failing, by tenant and flow. Raises ServiceUnavailable."""
    found = _lines(services, registry, now)
    failing = [state async for line, state in found if state is not None and line.is_failing]
    return sorted(failing, key=lambda state: (state.tenant_id, state.flow_name))


type _Line = tuple[FlowLine, FlowState | None]
"""The line of an entry with its state, or the line of a problem."""


async def _lines(
    services: Services,
    registry: FlowRegistry,
    now: datetime,
    tenant_id: str | None = None,
    problems: Sequence[StandingProblem] | None = None,
) -> AsyncIterator[_Line]:
    standing: defaultdict[str, list[StandingProblem]] = defaultdict(list)
    for each in await services.fleet.problems() if problems is None else problems:
        if each.level == "error":
            standing[each.tenant].append(each)
    running = {(each.tenant_id, each.flow_name) for each in await services.overview.running(now, tenant_id)}
    states = {(each.tenant_id, each.flow_name): each async for each in services.overview.states(tenant_id)}
    fleet = _Fleet(registry, services.settings.schedule, now, states, running, standing)
    if tenant_id is not None:
        for line in fleet.lines(await services.tenants.document(tenant_id)):
            yield line
        return
    async for page in services.tenants.all():
        for document in filter(is_tenant_document, page):
            for line in fleet.lines(document):
                yield line


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The states and problems of the fleet at an instant."""

    registry: FlowRegistry
    schedule: str
    now: datetime
    states: Mapping[tuple[str, str], State]
    running: AbstractSet[tuple[str, str]]
    """The tenants and flows with a run that has a lease of its own."""
    problems: Mapping[str, Sequence[StandingProblem]]

    def lines(self, document: Mapping[str, Any]) -> Iterator[_Line]:
        """Yield the lines of a tenant document."""
        try:
            tenant = Tenant.from_document(document)
        except TenantInvalid as error:
            line = FlowLine(
                tenant_id=error.tenant_id,
                flow_name=None,
                health=Health.PROBLEM,
                problem=f"{error.path}: {error.why}",
                problem_since_utc=next((each.since_utc for each in self.problems.get(error.tenant_id, ())), None),
            )
            yield line, None
            return
        standing = self.problems.get(tenant.id, ())
        of_entries = {each.flow: each for each in standing if each.flow in tenant.entries}
        for each in standing:
            if each.flow not in tenant.entries:
                line = FlowLine(
                    tenant_id=tenant.id,
                    flow_name=each.flow,
                    health=Health.PROBLEM,
                    timezone=tenant.timezone,
                    problem=f"{each.path}: {each.why}",
                    problem_since_utc=each.since_utc,
                )
                yield line, None
        for entry in tenant.flows:
            yield self._line(tenant, entry, of_entries.get(entry.name))

    def _line(self, tenant: Tenant, entry: FlowEntry, problem: StandingProblem | None) -> _Line:
        names = self.registry.names_of(entry.name)
        stored = next((self.states[tenant.id, name] for name in names if (tenant.id, name) in self.states), None)
        state = stored if isinstance(stored, FlowState) else FlowState(tenant_id=tenant.id, flow_name=entry.name)
        usual = state.usual
        has_run = any((tenant.id, name) in self.running for name in names)
        is_running = has_run or (state.lease is not None and state.lease.is_live(self.now))
        why = f"{problem.path}: {problem.why}" if problem and entry.enabled else None
        if isinstance(stored, UnreadableState):
            why = why or stored.why
        overdue = _overdue(self.schedule, entry) if entry.enabled else None
        late = _late_since(entry, state, overdue, self.now) if entry.enabled and not why else None
        line = FlowLine(
            tenant_id=tenant.id,
            flow_name=entry.name,
            health=_health(entry, state, self.now, why, late, is_running=is_running),
            enabled=entry.enabled,
            cron=entry.cron,
            timezone=tenant.timezone,
            next_run_utc=entry.next_run,
            last_run_utc=state.last_run_utc,
            last_outcome=state.last_outcome,
            last_success_utc=state.last_success_utc,
            consecutive_failures=state.consecutive_failures,
            late_since_utc=late,
            overdue_utc=overdue,
            stale_utc=state.stale_utc,
            outcomes=state.last_outcomes,
            unusual=UnusualLine.all(state.unusual),
            usual_seconds=usual.seconds.mean if usual else None,
            usual_counts={each.name: each.mean for each in usual.counts} if usual else {},
            problem=why,
            problem_since_utc=problem.since_utc if problem and why else None,
            pause_reason=entry.pause_reason,
        )
        return line, state


def _health(
    entry: FlowEntry, state: FlowState, now: datetime, why: str | None, late: datetime | None, *, is_running: bool
) -> Health:
    applies = {
        Health.PROBLEM: why is not None,
        Health.FAILING: entry.enabled and state.consecutive_failures > 0,
        Health.LATE: late is not None,
        Health.UNUSUAL: entry.enabled and bool(state.unusual),
        Health.RUNNING: is_running,
        Health.DEFERRED: state.deferred(now) is not None,
        Health.DISABLED: not entry.enabled,
        Health.NEW: state.last_run_utc is None,
    }
    return next((health for health, is_so in applies.items() if is_so), Health.WELL)


def late_since(schedule: str, entry: FlowEntry, state: FlowState, now: datetime) -> datetime | None:
    """Return since when an enabled entry is late; None if it is not late at `now` (aware).

    An entry is late in two cases. Two ticks have passed, and it is still due. Or it has not succeeded by the time that
    its state names (`stale_utc`).
    """
    return _late_since(entry, state, _overdue(schedule, entry), now)


def _overdue(schedule: str, entry: FlowEntry) -> datetime | None:
    return second_tick_after(schedule, entry.next_run) if entry.next_run else None


def _late_since(entry: FlowEntry, state: FlowState, overdue: datetime | None, now: datetime) -> datetime | None:
    if overdue and now > overdue:
        return entry.next_run
    return state.stale_utc if state.stale_utc and now > state.stale_utc else None
