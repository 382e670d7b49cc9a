"""Each tick is recorded with its findings, also one that fails or is killed: with real services."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from datasync.errors import ServiceUnavailable
from datasync.operate.health import app_health
from datasync.operate.ticks import Result, ticks
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.operating import HOUR, Fleet, command
from tests.world import World

MINUTE = timedelta(minutes=1)


async def stored(world: World) -> list[dict[str, Any]]:
    """Return the records of ticks, the oldest first."""
    found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'Tick'", partition_key="@fleet")
    return sorted([dict(item) async for item in found], key=lambda item: str(item["startedUtc"]))


async def test_a_tick_is_recorded_with_its_numbers(world: World, fleet: Fleet) -> None:
    """It expires like the records of runs. The first tick examines all documents, the next one those that are due."""
    await fleet.add("t")
    await world.put(document("wrong", entry("unknown")))
    await fleet.tick()
    await fleet.tick(HOUR)

    first, second = await stored(world)
    assert (first["id"], first["ttl"]) == ("tick-2025-08-23T12:00:00Z", 30 * 86_400)
    assert (first["endedUtc"], first["isScan"]) == ("2025-08-23T12:00:00Z", True)
    assert first["tally"] == {
        "tenants": 2, "due": 0, "enqueued": 0, "advanced": 0, "conflicts": 0, "problems": 1, "late": 0,
        "broken": 0, "failed": 0,
    }  # fmt: skip
    assert "isScan" not in second
    assert (second["tally"]["enqueued"], second["tally"]["advanced"]) == (1, 1)


async def test_a_record_takes_no_request_of_its_own(world: World, wire: Wire, fleet: Fleet) -> None:
    """It is written with the watermark, in one transaction each, at the start and at the end."""
    await fleet.add("t")
    await fleet.tick()
    wire.requests.clear()

    await fleet.tick(HOUR)

    about = [body for _, _, body in wire.requests if '"Tick"' in body]
    assert len(about) == 2
    assert all("watermark" in body and body.count("operationType") == 2 for body in about)


async def test_a_tick_that_fails_has_its_error(wire: Wire, fleet: Fleet) -> None:
    """The queue is away. The list says so, and the exit code is 1, until a complete tick follows."""
    await fleet.add("t")
    await fleet.tick()
    wire.refuse_all(to("POST", "/messages"))
    with pytest.raises(ServiceUnavailable):
        await fleet.tick(HOUR)
    wire.heal()

    shown = await command(fleet.world, "ticks", after=HOUR)
    assert shown.exit_code == 1
    assert [line.split()[:2] for line in shown.stdout.splitlines()[1:3]] == [
        ["2025-08-23T13:00:00Z", "failed"],
        ["2025-08-23T12:00:00Z", "complete"],
    ]
    assert "failed: 2025-08-23T13:00:00Z queue 'jobs-" in shown.stdout

    await fleet.tick(HOUR + MINUTE)
    assert (await command(fleet.world, "ticks", after=HOUR + 2 * MINUTE)).exit_code == 0


async def test_a_tick_that_cannot_list_the_documents_has_its_error(wire: Wire, fleet: Fleet) -> None:
    """The watermark does not move then, so the record takes a request of its own."""
    await fleet.tick()
    wire.refuse_all(to("POST", "/colls/tenants/docs"))
    with pytest.raises(ServiceUnavailable):
        await fleet.tick(HOUR)
    wire.heal()

    found = await ticks(fleet.services, NOW + HOUR, 1)

    assert [(each.result, each.started_utc) for each in found.ticks] == [(Result.FAILED, NOW + HOUR)]
    assert "Cosmos DB could not be reached" in (found.ticks[0].failure or "")
    assert not found.is_well


async def test_a_tick_whose_process_dies_is_visible(wire: Wire, fleet: Fleet) -> None:
    """It may be going on for the time-out of a function. The next tick does the rest."""
    await fleet.add("t")
    await fleet.tick()
    wire.kill_before(to("POST", "/messages"))
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - the kill is in a group
        await fleet.tick(HOUR)
    assert wire.killed, raised
    wire.heal()

    async def results(after: timedelta) -> list[Result]:
        return [each.result for each in (await ticks(fleet.services, NOW + after, 9)).ticks]

    timeout = fleet.services.settings.function_timeout
    assert await results(HOUR) == [Result.RUNNING, Result.COMPLETE]
    assert await results(HOUR + timeout) == [Result.KILLED, Result.COMPLETE]
    assert (await ticks(fleet.services, NOW + HOUR, 9)).is_well
    assert not (await ticks(fleet.services, NOW + HOUR + timeout, 9)).is_well
    assert "the last tick failed" in (await command(fleet.world, "status", after=HOUR + timeout)).stdout

    await fleet.tick(HOUR + MINUTE)
    assert await results(HOUR + MINUTE) == [Result.COMPLETE, Result.KILLED, Result.COMPLETE]
    assert (await ticks(fleet.services, NOW + HOUR + MINUTE, 9)).is_well


async def test_ticks_that_fail_in_a_row_are_counted(wire: Wire, fleet: Fleet) -> None:
    """The state of the fleet is not well while the last one failed. The health allows for one that is repeated."""
    await fleet.add("t")
    await fleet.tick()

    async def fails(after: timedelta) -> None:
        wire.refuse_all(to("POST", "/messages"))
        with pytest.raises(ServiceUnavailable):
            await fleet.tick(after)
        wire.heal()

    async def last(after: timedelta) -> tuple[list[str], int]:
        shown = await command(fleet.world, "status", after=after)
        return [line for line in shown.stdout.splitlines() if line.startswith("ticks")], shown.exit_code

    async def problems(after: timedelta) -> tuple[str, ...]:
        return (await app_health(fleet.services, fleet.registry, NOW + after)).problems

    await fails(HOUR)
    (line,), code = await last(HOUR)
    assert line.startswith("ticks        the last tick failed (python -m datasync ticks): queue 'jobs-")
    assert (code, await problems(HOUR)) == (1, ())

    await fails(HOUR + MINUTE)
    (line,), code = await last(HOUR + MINUTE)
    assert line.startswith("ticks        the last 2 ticks failed (python -m datasync ticks): queue 'jobs-")
    assert (code, await problems(HOUR + MINUTE)) == (1, ("Two ticks in a row have failed.",))

    await fleet.tick(HOUR + 2 * MINUTE)
    assert await last(HOUR + 2 * MINUTE) == ([], 0)
    assert await problems(HOUR + 2 * MINUTE) == ()


async def test_missing_ticks_are_named(fleet: Fleet) -> None:
    """The last one was complete, and no other has come."""
    assert "last tick: none so far" in (await command(fleet.world, "ticks")).stdout
    await fleet.tick()

    shown = await command(fleet.world, "ticks", after=3 * HOUR)

    assert shown.exit_code == 1
    assert "last tick: 2025-08-23T12:00:00Z, 3 h ago. The next ones are missing" in shown.stdout


async def test_the_list_has_a_limit_and_a_json_form(world: World, fleet: Fleet) -> None:
    """The newest is the first. A record that was edited and cannot be read does not count."""
    for minutes in range(3):
        await fleet.tick(minutes * MINUTE)
    (_, second, _) = await stored(world)
    await world.runs.upsert_item({**second, "seconds": "many"})

    shown = await command(world, "ticks", "--limit", "2", "--json", after=3 * MINUTE)

    found = msgspec.json.decode(shown.stdout)["ticks"]
    assert [each["startedUtc"] for each in found] == ["2025-08-23T12:02:00Z", "2025-08-23T12:00:00Z"]
    assert found[0]["tally"]["tenants"] == 0
    assert found[0]["result"] == "complete"


async def test_the_record_of_a_later_version_is_read(world: World, fleet: Fleet) -> None:
    """With other fields, and other numbers."""
    await fleet.tick()
    (first,) = await stored(world)
    await world.runs.upsert_item({**first, "later": {"a": 1}, "tally": {**first["tally"], "moved": 3}})

    (found,) = (await ticks(fleet.services, NOW, 9)).ticks

    assert found.tally["moved"] == 3
