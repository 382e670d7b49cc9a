"""Problems of an entry that can be read: its flow, settings, secrets, cron and time zone. Pure."""

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from datasync import cron
from datasync.errors import CronInvalid, FlowSettingsInvalid, FlowUnknown, SecretRefused
from datasync.flow.registry import Flow, FlowRegistry
from datasync.flow.secrets import check_name, declared_secret
from datasync.model.decode import shorten
from datasync.model.tenant import FlowEntry, Problem, Tenant
from datasync.schedule import find_zone


def tenant_problems(tenant: Tenant) -> Iterator[Problem]:
    """Yield the problems of a document outside the entries that can be read."""
    yield from tenant.problems
    if why := _zone_problem(tenant.timezone):
        yield Problem(tenant_id=tenant.id, path="timezone", why=why)


def spelling_problems(tenant_id: str, holder: str) -> Iterator[Problem]:
    """Yield the problems of two tenants whose ids differ only in case, of which one is used: none if it is this one."""
    if holder == tenant_id:
        return
    yield Problem(
        tenant_id=tenant_id,
        path="id",
        why=f"{tenant_id!r} and the tenant {holder!r}, which was first, differ only in case, and Key Vault does not "
        "distinguish them. No flow of this document runs: give it another id",
    )
    yield Problem(
        tenant_id=holder,
        path="tenantId",
        why=f"there is another tenant {tenant_id!r}, whose id differs only in case. Its flows do not run: delete its "
        "document, or give it another id",
    )


class Spellings:
    """The ids of the tenants that were seen, to find those that differ only in case."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def problems(self, tenant_id: str) -> Iterator[Problem]:
        """Yield the problems of a tenant and of the one before it, if their ids differ only in case."""
        yield from spelling_problems(tenant_id, self._first.setdefault(tenant_id.casefold(), tenant_id))


def entry_problems(tenant: Tenant, entry: FlowEntry, registry: FlowRegistry, now: datetime) -> Iterator[Problem]:
    """Yield the problems of an entry, enabled or not. An entry that has any cannot be scheduled."""
    path = f"flows[{entry.index}]"
    try:
        flow = registry.resolve(entry.name)
    except FlowUnknown as error:
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=f"{path}.name", why=str(error))
    else:
        yield from _flow_problems(tenant, entry, flow)
    if why := _cron_problem(entry.cron, now):
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=f"{path}.cron", why=why)
    if why := _zone_problem(tenant.zone_of(entry)):
        if entry.timezone == "tenant":  # the problem that tenant_problems yields
            yield Problem(tenant_id=tenant.id, path="timezone", why=why)
        else:
            remedy = f"{why}, or 'tenant' for the tenant's own"
            yield Problem(tenant_id=tenant.id, flow=entry.name, path=f"{path}.timezone", why=remedy)


def _flow_problems(tenant: Tenant, entry: FlowEntry, flow: Flow) -> Iterator[Problem]:
    if why := _alias_problem(tenant, entry, flow):
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=f"flows[{entry.index}].name", why=why)
    try:
        flow.decode_settings(tenant.id, entry)
    except FlowSettingsInvalid as error:
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=error.path, why=error.why)
    try:
        for name in flow.secrets:
            check_name(tenant.id, declared_secret(tenant.id, name))
    except SecretRefused as refused:
        yield Problem(tenant_id=tenant.id, flow=entry.name, path=f"flows[{entry.index}]", why=str(refused))


def _alias_problem(tenant: Tenant, entry: FlowEntry, flow: Flow) -> str | None:
    under = [tenant.entries[name] for name in flow.names if name in tenant.entries]
    enabled = [other for other in under if other.enabled]
    first = min(enabled, key=lambda other: other.index, default=entry)
    if not entry.enabled or first.index >= entry.index:
        return None
    return (
        f"{entry.name!r} is another name of {first.name!r} at flows[{first.index}], which is the entry used: "
        "merge the two entries"
    )


@lru_cache(maxsize=4096)  # a tick asks for one instant, and fleets have few expressions
def _cron_problem(expression: str, now: datetime) -> str | None:
    try:
        if cron.parse(expression).next(now) is None:
            return f"cron {expression!r} never fires: no date matches all of its fields"
    except CronInvalid as error:
        return shorten(str(error), 1000)
    return None


def _zone_problem(name: str) -> str | None:
    try:
        find_zone(name)
    except ValueError as why:
        return str(why)
    return None
