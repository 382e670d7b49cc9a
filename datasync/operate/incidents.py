"""Incidents: failures with one fingerprint, in all tenants."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Self

import msgspec

from datasync.errors import StateInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.run import Outcome, RunRecord
from datasync.model.state import FlowState, LastError
from datasync.operate.flows import failing_states
from datasync.operate.runs import FAILED, ErrorLine
from datasync.services import Services
from datasync.stores.overview import RunFilter

MOST_DEAD = 10_000
"""The most dead runs that are read, besides those that started in the same second."""

_AT_ONCE = 16
_NEVER = datetime.min.replace(tzinfo=UTC)
_DEAD = (Outcome.DEAD, Outcome.GAVE_UP)


class Incident(msgspec.Struct, frozen=True, rename="camel"):
    """Failures with one fingerprint."""

    fingerprint: str
    """Empty where the error is not known, or an earlier version has recorded it."""
    tenants: int
    flows: tuple[str, ...]
    """The names of the flows."""
    failing: int
    """Flows of tenants that are failing now."""
    dead: int
    """Runs that ended dead, or in which the flow gave up, in the time that was asked for."""
    since_utc: datetime | None
    """Start of the first failed attempt since the last success, the earliest of all flows; or of the first dead run."""
    last_utc: datetime | None
    """End of the last failed attempt."""
    error: ErrorLine | None
    """That of the last failed attempt; None where it is not known. That of a flow that is failing has up to 300
    characters of the message, and no body."""
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

    records: list[RunRecord]
    since: datetime
    """All that started since then were read."""
    unreadable: tuple[str, ...]


class _Failure(msgspec.Struct, frozen=True):
    """A failing flow, or a dead run of a flow that is not failing."""

    tenant_id: str
    flow_name: str
    is_failing: bool
    since: datetime | None
    """Start of the first failed attempt, or of the first dead run."""
    last_utc: datetime | None = None
    """End of the last failed attempt."""
    run_id: str | None = None
    """Its run."""
    error: ErrorLine | None = None

    @property
    def fingerprint(self) -> str:
        """That of the last failed attempt; empty where the error is not known."""
        return self.error.fingerprint if self.error else ""

    @classmethod
    def of(cls, record: RunRecord, since: datetime | None, *, is_failing: bool) -> Self:
        """Return the failure that a record shows."""
        return cls(
            tenant_id=record.tenant_id,
            flow_name=record.flow_name,
            is_failing=is_failing,
            since=since,
            last_utc=record.finished_utc,
            run_id=record.run_id,
            error=ErrorLine.of(record.error),
        )


async def incidents(services: Services, registry: FlowRegistry, now: datetime, since: datetime) -> Incidents:
    """Return the failures of the flows that are failing now, and the runs that have died since an instant (aware).

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    groups: defaultdict[str, dict[tuple[str, str], _Failure]] = defaultdict(dict)
    for each in await _failing(services, registry, now):
        groups[each.fingerprint][each.tenant_id, each.flow_name] = each
    dead = await _dead(services, since)
    numbers: Counter[str] = Counter()
    for record in dead.records:
        own = _Failure.of(record, record.started_utc, is_failing=False)
        numbers[own.fingerprint] += 1
        group = groups[own.fingerprint]
        known = group.setdefault((own.tenant_id, own.flow_name), own)
        if not known.is_failing:
            group[own.tenant_id, own.flow_name] = msgspec.structs.replace(known, since=record.started_utc)
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
    records: list[RunRecord] = []
    unreadable: list[str] = []
    read, second = 0, since
    async with aclosing(services.overview.every_record(RunFilter(outcomes=_DEAD, since=since))) as found:
        async for each in found:
            if isinstance(each, StateInvalid):
                unreadable.append(str(each))
                continue
            if read >= MOST_DEAD and each.started_utc < second:
                return _Dead(records, second, tuple(unreadable))
            read, second = read + 1, each.started_utc.replace(microsecond=0)
            if each.purged_utc is None:
                records.append(each)
    return _Dead(records, since, tuple(unreadable))


async def _failing(services: Services, registry: FlowRegistry, now: datetime) -> list[_Failure]:
    """Return the flows that are failing, from their states."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def look(state: FlowState) -> _Failure:
        async with limit:
            return await _from_records(services, registry, state)

    found: list[_Failure] = []
    without_error: list[FlowState] = []
    for state in await failing_states(services, registry, now):
        if state.last_error and state.failing_since_utc:
            found.append(_from_state(state, state.last_error, state.failing_since_utc))
        else:
            without_error.append(state)
    return found + await asyncio.gather(*map(look, without_error))


def _from_state(state: FlowState, error: LastError, since: datetime | None) -> _Failure:
    return _Failure(
        tenant_id=state.tenant_id,
        flow_name=state.flow_name,
        is_failing=True,
        since=since,
        last_utc=error.finished_utc,
        run_id=error.run_id,
        error=ErrorLine.of(error),
    )


async def _from_records(services: Services, registry: FlowRegistry, state: FlowState) -> _Failure:
    """Return the failure of a flow that has begun to fail under an earlier version, whose states have no errors."""
    names, success = registry.names_of(state.flow_name), state.last_success_utc
    wanted = RunFilter(tenant_id=state.tenant_id, names=names, outcomes=FAILED, since=success)
    first = (await services.overview.records(wanted, 1, is_oldest_first=True)).records
    since = first[0].started_utc if first else None
    if state.last_error:
        return _from_state(state, state.last_error, since)
    last = (await services.overview.records(wanted, 1)).records
    if not last:
        return _Failure(state.tenant_id, state.flow_name, is_failing=True, since=since)
    return _Failure.of(last[0], since, is_failing=True)


def _incident(fingerprint: str, group: list[_Failure], dead: int) -> Incident:
    last = max(group, key=lambda each: each.last_utc or _NEVER)
    return Incident(
        fingerprint=fingerprint,
        tenants=len({each.tenant_id for each in group}),
        flows=tuple(sorted({each.flow_name for each in group})),
        failing=sum(each.is_failing for each in group),
        dead=dead,
        since_utc=min((each.since for each in group if each.since), default=None),
        last_utc=last.last_utc,
        error=last.error,
        example_run_id=last.run_id,
        example_tenant_id=last.tenant_id,
        example_flow_name=last.flow_name,
    )
