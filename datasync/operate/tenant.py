"""One tenant: the document as it is stored, and the next times of each entry."""

from collections.abc import Iterator
from datetime import datetime, tzinfo
from itertools import islice
from typing import Any

import msgspec

from datasync import cron
from datasync.errors import CronInvalid, TenantInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.tenant import FlowEntry, Tenant
from datasync.schedule import find_zone
from datasync.services import Services
from datasync.tick.check import entry_problems

NEXT_TIMES = 5


class Occurrence(msgspec.Struct, frozen=True, rename="camel"):
    """A time at which an entry is due."""

    utc: datetime
    local: str | None
    """In the tenant's zone, with its offset: `2025-08-23T03:00:00+02:00`; None where the zone is not valid."""


class EntryTimes(msgspec.Struct, frozen=True, rename="camel"):
    """An entry, with its next times."""

    flow_name: str
    index: int
    """Its position in the document's `flows`."""
    enabled: bool
    cron: str
    timezone: str
    """The zone of its cron."""
    next_run_utc: datetime | None
    next_times: tuple[Occurrence, ...]
    """Up to five from now on, also of a disabled entry: `nextRunUtc` where it is ahead, then those of the cron."""
    problems: tuple[str, ...]


class TenantDetail(msgspec.Struct, frozen=True, rename="camel"):
    """A tenant with its entries."""

    tenant_id: str
    zone: str | None
    """The tenant's time zone; None where the document cannot be read."""
    etag: str
    """The version of the document."""
    document: dict[str, Any]
    """As it is stored, without the fields of Cosmos DB."""
    entries: tuple[EntryTimes, ...]
    problems: tuple[str, ...]
    """Those of the document, and of entries that cannot be read."""


async def tenant(services: Services, registry: FlowRegistry, tenant_id: str, now: datetime) -> TenantDetail:
    """Return a tenant as of `now` (aware).

    Raises:
        TenantUnknown: the tenant does not exist.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    document = await services.tenants.document(tenant_id)
    entries: tuple[EntryTimes, ...] = ()
    zone: str | None = None
    problems: tuple[str, ...]
    try:
        read = Tenant.from_document(document)
    except TenantInvalid as error:
        problems = (f"{error.path}: {error.why}",)
    else:
        zone, problems = read.timezone, tuple(f"{each.path}: {each.why}" for each in read.problems)
        local = _zone(read.timezone)
        entries = tuple(_entry(read, entry, registry, now, local) for entry in read.flows)
    return TenantDetail(
        tenant_id=tenant_id,
        zone=zone,
        etag=str(document.get("_etag", "")),
        document={name: value for name, value in document.items() if not name.startswith("_")},
        entries=entries,
        problems=problems,
    )


def _entry(tenant: Tenant, entry: FlowEntry, registry: FlowRegistry, now: datetime, local: tzinfo | None) -> EntryTimes:
    return EntryTimes(
        flow_name=entry.name,
        index=entry.index,
        enabled=entry.enabled,
        cron=entry.cron,
        timezone=tenant.zone_of(entry),
        next_run_utc=entry.next_run,
        next_times=tuple(
            Occurrence(utc=at, local=at.astimezone(local).isoformat() if local else None)
            for at in islice(_times(tenant, entry, now), NEXT_TIMES)
        ),
        problems=tuple(f"{each.path}: {each.why}" for each in entry_problems(tenant, entry, registry, now)),
    )


def _times(tenant: Tenant, entry: FlowEntry, now: datetime) -> Iterator[datetime]:
    at = now
    if entry.next_run and entry.next_run > now:
        yield (at := entry.next_run)
    try:
        schedule = cron.parse(entry.cron)
    except CronInvalid:
        return
    if (zone := _zone(tenant.zone_of(entry))) is None:
        return
    while following := schedule.next(at, zone):
        yield (at := following)


def _zone(name: str) -> tzinfo | None:
    try:
        return find_zone(name)
    except ValueError:
        return None
