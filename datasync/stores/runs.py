"""The runs container: the state of each flow of each tenant, and a record of each run.

Both are in the partition of the tenant, so that one transactional batch writes them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import msgspec
from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosHttpResponseError,
    CosmosResourceNotFoundError,
)
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable, StateInvalid
from datasync.model.decode import FieldError, decode
from datasync.model.lease import Lease
from datasync.model.run import Outcome, RunRecord, record_id
from datasync.model.state import FlowState, Leased, place_of
from datasync.model.tenant import FLEET
from datasync.model.times import EXPECTED, read_utc, utc_text
from datasync.stores.cosmos import RETRY_WRITE, Container, OperationRefused, explained, transact
from datasync.tries import MOST, tries

_PURGES_AT_ONCE = 16
_SCHEDULES = "SELECT c.id, c.tenantId, c.scheduleRev FROM c WHERE c.type = 'FlowState'"
_PAGE = 1000
_CONFLICTS = (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED)


class Schedules(msgspec.Struct, frozen=True):
    """The schedules that states are noted for."""

    revs: dict[str, dict[str, str | None]]
    """`schedule_rev` of each state: by tenant, and by the name of the flow under which it is stored."""
    misplaced: list[StateInvalid]
    """Why other states are left out: no run finds them."""


class RunStore:
    """Flow states and run records, partitioned by `/tenantId`.

    Every method raises ServiceUnavailable if Cosmos DB refused or could not be reached.
    """

    def __init__(self, container: Container, retention: timedelta) -> None:
        self._container = container
        self._retention = retention

    async def ping(self) -> None:
        """Try the container. Raises ServiceUnavailable if it is missing, or is not set up as it must be."""
        if "defaultTtl" not in await self._container.properties():
            raise ServiceUnavailable(
                f"container {self._container.name!r} keeps run records for ever: "
                "turn its time to live on, without a default (--ttl -1)"
            )

    async def record(self, tenant_id: str, run_id: str) -> RunRecord | None:
        """Return the record of a run; None where it has none.

        Raises:
            StateInvalid: it was edited and cannot be read.

        """
        document = await self._read(tenant_id, record_id(run_id))
        return None if document is None else as_record(document)

    async def state(self, tenant_id: str, names: Sequence[str]) -> FlowState:
        """Return the state of a flow of a tenant; an empty state where the flow never ran.

        The first of `names` is the flow's own. Where no state is stored under it, the state under an alias is used.

        Raises:
            StateInvalid: it was edited and cannot be read.

        """
        for name in names:
            empty = FlowState(tenant_id=tenant_id, flow_name=name)
            if document := await self._read(tenant_id, empty.id):
                state = FlowState.from_document(document)
                return state if name == names[0] else replace(state, flow_name=names[0], etag=None)
        return FlowState(tenant_id=tenant_id, flow_name=names[0])

    async def take[T: Leased](self, free: T, lease: Lease) -> T | None:
        """Take the lease of a document that has none: one conditional patch, which returns the document.

        Returns:
            None if there is a lease, or if the document is missing: then read it. A lease that has ended counts as one.

        Raises:
            StateInvalid: the document was edited and cannot be read.

        """
        # The filter takes no parameters, so it has only numbers and identifiers of our own. The second condition
        # recognizes our own lease after the answer of a first try was lost.
        free_or_own = f'FROM c WHERE NOT IS_NUMBER(c.lease.until) OR c.lease.nonce = "{lease.nonce}"'
        operations: list[dict[str, Any]] = [
            {"op": "set", "path": "/lease", "value": lease.content()},
            {"op": "incr", "path": "/token", "value": 1},
        ]
        document = await self._patch(free, free_or_own, operations)
        try:
            return None if document is None else _same_kind(free, document)
        except StateInvalid:
            await self.release(replace(free, lease=lease))
            raise

    async def save(self, *documents: Leased) -> list[str] | None:
        """Write documents of one tenant in one transaction, each under the ETag with which it was read.

        Returns:
            Their new ETags; None if somebody else has written one of them meanwhile: then nothing was written.

        """
        operations = [_write(each.id, self._content(each), each.etag) for each in documents]
        return await self._save(documents[0].tenant_id, operations, f"while saving {documents[0].id}")

    async def renew[T: Leased](self, held: T, until: float, blocked_by: str | None = None) -> T | None:
        """Move the end of a lease (seconds since 1970), and note what blocks the event loop of its holder, if anything.

        Returns:
            None if its holder has lost it.

        """
        own = f'FROM c WHERE c.lease.nonce = "{_nonce(held)}"'
        operations: list[dict[str, Any]] = [
            {"op": "set", "path": "/lease/until", "value": until},
            {"op": "set", "path": "/lease/blockedBy", "value": blocked_by},
        ]
        document = await self._patch(held, own, operations)
        return None if document is None else _same_kind(held, document)

    async def release(self, held: Leased) -> None:
        """End a lease without an attempt."""
        own = f'FROM c WHERE c.lease.nonce = "{_nonce(held)}"'
        await self._patch(held, own, [{"op": "set", "path": "/lease", "value": None}])

    async def purge(self, records: Iterable[RunRecord], now: datetime) -> None:
        """Mark records of dead runs as purged, unless their runs were started again meanwhile."""
        limit = asyncio.Semaphore(_PURGES_AT_ONCE)

        async def mark(record: RunRecord) -> None:
            present = f"c.redrive = {record.redrive:d}" if record.redrive else "NOT IS_DEFINED(c.redrive)"
            async with limit:
                await self._patch(
                    record,
                    f'FROM c WHERE c.outcome IN ("{Outcome.DEAD}", "{Outcome.GAVE_UP}") AND {present}',
                    [{"op": "set", "path": "/purgedUtc", "value": utc_text(now)}],
                )

        await asyncio.gather(*map(mark, records))

    async def schedules(self, tenant_id: str | None = None) -> Schedules:
        """Return the schedules of the states of a tenant, or of all."""
        container = await self._container.open()
        where: dict[str, Any] = {} if tenant_id is None else {"partition_key": tenant_id}
        found: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        misplaced: list[StateInvalid] = []
        with explained("while reading the schedules of states"):
            async for item in container.query_items(_SCHEDULES, max_item_count=_PAGE, **where):
                try:
                    tenant, flow = place_of(item)
                except StateInvalid as error:
                    misplaced.append(error)
                    continue
                rev = item.get("scheduleRev")
                found[tenant][flow] = rev if isinstance(rev, str) else None
        return Schedules(revs=dict(found), misplaced=misplaced)

    async def expect_first(self, states: Sequence[FlowState]) -> None:
        """Create up to 100 states of a tenant in one transaction. If one exists meanwhile, it is changed instead."""
        if not await self.save(*states):
            for state in states:
                if not await self.save(state):
                    await self.expect(state)

    async def expect(self, state: FlowState) -> None:
        """Note in a state when its flow should succeed, unless the state is noted for the same schedule already.

        Only these fields are changed, so that a run which holds the state loses nothing. Nothing is done if there is no
        such state.
        """
        other = f'FROM c WHERE NOT IS_STRING(c.scheduleRev) OR c.scheduleRev != "{state.schedule_rev}"'
        await self._patch(state, other, _schedule(state))

    async def retire(self, tenant_id: str, flow_name: str, now: datetime) -> None:
        """Note in a state at `now` (aware) that its flow is not expected to succeed. Raises ServiceUnavailable."""
        state = FlowState(tenant_id=tenant_id, flow_name=flow_name, schedule_since_utc=now)
        await self._patch(state, "FROM c WHERE IS_STRING(c.scheduleRev) OR IS_STRING(c.staleUtc)", _schedule(state))

    async def cooldown(self, partition: str, provider: str) -> datetime | None:
        """Return the instant (aware) until which a provider must not be called; None if it may be called.

        Raises:
            StateInvalid: the document was edited and cannot be read.

        """
        document = await self.cooldown_document(partition, provider)
        return None if document is None else self.closed_until(document)

    async def cooldown_document(self, partition: str, provider: str) -> dict[str, Any] | None:
        """Return the document of a cool-down as it is stored, readable or not; None where there is none."""
        return await self._read(partition, f"cooldown-{provider}")

    async def open(self, partition: str, provider: str, etag: str) -> bool:
        """Delete a cool-down that has this ETag. Returns False if it was closed again meanwhile."""
        container = await self._container.open()
        with explained(f"while opening provider {provider} for {partition}"):
            try:
                await container.delete_item(
                    f"cooldown-{provider}",
                    partition_key=partition,
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                    retry_write=RETRY_WRITE,
                )
            except CosmosResourceNotFoundError:  # expired, or deleted by a try whose answer was lost
                return True
            except CosmosAccessConditionFailedError:
                return False
        return True

    async def forget(self, tenant_id: str, now: datetime) -> int:
        """Delete the states and the cool-downs of a tenant, as they are at `now` (aware). Returns their number.

        Raises:
            ServiceUnavailable: a run is going on, and its state stays; or others changed the documents in every try.

        """
        container = await self._container.open()
        query = "SELECT c.id, c.lease, c._etag FROM c WHERE c.type IN ('FlowState', 'Cooldown')"
        deleted = 0
        with explained(f"while deleting the states of {tenant_id}"):
            async for _ in tries(self._container.sleep):
                found = [dict(item) async for item in container.query_items(query, partition_key=tenant_id)]
                if not found:
                    return deleted
                for item in found:
                    if _has_live_lease(item, now):
                        raise ServiceUnavailable(
                            f"a run of {tenant_id} is going on, and needs its state ({item['id']}). Repeat this after "
                            "the end of the run"
                        )
                    deleted += await self._delete(container, tenant_id, item)
        raise ServiceUnavailable(f"the states of {tenant_id} were changed by others in each of {MOST} tries")

    @staticmethod
    async def _delete(container: ContainerProxy, partition: str, item: Mapping[str, Any]) -> bool:
        """Delete a document that has the ETag of `item`. Returns whether nobody has changed or deleted it meanwhile."""
        try:
            await container.delete_item(
                str(item["id"]),
                partition_key=partition,
                etag=item["_etag"],
                match_condition=MatchConditions.IfNotModified,
                retry_write=RETRY_WRITE,
            )
        except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
            return False
        return True

    @staticmethod
    def closed_until(cooldown: Mapping[str, Any]) -> datetime:
        """Return the instant (aware) until which a provider must not be called, from the document of a cool-down.

        Raises:
            StateInvalid: the document was edited and cannot be read.

        """
        place = f"document {cooldown['id']} in partition {cooldown.get('tenantId')}"
        if not isinstance(cooldown.get("tenantId"), str):
            raise StateInvalid(
                f"{place}: tenantId: expected a tenant, or {FLEET}. It closes nothing. Delete the document"
            )
        try:
            return read_utc(cooldown["untilUtc"])
        except (KeyError, TypeError, ValueError):
            raise StateInvalid(
                f"{place}: untilUtc: expected {EXPECTED}, got {cooldown.get('untilUtc')!r}. Correct it, or delete the "
                "document: the provider is called again then"
            ) from None

    async def close(self, partition: str, provider: str, until: datetime, now: datetime) -> None:
        """Close a provider until an instant (aware), unless it is closed for longer. The document expires then."""
        document: dict[str, Any] = {
            "id": f"cooldown-{provider}",
            "tenantId": partition,
            "type": "Cooldown",
            "ttl": max(int((until - now).total_seconds()) + 1, 1),
            "provider": provider,
            "sinceUtc": utc_text(now),
            "untilUtc": utc_text(until + timedelta(seconds=1)),  # a fraction is cut off
        }
        async for _ in tries(self._container.sleep):
            stored = await self._read(partition, document["id"]) or {}
            with suppress(StateInvalid):  # a document that cannot be read is replaced
                if stored and self.closed_until(stored) >= until:
                    return
            operations = [_write(document["id"], document, stored.get("_etag"))]
            if await self._save(partition, operations, f"while closing provider {provider}"):
                return
        raise ServiceUnavailable(
            f"the cool-down of provider {provider} for {partition} was changed by others in each of {MOST} tries"
        )

    def _content(self, document: Leased) -> dict[str, Any]:
        return document.document() if isinstance(document, FlowState) else document.document(self._retention)

    async def _save(self, tenant_id: str, operations: list[tuple[Any, ...]], doing: str) -> list[str] | None:
        """Write documents in one transaction; return their new ETags, or None if one was changed meanwhile."""
        container = await self._container.open()
        with explained(f"{doing} of {tenant_id}"):
            try:
                results = await transact(container, tenant_id, operations)
            except OperationRefused as error:
                if error.status_code in _CONFLICTS:
                    return None
                raise
        return [str(result["eTag"]) for result in results]

    async def _read(self, tenant_id: str, document_id: str) -> dict[str, Any] | None:
        container = await self._container.open()
        with explained(f"while reading {document_id} of {tenant_id}"), suppress(CosmosResourceNotFoundError):
            return dict(await container.read_item(document_id, partition_key=tenant_id))
        return None

    async def _patch(self, document: Leased, condition: str, operations: list[dict[str, Any]]) -> dict[str, Any] | None:
        container = await self._container.open()
        with explained(f"while patching {document.id} of {document.tenant_id}"):
            try:
                return dict(
                    await container.patch_item(
                        document.id,
                        partition_key=document.tenant_id,
                        patch_operations=operations,
                        filter_predicate=condition,
                        retry_write=RETRY_WRITE,
                    )
                )
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                return None
            except CosmosHttpResponseError as error:
                if error.status_code == HTTPStatus.BAD_REQUEST:  # a token that is a text, say, which has a reason
                    stored = await self._read(document.tenant_id, document.id)
                    if stored:
                        _same_kind(document, stored)
                raise


def _schedule(state: FlowState) -> list[dict[str, Any]]:
    """Return the operations that write the schedule of a state."""
    values = {
        "scheduleRev": state.schedule_rev,
        "scheduleSinceUtc": state.schedule_since_utc,
        "staleUtc": state.stale_utc,
    }
    return [{"op": "set", "path": f"/{name}", "value": msgspec.to_builtins(value)} for name, value in values.items()]


def _has_live_lease(state: Mapping[str, Any], now: datetime) -> bool:
    try:
        return decode(Lease, state["lease"]).is_live(now)
    except (KeyError, FieldError):  # a lease that was edited by hand does not count
        return False


def _write(document_id: str, content: dict[str, Any], etag: str | None) -> tuple[Any, ...]:
    if etag is None:
        return ("create", (content,))
    return ("replace", (document_id, content), {"if_match_etag": etag})


def _same_kind[T: Leased](example: T, document: Mapping[str, Any]) -> T:
    found = FlowState.from_document(document) if isinstance(example, FlowState) else as_record(document)
    if not isinstance(found, type(example)):
        raise TypeError(f"{example.id} is not a {type(example).__name__}")
    return found


def as_record(document: Mapping[str, Any]) -> RunRecord:
    """Read a stored record. Raises StateInvalid if it was edited and cannot be read."""
    try:
        return RunRecord.from_document(document)
    except FieldError as error:
        raise StateInvalid(
            f"run record id={document.get('id')!r} of tenant {document.get('tenantId')!r}: {error}. Correct it, or "
            "delete the document: the run then starts as if it had never been attempted"
        ) from None


def _nonce(held: Leased) -> str:
    return (held.lease and held.lease.nonce) or ""
