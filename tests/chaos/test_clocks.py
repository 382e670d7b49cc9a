"""Clocks that differ, and processes that are frozen."""

import json
import signal
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from localdev.web import serving
from tests.chaos.arena import DUE, NO_RUNS, Arena
from tests.waiting import wait_until


@pytest.mark.usefixtures("lasting_leases")
@pytest.mark.parametrize("seconds", [5, 90])
async def test_the_clock_of_the_queue_is_ahead(arena: Arena, seconds: int) -> None:
    """No window ends after the time at which the flow started, by the clock of the app.

    A message that was posted by hand has no other time than that at which the queue has received it.
    """
    async with arena.host(clock=-seconds) as host:
        await arena.seed(12 * arena.scale, "work-0", prefix="ticked")
        await host.tick_to_its_end()
        for tenant in await arena.seed(12 * arena.scale, "work-0", prefix="posted"):
            await arena.send(json.dumps({"tenantId": tenant, "flowName": "work-0", "scheduledUtc": DUE}))
        await arena.until_quiet()
        arena.actions[f"hosts {seconds} s behind"] += 1
        verdict = await arena.verdict()

    assert verdict.executions > 0
    assert verdict.problems() == {}


@pytest.mark.usefixtures("lasting_leases")
@pytest.mark.parametrize("seconds", [5, 90])
async def test_the_clock_of_the_ticks_is_ahead(arena: Arena, seconds: int) -> None:
    """No window ends after the time at which the flow started, by the clock of the host that runs it."""
    await arena.seed(12 * arena.scale, "work-0")

    async with arena.host(NO_RUNS) as ahead, arena.host(clock=-seconds):
        await ahead.tick_to_its_end()
        await arena.until_quiet()
        arena.actions[f"hosts {seconds} s behind another"] += 1
        verdict = await arena.verdict()

    assert verdict.executions > 0
    assert verdict.problems() == {}


@dataclass
class Target:
    """The API that flows send their effects to."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    """The effects, each with its time (monotonic)."""

    async def receive(self, request: web.Request) -> web.Response:
        self.received.append({**await request.json(), "at": time.monotonic()})
        return web.Response()


@pytest_asyncio.fixture
async def target() -> AsyncGenerator[Target]:
    """Run the API."""
    made = Target()
    application = web.Application()
    application.router.add_post("/", made.receive)
    async with serving("The target", application) as url:
        made.url = f"{url}/"
        yield made


async def test_a_process_is_frozen_until_others_have_finished_its_runs(arena: Arena, target: Target) -> None:
    """After it has woken up, it sends nothing, and changes no record and no state.

    A request that had passed `run.http` when the process was frozen may be sent.
    """
    tenants = await arena.seed(6 * arena.scale, "work-0", url=target.url, steps=4, seconds=0.4)
    await arena.enqueue()

    async with arena.host() as frozen:
        await wait_until(lambda: len(target.received) > len(tenants), description="all flows have sent an effect")
        pid = await frozen.signal(signal.SIGSTOP)
        arena.freeze(pid)
        unfinished = {each.run for each in arena.executions() if each.how is None}

        def all_finished() -> bool:
            return unfinished <= {each.run for each in arena.executions() if each.pid != pid and each.how == "returned"}

        async with arena.host():
            await wait_until(all_finished, description="another process has finished the runs")
            woken = time.monotonic()
            await frozen.signal(signal.SIGCONT)
            await wait_until(lambda: not running(arena, pid), description="the frozen executions have ended")
            await arena.until_quiet()
            verdict = await arena.verdict()

    notes = {each.id: each.notes for each in arena.executions()}
    late = [
        effect
        for effect in target.received
        if effect["pid"] == pid
        and effect["at"] > woken
        and notes[effect["execution"]][f"step {effect['step']}"] > arena.frozen[pid]
    ]
    states = {state["lastOutcome"] for state in await arena.states()}
    arena.report(f"found:    effects after waking up: {len(late)}, last outcomes: {', '.join(sorted(states))}")
    assert arena.injected()["SIGSTOP"] == arena.injected()["SIGCONT"] == 1
    assert unfinished
    assert verdict.problems_beside_interruptions() == {}
    assert late == []
    assert states == {"succeeded"}


def running(arena: Arena, pid: int) -> int:
    """Return the number of executions of a process that have not ended."""
    return sum(each.pid == pid and each.how is None for each in arena.executions())
