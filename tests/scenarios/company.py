"""A company that runs DataSync: its flow files, its tenants, and the shop whose orders they copy.

The app is the real one over real services: ticks, runs and the dead letters go through its own code. The test takes the
part of the host, which delivers messages, and sets the time.
"""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec.structs import replace

from datasync.cli.validate import load
from datasync.flow.registry import FlowRegistry
from datasync.model.state import FlowState
from datasync.model.usual import RUNS, Usual
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import Deliveries
from tests.documents import document, entry
from tests.faults import Wire
from tests.stages import FakeClock, tick
from tests.waiting import wait_until
from tests.world import World

HOUR = timedelta(hours=1)
ORDERS_AT_A_TIME = 120

_REGISTRY = """
from datasync import FlowRegistry

registry = FlowRegistry()
flow = registry.flow
"""

ORDERS = '''"""Copies the orders of a shop."""

from flows.registry import flow


@flow("orders", provider="shop", secrets=("shop--token",))
async def orders(tenant_id, kv, run):
    token = await kv.secret("shop", "token")
    answer = await run.http.get(
        f"{run.settings['shop']}/orders",
        headers={"Authorization": f"Bearer {token}"},
        params={"after": run.window.start.isoformat() if run.window.start else ""},
    )
    answer.raise_for_status()
    run.count(orders=len(answer.json()))
'''

STOCK = '''"""Counts what is in stock."""

from flows.registry import flow


@flow("stock")
async def stock(tenant_id, kv, run):
    run.count(items=7)
'''


class Shop:
    """The API of a shop."""

    def __init__(self) -> None:
        self.url = ""
        self.is_down = False
        self.expired: set[str] = set()
        """Tokens that it no longer takes."""
        self.empty: set[str] = set()
        """Tokens that find no orders."""
        self.is_waiting = asyncio.Event()
        """Set when a request waits for its answer."""
        self.answers = asyncio.Event()
        """Requests wait for their answers until it is set."""
        self.answers.set()
        self.asked: list[tuple[str, str]] = []
        """The token and the start of the window of each request."""

    async def answer(self, request: web.Request) -> web.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.asked.append((token, request.query["after"]))
        if not self.answers.is_set():
            self.is_waiting.set()
            await self.answers.wait()
        if self.is_down:
            return web.json_response({"error": "maintenance"}, status=503)
        if token in self.expired:
            return web.json_response({"error": "token expired"}, status=401)
        return web.json_response(
            [{"number": number} for number in range(0 if token in self.empty else ORDERS_AT_A_TIME)]
        )


class Company:
    """The app of the company, and everything around it."""

    def __init__(
        self, world: World, services: Services, wire: Wire, *, vault: KeyVault, shop: Shop, folder: Path
    ) -> None:
        self.world = world
        self.services = services
        self.wire = wire
        self.vault = vault
        self.shop = shop
        self.folder = folder
        """Has the package `flows`."""
        self.write_file("__init__.py", "")
        self.write_file("registry.py", _REGISTRY)
        self.write_file("orders.py", ORDERS)
        self.write_file("stock.py", STOCK)
        self.host = Deliveries(services, wire, FlowRegistry())
        self.deploy()

    @property
    def now(self) -> datetime:
        """The present time."""
        return self.clock.now()

    @property
    def clock(self) -> FakeClock:
        """The clock of the app."""
        return self.host.clock

    @property
    def registry(self) -> FlowRegistry:
        """The flows of the app that runs."""
        return self.host.registry

    def write_file(self, name: str, source: str) -> Path:
        """Write a flow file."""
        path = self.folder / "flows" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
        return path

    def deploy(self) -> None:
        """Start the app with the present flow files."""
        forget_flows()
        self.host.registry = load("flows")

    async def add(self, flow: str, *tenants: str, **fields: Any) -> None:
        """Store tenants that have an hourly flow, with the token of each in the vault."""
        for tenant in tenants:
            self.vault.set_secret(f"tenants--{tenant}--shop--token", f"token-of-{tenant}")
            made = entry(flow, **{"nextRunUtc": None, "settings": {"shop": self.shop.url}, **fields})
            await self.world.put(document(tenant, made))

    @property
    def next_hour(self) -> datetime:
        """The time of the next tick."""
        return self.now.replace(minute=0, second=0, microsecond=0) + HOUR

    async def tick(self) -> None:
        """Let a tick come at the next full hour."""
        await tick(self.services, self.next_hour, self.registry)

    async def work(self) -> None:
        """Deliver all messages, until there are none."""
        await self._take()
        await self.host.all()
        await self._take()

    async def _take(self) -> None:
        """Take the messages off the queues: the host of the test delivers copies."""
        await self.world.jobs.clear_messages()
        await self.world.poison.clear_messages()

    async def hours(self, number: int) -> None:
        """Let hours pass, each with its tick and its runs."""
        for _ in range(number):
            await self.tick()
            await self.work()

    async def know_the_usual(self, tenant: str, flow: str) -> None:
        """Let a flow have counted as much as in its last run in many runs before."""
        state = await self.services.runs.state(tenant, (flow,))
        assert state.usual
        counts = {each.name: int(each.mean) for each in state.usual.counts}
        for _ in range(RUNS):
            state = replace(state, usual=Usual.after(state.usual, 0, counts))
        assert await self.services.runs.save(state)

    async def start_stuck_run(self, hours: int) -> asyncio.Task[Any]:
        """Let a run start whose requests get no answer, and hours pass. Its process renews its lease meanwhile.

        Return the delivery of its message, which goes on.
        """
        self.shop.answers.clear()
        await self.tick()
        await self._take()
        delivery = asyncio.ensure_future(self.host.next())
        await self.shop.is_waiting.wait()
        for _ in range(hours):
            self.clock.time = self.next_hour
            await wait_until(self._is_renewed, description="the lease of the run is renewed")
            await tick(self.services, self.now, self.registry)
            await self.work()
        return delivery

    async def _is_renewed(self) -> bool:
        leases = [lease for lease in self.services.held if lease.lease]
        stored = [await self.services.runs.state(each.tenant_id, (each.flow_name,)) for each in leases]
        return all(each.lease and each.lease.is_live(self.now) for each in stored)

    async def restart(self, delivery: asyncio.Task[Any]) -> None:
        """End the process in which a message is delivered. The host delivers it again, in the next process."""
        self.wire.killed = True
        self.shop.answers.set()
        await delivery
        self.deploy()

    async def state(self, tenant: str, flow: str) -> FlowState:
        """Return the stored state of a flow."""
        return await self.services.runs.state(tenant, (flow,))

    async def outcomes(self, tenant: str) -> list[str]:
        """Return the outcomes of the runs of a tenant, oldest first."""
        return [record["outcome"] for record in await self.world.records(tenant)]


@contextmanager
def own_flows(folder: Path) -> Iterator[None]:
    """Let `flows` be the package in a folder."""
    others = {name: module for name, module in sys.modules.items() if _is_flow_file(name)}
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.dont_write_bytecode = writes
        forget_flows()
        sys.modules.update(others)


def forget_flows() -> None:
    """Let the next import read the flow files, as in a new process."""
    for name in [*filter(_is_flow_file, sys.modules)]:
        del sys.modules[name]
    importlib.invalidate_caches()


def _is_flow_file(module: str) -> bool:
    return module == "flows" or module.startswith("flows.")
