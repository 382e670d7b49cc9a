"""Queries for people, over the states of flows and the records of runs.

They change nothing. They read states, and the first records of an order. `WHERE` and `ORDER BY` use indexed paths only.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from datasync.errors import StateInvalid
from datasync.model.run import RunRecord
from datasync.model.state import FlowState
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text
from datasync.stores.cosmos import Container, explained
from datasync.stores.runs import as_record

_STATES = (
    "SELECT c.id, c.tenantId, c.flowName, c.lease, c.deferral, c.lastRunUtc, c.lastOutcome, c.lastSuccessUtc, "
    "c.consecutiveFailures, c.staleUtc, c.outcomes, c.usual, c.unusual FROM c WHERE c.type = 'FlowState'"
)
_CHANGED = "SELECT VALUE c.tenantId FROM c WHERE c.type = 'FlowState' AND c._ts >= @since"
_CHANGED_PROBLEMS = "SELECT VALUE c.tenant FROM c WHERE c.type IN ('Problem', 'Corrected') AND c._ts >= @since"
_STALE = "SELECT TOP 1 VALUE c.id FROM c WHERE c.type = 'FlowState' AND c.staleUtc < @now"
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
        """Yield the states of all flows, or those of a tenant, without their cursors."""
        async for document in self._found(_STATES, partition=tenant_id):
            yield _state(document)

    async def changed(self, since: int) -> set[str]:
        """Return the tenants with states or problems that have changed since a time, by the clock of Cosmos DB.

        A problem that was corrected is a change too.
        """
        of_states = {str(tenant) async for tenant in self._found(_CHANGED, since=since)}
        return of_states | {str(each) async for each in self._found(_CHANGED_PROBLEMS, partition=FLEET, since=since)}

    async def has_stale(self, now: datetime) -> bool:
        """Return whether a flow should have succeeded before `now` (aware) and has not."""
        return bool([id_ async for id_ in self._found(_STALE, now=utc_text(now))])

    async def newest(self) -> int:
        """Return the `_ts` of the newest change, in seconds since 1970; 0 if there is no document."""
        return max([ts async for ts in self._found(_NEWEST)], default=0)

    async def records(self, wanted: RunFilter, most: int, *, is_oldest_first: bool = False) -> Records:
        """Return up to `most` records, by the start of their runs, without attempts and cursors."""
        where, values = _conditions(wanted)
        order = "ASC" if is_oldest_first else "DESC"
        query = f"SELECT TOP {most:d} {_RECORD} FROM c WHERE {where} ORDER BY c.startedUtc {order}"  # noqa: S608 - texts of our own
        records: list[RunRecord] = []
        unreadable: list[str] = []
        async for document in self._found(query, partition=wanted.tenant_id, **values):
            try:
                records.append(as_record(document))
            except StateInvalid as error:
                unreadable.append(str(error))
        return Records(records=records, unreadable=unreadable)

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


def _conditions(wanted: RunFilter) -> tuple[str, dict[str, object]]:
    conditions, values = ["c.type = 'Run'"], dict[str, object]()
    for name, choices in (("flowName", wanted.names), ("outcome", wanted.outcomes)):
        if choices:
            own = {f"{name}{at}": choice for at, choice in enumerate(choices)}
            conditions.append(f"c.{name} IN ({', '.join(f'@{each}' for each in own)})")
            values |= own
    if wanted.since:
        conditions.append("c.startedUtc >= @since")
        values["since"] = utc_text(wanted.since)
    if wanted.until:
        conditions.append("c.startedUtc <= @until")
        values["until"] = utc_text(wanted.until)
    return " AND ".join(conditions), values


def _state(document: dict[str, Any]) -> FlowState | UnreadableState:
    try:
        return FlowState.from_document(document)
    except StateInvalid as error:
        return UnreadableState(
            tenant_id=str(document.get("tenantId")), flow_name=str(document.get("flowName")), why=str(error)
        )
