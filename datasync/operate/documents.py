"""Tenant documents: listed, stored, removed. And the names of a tenant's secrets."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec

from datasync.errors import (
    ActionInvalid,
    ActionRefused,
    ChangedMeanwhile,
    FlowUnknown,
    ServiceUnavailable,
    SettingsInvalid,
    TenantInvalid,
    TenantUnknown,
)
from datasync.flow.registry import FlowRegistry
from datasync.flow.secrets import declared_secret, tenant_secret
from datasync.model.audit import Audit, Verb
from datasync.model.display import shown
from datasync.model.state import FlowState
from datasync.model.tenant import Tenant, is_tenant_document
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.edits import LAST_ACTION, Document, entries_of
from datasync.operate.told import difference
from datasync.services import Services
from datasync.tick.check import entry_problems, tenant_problems
from datasync.tries import MOST, tries

_MOST_PROBLEMS = 5


class TenantLine(msgspec.Struct, frozen=True, rename="camel"):
    """A tenant."""

    tenant_id: str
    name: str
    timezone: str
    flows: int
    """Entries that can be read."""
    enabled: int
    problem: str | None
    """Why the document cannot be used."""


class SecretLine(msgspec.Struct, frozen=True, rename="camel"):
    """A secret of a tenant. Values are never read."""

    name: str
    """The full name in the vault."""
    flows: tuple[str, ...]
    """The entries whose flows declare it. Empty if none does."""
    is_present: bool


async def tenants(services: Services) -> list[TenantLine]:
    """Return all tenants, by id. Raises ServiceUnavailable."""
    found: list[TenantLine] = []
    async for page in services.tenants.all():
        found += [_line(document) for document in page if is_tenant_document(document)]
    return sorted(found, key=lambda line: line.tenant_id)


async def put_tenant(services: Services, registry: FlowRegistry, ask: Ask, document: Mapping[str, Any]) -> Done:
    """Store a tenant document that has no problem.

    A document with `_etag`, as it was read, replaces the stored one if that is still the same. A document without it is
    a new one.

    Raises:
        ActionInvalid: it has problems. The message lists the first ones.
        ChangedMeanwhile: the stored document was changed or removed since it was read, or there is one already.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    if problems := document_problems(registry, document, ask):
        more = f"; and {len(problems) - _MOST_PROBLEMS} more" if problems[_MOST_PROBLEMS:] else ""
        raise ActionInvalid(f"the document was not stored: {'; '.join(problems[:_MOST_PROBLEMS])}{more}")
    etag, tenant_id = document.get("_etag"), str(document["id"])
    content = {name: value for name, value in document.items() if not name.startswith("_")}
    if etag is None:
        content.pop("scheduleRev", None)  # a note about the states of the document that this is a copy of
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    action = Action(Verb.TENANT_PUT, tenant_id, None, {"sha256": digest, "etag": etag})
    own = {**content, LAST_ACTION: ask.action_id}

    async def decide() -> Change:
        present = await _present(services, tenant_id)
        _check_etag(tenant_id, present, etag)
        said = "replaced" if present else "created"
        return Change(f"tenant {shown(tenant_id)}: {said}", *difference(present, content))

    async def make(intent: Audit, _: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        done = Change(intent.message, intent.before, intent.after)
        present = await _present(services, tenant_id)
        if present and present.get(LAST_ACTION) == ask.action_id:
            return done
        _check_etag(tenant_id, present, etag)
        if await (services.tenants.replace(own, str(etag)) if etag else services.tenants.create(own)):
            return done
        present = await _present(services, tenant_id)
        if present and present.get(LAST_ACTION) == ask.action_id:  # the answer of a first try was lost
            return done
        raise _changed(tenant_id)

    return await perform(services, ask, action, decide, make)


async def remove_tenant(services: Services, ask: Ask, *, tenant_id: str) -> Done:
    """Delete a tenant's document, the states of its flows, its cool-downs, and its standing problems.

    Records of runs stay until they expire.

    `after` of the result has the number of states, and the names of the tenant's secrets, which are not deleted; None
    in place of the names if the vault could not be read.

    Raises:
        TenantUnknown: it has no document.
        ActionRefused: an entry is enabled, or a run is going on.
        ChangedMeanwhile: the tenant was stored again since the action began.
        ServiceUnavailable: Cosmos DB refused or could not be reached; or a run has started at the same time, and keeps
            its state until its end. A repeat completes the action.

    """

    async def decide() -> Change:
        document = await services.tenants.document(tenant_id)
        await _check_removable(services, tenant_id, document)
        after = {"secrets": await _present_secrets(services, tenant_id)}
        before, _ = difference(document, None)
        message = f"tenant {shown(tenant_id)} is removed"
        return Change(message, before, after, basis={LAST_ACTION: document.get(LAST_ACTION)})

    async def make(intent: Audit, is_repeat: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        known = intent.basis.get(LAST_ACTION) if isinstance(intent.basis, Mapping) else None
        async for _ in tries(services.clock.sleep):
            try:
                document = await services.tenants.document(tenant_id)
            except TenantUnknown:
                break
            if is_repeat and document.get(LAST_ACTION) != known:
                raise _changed(tenant_id)
            await _check_removable(services, tenant_id, document)
            if await services.tenants.delete(tenant_id, document["_etag"]):
                break
        else:
            raise ServiceUnavailable(f"tenant {tenant_id!r} was changed by others in each of {MOST} tries")
        if run := await _run_of(services, tenant_id):
            raise ServiceUnavailable(
                f"the document of tenant {shown(tenant_id)!r} is removed, and a run of {run} is going on, which needs "
                "its state. Repeat the action with its id after the end of the run"
            )
        states = await services.runs.forget(tenant_id, services.clock.now())
        for problem in await services.fleet.problems():
            if problem.document == tenant_id:
                await services.fleet.delete(problem)
        after = intent.after if isinstance(intent.after, dict) else {}
        return Change(intent.message, intent.before, {**after, "states": states})

    return await perform(services, ask, Action(Verb.TENANT_REMOVE, tenant_id), decide, make)


async def secrets(services: Services, registry: FlowRegistry, tenant_id: str) -> list[SecretLine]:
    """Return the secrets that the flows of a tenant declare, and those that are in the vault under the tenant's name.

    The names of all secrets of the vault are listed, and no value is read.

    Raises:
        TenantUnknown, TenantInvalid: the tenant has no document, or none that can be used.
        SettingsInvalid: no vault is configured.
        ServiceUnavailable: Cosmos DB or the vault refused or could not be reached.

    """
    tenant = await services.tenants.get(tenant_id)
    declared: dict[str, list[str]] = {}
    for entry in tenant.flows:
        try:
            names = registry.resolve(entry.name).secrets
        except FlowUnknown:
            continue
        for name in names:
            declared.setdefault(declared_secret(tenant.id, name), []).append(entry.name)
    present = {name.lower(): name for name in await services.vault.names()}
    prefix = tenant_secret(tenant_id, "", "").removesuffix("--").lower()
    known = {name.lower() for name in declared}
    others = [name for lower, name in present.items() if lower.startswith(prefix) and lower not in known]
    return [
        *(SecretLine(name, tuple(flows), name.lower() in present) for name, flows in sorted(declared.items())),
        *(SecretLine(name, (), is_present=True) for name in sorted(others)),
    ]


def document_problems(registry: FlowRegistry, document: Mapping[str, Any], ask: Ask) -> list[str]:
    """Return the problems of a document, those of disabled entries as well."""
    try:
        tenant = Tenant.from_document(document)
    except TenantInvalid as error:
        return [shown(str(error), 1000)]
    found = [*tenant_problems(tenant)]
    for entry in tenant.flows:
        found += entry_problems(tenant, entry, registry, ask.at)
    return [*dict.fromkeys(map(str, found))]


async def _present(services: Services, tenant_id: str) -> Document | None:
    try:
        return await services.tenants.document(tenant_id)
    except TenantUnknown:
        return None


def _check_etag(tenant_id: str, present: Document | None, etag: object) -> None:
    """Check that the stored document is the one that the operator has edited."""
    if present and etag is None:
        raise ChangedMeanwhile(
            f"there is a tenant {shown(tenant_id)!r} already. To replace it, edit the document as `tenant get` prints "
            "it, with its _etag"
        )
    if (present["_etag"] if present else None) != etag:
        raise _changed(tenant_id)


def _changed(tenant_id: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(
        f"the document of tenant {shown(tenant_id)!r} was changed or removed since it was read, by a tick or by "
        "somebody else. Read it again, and decide again"
    )


async def _check_removable(services: Services, tenant_id: str, document: Mapping[str, Any]) -> None:
    if any(entry.get("enabled") is True for entry in entries_of(document)):
        raise ActionRefused(
            f"tenant {shown(tenant_id)!r} has enabled entries. Pause it (datasync pause {shown(tenant_id)}), and wait "
            "until its messages are gone: their runs would end as dead"
        )
    if run := await _run_of(services, tenant_id):
        raise ActionRefused(f"a run of {run} is going on: wait for its end, and try again")


async def _run_of(services: Services, tenant_id: str) -> str | None:
    """Return the tenant and the flow of a run that is going on; None if there is none."""
    now = services.clock.now()
    flows = [each.flow_name for each in await services.overview.running(now, tenant_id)]
    flows += [
        state.flow_name
        async for state in services.overview.states(tenant_id)
        if isinstance(state, FlowState) and state.lease and state.lease.is_live(now)
    ]
    return f"{shown(tenant_id)}/{shown(flows[0])}" if flows else None


async def _present_secrets(services: Services, tenant_id: str) -> Sequence[str] | None:
    """Return the names of a tenant's secrets; None if the vault cannot be read."""
    prefix = tenant_secret(tenant_id, "", "").removesuffix("--").lower()
    try:
        return sorted(name for name in await services.vault.names() if name.lower().startswith(prefix))
    except (SettingsInvalid, ServiceUnavailable):
        return None


def _line(document: Mapping[str, Any]) -> TenantLine:
    try:
        tenant = Tenant.from_document(document)
    except TenantInvalid as error:
        return TenantLine(error.tenant_id, "", "", 0, 0, f"{error.path}: {error.why}")
    enabled = sum(entry.enabled for entry in tenant.flows)
    return TenantLine(tenant.id, tenant.name, tenant.timezone, len(tenant.flows), enabled, None)
