"""The tenants container: documents that people edit.

The ticks change `nextRunUtc` and `planned` of entries, and note `scheduleRev`. Operators change documents through
`datasync/operate/`.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
from azure.core import MatchConditions
from azure.cosmos.exceptions import (
    CosmosAccessConditionFailedError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable, TenantUnknown
from datasync.model.display import quoted
from datasync.model.tenant import FlowEntry, Planned, Tenant, is_tenant_document, is_tenant_id
from datasync.model.times import utc_text
from datasync.slices import finished
from datasync.stores.cosmos import RETRY_WRITE, Container, explained
from datasync.tries import MOST, tries

_PATCH_LIMIT = 10  # operations: https://learn.microsoft.com/azure/cosmos-db/partial-document-update-faq

MOST_MOVES = _PATCH_LIMIT // 2
"""Entries that one patch can move."""

_PAGE = 100

_ALL = "SELECT * FROM c"
_CHANGED = "SELECT * FROM c WHERE c._ts >= @since"
_CHANGED_IDS = "SELECT VALUE c.tenantId FROM c WHERE c._ts >= @since"
_NEWEST = "SELECT TOP 1 VALUE c._ts FROM c ORDER BY c._ts DESC"
_BY_ID = "SELECT * FROM c WHERE ARRAY_CONTAINS(@ids, c.id)"
# Both comparisons are served by the tuple index /flows/[]/{enabled, nextRunUtc}/?. Times in the app's own form compare
# as text; a tick rewrites any other form when it examines the edit that brought it.
_DUE = """
SELECT * FROM c
WHERE EXISTS (SELECT VALUE f FROM f IN c.flows WHERE f.enabled = true AND f.nextRunUtc <= @horizon)
"""


class Move(msgspec.Struct, frozen=True):
    """A new `nextRunUtc` for one entry."""

    entry: FlowEntry
    """The entry at the time of the decision."""
    next_run: datetime
    is_planned: bool = True
    """Whether the app has planned this time. False for a person's time that is only written in another form."""


class Patched(msgspec.Struct, frozen=True):
    """The result of patching entries of a tenant."""

    etag: str
    """The ETag of the document as it is now."""
    entries: tuple[FlowEntry, ...]
    """The patched entries as they are now. Entries that somebody has edited meanwhile are not patched."""
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

    async def changed(self, since: int) -> set[str]:
        """Return the ids of the tenants whose documents have changed since a time, by the clock of Cosmos DB.

        Raises ServiceUnavailable.
        """
        return {
            tenant async for page in self._pages(_CHANGED_IDS, since=since) for tenant in page if is_tenant_id(tenant)
        }

    async def newest(self) -> int:
        """Return the `_ts` of the newest change, in seconds since 1970; 0 without documents.

        Raises ServiceUnavailable.
        """
        return max([ts async for page in self._pages(_NEWEST) for ts in page], default=0)

    def remember(self, tenant_id: str, etag: str) -> None:
        """Note that this process has written a document and examined it in full."""
        self._examined[tenant_id] = etag

    async def get(self, tenant_id: str) -> Tenant:
        """Return a tenant.

        Raises:
            TenantUnknown: it has no document.
            TenantInvalid: its document cannot be used.

        """
        reading = Tenant.reading(await self._read(tenant_id))
        return await finished(reading, lambda: self._container.sleep(timedelta()))

    async def document(self, tenant_id: str) -> dict[str, Any]:
        """Return the document of a tenant as it is stored, readable or not. Raises TenantUnknown if it has none."""
        return await self._read(tenant_id)

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
        return not (await self.entry_names(tenant_id) or set()).isdisjoint(names)

    async def entry_names(self, tenant_id: str) -> set[str] | None:
        """Return the names of the entries of a tenant's document that are not disabled; None if there is no document.

        The document, and the entries, need not be readable as a whole. Raises ServiceUnavailable.
        """
        try:
            flows = (await self._read(tenant_id)).get("flows")
        except TenantUnknown:
            return None
        entries = [entry for entry in flows if isinstance(entry, dict)] if isinstance(flows, list) else []
        names = (entry.get("name") for entry in entries if entry.get("enabled") is not False)
        return {name for name in names if isinstance(name, str)}

    async def move(self, tenant: Tenant, moves: Sequence[Move], now: datetime) -> Patched:
        """Set `nextRunUtc` of up to MOST_MOVES entries, with a note (`planned`), and leave everything else as it is.

        An entry whose `nextRunUtc` somebody has edited meanwhile is not changed.

        Raises:
            TenantUnknown, TenantInvalid: the document was deleted, or made unusable, meanwhile.
            ServiceUnavailable: Cosmos DB refused or could not be reached, or others changed the document every time.

        """
        wanted = {move.entry.name: move for move in moves}

        def moved(entry: FlowEntry) -> FlowEntry | None:
            return _moved(entry, wanted[entry.name], now)

        return await self._patch(tenant, [move.entry for move in moves], moved)

    async def note(self, tenant: Tenant, entries: Mapping[str, bool], now: datetime) -> Patched:
        """Make a note in up to MOST_MOVES entries that have none. Raises as `move` does.

        `entries` says for each name whether the app counts as the one that has planned its `nextRunUtc`. An entry whose
        `nextRunUtc` somebody has edited meanwhile is not changed.
        """
        before = {name: tenant.entries[name] for name in entries}

        def noted(entry: FlowEntry) -> FlowEntry | None:
            if entry.planned or entry.next_run_text != before[entry.name].next_run_text:
                return None
            return replace(entry, planned=_note(entry.next_run_text if entries[entry.name] else None, now))

        return await self._patch(tenant, [*before.values()], noted)

    async def create(self, document: Mapping[str, Any]) -> bool:
        """Store a new document. Returns False if the tenant has one. Raises ServiceUnavailable."""
        container = await self._container.open()
        with explained(f"while creating tenant {document['id']!r}"):
            try:
                await container.create_item(dict(document), no_response=True, retry_write=RETRY_WRITE)
            except CosmosResourceExistsError:
                return False
        return True

    async def replace(self, document: Mapping[str, Any], etag: str) -> bool:
        """Replace a document that still has this ETag. Returns False if it was changed or deleted meanwhile.

        It is tried once, so that False is sure to mean that it was not replaced.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached. It may have been replaced.

        """
        container = await self._container.open()
        with explained(f"while changing tenant {document['id']!r}"):
            try:
                await container.replace_item(
                    document["id"],
                    dict(document),
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                    no_response=True,
                )
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                return False
        return True

    async def delete(self, tenant_id: str, etag: str) -> bool:
        """Delete a document that still has this ETag. Returns False if it was changed or deleted meanwhile.

        Raises:
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        container = await self._container.open()
        with explained(f"while deleting tenant {tenant_id!r}"):
            try:
                await container.delete_item(
                    tenant_id,
                    partition_key=tenant_id,
                    etag=etag,
                    match_condition=MatchConditions.IfNotModified,
                    retry_write=RETRY_WRITE,
                )
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                return False
        return True

    async def note_schedules(self, tenant: Tenant, rev: str) -> str | None:
        """Note in a document that the states of its flows are in step with its entries.

        Returns:
            The new ETag; None if somebody has edited the document meanwhile: then nothing was written.

        """
        container = await self._container.open()
        with explained(f"while noting the schedules of tenant {tenant.id!r}"):
            try:
                answer = await container.patch_item(
                    tenant.id,
                    partition_key=tenant.id,
                    patch_operations=[{"op": "set", "path": "/scheduleRev", "value": rev}],
                    etag=tenant.etag,
                    match_condition=MatchConditions.IfNotModified,
                    no_response=True,
                    retry_write=RETRY_WRITE,
                )
            except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                return None
        return str(answer.get_response_headers()["etag"])

    async def _patch(
        self, tenant: Tenant, entries: Sequence[FlowEntry], change: Callable[[FlowEntry], FlowEntry | None]
    ) -> Patched:
        """Patch entries under the ETag of their document. `change` gives an entry as it has to be; None to leave it."""
        container = await self._container.open()
        present, etag, conflicts = entries, tenant.etag, 0
        async for _ in tries(self._container.sleep):
            changed = [(entry, after) for entry in present if (after := change(entry))]
            if not changed:
                return Patched(etag=etag, entries=(), conflicts=conflicts)
            with explained(f"while scheduling tenant {tenant.id!r}"):
                try:
                    answer = await container.patch_item(
                        tenant.id,
                        partition_key=tenant.id,
                        patch_operations=[each for pair in changed for each in _operations(*pair)],
                        etag=etag,
                        match_condition=MatchConditions.IfNotModified,
                        # The whole document in each answer would cost the square of its size.
                        no_response=True,
                        retry_write=RETRY_WRITE,
                    )
                except (CosmosAccessConditionFailedError, CosmosResourceNotFoundError):
                    fresh, conflicts = await self.get(tenant.id), conflicts + 1
                    etag = fresh.etag
                    present = [fresh.entries[each.name] for each in entries if each.name in fresh.entries]
                    continue
            return Patched(
                etag=str(answer.get_response_headers()["etag"]),
                entries=tuple(after for _, after in changed),
                conflicts=conflicts,
            )
        raise ServiceUnavailable(
            f"tenant {tenant.id!r} was changed by others in each of {MOST} tries to schedule it. It will be tried again"
        )

    async def _read(self, tenant_id: str) -> dict[str, Any]:
        container = await self._container.open()
        unknown = TenantUnknown(
            f"there is no tenant {quoted(tenant_id)} in container {self._container.name!r}: "
            "create its document, or correct the tenantId"
        )
        if not is_tenant_id(tenant_id):
            raise unknown
        with explained(f"while reading tenant {tenant_id!r}"):
            try:
                return dict(await container.read_item(tenant_id, partition_key=tenant_id))
            except CosmosResourceNotFoundError:
                raise unknown from None

    async def _pages(self, query: str, **parameters: object) -> AsyncIterator[list[Any]]:
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


def _moved(entry: FlowEntry, move: Move, now: datetime) -> FlowEntry | None:
    """Return an entry with its new `nextRunUtc`; None if somebody has edited or moved it.

    An entry without a note counts as not moved: somebody has saved the document as it was before the note.
    """
    if entry.next_run_text != move.entry.next_run_text or entry.note not in (move.entry.note, None):
        return None
    text = utc_text(move.next_run)
    planned = _note(text, now) if move.is_planned else entry.planned
    return replace(entry, next_run=move.next_run, next_run_text=text, planned=planned)


def _note(next_run: str | None, now: datetime) -> Planned:
    return Planned(next_run_utc=next_run, enqueued_utc=utc_text(now), key=uuid4().hex[:8])


def _operations(before: FlowEntry, after: FlowEntry) -> Iterator[dict[str, Any]]:
    """Yield the operations that write an entry: one for each field that is changed, up to two."""
    path = f"/flows/{before.index}"
    if after.next_run_text != before.next_run_text:
        yield {"op": "set", "path": f"{path}/nextRunUtc", "value": after.next_run_text}
    if after.planned != before.planned:
        yield {"op": "set", "path": f"{path}/planned", "value": msgspec.to_builtins(after.planned)}
