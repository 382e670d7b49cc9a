"""Services that refuse, lose answers, stall, or are away for some time."""

import asyncio

from tests.chaos.arena import MOST_DELIVERIES, Arena
from tests.chaos.proxies import Fault, Kind, is_send, is_write
from tests.waiting import wait_until

OUTAGE = 6  # seconds: longer than two deliveries with a second in between


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
    """Almost a third of the jobs is sent again, though the queue has them. Each occurrence runs once."""
    await arena.seed(16 * arena.scale, "work-0", "work-1", seconds=0.2)

    with arena.queue.causing(Fault(kind=Kind.LOSE, matches=is_send, share=0.3, once=True)) as (fault,):
        await arena.enqueue()
        async with arena.host():
            await arena.until_quiet()
            verdict = await arena.verdict()

    assert fault.injected > 0
    assert verdict.problems() == {}


async def test_writes_lose_their_answers(arena: Arena) -> None:
    """Four writes of ten to Cosmos DB are made, and look as if they were not."""
    await arena.seed(12 * arena.scale, "work-0", "work-1", seconds=0.2)

    with arena.cosmos.causing(Fault(kind=Kind.LOSE, matches=is_write, share=0.4)) as (fault,):
        async with arena.host() as host:
            while not await arena.is_scheduled():
                await host.tick_to_its_end()
            await arena.until_quiet()
            verdict = await arena.verdict()

    assert fault.injected > 0
    assert verdict.problems() == {}


async def test_one_request_in_twenty_fails(arena: Arena) -> None:
    """Cosmos DB, the queue and the vault refuse, reset connections, stall, and lose answers."""
    await arena.seed(20 * arena.scale, "work-0", "work-1", seconds=0.1, secret=True)
    with (
        arena.cosmos.causing(*each_kind(share=0.01)),
        arena.queue.causing(*each_kind(share=0.01)),
        arena.vault.causing(*each_kind(share=0.01)),
    ):
        async with arena.host() as host:
            while not await arena.is_scheduled():
                await host.tick_to_its_end()
            await arena.until_quiet()
            verdict = await arena.verdict()

    assert sum(arena.injected().values()) > 0
    assert verdict.problems() == {}


def each_kind(share: float) -> list[Fault]:
    """Make faults of several kinds, each with a share of all requests."""
    return [
        Fault(kind=Kind.ANSWER, share=share, status=503),
        Fault(kind=Kind.ANSWER, share=share, status=429),
        Fault(kind=Kind.ANSWER, share=share, status=408),
        Fault(kind=Kind.DROP, share=share),
        Fault(kind=Kind.LOSE, share=share),
        Fault(kind=Kind.STALL, share=share, seconds=0.5),
    ]
