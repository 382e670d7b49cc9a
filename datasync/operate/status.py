"""The state of the fleet, in numbers."""

import asyncio
from collections.abc import Awaitable
from datetime import datetime

import msgspec

from datasync.errors import DataSyncError, ServiceUnavailable
from datasync.flow.registry import FlowRegistry
from datasync.operate.flows import FlowLine, Health, flows
from datasync.operate.queue import QueueLook, look
from datasync.operate.ticks import TickStatus, tick_status
from datasync.services import Services


class FlowCounts(msgspec.Struct, frozen=True, rename="camel"):
    """Numbers of flows. A flow that is failing and late counts in both."""

    tenants: int
    enabled: int
    disabled: int
    failing: int
    late: int
    unusual: int
    """Flows whose last successful run was unusual."""
    problems: int
    """Entries and documents that have to be corrected."""
    running: int


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """The state of the fleet. A part is None where its service could not be read."""

    at_utc: datetime
    tick: TickStatus | None
    queue: QueueLook | None
    poison: QueueLook | None
    flows: FlowCounts | None
    unavailable: tuple[str, ...]
    """The services that could not be read, and why."""

    @property
    def is_well(self) -> bool:
        """Whether everything could be read, and nobody has to look into anything."""
        if self.tick is None or self.poison is None or self.flows is None or self.unavailable:
            return False
        wrong = (self.tick.is_missing, self.tick.failed, self.poison.length, self.flows.failing, self.flows.late)
        return not any((*wrong, self.flows.unusual, self.flows.problems))


async def status(services: Services, registry: FlowRegistry, now: datetime) -> Status:
    """Return the state of the fleet at `now` (aware).

    Raises:
        ServiceUnavailable: no part could be read.

    """
    failures: list[DataSyncError] = []

    async def read[T](part: Awaitable[T]) -> T | None:
        try:
            return await part
        except DataSyncError as error:
            failures.append(error)
            return None

    tick, queue, poison, lines = await asyncio.gather(
        read(tick_status(services, now)),
        read(look(services.jobs)),
        read(look(services.poison)),
        read(flows(services, registry, now)),
    )
    refused = [each for each in failures if isinstance(each, ServiceUnavailable)]
    if refused and all(part is None for part in (tick, queue, poison, lines)):
        raise refused[0]
    return Status(
        at_utc=now,
        tick=tick,
        queue=queue,
        poison=poison,
        flows=None if lines is None else _counts(lines),
        unavailable=tuple(dict.fromkeys(map(str, failures))),
    )


def _counts(lines: list[FlowLine]) -> FlowCounts:
    entries = [line for line in lines if line.cron is not None]
    return FlowCounts(
        tenants=len({line.tenant_id for line in lines}),
        enabled=sum(line.enabled for line in entries),
        disabled=sum(not line.enabled for line in entries),
        failing=sum(line.is_failing for line in entries),
        late=sum(line.late_since_utc is not None for line in entries),
        unusual=sum(line.is_unusual for line in entries),
        problems=sum(line.problem is not None for line in lines),
        running=sum(line.health is Health.RUNNING for line in entries),
    )
