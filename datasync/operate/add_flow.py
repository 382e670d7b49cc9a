"""An entry for a flow, added to many tenants."""

import asyncio
import copy
import json
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.errors import DataSyncError, ServiceUnavailable, TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Verb
from datasync.model.display import shown
from datasync.model.job import run_id
from datasync.model.tenant import is_tenant_document
from datasync.operate.action import Action, Ask, Change
from datasync.operate.documents import document_problems
from datasync.operate.edits import Document, edit, entries_of
from datasync.operate.told import difference
from datasync.services import Services

_AT_ONCE = 8


class Addition(StrEnum):
    """The result for a tenant."""

    ADD = "add"
    """The entry would be added."""
    ADDED = "added"
    HAS_IT = "has it"
    """The tenant has an entry for the flow already, which is left as it is."""
    PROBLEM = "problem"
    """The entry would have a problem, or the document has one. Nothing is added."""


class AdditionLine(msgspec.Struct, frozen=True, rename="camel"):
    """A tenant, and the result for it."""

    tenant_id: str
    what: Addition
    why: str | None = None


class NewEntry(msgspec.Struct, frozen=True):
    """The entry to add. Its first run is at the next time of its cron."""

    flow: str
    cron: str
    timezone: str | None = None
    settings: dict[str, Any] | None = None

    def content(self) -> Document:
        """Return the entry as a document has it."""
        optional = {"timezone": self.timezone, "settings": self.settings}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"name": self.flow, "enabled": True, "cron": self.cron, "nextRunUtc": None, **given}


async def add_flow(
    services: Services,
    registry: FlowRegistry,
    ask: Ask,
    entry: NewEntry,
    *,
    tenant_ids: Sequence[str] | None,
    is_applied: bool,
) -> list[AdditionLine]:
    """Add an entry to tenants, unless they have one for the flow. Each tenant is an action of its own.

    Args:
        services: The services of the app.
        registry: The flows, which check the entry.
        ask: The operator. The ids of the actions follow from its id and the tenants.
        entry: The entry.
        tenant_ids: The tenants; None for all.
        is_applied: Whether the documents are changed. Otherwise the result states the changes that would be made.

    Raises:
        TenantUnknown: one of the tenants has no document. Nothing was changed.
        ServiceUnavailable: Cosmos DB refused or could not be reached. A repeat does the rest.

    """
    documents = await _documents(services, tenant_ids)
    lines = {str(document["id"]): _look(registry, ask, entry, document) for document in documents}
    if is_applied:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def add(line: AdditionLine) -> AdditionLine:
            async with limit:
                return await _add(services, registry, ask, entry, line.tenant_id)

        added = await asyncio.gather(*(add(line) for line in lines.values() if line.what is Addition.ADD))
        lines |= {line.tenant_id: line for line in added}
    return [lines[tenant_id] for tenant_id in sorted(lines)]


async def _documents(services: Services, tenant_ids: Sequence[str] | None) -> list[Document]:
    if tenant_ids is None:
        return [each async for page in services.tenants.all() for each in page if is_tenant_document(each)]
    return [await services.tenants.document(each) for each in dict.fromkeys(tenant_ids)]


def _look(registry: FlowRegistry, ask: Ask, entry: NewEntry, document: Document) -> AdditionLine:
    tenant_id = str(document["id"])
    if any(each.get("name") in (entry.flow, *registry.names_of(entry.flow)) for each in entries_of(document)):
        return AdditionLine(tenant_id, Addition.HAS_IT)
    flows = document.get("flows")
    added = {**document, "flows": [*(flows if isinstance(flows, list) else []), entry.content()]}
    before = document_problems(registry, document, ask)
    if problems := [each for each in document_problems(registry, added, ask) if each not in before]:
        return AdditionLine(tenant_id, Addition.PROBLEM, "; ".join(problems))
    if not isinstance(flows, list):
        return AdditionLine(tenant_id, Addition.PROBLEM, "; ".join(before))
    return AdditionLine(tenant_id, Addition.ADD)


async def _add(services: Services, registry: FlowRegistry, ask: Ask, entry: NewEntry, tenant_id: str) -> AdditionLine:
    own = replace(ask, action_id=run_id(ask.action_id, tenant_id))
    _, told = difference(None, {"flows": [entry.content()]})
    digest = sha256(json.dumps(entry.content(), sort_keys=True).encode()).hexdigest()
    action = Action(Verb.ADD_FLOW, tenant_id, entry.flow, {"sha256": digest})

    def append(document: Document) -> Change:
        line = _look(registry, ask, entry, document)
        if line.what is not Addition.ADD:
            return Change(f"{shown(tenant_id)}/{shown(entry.flow)}: {line.what}")
        document["flows"].append(copy.deepcopy(entry.content()))
        return Change(f"{shown(tenant_id)}/{shown(entry.flow)} is added", None, told)

    try:
        done = await edit(services, own, action, append)
    except ServiceUnavailable:
        raise
    except TenantUnknown:
        return AdditionLine(tenant_id, Addition.PROBLEM, "the document was removed meanwhile")
    except DataSyncError as error:  # the other tenants are not affected
        return AdditionLine(tenant_id, Addition.PROBLEM, str(error))
    return AdditionLine(tenant_id, Addition.ADDED if done.after else Addition.HAS_IT)
