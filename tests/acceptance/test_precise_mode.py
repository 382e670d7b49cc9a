"""Schedules that are exact to the second, with a timer that fires less often."""

from datetime import UTC, datetime, timedelta

from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World


async def test_every_occurrence_starts_at_its_second(world: World, app: App, start: Start) -> None:
    """A flow runs every second. Two ticks with overlapping lookaheads enqueue each occurrence once."""
    async with start(ORCHESTRATOR_LOOKAHEAD="5", AZURE_FUNCTIONS_ENVIRONMENT="Development") as host:
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
        await world.put(document("tenant-1", entry("succeeds", cron="* * * * * *", nextRunUtc=soon.isoformat())))
        await host.invoke("orchestrator")
        await wait_until(lambda: app.has_logged("TICK tenants=1"), description="the first tick has ended")
        await wait_until(world.records, description="the first run is recorded")
        await host.invoke("orchestrator")

        async def enough() -> bool:
            return len(await world.records()) >= 5

        await wait_until(enough, description="five runs are recorded")

    runs = [
        (datetime.fromisoformat(record["scheduledUtc"]), datetime.fromisoformat(record["startedUtc"]))
        for record in await world.records()
    ]
    assert [scheduled for scheduled, _ in runs] == [soon + timedelta(seconds=n) for n in range(len(runs))]
    delays = [started - scheduled for scheduled, started in runs]
    assert [delay for delay in delays if not timedelta(0) <= delay < timedelta(seconds=1)] == []
    assert {record["outcome"] for record in await world.records()} == {"succeeded"}
