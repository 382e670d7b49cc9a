"""Each tick puts on the queue what is due, and moves `nextRunUtc`."""

import json
from datetime import UTC, datetime

from datasync.services import Services
from tests.documents import document, entry
from tests.stages import tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)


async def test_a_due_flow_is_enqueued_and_scheduled_anew(world: World, services: Services) -> None:
    """After a tick there is one job on the queue, and the document says when the flow is next."""
    await world.put(document("tenant-123", entry(nextRunUtc="2025-08-23T12:00:00Z")))

    await tick(services, NOW)

    (body,) = await world.messages()
    assert json.loads(body).items() >= {"tenantId": "tenant-123", "flowName": "weather"}.items()
    assert (await world.document("tenant-123"))["flows"][0]["nextRunUtc"] == "2025-08-23T13:00:00Z"


async def test_a_flow_that_is_not_due_waits(world: World, services: Services) -> None:
    """A second tick in the same hour finds nothing to do."""
    await world.put(document("tenant-123", entry(nextRunUtc="2025-08-23T12:00:00Z")))

    await tick(services, NOW)
    again = await tick(services, NOW)

    assert (again.tenants, again.enqueued) == (0, 0)
    assert len(await world.messages()) == 1


async def test_a_person_forces_a_run_by_setting_next_run_to_the_past(world: World, services: Services) -> None:
    """Any past time will do, the same one twice too; each time is one run of its own."""
    past = document("tenant-123", entry(nextRunUtc="2020-01-01T00:00:00Z"))
    await world.put(past)
    await tick(services, NOW)
    await world.put(past)
    await tick(services, NOW)

    first, second = (json.loads(body)["runId"] for body in await world.messages())
    assert first != second


async def test_a_tick_touches_nothing_but_next_run(world: World, services: Services) -> None:
    """Whatever else people keep in a document stays as it is."""
    before = document("tenant-123", entry(owner="Ann", settings={"a": [1, None]}), contact={"mail": "a@example.com"})
    await world.put(before)

    await tick(services, NOW)

    after = await world.document("tenant-123")
    after["flows"][0]["nextRunUtc"] = before["flows"][0]["nextRunUtc"]
    assert {key: after[key] for key in before if key != "_etag"} == {
        key: value for key, value in before.items() if key != "_etag"
    }


async def test_one_bad_tenant_never_stops_the_others(world: World, services: Services) -> None:
    """What cannot be used is counted and reported; everybody else is served."""
    await world.put(document("bad", flows="none"), document("worse", {"name": "weather"}), document("good"))

    tally = await tick(services, NOW)

    assert (tally.tenants, tally.problems, tally.enqueued, tally.failed) == (3, 2, 1, 0)
