"""Services that refuse, lose answers, stall, or are away for some time."""

import asyncio
from random import Random
from typing import Any

import pytest

from tests.chaos.arena import MOST_DELIVERIES, NO_RUNS, Arena
from tests.chaos.proxies import Fault, Kind, is_send, is_write
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("lasting_leases")

OUTAGE = 6  # seconds: longer than two deliveries with a second in between
TRIES = 4
"""How often a client of the app sends a request that gets no answer."""


async def test_cosmos_db_is_away(arena: Arena) -> None:
    """Cosmos DB answers 503 for longer than all deliveries of a message take. The runs succeed afterwards."""
    await arena.seed(12 * arena.scale, "work-0")
    await arena.enqueue()
    first, *others = await arena.world.take()

    async with arena.host({MOST_DELIVERIES: "2"}):
        await arena.send(first)
        await wait_until(arena.started, description="the app is connected")
        await arena.until_quiet()
        async with asyncio.TaskGroup() as both:
            both.create_task(arena.outage(arena.cosmos, OUTAGE))
            for body in others:
                both.create_task(arena.send(body))
        await arena.until_quiet()
        verdict = await arena.verdict()

    assert arena.injected()["Cosmos DB answers 503"] >= len(others)
    assert verdict.problems() == {}


async def test_sends_lose_their_answers(arena: Arena) -> None:
    """Almost a third of the jobs is sent again, though the queue has them. Each occurrence runs once.

    The client repeats most of them. Some lose the answers to all of its tries, so the tick is repeated.
    """
    await arena.seed(16 * arena.scale, "work-0", "work-1", seconds=0.2)
    all_tries = Fault(kind=Kind.LOSE, matches=is_send, every=16, times=TRIES)
    one_try = Fault(kind=Kind.LOSE, matches=is_send, share=0.3, times=1)

    with arena.queue.causing(all_tries, one_try):
        async with arena.host(NO_RUNS) as host:
            while not await arena.is_scheduled():
                await host.tick_to_its_end()
        async with arena.host():
            await arena.until_quiet()
            verdict = await arena.verdict()
    arena.report(f"found:    sends that lost all answers: {all_tries.used_up}")

    assert all_tries.used_up > 0
    assert one_try.injected > 0
    assert verdict.problems() == {}


async def test_writes_lose_their_answers(arena: Arena) -> None:
    """Four writes of ten to Cosmos DB are made, and look as if they were not. Each occurrence is executed once.

    Some writes lose the answers to all tries of the client. It looks then as if Cosmos DB were away.
    """
    await arena.seed(12 * arena.scale, "work-0", "work-1", seconds=0.2)
    all_tries = Fault(kind=Kind.LOSE, matches=is_write, every=8, times=TRIES)
    one_try = Fault(kind=Kind.LOSE, matches=is_write, share=0.4)

    with arena.cosmos.causing(all_tries, one_try):
        async with arena.host() as host:
            while not await arena.is_scheduled():
                await host.tick_to_its_end()
            await arena.until_quiet()
            verdict = await arena.verdict()
    arena.report(f"found:    writes that lost all answers: {all_tries.used_up}")

    assert all_tries.used_up > 0
    assert one_try.injected > 0
    assert verdict.problems() == {}


async def test_one_request_in_twenty_fails(arena: Arena) -> None:
    """Cosmos DB, the queue and the vault refuse, reset connections, stall, and lose answers, in turn."""
    await arena.seed(20 * arena.scale, "work-0", "work-1", seconds=0.1, secret=True)
    with (
        arena.cosmos.causing(*in_turn(arena.random)) as on_cosmos,
        arena.queue.causing(*in_turn(arena.random)) as on_queue,
        arena.vault.causing(*in_turn(arena.random)) as on_vault,
    ):
        async with arena.host() as host:
            while not await arena.is_scheduled():
                await host.tick_to_its_end()
            await arena.until_quiet()
            verdict = await arena.verdict()

    all_kinds = [*on_cosmos, *on_queue, *(on_vault if arena.scale >= 10 else ())]  # the vault gets few requests
    assert [fault.name for fault in all_kinds if not fault.injected] == []
    assert any(fault.injected for fault in on_vault)
    assert verdict.problems() == {}


def in_turn(random: Random) -> list[Fault]:
    """Make a fault of each kind. One request in twenty is hit, by each of them in turn."""
    kinds: list[dict[str, Any]] = [
        {"kind": Kind.ANSWER, "status": 503},
        {"kind": Kind.ANSWER, "status": 429},
        {"kind": Kind.ANSWER, "status": 408},
        {"kind": Kind.DROP},
        {"kind": Kind.LOSE},
        {"kind": Kind.STALL, "seconds": 0.5},
    ]
    random.shuffle(kinds)
    apart = 20
    start = random.randint(1, apart)
    return [Fault(**kind, every=apart * len(kinds), first=start + apart * number) for number, kind in enumerate(kinds)]
