"""Compares the CPU time of Azure clients with two transports: python -m benchmarks.transport [--operations N] …

`AioHttpTransport(use_env_settings=True)` is the default of the Azure SDK. datasync.clients uses False where no proxy is
configured. One operation is a queue message, a point read and a patch. The rounds of the two transports alternate.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from unittest.mock import patch

from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.aio import ContainerProxy
from azure.storage.queue.aio import QueueClient

from benchmarks.local_services import for_each, local_services
from datasync import clients
from datasync.clients import Credential, cosmos_client, queue_client
from datasync.settings import Settings

DOCUMENTS = 100
MESSAGE = '{"tenantId": "tenant-0", "flowName": "orders"}'


@dataclass(frozen=True, slots=True)
class Round:
    """The cost of some operations, in seconds."""

    cpu: float
    """Of all threads of this process."""
    wall: float


class App:
    """The clients of an app, with one kind of transport."""

    def __init__(self, tenants: ContainerProxy, queue: QueueClient) -> None:
        self._tenants = tenants
        self._queue = queue

    async def store(self) -> None:
        """Create the documents to read and patch."""
        for number in range(DOCUMENTS):
            await self._tenants.upsert_item({"id": f"tenant-{number}", "tenantId": f"tenant-{number}", "value": 0})

    async def run(self, operations: int, at_once: int) -> Round:
        """Measure this many operations."""
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        await for_each(range(operations), self._operate, at_once=at_once)
        return Round(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)

    async def _operate(self, number: int) -> None:
        tenant = f"tenant-{number % DOCUMENTS}"
        await self._queue.send_message(MESSAGE)
        await self._tenants.read_item(tenant, partition_key=tenant)
        change = {"op": "set", "path": "/value", "value": number}
        await self._tenants.patch_item(tenant, partition_key=tenant, patch_operations=[change])


@asynccontextmanager
async def connected(settings: Settings, *, use_env_settings: bool) -> AsyncGenerator[App]:
    """Connect the clients of the app, with this transport."""
    transport = partial(AioHttpTransport, use_env_settings=use_env_settings)
    with patch.object(clients, "new_transport", transport):
        cosmos = cosmos_client(settings.cosmos, Credential())
        queue = queue_client(settings.storage, settings.queue_name, Credential())
    async with cosmos, queue:
        database = cosmos.get_database_client(settings.cosmos_database)
        yield App(database.get_container_client(settings.tenants_container), queue)


async def measure(settings: Settings, *, operations: int, at_once: int, rounds: int) -> dict[bool, list[Round]]:
    """Return the rounds with and without `use_env_settings`, after one round of each that is not counted."""
    measured: dict[bool, list[Round]] = {True: [], False: []}
    async with connected(settings, use_env_settings=True) as usual, connected(settings, use_env_settings=False) as own:
        await usual.store()
        for _ in range(rounds + 1):
            for use_env_settings, app in ((True, usual), (False, own)):
                measured[use_env_settings].append(await app.run(operations, at_once))
    return {use_env_settings: taken[1:] for use_env_settings, taken in measured.items()}


def report(measured: dict[bool, list[Round]]) -> Iterator[str]:
    """Yield a line for each round, the medians and the ratio."""
    yield f"{'use_env_settings':<18}{'True':>9}{'False':>9}{'ratio':>8}{'True':>11}{'False':>9}{'ratio':>8}"
    yield f"{'':<18}{'CPU s':>9}{'CPU s':>9}{'':>8}{'wall s':>11}{'wall s':>9}"
    pairs = [*zip(measured[True], measured[False], strict=True)]
    for number, (usual, own) in enumerate(pairs, start=1):
        yield _line(f"round {number}", usual, own)
    yield _line("median", _median(measured[True]), _median(measured[False]))


def _line(name: str, usual: Round, own: Round) -> str:
    return (
        f"{name:<18}{usual.cpu:>9.2f}{own.cpu:>9.2f}{own.cpu / usual.cpu:>8.2f}"
        f"{usual.wall:>11.2f}{own.wall:>9.2f}{own.wall / usual.wall:>8.2f}"
    )


def _median(rounds: list[Round]) -> Round:
    return Round(cpu=median(each.cpu for each in rounds), wall=median(each.wall for each in rounds))


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transport", description=__doc__)
    parser.add_argument("--operations", type=int, default=1_000, help="operations in a round")
    parser.add_argument("--at-once", type=int, default=32, help="operations at a time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds with each transport")
    options = parser.parse_args()
    async with local_services() as settings:
        measured = await measure(settings, **vars(options))
    print("\n".join(report(measured)))


if __name__ == "__main__":
    asyncio.run(main())
