"""The health for monitors, and the heartbeat of complete ticks."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
import pytest_asyncio
from aiohttp import web

from dashboard.health import checked_health, health
from dashboard.web import Request
from datasync.errors import ServiceUnavailable
from datasync.model.state import FlowState
from datasync.operate.health import app_health
from datasync.services import Services, shared_services
from datasync.settings import Settings
from datasync.tick import heartbeat
from localdev.tls import Certificates
from localdev.web import serving
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Wire
from tests.operating import HOUR, Fleet
from tests.stages import FLOWS, FakeClock
from tests.world import World

ASK = Request(method="GET", query={}, headers={})


async def stale(world: World, at: str) -> None:
    """Store the state of a flow that is expected to succeed by a time."""
    await world.put(document("acme", entry(nextRunUtc="2999-01-01T00:00:00Z")))
    state = FlowState(tenant_id="acme", flow_name="weather").document()
    await world.runs.upsert_item({**state, "staleUtc": at})


class TestHealth:
    async def test_the_app_is_well_while_ticks_come_and_no_flow_is_stale(
        self, fleet: Fleet, services: Services, world: World
    ) -> None:
        """A flow is stale after its time, and a tick is missing after two further ones."""
        await fleet.tick()
        await stale(world, "2025-08-23T13:00:00Z")

        assert (await app_health(services, fleet.registry, NOW + HOUR)).is_well
        assert (await app_health(services, fleet.registry, NOW + HOUR + timedelta(seconds=1))).problems == (
            "A flow has not succeeded in time.",
        )
        assert (await app_health(services, fleet.registry, NOW + 3 * HOUR)).problems == (
            "Two ticks in a row have not started.",
            "A flow has not succeeded in time.",
        )

    async def test_an_answer_is_kept_for_some_seconds(
        self, wire: Wire, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Requests without a key cost no request units."""
        for name, value in world.environ.items():
            monkeypatch.setenv(name, value)
        shared_services.cache_clear()
        checked_health.cache_clear()
        try:
            first = await health(FLOWS, ASK)
            number = len(wire.requests)
            again = [await health(FLOWS, ASK) for _ in range(20)]
        finally:
            await shared_services().close()
            shared_services.cache_clear()
            checked_health.cache_clear()

        assert (first.status, json.loads(first.body)["isWell"]) == (503, False)
        assert number > 0
        assert [each.body for each in again] == [first.body] * 20
        assert len(wire.requests) == number


class Monitor:
    """Waits for heartbeats."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.paths: list[str] = []
        self.hangs = False

    async def answer(self, request: web.Request) -> web.Response:
        self.paths.append(f"{request.method} {request.path}")
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=self.status)


@pytest_asyncio.fixture
async def monitor(certificates: Certificates) -> AsyncGenerator[Monitor]:
    """Serve a monitor over https."""
    made = Monitor()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.answer)
    async with serving("the monitor", application, context=certificates.server_context()) as url:
        made.url = f"{url}/ping/very-secret"
        yield made


def connected(world: World, url: str) -> Fleet:
    settings = Settings.from_environ({**world.environ, "HEARTBEAT_URL": url})
    return Fleet(world, Services(settings, FakeClock()))


class TestHeartbeat:
    async def test_a_complete_tick_calls_the_monitor_once(self, world: World, monitor: Monitor) -> None:
        """With GET, as uptime services ask for."""
        fleet = connected(world, monitor.url)
        try:
            await fleet.tick()
        finally:
            await fleet.services.close()

        assert monitor.paths == ["GET /ping/very-secret"]

    async def test_a_tick_that_failed_does_not(self, world: World, wire: Wire, monitor: Monitor) -> None:
        """The monitor raises the alarm if the repeated tick fails too."""
        fleet = connected(world, monitor.url)
        wire.refuse = True
        try:
            with pytest.raises(ServiceUnavailable):
                await fleet.tick()
        finally:
            await fleet.services.close()

        assert monitor.paths == []

    @pytest.mark.parametrize(("status", "why"), [(404, "the answer was 404"), (302, "the answer was 302")])
    async def test_a_monitor_that_refuses_is_a_warning(
        self, world: World, monitor: Monitor, caplog: pytest.LogCaptureFixture, status: int, why: str
    ) -> None:
        """The tick is complete all the same, and the address is in no line."""
        monitor.status = status
        fleet = connected(world, monitor.url)
        try:
            await fleet.tick()
        finally:
            await fleet.services.close()

        assert f"WARNING the request to HEARTBEAT_URL failed: {why}" in caplog.messages
        assert "very-secret" not in caplog.text

    async def test_a_monitor_that_does_not_answer_holds_no_tick_up(
        self, world: World, monitor: Monitor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The tick waits for a bounded time."""
        monkeypatch.setattr(heartbeat, "PATIENCE", 0.5)
        monitor.hangs = True
        fleet = connected(world, monitor.url)
        try:
            await fleet.tick()
        finally:
            await fleet.services.close()

        assert "WARNING the request to HEARTBEAT_URL failed: no answer in 0.5 seconds" in caplog.messages

    async def test_a_monitor_that_is_away_is_a_warning(
        self, world: World, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
    ) -> None:
        """Nobody listens at its port."""
        fleet = connected(world, f"https://127.0.0.1:{unused_tcp_port}/ping/very-secret")
        try:
            await fleet.tick()
        finally:
            await fleet.services.close()

        failed = [line for line in caplog.messages if "HEARTBEAT_URL failed" in line]
        assert len(failed) == 1
        assert "very-secret" not in caplog.text
