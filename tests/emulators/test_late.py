"""Ticks say which flows have not succeeded in time, also those that do not run."""

import logging
from datetime import timedelta
from typing import Any

import pytest

from datasync.model.state import FlowState
from datasync.operate.action import Ask
from datasync.operate.documents import put_tenant, remove_tenant
from datasync.operate.health import app_health
from datasync.tick import late
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.operating import HOUR, NEXT, Fleet, command
from tests.world import World

FAR = "2999-01-01T00:00:00Z"
"""A next run for which no tick sends a message."""

SINCE = "2025-08-23T13:00:00Z"
"""The time by which a flow with `freshness` 1h succeeds after the tick at noon."""


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the lines of all levels."""
    caplog.set_level(logging.INFO, logger="datasync")


async def found(fleet: Fleet, caplog: pytest.LogCaptureFixture, after: timedelta) -> tuple[list[str], str]:
    """Run a tick. Return its lines about late flows, and their number in its last line."""
    caplog.clear()
    await fleet.tick(after)
    (last,) = [line for line in caplog.messages if line.startswith("TICK ")]
    return [line for line in caplog.messages if line.startswith("LATE ")], last.partition(" late=")[2].split()[0]


async def stale(world: World, tenant: str) -> dict[str, Any]:
    """Return the times of the states of a tenant, by flow."""
    states = world.runs.query_items("SELECT * FROM c WHERE c.type = 'FlowState'", partition_key=tenant)
    return {state["flowName"]: state.get("staleUtc") async for state in states}


async def test_each_tick_names_a_late_flow_until_it_succeeds(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that never ran. The number is in the record of the tick, too."""
    await fleet.add("a", "b", freshness="1h", nextRunUtc=FAR)
    assert await found(fleet, caplog, timedelta()) == ([], "0")
    await fleet.run("b", "r-1", timedelta(minutes=30))

    never = f"LATE a/weather since={SINCE} last_success=never"
    assert await found(fleet, caplog, HOUR) == ([], "0")
    assert await found(fleet, caplog, 1.25 * HOUR) == ([never], "1")
    ran = "LATE b/weather since=2025-08-23T13:30:00Z last_success=2025-08-23T12:30:00Z"
    assert await found(fleet, caplog, 2 * HOUR) == ([ran, never], "2")
    assert (await command(fleet.world, "ticks", "--json", after=2 * HOUR)).stdout.count('"late": 2') == 1

    await fleet.run("a", "r-2", 2 * HOUR)
    assert await found(fleet, caplog, 2.25 * HOUR) == ([ran], "1")


async def test_many_late_flows_are_counted(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are named, and the documents of a bounded number of tenants are read."""
    for name, most in (("MOST_COUNTED", 4), ("MOST_LISTED", 2), ("MOST_READ", 1)):
        monkeypatch.setattr(late, name, most)
    for number in range(5):
        await fleet.add(f"t-{number}", freshness="1h", nextRunUtc=FAR)
        await fleet.tick(timedelta(minutes=number))

    lines, count = await found(fleet, caplog, 2 * HOUR)

    assert [line.split()[:2] for line in lines] == [["LATE", "t-4/weather"], ["LATE", "t-3/weather"], ["LATE", "at"]]
    assert lines[-1] == "LATE at least 2 more flows: python -m datasync flows --late lists all of them"
    assert count == "4"


async def test_a_tick_that_cannot_look_is_complete_all_the_same(
    fleet: Fleet, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has no number then, and says why."""
    await fleet.add("t", nextRunUtc=NEXT)
    await fleet.tick()
    wire.refuse_all(to("POST", "/colls/runs/docs", "staleUtc <"))

    assert await found(fleet, caplog, HOUR) == ([], "?")
    assert [line for line in caplog.messages if "the tick could not look for late flows: Cosmos DB" in line]
    wire.heal()
    (last, _) = await fleet.services.fleet.ticks(2)
    assert (last.tally["enqueued"], last.tally["late"], last.failure) == (1, None, None)
    assert last.ended_utc


async def test_a_tick_does_not_wait_for_ever(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that does not answer holds no tick up."""
    monkeypatch.setattr(late, "PATIENCE", 0)

    assert await found(fleet, caplog, HOUR) == ([], "?")
    assert "UNAVAILABLE the tick could not look for late flows: no answer of Cosmos DB in 0 seconds" in caplog.text


async def test_a_flow_that_is_paused_or_removed_is_not_late_from_then_on(fleet: Fleet) -> None:
    """The health does not wait for the next tick. `resume` makes the flow expected again."""
    await fleet.add("t", freshness="1h", nextRunUtc=FAR)
    await fleet.tick()
    later = NOW + 2 * HOUR
    late_one = (await app_health(fleet.services, fleet.registry, later)).problems
    await command(fleet.world, "pause", "t", "weather", after=HOUR)
    paused = (await app_health(fleet.services, fleet.registry, later)).problems
    await fleet.tick(2 * HOUR)
    retired = await stale(fleet.world, "t")
    await command(fleet.world, "resume", "t", "weather", after=2 * HOUR)
    await fleet.tick(3 * HOUR)

    assert late_one == ("A flow has not succeeded in time.",)
    assert paused == ()
    assert (retired, await stale(fleet.world, "t")) == ({"weather": None}, {"weather": "2025-08-23T16:00:00Z"})


async def test_the_states_of_a_document_that_is_gone_are_retired_by_the_next_tick(
    world: World, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """They make no flow late: not in the health, and not in the log. They hide no flow that is late."""
    await fleet.add("here", freshness="1h", nextRunUtc=FAR)
    await fleet.tick()
    await world.put(document("gone", entry(nextRunUtc=FAR, freshness="1h")))
    await fleet.tick(HOUR / 2)
    by_hand = FlowState(tenant_id="never", flow_name="weather").document()
    await world.runs.upsert_item({**by_hand, "staleUtc": SINCE})
    await world.tenants.delete_item("gone", partition_key="gone")

    assert (await app_health(fleet.services, fleet.registry, NOW + 2 * HOUR)).problems == (
        "A flow has not succeeded in time.",
    )
    await fleet.run("here", "r-1", 2 * HOUR)
    assert (await app_health(fleet.services, fleet.registry, NOW + 2 * HOUR)).is_well
    await fleet.add("late", freshness="1h", nextRunUtc=FAR)
    await fleet.tick(HOUR)
    lines, count = await found(fleet, caplog, 2.5 * HOUR)

    assert ([line.split()[1] for line in lines], count) == (["late/weather"], "1")
    assert (await stale(world, "gone"))["weather"] is None
    assert await stale(world, "never") == {"weather": None}


async def test_an_entry_under_an_alias_is_late(world: World, fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Its state may have the flow's own name."""
    await world.put(document("t", entry("forecast", nextRunUtc=FAR, freshness="1h")))
    await fleet.tick()
    assert await stale(world, "t") == {"weather": SINCE}

    assert (await found(fleet, caplog, 2 * HOUR))[1] == "1"
    assert not (await app_health(fleet.services, fleet.registry, NOW + 2 * HOUR)).is_well


async def test_a_removed_tenant_that_is_stored_again_is_expected(world: World, fleet: Fleet) -> None:
    """Although the copy of its document has the note of a tick that its states are up to date."""
    await fleet.add("t", freshness="1h", nextRunUtc=FAR)
    await fleet.tick()
    kept = {name: value for name, value in (await world.document("t")).items() if name != "_etag"}
    await command(world, "pause", "t")
    await remove_tenant(fleet.services, Ask(action_id="a-1", who="Ada", at=NOW), tenant_id="t")
    await put_tenant(fleet.services, fleet.registry, Ask(action_id="a-2", who="Ada", at=NOW), kept)

    await fleet.tick(HOUR)

    assert await stale(world, "t") == {"weather": "2025-08-23T14:00:00Z"}
