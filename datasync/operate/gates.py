"""Gates: providers that have asked not to be called for a time."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from datasync.errors import ActionRefused, ChangedMeanwhile, EntryUnknown, StateInvalid
from datasync.model.audit import Audit, Verb
from datasync.model.decode import fits_in_id
from datasync.model.display import shown
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.services import Services


class Gate(msgspec.Struct, frozen=True, rename="camel"):
    """A provider that is closed."""

    provider: str
    tenant_id: str | None
    """None for all tenants, and for a document that belongs to none."""
    until_utc: datetime | None
    """None if the document was edited and cannot be read: the provider is called."""
    since_utc: str | None
    why: str | None = None
    """Why the document cannot be read."""


async def gates(services: Services, now: datetime) -> list[Gate]:
    """Return the providers that are closed at `now` (aware), and the documents that cannot be read.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    found: list[Gate] = []
    async for document in services.overview.cooldowns():
        partition, until, why = document.get("tenantId"), None, None
        try:
            until = services.runs.closed_until(document)
        except StateInvalid as error:
            why = str(error)
        if until is None or until > now:
            provider = str(document.get("id")).removeprefix("cooldown-")
            since = document.get("sinceUtc")
            tenant = partition if isinstance(partition, str) and partition != FLEET else None
            found.append(Gate(provider, tenant, until, since if isinstance(since, str) else None, why))
    return sorted(found, key=lambda gate: (gate.provider, gate.tenant_id or ""))


async def open_gate(
    services: Services, ask: Ask, *, provider: str, tenant_id: str | None, seen_until: datetime | None = None
) -> Done:
    """Let a provider be called again now: for one tenant, or, without a tenant, where it is closed for all.

    Messages that were put back stay hidden until their time.

    Args:
        services: The services of the app.
        ask: The operator.
        provider: The provider.
        tenant_id: The tenant; None for all.
        seen_until: Until when it is closed, as the operator saw it (aware); None if the operator has not looked.

    Raises:
        EntryUnknown: a provider cannot have this name.
        ActionRefused: it is closed for some tenants only, which have to be named.
        ChangedMeanwhile: it has asked for another pause meanwhile, or since the operator looked.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    if not fits_in_id(provider):
        raise EntryUnknown(f"no provider has the name {shown(provider)!r}")
    partition = tenant_id if tenant_id is not None else FLEET
    subject = f"{shown(provider)} for {f'tenant {shown(tenant_id)}' if tenant_id is not None else 'all tenants'}"

    async def decide() -> Change:
        document = await services.runs.cooldown_document(partition, provider)
        if document:
            until = _until(services, document)
            if seen_until and (until is None or utc_text(until) != utc_text(seen_until)):
                raise ChangedMeanwhile(
                    f"{subject} is closed until {until and utc_text(until)} now, and was until {utc_text(seen_until)} "
                    "when you looked"
                )
            before = {name: document.get(name) for name in ("sinceUtc", "untilUtc")}
            return Change(f"{subject} is open", before, None, basis=document["_etag"])
        if tenant_id is None and (others := await _tenants(services, provider, ask.at)):
            listed = ", ".join(shown(each) for each in others[:5])
            raise ActionRefused(
                f"{shown(provider)} is not closed for all tenants, and is closed for {listed}"
                f"{' and others' if others[5:] else ''}: name the tenant"
            )
        return Change(f"{subject} was not closed")

    async def make(intent: Audit, _: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        if intent.basis and not await services.runs.open(partition, provider, str(intent.basis)):
            document = await services.runs.cooldown_document(partition, provider) or {}
            raise ChangedMeanwhile(
                f"{subject} was closed again meanwhile, until {shown(str(document.get('untilUtc')))}"
            )
        return Change(intent.message, intent.before, intent.after)

    return await perform(services, ask, Action(Verb.GATE_OPEN, tenant_id, None, {"provider": provider}), decide, make)


def _until(services: Services, document: Mapping[str, Any]) -> datetime | None:
    try:
        return services.runs.closed_until(document)
    except StateInvalid:
        return None


async def _tenants(services: Services, provider: str, now: datetime) -> list[str]:
    return [gate.tenant_id for gate in await gates(services, now) if gate.provider == provider and gate.tenant_id]
