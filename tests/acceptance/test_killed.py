"""A host that is killed with SIGKILL. Azure may kill a host at any time."""

import asyncio
from collections import defaultdict

import pytest

from localdev.errors import StartFailed
from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World

TENANTS = 120


async def test_a_tick_whose_host_is_killed_is_completed_by_the_next_tick(world: World, app: App, start: Start) -> None:
    """No run is lost, and none is added: every flow has exactly one run, and that one attempt."""
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
    assert not app.has_logged("TICK"), "the tick ended before the host was killed"

    async with start() as host:
        await host.invoke("orchestrator")
        await wait_until(lambda: app.has_logged("TICK"), description="the second tick has ended")
        await wait_until(world.drained, description="the queue is empty", seconds=60)

    run_ids = defaultdict(set)
    for record in await world.records():
        assert (record["outcome"], record["attemptCount"]) == ("succeeded", 1)
        run_ids[record["tenantId"]].add(record["runId"])
    assert len(run_ids) == TENANTS
    assert {len(ids) for ids in run_ids.values()} == {1}
