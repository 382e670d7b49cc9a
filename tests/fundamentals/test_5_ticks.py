"""Each tick enqueues the due flows and advances their `nextRunUtc`."""

import json
from datetime import UTC, datetime

from datasync.services import Services
from tests.documents import document, entry
from tests.stages import tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)


async def test_a_due_flow_is_enqueued_and_scheduled_again(world: World, services: Services) -> None:
    """After a tick, one job is on the queue, and `nextRunUtc` is the next occurrence."""
    await world.put(document("tenant-123", entry(nextRunUtc="2025-08-23T12:00:00Z")))

    await tick(services, NOW)

    (body,) = await world.messages()
    assert json.loads(body).items() >= {"tenantId": "tenant-123", "flowName": "weather"}.items()
    assert (await world.document("tenant-123"))["flows"][0]["nextRunUtc"] == "2025-08-23T13:00:00Z"


async def test_a_flow_that_is_not_due_waits(world: World, services: Services) -> None:
    """A second tick in the same hour enqueues nothing."""
    await world.put(document("tenant-123", entry(nextRunUtc="2025-08-23T12:00:00Z")))

    await tick(services, NOW)
    again = await tick(services, NOW)

    assert (again.tenants, again.enqueued) == (0, 0)
    assert len(await world.messages()) == 1


async def test_setting_next_run_to_the_past_forces_a_run(world: World, services: Services) -> None:
    """Any past time can be used. Setting the same time again gives another run."""
    past = document("tenant-123", entry(nextRunUtc="2020-01-01T00:00:00Z"))
    await world.put(past)
    await tick(services, NOW)
    await world.put(past)
    await tick(services, NOW)

    first, second = (json.loads(body)["runId"] for body in await world.messages())
    assert first != second


async def test_a_tick_changes_only_its_own_fields(world: World, services: Services) -> None:
    """All fields of a document but `nextRunUtc` and `planned` of an entry stay unchanged."""
    before = document("tenant-123", entry(owner="Ann", settings={"a": [1, None]}), contact={"mail": "a@example.com"})
    await world.put(before)

    await tick(services, NOW)

    after = await world.document("tenant-123")
    planned = after["flows"][0].pop("planned")
    assert (planned["nextRunUtc"], planned["enqueuedUtc"]) == ("2025-08-23T13:00:00Z", "2025-08-23T12:00:03Z")
    after["flows"][0]["nextRunUtc"] = before["flows"][0]["nextRunUtc"]
    assert {key: after[key] for key in before if key != "_etag"} == {
        key: value for key, value in before.items() if key != "_etag"
    }


async def test_a_bad_tenant_does_not_stop_the_others(world: World, services: Services) -> None:
    """Documents that cannot be used are counted. The flows of the other tenants are enqueued."""
    await world.put(document("bad", flows="none"), document("worse", {"name": "weather"}), document("good"))

    tally = await tick(services, NOW)

    assert (tally.tenants, tally.problems, tally.enqueued, tally.failed) == (3, 2, 1, 0)
