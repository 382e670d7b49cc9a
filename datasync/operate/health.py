"""Whether the app does its work, for a monitor that may not learn anything about its tenants."""

import asyncio
from contextlib import aclosing
from datetime import datetime

import msgspec

from datasync.errors import ServiceUnavailable
from datasync.flow.registry import FlowRegistry
from datasync.operate.ticks import tick_status
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import Unhealthy
from datasync.tick.late import late_flows

_PATIENCE = 20  # seconds for an answer: uptime monitors give up after about 30
_MOST_STALE = 100  # states among which one is looked for whose flow is late

_FAILED = 2  # ticks in a row: the host repeats one that failed within minutes, and an outage may be over by then


class AppHealth(msgspec.Struct, frozen=True, rename="camel"):
    """Whether the app does its work."""

    is_well: bool
    problems: tuple[str, ...]
    """Sentences without the names of tenants and flows."""


async def app_health(services: Services, registry: FlowRegistry, now: datetime) -> AppHealth:
    """Return whether ticks come and are complete, and no flow is late, at `now` (aware).

    It costs three small reads, and one of a tenant document if a state is stale. The problems are also logged, for
    alerts.
    """
    try:
        async with asyncio.timeout(_PATIENCE):
            tick, is_late = await asyncio.gather(tick_status(services, now), _is_late(services, registry, now))
    except (ServiceUnavailable, TimeoutError):
        return _health("Cosmos DB cannot be read.")
    problems = []
    if tick.is_missing:
        problems.append("Two ticks in a row have not started.")
    if tick.failed >= _FAILED:
        problems.append("Two ticks in a row have failed.")
    if is_late:
        problems.append("A flow has not succeeded in time.")
    return _health(*problems)


async def _is_late(services: Services, registry: FlowRegistry, now: datetime) -> bool:
    async with aclosing(late_flows(services, registry, now, _MOST_STALE)) as late:
        async for _ in late:
            return True
    return False


def _health(*problems: str) -> AppHealth:
    if problems:
        emit(Unhealthy(problems=problems))
    return AppHealth(is_well=not problems, problems=problems)
