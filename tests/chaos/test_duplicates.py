"""Messages that exist several times, and runs that meet."""

from datetime import UTC, datetime, timedelta

import pytest

from datasync.model.times import utc_text
from tests.chaos.arena import Arena
from tests.chaos.proxies import Fault, Kind, is_send

pytestmark = pytest.mark.usefixtures("lasting_leases")


async def test_the_same_message_three_times(arena: Arena) -> None:
    """Two copies arrive at once, and a third one after the success. The flow runs once."""
    await arena.seed(12 * arena.scale, "work-0", seconds=0.5)
    await arena.enqueue()
    bodies = await arena.world.take()
    for body in [body for body in bodies for _ in range(2)]:
        await arena.send(body)

    async with arena.host():
        await arena.until_quiet()
        for body in bodies:
            await arena.send(body)
        await arena.until_quiet()
        arena.actions["messages repeated"] = 2 * len(bodies)
        verdict = await arena.verdict()

    assert len(bodies) == len(arena.expected)
    assert verdict.problems() == {}


async def test_a_flow_that_takes_longer_than_its_interval(arena: Arena) -> None:
    """A flow of two seconds is due every second. Its runs do not overlap, and its windows tile."""
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    schedule = {"cron": "* * * * * *", "nextRunUtc": utc_text(first)}
    tenants = await arena.seed(3 * arena.scale, "work-0", schedule=schedule, seconds=2)

    async with arena.host({"ORCHESTRATOR_LOOKAHEAD": "8"}) as host:
        await host.tick_to_its_end()
        for tenant in tenants:
            (entry,) = (await arena.world.document(tenant))["flows"]
            planned = datetime.fromisoformat(entry["nextRunUtc"]) - first
            times = [first + timedelta(seconds=n) for n in range(int(planned.total_seconds()))]
            arena.expected |= {(tenant, "work-0", time) for time in times}
        await arena.until_quiet()
        arena.actions["occurrences during a run"] = len(arena.expected) - len(tenants)
        verdict = await arena.verdict()

    assert arena.injected()["occurrences during a run"] > len(tenants)
    assert verdict.problems() == {}


async def test_retry_later_while_sends_lose_their_answers(arena: Arena) -> None:
    """A flow defers itself four times. It makes five executions and one effect."""
    await arena.seed(10 * arena.scale, "work-0", deferrals=4)
    await arena.enqueue()

    with arena.queue.causing(Fault(kind=Kind.LOSE, matches=is_send, share=0.2, times=1)) as (fault,):
        async with arena.host():
            await arena.until_quiet()
            verdict = await arena.verdict()

    assert fault.injected > 0
    assert verdict.problems() == {}
    assert verdict.executions == 5 * len(arena.expected)
