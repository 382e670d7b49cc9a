"""Hosts that are killed with SIGKILL while flows run."""

import pytest

from tests.chaos.arena import MOST_DELIVERIES, QUEUES, Arena


@pytest.mark.parametrize(
    ("at_once", "deliveries", "seconds"),
    [("16", "5", 0.5), ("32", "2", 0.5), ("32", "5", 0.02)],
    ids=["16 at once", "32 at once, two deliveries", "runs of 20 ms"],
)
async def test_kills_during_runs(arena: Arena, at_once: str, deliveries: str, seconds: float) -> None:
    """Each run has one terminal record in the end, also where its deliveries are used up."""
    for number in range(4):
        longer = seconds * (1 + number / 2)
        await arena.seed(3 * arena.scale, "work-0", "work-1", "work-2", prefix=f"group-{number}", seconds=longer)
    kills = 2 * arena.scale
    settings = {f"{QUEUES}batchSize": at_once, f"{QUEUES}newBatchThreshold": "0", MOST_DELIVERIES: deliveries}

    await arena.enqueue()
    async with arena.host(settings) as host:
        for _ in range(kills):
            await arena.more(arena.ended, by=arena.random.randint(1, 4))
            await host.kill()
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    assert arena.injected()["SIGKILL"] == kills
    assert any(each.how is None for each in arena.executions()), "no execution was killed"
    assert verdict.problems() == {}
