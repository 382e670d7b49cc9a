"""Which documents a tick examines, and the problems that it keeps until they are corrected."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.cosmos.aio import CosmosClient

from datasync.errors import ServiceUnavailable
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import MOST_LISTED, MOST_RETRIED, SCAN_INTERVAL, Tally
from localdev.provision import provision
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.stages import FLOWS, FakeClock, registry_of, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
DUE, AHEAD = "2025-08-23T12:00:00Z", "2999-01-01T00:00:00Z"


async def problems(world: World) -> list[dict[str, Any]]:
    """Return the stored problems."""
    found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'Problem'", partition_key="@fleet")
    return sorted([dict(item) async for item in found], key=lambda item: (item["tenant"], item["path"]))


async def watermark(world: World) -> dict[str, Any]:
    return dict(await world.runs.read_item("watermark", partition_key="@fleet"))


@pytest_asyncio.fixture
async def another_process(world: World) -> AsyncGenerator[Services]:
    """Give the services of a second process."""
    made = Services(world.settings, FakeClock())
    yield made
    await made.close()


async def forget_overlap(world: World) -> None:
    """Let the last tick lie so far back that no edit before it is read again."""
    stored = await watermark(world)
    await world.runs.upsert_item({**stored, "sinceTs": stored["sinceTs"] + 3600})


async def test_only_changed_and_due_documents_are_examined(world: World, services: Services) -> None:
    """The first tick examines all; the next one leaves out every document that is neither changed nor due."""
    quiet = [document(f"quiet-{n}", entry(nextRunUtc=AHEAD)) for n in range(20)]
    await world.put(*quiet, document("due", entry(nextRunUtc="2025-08-23T12:05:00Z")))

    first = await tick(services, NOW)
    await forget_overlap(world)
    second = await tick(services, LATER)

    assert (first.tenants, first.enqueued) == (21, 0)
    assert (second.tenants, second.enqueued) == (1, 1)


async def test_an_edit_is_examined_in_full_though_nothing_is_due(world: World, services: Services) -> None:
    """A mistake in an entry of next year is a problem at the next tick."""
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await tick(services, NOW)
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron="hourly")))

    tally = await tick(services, LATER)

    assert (tally.tenants, tally.problems) == (1, 1)


async def test_an_edit_is_seen_though_the_clocks_of_app_and_database_differ(world: World, services: Services) -> None:
    """Changes are found by the clock of Cosmos DB alone: here the app's is more than a year behind."""
    await tick(services, datetime(2020, 1, 1, tzinfo=UTC))
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron="hourly")))

    assert (await tick(services, datetime(2020, 1, 1, 1, tzinfo=UTC))).problems == 1


async def test_the_apps_own_writes_are_examined_by_other_processes_only(
    world: World, services: Services, another_process: Services
) -> None:
    """The process that moved `nextRunUtc` skips the document when it comes back; another one finds nothing to do."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=DUE)) for n in range(5)])
    await tick(services, NOW)

    assert (await tick(services, LATER)).tenants == 0
    assert await tick(another_process, LATER) == Tally(tenants=5)


async def test_a_problem_is_kept_until_it_is_corrected(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored with its field and its first time, logged at each tick, and deleted with the correction."""
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron="hourly"), entry("first", nextRunUtc=AHEAD)))
    await tick(services, NOW)
    await forget_overlap(world)
    caplog.clear()
    second = await tick(services, LATER)

    (stored,) = await problems(world)
    assert (stored["tenant"], stored["flow"], stored["path"]) == ("tenant-1", "weather", "flows[0].cron")
    assert stored["sinceUtc"] == "2025-08-23T12:00:03Z"
    assert "hourly" in stored["why"]
    assert (second.tenants, second.problems) == (0, 1)
    assert "INVALID tenant-1/weather flows[0].cron: cron 'hourly'" in caplog.text

    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD), entry("first", nextRunUtc=AHEAD)))
    assert (await tick(services, LATER)).problems == 0
    assert await problems(world) == []


async def test_a_problem_that_changes_is_one_problem_since_its_first_time(world: World, services: Services) -> None:
    """Another wrong value in the same field is told with the new value."""
    for now, cron in ((NOW, "hourly"), (LATER, "daily")):
        await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron=cron)))
        await tick(services, now)

    (stored,) = await problems(world)
    assert stored["sinceUtc"] == "2025-08-23T12:00:03Z"
    assert "daily" in stored["why"]


async def test_the_problems_of_a_deleted_document_go_with_the_next_complete_scan(
    world: World, services: Services
) -> None:
    """No tick sees a deletion; the daily scan misses the document."""
    await world.put(document("gone", entry(cron="hourly")), document("broken", entry(cron="hourly")))
    await tick(services, NOW)
    await world.tenants.delete_item("gone", partition_key="gone")

    assert (await tick(services, LATER)).problems == 2
    assert (await tick(services, NOW + SCAN_INTERVAL)).problems == 1
    assert [problem["tenant"] for problem in await problems(world)] == ["broken"]


async def test_all_documents_are_examined_once_a_day(world: World, services: Services) -> None:
    """A change that the watermark missed is found within a day."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=AHEAD)) for n in range(3)])
    await tick(services, NOW)
    await forget_overlap(world)

    assert (await tick(services, LATER)).tenants == 0
    assert (await tick(services, NOW + SCAN_INTERVAL)).tenants == 3
    await forget_overlap(world)
    assert (await tick(services, LATER + SCAN_INTERVAL)).tenants == 0


async def test_all_documents_are_examined_when_the_flows_change(world: World, services: Services) -> None:
    """A flow that was removed is a problem of each tenant that names it, at the first tick after the deployment."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=AHEAD)) for n in range(3)])
    await tick(services, NOW, registry_of("weather"))
    await forget_overlap(world)

    assert (await tick(services, LATER, registry_of("another"))).problems == 3
    assert (await tick(services, LATER, registry_of("weather"))).problems == 0


async def test_an_unknown_flow_stays_due_and_runs_once_when_it_is_there(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """No job is burned on it. The problem names a similar flow."""
    await world.put(document("tenant-1", entry("wether", nextRunUtc=DUE)))
    ticks = [await tick(services, NOW + timedelta(hours=hour), registry_of("weather")) for hour in range(3)]

    assert [(tally.enqueued, tally.problems) for tally in ticks] == [(0, 1)] * 3
    assert "INVALID tenant-1/wether flows[0].name: no flow is named 'wether'; did you mean 'weather'?" in caplog.text
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == DUE

    there = [await tick(services, NOW + timedelta(hours=3), registry_of("weather", "wether")) for _ in range(2)]
    assert [(tally.enqueued, tally.problems) for tally in there] == [(1, 0), (0, 0)]
    assert [json.loads(body)["flowName"] for body in await world.messages()] == ["wether"]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("2025-08-23T14:30:00+02:00", "2025-08-23T12:30:00Z"),
        ("2025-08-23T12:30:00", "2025-08-23T12:30:00Z"),
        ("2025-08-23T12:30:00.0000000Z", "2025-08-23T12:30:00Z"),
        ("2025-08-23T12:30Z", "2025-08-23T12:30:00Z"),
        ("2025-08-24", "2025-08-24T00:00:00Z"),
        ("2025-W34-6T12:30:00Z", "2025-08-23T12:30:00Z"),
        ("2025-08-23T12:30:00Z", "2025-08-23T12:30:00Z"),
    ],
)
async def test_another_form_of_next_run_is_rewritten(
    world: World, services: Services, written: str, stored: str
) -> None:
    """The query compares texts, so an instant ahead gets the app's own form, and runs at its time."""
    await world.put(document("tenant-1", entry(nextRunUtc=written)))

    assert (await tick(services, NOW)).enqueued == 0
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == stored
    await forget_overlap(world)
    assert (await tick(services, datetime.fromisoformat(stored))).enqueued == 1


async def test_a_document_that_could_not_be_handled_is_examined_again(
    world: World, wire: Wire, services: Services
) -> None:
    """The watermark moves for the others, so one document never makes the ticks read the whole fleet."""
    await tick(services, NOW)
    await world.put(document("other", entry(nextRunUtc=AHEAD)))
    await world.put(document("tenant-1", entry(nextRunUtc="2025-08-24")))
    wire.refuse_all(to("PATCH", "/docs/tenant-1"))
    with pytest.raises(ServiceUnavailable):
        await tick(services, LATER)
    assert (await watermark(world))["retry"] == ["tenant-1"]
    await forget_overlap(world)
    assert (await tick(services, NOW + SCAN_INTERVAL)).failed == 1
    await forget_overlap(world)

    wire.heal()
    tally = await tick(services, LATER + SCAN_INTERVAL)

    assert (tally.tenants, (await watermark(world))["retry"]) == (1, [])
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] > "2025-08-24T00:00:00Z"


async def test_an_outage_leaves_the_watermark(world: World, wire: Wire, services: Services) -> None:
    """Where very many documents fail, the next tick reads all changes again."""
    await tick(services, NOW)
    before = await watermark(world)
    await asyncio.gather(*[world.put(document(f"tenant-{n}", entry(nextRunUtc=DUE))) for n in range(MOST_RETRIED + 1)])
    wire.refuse_all(to("POST", "/messages"))

    with pytest.raises(ServiceUnavailable):
        await tick(services, LATER)

    after = await watermark(world)
    assert [after[name] for name in ("sinceTs", "retry")] == [before[name] for name in ("sinceTs", "retry")]


async def test_an_edit_between_read_and_write_is_examined_by_the_next_tick(
    world: World, wire: Wire, services: Services
) -> None:
    """The tick's own patch lies on top of the edit; the document is not taken for one that nobody has edited."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD)))
    edited = document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD, cron="hourly"))
    wire.after(to("POST", "/messages"), lambda: world.put(edited))

    first = await tick(services, NOW)
    second = await tick(services, LATER)

    assert (first.conflicts, first.problems) == (1, 0)
    assert second.problems == 1


async def test_a_problem_that_could_not_be_stored_is_found_by_the_next_tick(
    world: World, wire: Wire, services: Services
) -> None:
    """`nextRunUtc` has moved by then, and the document is still not taken for examined."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD, cron="hourly")))
    wire.refuse_all(to("POST", "/docs", "sinceUtc"))
    assert (await tick(services, NOW)).failed == 1

    wire.heal()

    assert (await tick(services, LATER)).problems == 1


async def test_a_deleted_document_is_not_examined_again(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A tenant that is deleted during a tick is named, and the watermark moves."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
    wire.after(to("POST", "/messages"), lambda: world.tenants.delete_item("tenant-1", partition_key="tenant-1"))

    await tick(services, NOW)

    assert "there is no tenant 'tenant-1' in container" in caplog.text
    assert (await watermark(world))["retry"] == []


async def test_a_document_that_is_no_longer_a_tenants_has_no_problems(world: World, services: Services) -> None:
    """Somebody who archives a document by its type gets rid of its problems."""
    await world.put(document("tenant-1", entry(cron="hourly")))
    await tick(services, NOW)
    await world.put(document("tenant-1", entry(cron="hourly"), type="Archive"))

    assert (await tick(services, LATER)).problems == 0


async def test_another_container_is_scanned_completely(world: World, services: Services) -> None:
    """The watermark belongs to one tenants container."""
    await tick(services, NOW)
    await forget_overlap(world)
    settings = Settings.from_environ({**world.environ, "COSMOS_TENANTS_CONTAINER": "others"})
    await provision(settings)
    another = Services(settings, FakeClock())
    async with CosmosClient.from_connection_string(world.environ["COSMOS_CONNECTION_STRING"]) as client:
        others = client.get_database_client(world.settings.cosmos_database).get_container_client("others")
        await others.upsert_item(document("tenant-1", entry(nextRunUtc=None)))

    tally = await tick(another, LATER)
    await another.close()

    assert (tally.tenants, tally.advanced) == (1, 1)


async def test_a_clock_that_was_wrong_once_does_not_stop_the_daily_scan(world: World, services: Services) -> None:
    """A scan that seems to lie in the future counts as old."""
    await tick(services, datetime(2035, 1, 1, tzinfo=UTC))
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await forget_overlap(world)

    assert (await tick(services, NOW)).tenants == 1


async def test_a_tick_that_cannot_read_the_problems_does_not_report_none(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """An alert on `problems=` must not clear because a service is away."""
    caplog.set_level(logging.INFO)
    wire.refuse_all(to("", "/colls/runs/"))
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW)

    (line,) = [text for text in caplog.messages if text.startswith("TICK")]
    assert "failed=1" in line
    assert "problems=? " in line
    assert "UNAVAILABLE the tick could not examine all documents: Cosmos DB could not be reached" in caplog.text


@pytest.mark.parametrize("field", ["id", "enabled", "name"])
async def test_half_a_character_in_a_document_is_a_problem(world: World, services: Services, field: str) -> None:
    """It fails neither the tick nor the storing of the problem."""
    half = "\ud800"
    odd = {
        "id": document(f"t{half}"),
        "enabled": document("t", entry(enabled=half)),
        "name": document("t", entry(half)),
    }
    await world.put(odd[field], document("sound", entry(nextRunUtc=DUE)))

    tally = await tick(services, NOW)

    assert (tally.enqueued, tally.problems, tally.failed) == (1, 1, 0)


async def test_a_watermark_that_was_edited_is_replaced(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick says so, and examines all documents."""
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await tick(services, NOW)
    await world.runs.upsert_item({**await watermark(world), "sinceTs": "yesterday"})

    tally = await tick(services, LATER)

    assert tally.tenants == 1
    assert "document 'watermark' in partition @fleet: sinceTs: expected a whole number" in caplog.text
    assert isinstance((await watermark(world))["sinceTs"], int)


async def test_a_problem_that_was_edited_is_found_again(world: World, services: Services) -> None:
    """One that cannot be read is deleted; the next complete scan stores it as it is."""
    await world.put(document("tenant-1", entry(cron="hourly")))
    await tick(services, NOW)
    (stored,) = await problems(world)
    await world.runs.upsert_item({**stored, "why": None})

    await tick(services, LATER)
    await tick(services, NOW + SCAN_INTERVAL)

    assert [problem["why"] for problem in await problems(world)] == [stored["why"]]


async def test_many_problems_are_counted_and_some_are_listed(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A flow that is gone is a problem of every tenant; the log says where to read all of them."""
    count = MOST_LISTED + 5
    await asyncio.gather(*[world.put(document(f"tenant-{n}", entry("gone"))) for n in range(count)])

    tally = await tick(services, NOW)

    assert (tally.problems, len(await problems(world))) == (count, count)
    assert sum("INVALID tenant-" in record.getMessage() for record in caplog.records) == MOST_LISTED
    assert "INVALID 5 more problems: query partition @fleet" in caplog.text


async def test_a_broken_flow_file_is_logged_at_each_tick(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """On Azure the line at import never arrives, so each tick repeats it while it lasts."""
    registry = registry_of("weather")
    registry.broken["flows.crm"] = "Traceback …\nModuleNotFoundError: No module named 'crm'"

    tally = await tick(services, NOW, registry)

    assert tally.broken == 1
    assert "BROKEN flow file flows.crm could not be loaded: ModuleNotFoundError: No module named 'crm'" in caplog.text


async def test_a_lost_answer_of_the_watermark_does_no_harm(world: World, wire: Wire, services: Services) -> None:
    """Every write of a tick may be repeated."""
    await world.put(document("tenant-1", entry(cron="hourly")), document("tenant-2", entry(nextRunUtc=DUE)))
    for method in ("PATCH", "POST", "PATCH"):
        wire.lose_answer(to(method, "/docs"))

    tally = await tick(services, NOW, FLOWS)

    assert (tally.enqueued, tally.advanced, tally.problems) == (1, 1, 1)
    assert len(await problems(world)) == 1
