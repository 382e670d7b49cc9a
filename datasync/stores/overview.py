"""Queries for people, over the states of flows and the records of runs.

They change nothing. They read states, and the first records of an order. `WHERE` and `ORDER BY` use indexed paths only.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Self

import msgspec

from datasync.errors import StateInvalid
from datasync.model.decode import FieldError, decode, shorten
from datasync.model.lease import MARGIN, Lease
from datasync.model.run import RunRecord
from datasync.model.state import FlowState, place_of
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text
from datasync.stores.cosmos import Container, explained
from datasync.stores.runs import as_record

_STATES = (
    "SELECT c.id, c.tenantId, c.flowName, c.lease, c.deferral, c.lastRunUtc, c.lastOutcome, c.lastSuccessUtc, "
    "c.consecutiveFailures, c.failingSinceUtc, c.lastError, c.staleUtc, c.outcomes, c.usual, c.unusual FROM c "
    "WHERE c.type = 'FlowState'"
)
_CHANGED = "SELECT VALUE c.tenantId FROM c WHERE c.type = 'FlowState' AND c._ts >= @since"
_CHANGED_RUNS = "SELECT VALUE c.tenantId FROM c WHERE c.type = 'Run' AND c.lease.until >= @live AND c._ts >= @since"
_CHANGED_PROBLEMS = "SELECT VALUE c.tenant FROM c WHERE c.type IN ('Problem', 'Corrected') AND c._ts >= @since"
_RUNNING = "SELECT c.tenantId, c.flowName, c.runId, c.lease FROM c WHERE c.type = 'Run' AND c.lease.until >= @live"
_STALE = (
    "c.id, c.tenantId, c.staleUtc, c.lastSuccessUtc FROM c WHERE c.type = 'FlowState' AND c.staleUtc < @now "
    "ORDER BY c.staleUtc DESC"
)
_NEWEST = "SELECT TOP 1 VALUE c._ts FROM c ORDER BY c._ts DESC"
_RECORD = (
    "c.id, c.tenantId, c.flowName, c.runId, c.scheduledUtc, c.startedUtc, c.finishedUtc, c.outcome, c.trigger, "
    "c.attempt, c.attemptCount, c.part, c.redrive, c.purgedUtc, c.counts, c.unusual, c.error"
)


class UnreadableState(msgspec.Struct, frozen=True):
    """A state that was edited and cannot be read."""

    tenant_id: str
    flow_name: str
    why: str


class StaleState(msgspec.Struct, frozen=True):
    """A state whose flow should have succeeded. The texts are as they are stored, perhaps edited."""

    tenant_id: str
    flow_name: str
    since: str
    """The time by which it should have succeeded."""
    last_success: str | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read the fields of a document, whatever they are. Raises StateInvalid if no run finds the state."""
        tenant_id, flow_name = place_of(document)
        success = document.get("lastSuccessUtc")
        return cls(
            tenant_id=tenant_id,
            flow_name=flow_name,
            since=shorten(str(document["staleUtc"])),
            last_success=None if success is None else shorten(str(success)),
        )


class Running(msgspec.Struct, frozen=True, rename="camel"):
    """A run that is going on beside others of its flow, and has a lease of its own."""

    tenant_id: str
    flow_name: str
    run_id: str
    lease: Lease


class RunFilter(msgspec.Struct, frozen=True):
    """Which records of runs to read."""

    tenant_id: str | None = None
    names: Sequence[str] = ()
    """Names of one flow; empty for all flows."""
    outcomes: Sequence[str] = ()
    """Outcomes of the last attempt; empty for all."""
    since: datetime | None = None
    """The earliest start of a run (aware)."""
    until: datetime | None = None
    """The latest start of a run (aware)."""


class Records(msgspec.Struct, frozen=True):
    """Records in the order that was asked for."""

    records: list[RunRecord]
    unreadable: list[str]
    """Sentences about those that were edited and cannot be read."""


class Overview:
    """The runs container, for people.

    Every method raises ServiceUnavailable if Cosmos DB refused or could not be reached.
    """

    def __init__(self, container: Container) -> None:
        self._container = container

    async def states(self, tenant_id: str | None = None) -> AsyncIterator[FlowState | UnreadableState]:
        """Yield the states of all flows, or those of a tenant, without their cursors.

        A state that no run finds is left out.
        """
        async for document in self._found(_STATES, partition=tenant_id):
            if state := _state(document):
                yield state

    async def running(self, now: datetime, tenant_id: str | None = None) -> list[Running]:
        """Return the runs of all tenants, or of one, that have a lease of their own at `now` (aware).

        These are runs of flows that allow overlapping runs. The lease of any other run is in the state of its flow.
        """
        found: list[Running] = []
        async for document in self._found(_RUNNING, partition=tenant_id, live=_earliest_end(now)):
            with suppress(FieldError):  # a lease that was edited by hand does not count
                run = decode(Running, document)
                if run.lease.is_live(now):
                    found.append(run)
        return found

    async def changed(self, since: int, now: datetime) -> set[str]:
        """Return the tenants with states, problems or live leases of runs that have changed since a time.

        A problem that was corrected is a change too.

        Args:
            since: The time, in seconds since 1970 by the clock of Cosmos DB.
            now: The present time (aware).

        """
        of_states = {str(tenant) async for tenant in self._found(_CHANGED, since=since)}
        runs = self._found(_CHANGED_RUNS, since=since, live=_earliest_end(now))
        problems = self._found(_CHANGED_PROBLEMS, partition=FLEET, since=since)
        return of_states | {str(each) async for each in runs} | {str(each) async for each in problems}

    async def stale(self, now: datetime, most: int) -> list[StaleState]:
        """Return up to `most` states whose flows should have succeeded before `now` (aware), the newest times first.

        A state that no run finds is left out.
        """
        found: list[StaleState] = []
        async for document in self._found(f"SELECT TOP {most:d} {_STALE}", now=utc_text(now)):
            with suppress(StateInvalid):
                found.append(StaleState.of(document))
        return found

    async def newest(self) -> int:
        """Return the `_ts` of the newest change, in seconds since 1970; 0 without documents."""
        return max([ts async for ts in self._found(_NEWEST)], default=0)

    async def records(self, wanted: RunFilter, most: int, *, is_oldest_first: bool = False) -> Records:
        """Return up to `most` records, by the start of their runs, without attempts and cursors."""
        where, values = _conditions(wanted)
        order = "ASC" if is_oldest_first else "DESC"
        query = f"SELECT TOP {most:d} {_RECORD} FROM c WHERE {where} ORDER BY c.startedUtc {order}"  # noqa: S608 - texts of our own
        records: list[RunRecord] = []
        unreadable: list[str] = []
        async for each in self._records(query, wanted, values):
            if isinstance(each, RunRecord):
                records.append(each)
            else:
                unreadable.append(str(each))
        return Records(records=records, unreadable=unreadable)

    async def every_record(self, wanted: RunFilter) -> AsyncGenerator[RunRecord | StateInvalid]:
        """Yield all records, those of the newest runs first, page by page; an error for each that cannot be read."""
        where, values = _conditions(wanted)
        query = f"SELECT {_RECORD} FROM c WHERE {where} ORDER BY c.startedUtc DESC"  # noqa: S608 - texts of our own
        async for each in self._records(query, wanted, values):
            yield each

    async def _records(
        self, query: str, wanted: RunFilter, values: dict[str, object]
    ) -> AsyncIterator[RunRecord | StateInvalid]:
        async for document in self._found(query, partition=wanted.tenant_id, **values):
            try:
                yield as_record(document)
            except StateInvalid as error:
                yield error

    async def written(self, wanted: RunFilter, since: int) -> AsyncIterator[tuple[int, RunRecord]]:
        """Yield the records that were written since a time by the clock of Cosmos DB, with that of each, in its order.

        They are without attempts and cursors. One that was edited and cannot be read is left out.
        """
        where, values = _conditions(wanted)
        query = f"SELECT {_RECORD}, c._ts FROM c WHERE {where} AND c._ts >= @ts ORDER BY c._ts"  # noqa: S608 - texts of our own
        async for document in self._found(query, partition=wanted.tenant_id, ts=since, **values):
            with suppress(StateInvalid):
                yield int(document["_ts"]), as_record(document)

    async def cooldowns(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the documents of the cool-downs of all tenants, readable or not."""
        async for document in self._found("SELECT * FROM c WHERE c.type = 'Cooldown'"):
            yield document

    async def run(self, run_id: str) -> list[RunRecord]:
        """Return the records of a run of any tenant; several if messages with this run id were posted by hand.

        Raises:
            StateInvalid: a record was edited and cannot be read.

        """
        found = self._found("SELECT * FROM c WHERE c.type = 'Run' AND c.runId = @run", run=run_id)
        return [as_record(document) async for document in found]

    async def _found(self, query: str, partition: str | None = None, **parameters: object) -> AsyncIterator[Any]:
        container = await self._container.open()
        where: dict[str, Any] = {} if partition is None else {"partition_key": partition}
        with explained("while looking for states and records"):
            items = container.query_items(
                query,
                parameters=[{"name": f"@{name}", "value": value} for name, value in parameters.items()],
                max_item_count=_PAGE,
                **where,
            )
            async for item in items:
                yield item


_PAGE = 1000


def _earliest_end(now: datetime) -> float:
    """Return the earliest end of a lease that may still hold."""
    return (now - MARGIN).timestamp()


def _conditions(wanted: RunFilter) -> tuple[str, dict[str, object]]:
    conditions, values = ["c.type = 'Run'"], dict[str, object]()
    for name, choices in (("flowName", wanted.names), ("outcome", wanted.outcomes)):
        if choices:
            own = {f"{name}{at}": choice for at, choice in enumerate(choices)}
            conditions.append(f"c.{name} IN ({', '.join(f'@{each}' for each in own)})")
            values |= own
    if wanted.since:
        conditions.append("c.startedUtc >= @since")
        values["since"] = utc_text(wanted.since).removesuffix("Z") + "."  # sorts before all texts of its second
    if wanted.until:
        conditions.append("c.startedUtc <= @until")
        values["until"] = utc_text(wanted.until)
    return " AND ".join(conditions), values


def _state(document: dict[str, Any]) -> FlowState | UnreadableState | None:
    try:
        return FlowState.from_document(document)
    except StateInvalid as error:
        why = str(error)
    try:
        tenant_id, flow_name = place_of(document)
    except StateInvalid:
        return None
    return UnreadableState(tenant_id=tenant_id, flow_name=flow_name, why=why)
