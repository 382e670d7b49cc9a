"""Incidents: failures with one fingerprint, in all tenants."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from datetime import datetime

import msgspec

from datasync.errors import StateInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.run import Outcome
from datasync.operate.flows import FlowLine, flows, names_of
from datasync.operate.runs import FAILED, ErrorLine, RunLine
from datasync.services import Services
from datasync.stores.overview import RunFilter

MOST_DEAD = 10_000
"""The most dead runs that are read, besides those that started in the same second."""

_AT_ONCE = 16
_DEAD = (Outcome.DEAD, Outcome.GAVE_UP)


class Incident(msgspec.Struct, frozen=True, rename="camel"):
    """Failures with one fingerprint."""

    fingerprint: str
    """Empty where no record of the failures is left."""
    tenants: int
    flows: tuple[str, ...]
    """The names of the flows."""
    failing: int
    """Flows of tenants that are failing now."""
    dead: int
    """Runs that ended dead, or in which the flow gave up, in the time that was asked for."""
    since_utc: datetime | None
    """Start of the first failed run since the last success, the earliest of all flows; or of the first dead run."""
    last_utc: datetime | None
    """End of the last failed attempt."""
    error: ErrorLine | None
    """That of the last failed attempt."""
    example_run_id: str | None
    example_tenant_id: str
    example_flow_name: str


class Incidents(msgspec.Struct, frozen=True, rename="camel"):
    """The incidents, the one with the most tenants first."""

    incidents: tuple[Incident, ...]
    since_utc: datetime
    """The earliest start of the dead runs that count. If there are too many, it is later than was asked for, so that an
    action on the dead runs since then meets exactly those that are counted."""
    has_more: bool
    """Whether older dead runs were left out."""
    unreadable: tuple[str, ...]
    """Sentences about records that were edited and cannot be read."""


class _Dead(msgspec.Struct, frozen=True):
    """Dead runs that were not purged."""

    lines: list[RunLine]
    since: datetime
    """All that started since then were read."""
    unreadable: tuple[str, ...]


class _Failure(msgspec.Struct, frozen=True):
    """A failing flow, or a dead run of a flow that is not failing."""

    tenant_id: str
    flow_name: str
    is_failing: bool
    since: datetime | None
    last: RunLine | None

    @property
    def fingerprint(self) -> str:
        """That of the last failed attempt; empty where there is none."""
        return self.last.error.fingerprint if self.last and self.last.error else ""


async def incidents(services: Services, registry: FlowRegistry, now: datetime, since: datetime) -> Incidents:
    """Return the failures of the flows that are failing now, and the runs that have died since an instant (aware).

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    failing = [line for line in await flows(services, registry, now) if line.is_failing]
    limit = asyncio.Semaphore(_AT_ONCE)

    async def look(line: FlowLine) -> _Failure:
        async with limit:
            return await _failure(services, registry, line)

    groups: defaultdict[str, dict[tuple[str, str], _Failure]] = defaultdict(dict)
    for each in await asyncio.gather(*map(look, failing)):
        groups[each.fingerprint][each.tenant_id, each.flow_name] = each
    dead = await _dead(services, since)
    numbers: Counter[str] = Counter()
    for line in dead.lines:
        own = _Failure(line.tenant_id, line.flow_name, is_failing=False, since=line.started_utc, last=line)
        numbers[own.fingerprint] += 1
        group = groups[own.fingerprint]
        known = group.setdefault((own.tenant_id, own.flow_name), own)
        if not known.is_failing:
            group[own.tenant_id, own.flow_name] = msgspec.structs.replace(known, since=line.started_utc)
    made = [_incident(fingerprint, [*group.values()], numbers[fingerprint]) for fingerprint, group in groups.items()]
    made.sort(key=lambda each: (-each.tenants, each.fingerprint))
    return Incidents(
        incidents=tuple(made),
        since_utc=dead.since,
        has_more=dead.since > since,
        unreadable=dead.unreadable,
    )


async def _dead(services: Services, since: datetime) -> _Dead:
    """Read the dead runs, the newest first, up to the end of the second in which MOST_DEAD are reached."""
    lines: list[RunLine] = []
    unreadable: list[str] = []
    read, second = 0, since
    async with aclosing(services.overview.every_record(RunFilter(outcomes=_DEAD, since=since))) as found:
        async for each in found:
            if isinstance(each, StateInvalid):
                unreadable.append(str(each))
                continue
            if read >= MOST_DEAD and each.started_utc < second:
                return _Dead(lines, second, tuple(unreadable))
            read, second = read + 1, each.started_utc.replace(microsecond=0)
            if each.purged_utc is None:
                lines.append(RunLine.of(each))
    return _Dead(lines, since, tuple(unreadable))


async def _failure(services: Services, registry: FlowRegistry, line: FlowLine) -> _Failure:
    """Return the last failed run of a failing flow, and the start of the first one since its last success."""
    flow = line.flow_name or ""
    wanted = RunFilter(
        tenant_id=line.tenant_id, names=names_of(registry, flow), outcomes=FAILED, since=line.last_success_utc
    )
    last = (await services.overview.records(wanted, 1)).records
    first = (await services.overview.records(wanted, 1, is_oldest_first=True)).records
    return _Failure(
        tenant_id=line.tenant_id,
        flow_name=last[0].flow_name if last else flow,
        is_failing=True,
        since=first[0].started_utc if first else None,
        last=RunLine.of(last[0]) if last else None,
    )


def _incident(fingerprint: str, group: list[_Failure], dead: int) -> Incident:
    runs = [each.last for each in group if each.last]
    newest = max(runs, key=lambda each: each.finished_utc, default=None)
    return Incident(
        fingerprint=fingerprint,
        tenants=len({each.tenant_id for each in group}),
        flows=tuple(sorted({each.flow_name for each in group})),
        failing=sum(each.is_failing for each in group),
        dead=dead,
        since_utc=min((each.since for each in group if each.since), default=None),
        last_utc=newest.finished_utc if newest else None,
        error=newest.error if newest else None,
        example_run_id=newest.run_id if newest else None,
        example_tenant_id=newest.tenant_id if newest else group[0].tenant_id,
        example_flow_name=newest.flow_name if newest else group[0].flow_name,
    )
