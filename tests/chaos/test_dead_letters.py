"""Dead letters, and their replay."""

import json

import pytest

from tests.chaos.arena import MOST_DELIVERIES, YEARLY, Arena

pytestmark = pytest.mark.usefixtures("lasting_leases")

OUTAGE = 4  # seconds: longer than two deliveries with a second in between


async def test_dead_letters_are_replayed(arena: Arena) -> None:
    """Each dead letter has a record. After the cause is corrected, its replay succeeds under the same run id.

    Some flows fail, some runs were started by hand, and Cosmos DB is away for a while.
    """
    due = await arena.seed(6 * arena.scale, "work-0", failures=1000)
    never = {"cron": YEARLY, "nextRunUtc": "2999-01-01T00:00:00Z"}
    # Tenants of their own: two runs of one flow would meet, and one of them would be skipped.
    started = await arena.seed(3 * arena.scale, "work-0", prefix="by-hand", schedule=never, failures=1000)
    await arena.enqueue()
    for tenant in started:
        await arena.send(json.dumps({"tenantId": tenant, "flowName": "work-0"}))
    tenants = [*due, *started]

    async with arena.host({MOST_DELIVERIES: "2"}):
        await arena.outage(arena.cosmos, OUTAGE)
        await arena.until_quiet()
        dead = {run.id for run in await arena.runs() if "dead" in run.terminal}
        await arena.change_settings(tenants, failures=0)
        await arena.replay()
        await arena.until_quiet()
        arena.actions["dead letters"] = len(tenants)
        verdict = await arena.verdict()

    again = {run.id for run in await arena.runs() if "succeeded" in run.terminal}
    arena.report(f"found:    dead letters with a record: {len(dead)}, of which {len(dead & again)} succeed again")
    assert arena.injected()["Cosmos DB answers 503"] > 0
    assert len(dead) == len(dead & again) == len(tenants)
    assert verdict.problems() == {}
