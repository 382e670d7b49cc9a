"""`make tick`: it waits for the runs that its tick starts, and shows them. A small server stands for the host."""

import asyncio
import io
from base64 import b64decode
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from rich.console import Console

from datasync import FlowRegistry, FlowRun, RetryLater, TenantSecretClient
from datasync.errors import FlowFailed
from datasync.model.job import QueueMessage
from datasync.run.pipeline import run_message
from datasync.services import Services
from datasync.tick.tick import tick as tick_now
from localdev import ticking
from localdev.errors import StartFailed
from localdev.web import serving
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World

PAST = "2025-08-23T01:00:00Z"
PATIENCE = timedelta(seconds=30)


def flows() -> FlowRegistry:
    """Return flows that end in different ways."""
    registry = FlowRegistry()

    @registry.flow("succeeds", aliases=("succeeded",))
    async def succeeds(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.count(items=3)

    @registry.flow("fails")
    async def fails(tenant_id: str, kv: TenantSecretClient) -> None:
        raise ValueError("no good")

    @registry.flow("waits")
    async def waits(tenant_id: str, kv: TenantSecretClient) -> None:
        raise RetryLater(timedelta(hours=3))

    @registry.flow("hangs")
    async def hangs(tenant_id: str, kv: TenantSecretClient) -> None:
        await asyncio.sleep(3600)

    @registry.flow("stumbles")
    async def stumbles(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        if run.attempt == 1:
            raise ValueError("no good")
        await asyncio.sleep(3600)

    return registry


class Stand:
    """An app that `make start` runs, and the terminal of `make tick`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.registry = flows()
        self.services = Services(world.settings)
        self._output = io.StringIO()
        self._tasks = set[asyncio.Task[None]]()

    @property
    def text(self) -> str:
        """The text on the terminal."""
        return self._output.getvalue()

    @property
    def rows(self) -> list[list[str]]:
        """The cells of the table."""
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in self.text.splitlines() if "│" in line]
        return [row[:4] + row[5:] for row in cells]  # without the seconds

    @asynccontextmanager
    async def host(self, port: int = 0) -> AsyncGenerator[str]:
        """Serve the admin call of the host."""
        application = web.Application()
        application.router.add_post("/admin/functions/orchestrator", self._orchestrate)
        try:
            async with serving("the host", application, port=port) as url:
                yield url
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.services.close()

    async def _orchestrate(self, _: web.Request) -> web.Response:
        self._spawn(self._tick())
        return web.Response(status=202)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    async def _tick(self) -> None:
        await tick_now(self.services, self.registry)
        async for message in self.world.jobs.receive_messages():
            body = b64decode(message.content or "")
            self._spawn(self._run(QueueMessage(message.id, body, 1, datetime.now(UTC))))

    async def _run(self, message: QueueMessage) -> None:
        for delivery in range(1, 6):
            with suppress(FlowFailed):
                again = QueueMessage(message.id, message.body, delivery, message.inserted)
                await run_message(self.services, self.registry, again)
                return

    async def tick(self, url: str, wait: timedelta = PATIENCE) -> bool:
        """Run the command."""
        console = Console(file=self._output, width=160, highlight=False)
        return await ticking.tick(url, self.world.settings, self.registry, console, wait)


@pytest_asyncio.fixture
async def stand(world: World) -> Stand:
    """Return an app whose database has no documents."""
    return Stand(world)


async def test_the_runs_of_the_tick_are_shown_when_they_have_ended(stand: Stand) -> None:
    """Runs of an earlier tick are not shown, although they had the same time. An alias is the name of the entry."""
    await stand.world.put(document("acme", entry("succeeded", nextRunUtc=PAST), entry("waits", enabled=False)))
    async with stand.host() as url:
        assert await stand.tick(url)
        await stand.world.put(document("acme", entry("succeeds", nextRunUtc=PAST)))
        await stand.world.put(document("bayou", entry("succeeds", nextRunUtc=PAST)))
        assert await stand.tick(url)

    first, *second = stand.rows
    assert first[:5] == ["acme", "succeeds", "succeeded", "1", "items=3"]
    assert sorted(row[0] for row in second) == ["acme", "bayou"]
    assert len(await stand.world.records()) == 3


async def test_a_run_that_fails_is_told_at_once_and_waited_for(stand: Stand) -> None:
    """The result is not good. The error of the dead run follows the table, with the command that shows the run."""
    await stand.world.put(document("acme", entry("fails", nextRunUtc=PAST)))
    async with stand.host() as url:
        assert not await stand.tick(url)

    (row,) = stand.rows
    assert row[:4] == ["acme", "fails", "dead", "5"]
    (record,) = await stand.world.records()
    error, following = stand.text.splitlines()[-2:]
    assert error == "• run: acme/fails: ValueError: no good"
    assert following == f"  next: python -m datasync show {record['runId']} --local"


async def test_a_run_that_is_deferred_for_hours_is_not_waited_for(stand: Stand) -> None:
    """It is shown as deferred, which is no failure."""
    await stand.world.put(document("acme", entry("waits", nextRunUtc=PAST)))
    async with stand.host() as url:
        assert await stand.tick(url)

    (row,) = stand.rows
    assert row[:4] == ["acme", "waits", "deferred", "1"]


async def test_a_run_that_does_not_end_in_time_is_shown_as_such(stand: Stand) -> None:
    """The other runs are shown, too."""
    await stand.world.put(document("acme", entry("hangs", nextRunUtc=PAST), entry("succeeds", nextRunUtc=PAST)))
    async with stand.host() as url:
        assert not await stand.tick(url, timedelta(seconds=2))

    assert ["acme", "hangs", "not ended"] in [row[:3] for row in stand.rows]
    assert ["acme", "succeeds", "succeeded"] in [row[:3] for row in stand.rows]


async def test_the_runs_so_far_are_shown_after_an_interrupt(stand: Stand) -> None:
    """Ctrl-C ends the wait."""
    await stand.world.put(document("acme", entry("hangs", nextRunUtc=PAST), entry("stumbles", nextRunUtc=PAST)))
    async with stand.host() as url:
        ticking = asyncio.create_task(stand.tick(url))
        await wait_until(lambda: "no good" in stand.text, description="an error was told", seconds=60)
        ticking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ticking

    assert ["acme", "hangs", "not ended"] in [row[:3] for row in stand.rows]


async def test_entries_without_a_run_are_explained(stand: Stand) -> None:
    """A missing time was filled in, a document has a problem, and nothing was due."""
    await stand.world.put(document("acme", entry("succeeds", nextRunUtc=None)), document("bayou", entry("lost")))
    async with stand.host() as url:
        assert await stand.tick(url)

    assert "acme/succeeds: nextRunUtc was null, and is 2" in stand.text
    assert "• document: bayou/lost flows[0].name: no flow is named 'lost'" in stand.text
    assert "Nothing was due. Next is acme/succeeds, at 2" in stand.text


async def test_a_broken_flow_file_is_a_failure(stand: Stand) -> None:
    """The runs of the other files are shown as usual."""
    stand.registry.broken["flows.items"] = "SyntaxError: '(' was never closed (items.py, line 3)"
    await stand.world.put(document("acme", entry("succeeds", nextRunUtc=PAST)))
    async with stand.host() as url:
        assert not await stand.tick(url)

    assert [row[:3] for row in stand.rows] == [["acme", "succeeds", "succeeded"]]


async def test_a_host_that_starts_again_is_waited_for(stand: Stand, unused_tcp_port: int) -> None:
    """Nothing listens on its port for a moment."""
    await stand.world.put(document("acme", entry("succeeds", nextRunUtc=PAST)))
    ticking = asyncio.create_task(stand.tick(f"http://127.0.0.1:{unused_tcp_port}"))
    await asyncio.sleep(0)
    async with stand.host(unused_tcp_port):
        assert await ticking

    assert [row[:3] for row in stand.rows] == [["acme", "succeeds", "succeeded"]]


async def test_a_host_that_does_not_run_the_timer_is_an_error(
    stand: Stand, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the lines that have the reason."""
    monkeypatch.setattr(ticking, "RELOAD", timedelta(seconds=1))
    with pytest.raises(StartFailed, match=r"does not run the timer\. The lines of `make start` say why"):
        await stand.tick(f"http://127.0.0.1:{unused_tcp_port}")
