"""Ticks that are killed, that run twice, and that fail."""

import asyncio
from contextlib import nullcontext

import pytest

from tests.chaos.arena import NO_RUNS, Arena
from tests.chaos.proxies import Fault, Kind, is_write
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("lasting_leases")

FLOWS = ("work-0", "work-1", "work-2")

SLOW_MOVES = Fault(kind=Kind.STALL, matches=is_write, share=0.5, seconds=0.3)
"""Makes ticks slow: some time passes between the enqueueing of jobs and the move of `nextRunUtc`."""


@pytest.mark.parametrize("edited", [False, True], ids=["", "with edits"])
async def test_kills_during_ticks(arena: Arena, edited: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """The ticks repeat jobs. Each occurrence runs once, also where people save documents meanwhile."""
    tenants = await arena.seed(24 * arena.scale, *FLOWS)
    kills = 2 * arena.scale

    async with arena.host({**NO_RUNS, "ORCHESTRATOR_CONCURRENCY": "8"}) as host:
        with arena.cosmos.causing(SLOW_MOVES):
            for _ in range(kills):
                await host.tick()
                await arena.more(arena.queued, by=arena.random.randint(1, 12))
                async with arena.editing(tenants) if edited else nullcontext():
                    await host.kill()
        await host.tick_to_its_end()
    async with arena.host():
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    assert arena.injected()["SIGKILL"] == kills
    assert not edited or arena.injected()["edits"] > len(tenants)
    assert verdict.problems() == {}


@pytest.mark.parametrize("edited", [False, True], ids=["", "with edits"])
async def test_two_hosts_tick_at_once(arena: Arena, edited: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Both put jobs for the same occurrences on the queue. Each occurrence runs once."""
    tenants = await arena.seed(24 * arena.scale, *FLOWS)

    async with arena.host(NO_RUNS) as one, arena.host(NO_RUNS) as other:
        with arena.cosmos.causing(SLOW_MOVES):
            async with arena.editing(tenants) if edited else nullcontext():
                await asyncio.gather(one.tick_to_its_end(), other.tick_to_its_end())
        await one.tick_to_its_end()
        queued = await arena.queued()
    arena.actions["jobs enqueued twice"] = queued - len(arena.expected)
    async with arena.host():
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    assert arena.injected()["jobs enqueued twice"] > 0
    assert verdict.problems() == {}


async def test_a_tick_that_fails_is_repeated_within_seconds(arena: Arena) -> None:
    """Cosmos DB refuses during one tick. Its flows run in spite of that, although the timer fires only once a year."""
    await arena.seed(6 * arena.scale, "work-0")

    async with arena.host() as host:
        with arena.cosmos.causing(Fault(kind=Kind.ANSWER, status=503)) as (outage,):
            failed = "Executed 'Functions.orchestrator' (Failed"
            await host.tick()
            await wait_until(lambda: host.count(failed), description="the tick has failed", seconds=90)
        await wait_until(arena.is_scheduled, description="the tick is repeated", seconds=host.patience)
        await arena.until_quiet()
        verdict = await arena.verdict()

    assert outage.injected > 0
    assert verdict.problems() == {}
