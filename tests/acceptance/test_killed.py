"""A host killed with SIGKILL, as Azure may do without notice, loses no run and adds none."""

import asyncio
from collections import defaultdict

import pytest

from localdev.errors import StartFailed
from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World

TENANTS = 120


async def test_a_host_killed_during_a_tick_loses_no_run_and_adds_none(world: World, app: App, start: Start) -> None:
    """After the next tick, every flow has run under exactly one run id."""
    for batch in range(0, TENANTS, 40):
        await asyncio.gather(*[world.put(document(f"tenant-{n}", entry("succeeds"))) for n in range(batch, batch + 40)])

    async with start(**{"AzureWebJobs.run_flow.Disabled": "true", "ORCHESTRATOR_CONCURRENCY": "2"}) as host:
        await host.invoke("orchestrator")

        async def in_the_middle() -> bool:
            return ((await world.jobs.get_queue_properties()).approximate_message_count or 0) > 10

        await wait_until(in_the_middle, description="the tick is in the middle of its work")
        host.process.kill()
        with pytest.raises(StartFailed):
            await host.ended()
    assert not app.said("TICK"), "the tick ended before the host was killed"

    async with start() as host:
        await host.invoke("orchestrator")
        await wait_until(lambda: app.said("TICK"), description="the second tick has ended")
        await wait_until(world.drained, description="the queue has drained", seconds=60)

    run_ids = defaultdict(set)
    for record in await world.records():
        assert record["outcome"] == "succeeded"
        run_ids[record["tenantId"]].add(record["runId"])
    assert len(run_ids) == TENANTS
    assert {len(ids) for ids in run_ids.values()} == {1}
