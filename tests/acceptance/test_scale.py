"""Many tenants at once."""

import asyncio
from collections import Counter

from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World


async def test_a_thousand_due_flows_each_succeed_exactly_once(world: World, app: App, start: Start) -> None:
    """One tick enqueues two flows for each of 500 tenants. One success is recorded for each flow."""
    app.add_flow_file(
        "second.py", "from flows.registry import flow\n\n@flow('second')\nasync def second(tenant_id, kv): ...\n"
    )
    tenants = [document(f"tenant-{n}", entry("succeeds"), entry("second")) for n in range(500)]
    for batch in range(0, 500, 50):
        await asyncio.gather(*[world.put(tenant) for tenant in tenants[batch : batch + 50]])

    async with start() as host:
        await host.invoke("orchestrator")
        await wait_until(
            lambda: app.has_logged("TICK tenants=500 due=1000 enqueued=1000"),
            description="all is enqueued",
            seconds=120,
        )
        await wait_until(world.drained, description="the queue is empty", seconds=120)

    records = await world.records()
    assert Counter((record["outcome"], record["attemptCount"]) for record in records) == {("succeeded", 1): 1000}
    assert len({(record["tenantId"], record["flowName"]) for record in records}) == 1000
    assert await world.poisoned() == []
