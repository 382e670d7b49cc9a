"""The tenants container: documents that people edit. The app changes `nextRunUtc` and `planned` of entries."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosAccessConditionFailedError, CosmosResourceNotFoundError

from datasync.errors import ServiceUnavailable, TenantUnknown
from datasync.model.decode import is_forbidden_in_ids
from datasync.model.tenant import FlowEntry, Planned, Tenant, is_tenant_document
from datasync.model.times import utc_text
from datasync.stores.cosmos import RETRY_WRITE, Container, explained
from datasync.tries import MOST, tries

_PATCH_LIMIT = 10  # operations: https://learn.microsoft.com/azure/cosmos-db/partial-document-update-faq

MOST_MOVES = _PATCH_LIMIT // 2
"""Entries that one patch can move."""

_PAGE = 100

_ALL = "SELECT * FROM c"
_CHANGED = "SELECT * FROM c WHERE c._ts >= @since"
_BY_ID = "SELECT * FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
# Both comparisons are served by the tuple index /flows/[]/{enabled, nextRunUtc}/?. Times in the app's own form compare
# as text; a tick rewrites any other form when it examines the edit that brought it.
_DUE = """
SELECT * FROM c
WHERE EXISTS (SELECT VALUE f FROM f IN c.flows WHERE f.enabled = true AND f.nextRunUtc <= @horizon)
"""


class Move(msgspec.Struct, frozen=True):
    """A new `nextRunUtc` for one entry."""

    flow: str
    """The entry's name."""
    previous: str | None
    """`nextRunUtc` at the time of the decision."""
    note: str | None
    """Key of the entry's note at that time: another one if another tick has moved the entry since."""
    next_run: datetime
    is_planned: bool = True
    """Whether the app has planned this time. False for a person's time that is only written in another form."""


class Moved(msgspec.Struct, frozen=True):
    """The result of moving a tenant's entries."""

    tenant: Tenant
    """The document as it is now."""
    entries: int
    """Number of moved entries. Entries that somebody has edited meanwhile are not moved."""
    conflicts: int
    """Writes repeated because somebody else had written meanwhile."""


class TenantStore:
    """Tenant documents, partitioned by `/tenantId`."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._examined: dict[str, str] = {}
        """ETags of the documents that this process has written and examined in full, by tenant."""

    async def ping(self) -> None:
        """Try the container. Raises ServiceUnavailable if it is missing, or is not set up as it must be."""
        await self._container.properties()

    async def all(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield every document of the container, page by page."""
        async for page in self._pages(_ALL):
            yield page

    async def changed_or_due(
        self, since: int, horizon: datetime, retry: Sequence[str] = ()
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the documents changed since a time, and those with an enabled entry due by the horizon, page by page.

        Documents that have not changed since `remember` are left out, unless an entry is due.

        Args:
            since: Seconds since 1970 by the clock of Cosmos DB, as in `_ts`.
            horizon: The latest `nextRunUtc` that is due (aware).
            retry: Ids of further documents to yield.

        """
        text = utc_text(horizon)
        seen: set[Any] = set()  # a document that is edited meanwhile is examined again by the next tick
        async for page in self._pages(_CHANGED, since=since):
            edited = [document for document in page if not self._remembers(document) or _is_due(document, text)]
            seen.update(document["_rid"] for document in edited)
            yield edited
        # A separate query, since an OR of the two conditions is not sure to use both indexes.
        async for page in self._pages(_DUE, horizon=text):
            due = [document for document in page if document["_rid"] not in seen]
            seen.update(document["_rid"] for document in due)
            yield due
        if retry:
            async for page in self._pages(_BY_ID, ids=[*retry]):
                yield [document for document in page if document["_rid"] not in seen]

    def remember(self, tenant: Tenant) -> None:
        """Note that this process has written a document and examined it in full."""
        self._examined[tenant.id] = tenant.etag

    async def get(self, tenant_id: str) -> Tenant:
        """Return a tenant.

        Raises:
            TenantUnknown: it has no document.
            TenantInvalid: its document cannot be used.

        """
        return Tenant.from_document(await self._read(tenant_id))

    async def exists(self, tenant_id: str) -> bool:
        """Return whether a tenant has a document, readable or not."""
        try:
            return is_tenant_document(await self._read(tenant_id))
        except TenantUnknown:
            return False

    async def has_entry(self, tenant_id: str, names: Sequence[str]) -> bool:
        """Return whether a tenant's document, readable as a whole or not, has an entry under one of these names.

        Disabled entries do not count.
        """
        try:
            flows = (await self._read(tenant_id)).get("flows")
        except TenantUnknown:
            return False
        entries = [entry for entry in flows if isinstance(entry, dict)] if isinstance(flows, list) else []
        return any(entry.get("name") in names and entry.get("enabled") is not False for entry in entries)

    async def move(self, tenant: Tenant, moves: Sequence[Move], now: datetime) -> Moved:
        """Set `nextRunUtc` of up to MOST_MOVES entries, with a note (`planned`), and leave everything else as it is.

        An entry whose `nextRunUtc` somebody has edited meanwhile is not changed.

        Raises:
            TenantUnknown, TenantInvalid: the document was deleted, or made unusable, meanwhile.
            ServiceUnavailable: Cosmos DB refused or could not be reached, or others changed the document every time.

        """

        def operations(present: Tenant) -> list[dict[str, Any]]:
            return [each for index, move in _unedited(present, moves) for each in _move(index, move, now)]

        return await self._patch(tenant, operations)

    async def note(self, tenant: Tenant, entries: Collection[str], now: datetime) -> Moved:
        """Make a note in entries (by name) that the app has not planned before. Raises as `move` does."""

        def operations(present: Tenant) -> list[dict[str, Any]]:
            unnoted = (each for each in present.flows if each.name in entries and each.planned is None)
            return [_note(each.index, _ahead(each, now), now) for each in unnoted][:_PATCH_LIMIT]

        return await self._patch(tenant, operations)

    async def _patch(self, tenant: Tenant, operations: Callable[[Tenant], list[dict[str, Any]]]) -> Moved:
        """Patch a document under its ETag. `operations` gives the operations for the document as it is."""
        container = await self._container.open()
        conflicts = 0
        async for _ in tries(self._container.sleep):
            wanted = operations(tenant)
            if not wanted:
                return Moved(tenant=tenant, entries=0, conflicts=conflicts)
            with explained(f"while scheduling tenant {tenant.id!r}"):
                try:
                    document = await container.patch_item(
                        tenant.id,
                        partition_key=tenant.id,
                        patch_operations=wanted,
                        etag=tenant.etag,
                        match_condition=MatchConditions.IfNotModified,
                        retry_write=RETRY_WRITE,
                    )
                except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                    tenant, conflicts = await self.get(tenant.id), conflicts + 1
                    continue
            entries = sum(each["path"].endswith("/nextRunUtc") for each in wanted)
            return Moved(tenant=Tenant.from_document(document), entries=entries, conflicts=conflicts)
        raise ServiceUnavailable(
            f"tenant {tenant.id!r} was changed by others in each of {MOST} tries to schedule it. It will be tried again"
        )

    async def _read(self, tenant_id: str) -> dict[str, Any]:
        container = await self._container.open()
        unknown = TenantUnknown(
            f"there is no tenant {tenant_id!r} in container {self._container.name!r}: "
            "create its document, or correct the tenantId"
        )
        if is_forbidden_in_ids(tenant_id):
            raise unknown
        with explained(f"while reading tenant {tenant_id!r}"):
            try:
                return dict(await container.read_item(tenant_id, partition_key=tenant_id))
            except CosmosResourceNotFoundError:
                raise unknown from None

    async def _pages(self, query: str, **parameters: object) -> AsyncIterator[list[dict[str, Any]]]:
        container = await self._container.open()
        with explained("while looking for tenants"):
            pages = container.query_items(
                query,
                parameters=[{"name": f"@{name}", "value": value} for name, value in parameters.items()],
                max_item_count=_PAGE,
            ).by_page()
            async for page in pages:
                yield [document async for document in page]

    def _remembers(self, document: Mapping[str, Any]) -> bool:
        etag = self._examined.get(str(document.get("id")))
        return etag is not None and etag == document.get("_etag")


def _is_due(document: Mapping[str, Any], horizon: str) -> bool:
    """Return whether an enabled entry of a document that this process wrote is due."""
    entries = (entry for entry in document["flows"] if isinstance(entry, dict) and entry.get("enabled") is True)
    return any(str(entry.get("nextRunUtc") or "") <= horizon for entry in entries)


def _unedited(tenant: Tenant, moves: Sequence[Move]) -> Iterator[tuple[int, Move]]:
    """Yield the moves whose entry nobody has edited or moved, each with the entry's present index.

    An entry without a note counts as not moved: somebody has saved the document as it was before the note.
    """
    entries = {entry.name: entry for entry in tenant.flows}
    for move in moves:
        entry = entries.get(move.flow)
        if entry and entry.next_run_text == move.previous and entry.note in (move.note, None):
            yield entry.index, move


def _move(index: int, move: Move, now: datetime) -> Iterator[dict[str, Any]]:
    text = utc_text(move.next_run)
    yield {"op": "set", "path": f"/flows/{index}/nextRunUtc", "value": text}
    if move.is_planned:
        yield _note(index, text, now)


def _ahead(entry: FlowEntry, now: datetime) -> str | None:
    """Return `nextRunUtc` if no tick has passed it: it is an occurrence then, as if the app had planned it."""
    return entry.next_run_text if entry.next_run and entry.next_run > now else None


def _note(index: int, next_run: str | None, now: datetime) -> dict[str, Any]:
    planned = Planned(next_run_utc=next_run, enqueued_utc=utc_text(now), key=uuid4().hex[:8])
    return {"op": "set", "path": f"/flows/{index}/planned", "value": msgspec.to_builtins(planned)}
