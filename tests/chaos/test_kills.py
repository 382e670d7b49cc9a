"""Hosts that are killed with SIGKILL while flows run."""

import pytest

from tests.chaos.arena import Arena


@pytest.mark.parametrize("running", ["16", "32"])
async def test_kills_during_runs(arena: Arena, running: str) -> None:
    """Runs are killed, with 16 or 32 messages at a time. Each occurrence ends in one terminal record."""
    await arena.seed(12 * arena.scale, "work-0", "work-1", seconds=0.3)
    settings = {
        "AzureFunctionsJobHost__extensions__queues__batchSize": running,
        "AzureFunctionsJobHost__extensions__queues__newBatchThreshold": "0",
    }

    async with arena.host(**settings) as host:
        await host.tick_to_its_end()
        for _ in range(3 * arena.scale):
            await arena.more(arena.started, by=arena.random.randint(1, 6))
            await host.kill()
        await arena.until_quiet(60)
        verdict = await arena.verdict()

    assert arena.injected()["SIGKILL"] == 3 * arena.scale
    assert verdict.problems() == {}
