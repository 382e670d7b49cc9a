"""Flows that have not succeeded in time. Those that do not run log nothing themselves, so each tick looks for them."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime

from datasync.errors import ServiceUnavailable
from datasync.flow.registry import FlowRegistry
from datasync.services import Services
from datasync.stores.overview import StaleState
from datasync.telemetry.emit import emit
from datasync.telemetry.events import FlowLate, LateOmitted, LateUnknown

MOST_COUNTED = 1000
"""The most late flows that a tick counts."""

MOST_LISTED = 100
"""The most late flows that a tick logs."""

MOST_READ = 100
"""The most tenants whose documents are read. The stale states of further tenants count without that."""

PATIENCE = 30
"""Seconds after which a tick ends without these flows."""


async def report_late(services: Services, registry: FlowRegistry, now: datetime) -> int | None:
    """Log each flow that is late at `now` (aware), and retire the states of tenants without a document.

    It raises nothing: late flows are no reason for a tick to fail.

    Returns:
        Their number, MOST_COUNTED at most; None if Cosmos DB refused, could not be reached, or was too slow.

    """
    try:
        async with asyncio.timeout(PATIENCE):
            late = [each async for each in late_flows(services, registry, now, MOST_COUNTED, retires=True)]
    except TimeoutError:
        emit(LateUnknown(error=ServiceUnavailable(f"no answer of Cosmos DB in {PATIENCE} seconds")))
        return None
    except Exception as error:  # noqa: BLE001 - a look never stops a tick
        emit(LateUnknown(error=error))
        return None
    for each in late[:MOST_LISTED]:
        emit(FlowLate(tenant=each.tenant_id, flow=each.flow_name, since=each.since, last_success=each.last_success))
    if late[MOST_LISTED:]:
        emit(LateOmitted(count=len(late) - MOST_LISTED))
    return len(late)


async def late_flows(
    services: Services, registry: FlowRegistry, now: datetime, most: int, *, retires: bool = False
) -> AsyncGenerator[StaleState]:
    """Yield up to `most` flows that have not succeeded in time at `now` (aware), those that are late last first.

    A state is stale also if its tenant has no document any more, or its entry was switched off or removed since the
    last tick. Such a flow is not late. A tick retires its state: the next one if the document was edited, and this one,
    with `retires`, if the document is gone.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    entries: dict[str, set[str] | None] = {}
    for state in await services.overview.stale(now, most):
        tenant = state.tenant_id
        if tenant not in entries and len(entries) == MOST_READ:
            yield state
            continue
        if tenant not in entries:
            entries[tenant] = await services.tenants.entry_names(tenant)
        expected = entries[tenant]
        if expected is None and retires:
            await services.runs.retire(tenant, state.flow_name, now)
        elif expected and not expected.isdisjoint(registry.names_of(state.flow_name)):
            yield state
