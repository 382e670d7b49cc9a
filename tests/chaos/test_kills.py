"""Hosts that are killed with SIGKILL while flows run."""

import pytest

from tests.chaos.arena import MOST_DELIVERIES, QUEUES, Arena
from tests.chaos.evidence import most_at_once


@pytest.mark.parametrize(
    ("batch", "threshold", "least", "deliveries", "tenants", "seconds"),
    [(16, 0, 14, "5", 3, 0.5), (32, 32, 56, "2", 6, 2), (32, 0, 2, "5", 3, 0.02)],
    ids=["16 at once", "64 at once, two deliveries", "runs of 20 ms"],
)
async def test_kills_during_runs(
    arena: Arena, *, batch: int, threshold: int, least: int, deliveries: str, tenants: int, seconds: float
) -> None:
    """Each run has one terminal record in the end, also where its deliveries are used up.

    A few less than batch and threshold allow are at once on a slow machine. Runs of 20 ms may end before others begin.
    """
    for number in range(4):
        longer = seconds * (1 + number / 2)
        names = ("work-0", "work-1", "work-2")
        await arena.seed(tenants * arena.scale, *names, prefix=f"group-{number}", seconds=longer)
    kills = 2 * arena.scale
    # The host takes a batch whenever it has no more messages than the threshold.
    settings = {
        f"{QUEUES}batchSize": str(batch),
        f"{QUEUES}newBatchThreshold": str(threshold),
        MOST_DELIVERIES: deliveries,
    }

    await arena.enqueue()
    async with arena.host(settings) as host:
        for _ in range(kills):
            await arena.more(arena.ended, by=arena.random.randint(1, 4))
            await host.kill()
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    at_once = most_at_once(arena.executions())
    arena.report(f"found:    executions at once: {at_once}")
    assert arena.injected()["SIGKILL"] == kills
    assert any(each.how is None for each in arena.executions()), "no execution was killed"
    assert at_once >= least
    assert verdict.problems_beside_interruptions() == {}
