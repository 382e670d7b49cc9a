"""Hosts that are killed with SIGKILL while flows run."""

import pytest

from tests.chaos.arena import Arena

QUEUES = "AzureFunctionsJobHost__extensions__queues__"


@pytest.mark.parametrize(("at_once", "seconds"), [("16", 0.5), ("32", 0.5), ("32", 0.02)])
async def test_kills_during_runs(arena: Arena, at_once: str, seconds: float) -> None:
    """Runs of half a second and of 20 ms are killed, up to 32 at once. Each has one terminal record in the end."""
    await arena.seed(12 * arena.scale, "work-0", "work-1", "work-2", seconds=seconds)
    settings = {f"{QUEUES}batchSize": at_once, f"{QUEUES}newBatchThreshold": "0"}

    await arena.enqueue()
    async with arena.host(**settings) as host:
        for _ in range(3 * arena.scale):
            await arena.more(arena.ended, by=arena.random.randint(1, 8))
            await host.kill()
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    assert arena.injected()["SIGKILL"] == 3 * arena.scale
    assert verdict.problems() == {}
