"""Counts the documents that each tick reads from Cosmos DB: python -m benchmarks.tick_documents [--tenants N] …

The documents are counted on the wire, in the answers to queries of the container `tenants`. "CPU" is the time of this
process, without the servers. "wall" says nothing about Azure: the local Cosmos DB server has no index, and runs a query
again for each page.
"""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from statistics import median
from typing import Any, override
from unittest.mock import patch

from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.aio import ContainerProxy
from azure.keyvault.secrets.aio import SecretClient

from benchmarks.local_services import for_each, local_services
from datasync import FlowRegistry, clients
from datasync.clients import Credential, cosmos_client
from datasync.clock import Clock
from datasync.model.tenant import FLEET
from datasync.model.times import utc_text
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import OVERLAP, tick

START = datetime(2025, 8, 23, 12, tzinfo=UTC)
INTERVAL = timedelta(hours=1)
DUE = utc_text(START + 2 * INTERVAL)
AHEAD = "2999-01-01T00:00:00Z"
YEARLY = "0 0 0 1 1 *"
FLOWS = ("orders", "invoices")
WRITES_AT_ONCE = 32
QUIET = "nothing due or changed"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The numbers of tenants."""

    tenants: int
    due: int
    edited: int

    def document(self, number: int, **fields: str) -> dict[str, Any]:
        """Return the document of a tenant, with two entries; one of them becomes due in the first `due` tenants."""
        times = (DUE if number < self.due else AHEAD, AHEAD)
        return {
            "id": f"tenant-{number}",
            "type": "Tenant",
            "tenantId": f"tenant-{number}",
            "name": f"Tenant {number}",
            "timezone": "America/Chicago",
            "flows": [
                {"name": name, "enabled": True, "cron": YEARLY, "nextRunUtc": at, "timezone": "tenant", "settings": {}}
                for name, at in zip(FLOWS, times, strict=True)
            ],
            **fields,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One tick."""

    name: str
    documents: int
    """Documents in the container."""
    due: int
    changed: int
    expected: int
    """Documents that the tick has to read."""
    transferred: int
    """Documents that it read."""
    cpu: float
    """Seconds of this process."""
    wall: float
    """Seconds."""


@dataclass(slots=True)
class Wire:
    """The wire between the app and its container `tenants`."""

    container: str
    documents: int = 0
    """Documents in the answers to queries."""


class CountingTransport(AioHttpTransport):  # type: ignore[misc]
    """The transport of one client, which counts documents."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(use_env_settings=False)
        self._wire = wire

    @override
    async def send(self, request: Any, **options: Any) -> Any:
        answer = await super().send(request, **options)
        is_query = request.headers.get("x-ms-documentdb-isquery", "").lower() == "true"
        if is_query and f"/colls/{self._wire.container}/" in request.url and answer.status_code == HTTPStatus.OK:
            self._wire.documents += int(answer.headers["x-ms-item-count"])
        return answer


class SetClock(Clock):
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    @override
    def now(self) -> datetime:
        return self.time


class Ticks:
    """Ticks an hour apart, on a fleet that nobody else changes."""

    def __init__(self, services: Services, clock: SetClock, runs: ContainerProxy, wire: Wire, documents: int) -> None:
        self._services = services
        self._clock = clock
        self._runs = runs
        self._wire = wire
        self._documents = documents
        self._registry = FlowRegistry()
        for name in FLOWS:
            self._registry.flow(name)(_does_nothing)

    async def next(self, name: str, *, due: int = 0, changed: int = 0, scan: bool = False) -> Row:
        """Measure a tick that has to read the documents due and changed, or all documents if it is a complete scan."""
        # `_ts` has whole seconds. This tick starts in a later second than every write before it, so that the tick after
        # it reads none of those writes again.
        await asyncio.sleep(1 - time.time() % 1)
        gc.collect()
        self._wire.documents = 0
        wall, cpu = time.perf_counter(), time.process_time()
        await tick(self._services, self._registry)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self._clock.time += INTERVAL
        await self._skip_overlap()
        return Row(
            name=name,
            documents=self._documents,
            due=due,
            changed=changed,
            expected=self._documents if scan else due + changed,
            transferred=self._wire.documents,
            cpu=cpu,
            wall=wall,
        )

    async def _skip_overlap(self) -> None:
        """Move the watermark forward by the seconds that a tick reads again.

        With an hour between ticks, few changes lie in the last OVERLAP seconds before a tick. In this benchmark all of
        them do, and each would be read several times.
        """
        await self._runs.patch_item(
            "watermark",
            partition_key=FLEET,
            patch_operations=[{"op": "incr", "path": "/sinceTs", "value": OVERLAP}],
        )


async def _does_nothing(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


async def measure(settings: Settings, fleet: Fleet) -> list[Row]:
    """Store a fleet in empty containers, and measure its ticks."""
    wire = Wire(settings.tenants_container)
    clock = SetClock(START)
    with patch.object(clients, "new_transport", lambda: CountingTransport(wire)):
        async with _services(settings, clock) as services, cosmos_client(settings.cosmos, Credential()) as cosmos:
            database = cosmos.get_database_client(settings.cosmos_database)
            tenants = database.get_container_client(settings.tenants_container)
            runs = database.get_container_client(settings.runs_container)
            await for_each(map(fleet.document, range(fleet.tenants)), tenants.upsert_item, at_once=WRITES_AT_ONCE)

            ticks = Ticks(services, clock, runs, wire, fleet.tenants)
            rows = [
                await ticks.next("first: complete scan", scan=True),
                await ticks.next("own notes come back", changed=fleet.tenants),
                await ticks.next("due", due=fleet.due),
                await ticks.next("own writes come back", changed=fleet.due),
            ]
            edits = [fleet.document(fleet.tenants - 1 - n, name="Renamed") for n in range(fleet.edited)]
            await for_each(edits, tenants.upsert_item, at_once=WRITES_AT_ONCE)
            return [
                *rows,
                await ticks.next("edited", changed=fleet.edited),
                await ticks.next("own notes come back", changed=fleet.edited),
                await ticks.next(QUIET),
                await ticks.next(QUIET),
            ]


@asynccontextmanager
async def _services(settings: Settings, clock: Clock) -> AsyncGenerator[Services]:
    """Connect to the services before anything is measured."""
    services = Services(settings, clock)
    try:
        for client in (services.tenants, services.runs, services.jobs):
            await client.ping()
        yield services
    finally:
        await services.close()


def report(rows: list[Row]) -> Iterator[str]:
    """Yield a line for each tick. The ratios compare it with the median of the ticks that have nothing to do."""
    quiet = [row for row in rows if row.name == QUIET]
    cpu, wall = median(row.cpu for row in quiet), median(row.wall for row in quiet)
    head = ("documents", "due", "changed", "transferred", "= due+changed", "CPU s", "ratio", "wall s", "ratio")
    yield f"{'tick':<23}" + "".join(f"{name:>14}" for name in head)
    for row in rows:
        same = "yes" if row.transferred == row.expected else f"no: {row.expected}"
        yield (
            f"{row.name:<23}{row.documents:>14}{row.due:>14}{row.changed:>14}{row.transferred:>14}{same:>14}"
            f"{row.cpu:>14.3f}{row.cpu / cpu:>14.1f}{row.wall:>14.2f}{row.wall / wall:>14.1f}"
        )
    yield "Ratio: to the median of the ticks with nothing due or changed. A complete scan reads all documents."


async def main() -> None:
    """Print the table; exit with 1 if a tick read other documents than it has to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tick_documents", description=__doc__)
    parser.add_argument("--tenants", type=int, default=20_000, help="tenants, each with two entries")
    parser.add_argument("--due", type=int, default=500, help="tenants with an entry that becomes due")
    parser.add_argument("--edited", type=int, default=50, help="tenants that are edited")
    fleet = Fleet(**vars(parser.parse_args()))
    async with local_services() as settings:
        rows = await measure(settings, fleet)
    print("\n".join(report(rows)))
    sys.exit(any(row.transferred != row.expected for row in rows))


if __name__ == "__main__":
    asyncio.run(main())
