"""The lines of all flows for a page that holds them: all of them once, then those that have changed."""

import asyncio
from datetime import datetime

import msgspec

from datasync.errors import TenantUnknown
from datasync.flow.registry import FlowRegistry
from datasync.operate.flows import FlowLine, flows
from datasync.services import Services

OVERLAP = 10
"""Seconds by which changes are read again: `_ts` has whole seconds, and each replica its own clock."""

MOST_CHANGED = 100
"""The most changed tenants that are read one by one. If there are more, all are read."""

_AT_ONCE = 16


class Fleet(msgspec.Struct, frozen=True, rename="camel"):
    """The flows of all tenants, or of those that have changed."""

    at_ts: int
    """In seconds since 1970 by the clock of Cosmos DB: ask for changes since then.

    It is the time of the newest change, or a later one if no change was seen since then, so that the newest changes
    are not read in each answer.
    """
    complete: bool
    """Whether the lines are those of all tenants. Otherwise, they replace all lines of their tenants."""
    lines: tuple[FlowLine, ...]
    removed: tuple[str, ...] = ()
    """Tenants whose document is gone. Only a complete answer is sure to lack them."""


async def fleet(services: Services, registry: FlowRegistry, now: datetime) -> Fleet:
    """Return the flows of all tenants as of `now` (aware). Raises ServiceUnavailable."""
    at_ts = await _at_ts(services, now)  # read first: a change during the rest is read again
    return Fleet(at_ts=at_ts, complete=True, lines=tuple(await flows(services, registry, now)))


async def fleet_since(services: Services, registry: FlowRegistry, now: datetime, since: int) -> Fleet:
    """Return the flows of the tenants whose document, states, runs or problems have changed since a time.

    A flow that is late since then because time has passed is not among them. All flows are returned if many tenants
    have changed.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    at_ts = await _at_ts(services, now)
    documents, others = await asyncio.gather(
        services.tenants.changed(since - OVERLAP), services.overview.changed(since - OVERLAP, now)
    )
    changed = sorted(documents | others)
    if len(changed) > MOST_CHANGED:
        return await fleet(services, registry, now)
    problems = await services.fleet.problems() if changed else ()
    limit = asyncio.Semaphore(_AT_ONCE)

    async def read(tenant_id: str) -> list[FlowLine] | None:
        async with limit:
            try:
                return await flows(services, registry, now, tenant_id=tenant_id, problems=problems)
            except TenantUnknown:
                return None

    found = dict(zip(changed, await asyncio.gather(*map(read, changed)), strict=True))
    return Fleet(
        at_ts=max(at_ts, since),
        complete=False,
        lines=tuple(line for lines in found.values() if lines for line in lines),
        removed=tuple(tenant_id for tenant_id, lines in found.items() if lines is None),
    )


async def _at_ts(services: Services, now: datetime) -> int:
    newest = max(await asyncio.gather(services.tenants.newest(), services.overview.newest()))
    # Clocks differ by OVERLAP at most. After twice that time, every further change has a later `_ts` than the newest,
    # which need not be read again.
    is_over = now.timestamp() > newest + 2 * OVERLAP
    return newest + OVERLAP + 1 if is_over else newest
