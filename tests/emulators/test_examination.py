"""Which documents a tick examines, and the problems that it keeps until they are corrected."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from azure.cosmos.aio import CosmosClient

from datasync import FlowRegistry
from datasync.errors import ServiceUnavailable
from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import MOST_LISTED, MOST_PROBLEMS, MOST_RETRIED, SCAN_INTERVAL, Tally
from localdev.provision import provision
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.stages import FLOWS, FakeClock, does_nothing, registry_of, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
DUE, AHEAD = "2025-08-23T12:00:00Z", "2999-01-01T00:00:00Z"


async def problems(world: World) -> list[dict[str, Any]]:
    """Return the stored problems, without the warnings."""
    query = "SELECT * FROM c WHERE c.type = 'Problem' AND c.level = 'error'"
    found = world.runs.query_items(query, partition_key="@fleet")
    return sorted([dict(item) async for item in found], key=lambda item: (item["tenant"], item["path"]))


async def watermark(world: World) -> dict[str, Any]:
    return dict(await world.runs.read_item("watermark", partition_key="@fleet"))


async def forget_overlap(world: World) -> None:
    """Move the watermark forward, so that the next tick does not read the edits before it again."""
    stored = await watermark(world)
    await world.runs.upsert_item({**stored, "sinceTs": stored["sinceTs"] + 3600})


async def test_only_changed_and_due_documents_are_examined(world: World, services: Services) -> None:
    """The first tick examines all documents. The next one examines only the document that is due."""
    quiet = [document(f"quiet-{n}", entry(nextRunUtc=AHEAD)) for n in range(20)]
    await world.put(*quiet, document("due", entry(nextRunUtc="2025-08-23T12:05:00Z")))

    first = await tick(services, NOW)
    await forget_overlap(world)
    second = await tick(services, LATER)

    assert (first.tenants, first.enqueued) == (21, 0)
    assert (second.tenants, second.enqueued) == (1, 1)


async def test_an_edited_document_is_examined_even_if_nothing_is_due(world: World, services: Services) -> None:
    """A mistake in an entry is a problem at the next tick, even if the next run is far in the future."""
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await tick(services, NOW)
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron="hourly")))

    tally = await tick(services, LATER)

    assert (tally.tenants, tally.problems) == (1, 1)


async def test_an_edit_is_found_even_if_the_clocks_of_app_and_database_differ(world: World, services: Services) -> None:
    """Only the clock of Cosmos DB is used to find changes. Here the clock of the app is years behind."""
    await tick(services, datetime(2020, 1, 1, tzinfo=UTC))
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron="hourly")))

    assert (await tick(services, datetime(2020, 1, 1, 1, tzinfo=UTC))).problems == 1


async def test_only_other_processes_examine_a_document_that_a_tick_has_written(
    world: World, services: Services, another_process: Services
) -> None:
    """The process that advanced `nextRunUtc` skips the document. Another process examines it and finds no work."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=DUE)) for n in range(5)])
    await tick(services, NOW)

    assert (await tick(services, LATER)).tenants == 0
    assert await tick(another_process, LATER) == Tally(tenants=5)


async def test_a_problem_is_kept_until_it_is_corrected(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored with its field and the time it was found, logged at each tick, and deleted after the correction."""
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


async def test_of_very_many_problems_of_a_document_the_first_are_stored(world: World, services: Services) -> None:
    """One more counts the others. It goes when they are corrected."""
    bad = [entry(f"flow-{n}", enabled="yes") for n in range(MOST_PROBLEMS + 50)]
    await world.put(document("acme", *bad))

    assert (await tick(services, NOW)).problems == MOST_PROBLEMS + 1
    assert [each["why"] for each in await problems(world) if each["path"] == "flows"] == [
        "50 more problems, which are not listed: correct the others first"
    ]

    await world.put(document("acme", *bad[:2]))
    assert (await tick(services, LATER)).problems == 2


async def test_entries_that_cannot_be_read_are_counted_without_an_explanation(world: World, services: Services) -> None:
    """A document has room for a million of them. The first ones are explained."""
    await world.put(document("acme", *[entry(f"flow-{n}", enabled="yes") for n in range(2_000)]))

    assert (await tick(services, NOW)).problems == MOST_PROBLEMS + 1
    assert [each["why"] for each in await problems(world) if each["path"] == "flows"] == [
        "1,900 more problems, which are not listed: correct the others first"
    ]


async def test_another_wrong_value_in_the_same_field_is_the_same_problem(world: World, services: Services) -> None:
    """The problem is stored with the new value, and keeps the time at which it was first found."""
    for now, cron in ((NOW, "hourly"), (LATER, "daily")):
        await world.put(document("tenant-1", entry(nextRunUtc=AHEAD, cron=cron)))
        await tick(services, now)

    (stored,) = await problems(world)
    assert stored["sinceUtc"] == "2025-08-23T12:00:03Z"
    assert "daily" in stored["why"]


async def test_the_problems_of_a_deleted_document_are_deleted_by_the_next_complete_scan(
    world: World, services: Services
) -> None:
    """Only the daily scan notices that a document is gone."""
    await world.put(document("gone", entry(cron="hourly")), document("broken", entry(cron="hourly")))
    await tick(services, NOW)
    await world.tenants.delete_item("gone", partition_key="gone")

    assert (await tick(services, LATER)).problems == 2
    assert (await tick(services, NOW + SCAN_INTERVAL)).problems == 1
    assert [problem["tenant"] for problem in await problems(world)] == ["broken"]


async def test_all_documents_are_examined_once_a_day(world: World, services: Services) -> None:
    """A change that no tick has found is found within a day."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=AHEAD)) for n in range(3)])
    await tick(services, NOW)
    await forget_overlap(world)

    assert (await tick(services, LATER)).tenants == 0
    assert (await tick(services, NOW + SCAN_INTERVAL)).tenants == 3
    await forget_overlap(world)
    assert (await tick(services, LATER + SCAN_INTERVAL)).tenants == 0


async def test_all_documents_are_examined_when_the_flows_change(world: World, services: Services) -> None:
    """After a flow is removed, the next tick finds a problem in each tenant that uses it."""
    await world.put(*[document(f"tenant-{n}", entry(nextRunUtc=AHEAD)) for n in range(3)])
    await tick(services, NOW, registry_of("weather"))
    await forget_overlap(world)

    assert (await tick(services, LATER, registry_of("another"))).problems == 3
    assert (await tick(services, LATER, registry_of("weather"))).problems == 0


async def test_all_documents_are_examined_when_a_flow_declares_other_settings(world: World, services: Services) -> None:
    """After a new version of the flow, the next tick finds a problem in each tenant whose settings no longer fit."""
    await world.put(
        *[document(f"tenant-{n}", entry("mapped", nextRunUtc=AHEAD, settings={"total": n})) for n in (1, 2)],
        document("tenant-3", entry("mapped", nextRunUtc=AHEAD, settings={"total": "3"})),
    )
    await tick(services, NOW, registry_of("mapped"))
    await forget_overlap(world)
    registry = FlowRegistry()
    registry.flow("mapped", settings=msgspec.defstruct("Rules", [("total", int)]))(does_nothing)

    assert (await tick(services, LATER, registry)).problems == 1


async def test_an_unknown_flow_stays_due_and_runs_once_when_it_exists(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets no job. The problem names a similar flow."""
    await world.put(document("tenant-1", entry("wether", nextRunUtc=DUE)))
    ticks = [await tick(services, NOW + timedelta(hours=hour), registry_of("weather")) for hour in range(3)]

    assert [(tally.enqueued, tally.problems) for tally in ticks] == [(0, 1)] * 3
    assert "INVALID tenant-1/wether flows[0].name: no flow is named 'wether'; did you mean 'weather'?" in caplog.text
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == DUE

    known = [await tick(services, NOW + timedelta(hours=3), registry_of("weather", "wether")) for _ in range(2)]
    assert [(tally.enqueued, tally.problems) for tally in known] == [(1, 0), (0, 0)]
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
    """The query compares texts, so a future time is rewritten in the app's own form. The flow runs at that time."""
    await world.put(document("tenant-1", entry(nextRunUtc=written)))

    assert (await tick(services, NOW)).enqueued == 0
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] == stored
    await forget_overlap(world)
    assert (await tick(services, datetime.fromisoformat(stored))).enqueued == 1


async def test_a_document_that_could_not_be_scheduled_is_examined_again(
    world: World, wire: Wire, services: Services
) -> None:
    """The watermark still advances, so later ticks do not read all other documents again."""
    await tick(services, NOW)
    await world.put(document("other", entry(nextRunUtc=AHEAD)))
    await world.put(document("tenant-1", entry(nextRunUtc="2025-08-24")))
    wire.refuse_all(to("PATCH", "/docs/tenant-1"))
    with pytest.raises(ServiceUnavailable):
        await tick(services, LATER)
    assert (await watermark(world))["retry"] == ["tenant-1"]
    await forget_overlap(world)
    with pytest.raises(ServiceUnavailable):
        await tick(services, NOW + SCAN_INTERVAL)
    await forget_overlap(world)

    wire.heal()
    tally = await tick(services, LATER + SCAN_INTERVAL)

    assert (tally.tenants, (await watermark(world))["retry"]) == (1, [])
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] > "2025-08-24T00:00:00Z"


async def test_an_outage_does_not_advance_the_watermark(world: World, services: Services) -> None:
    """If very many documents fail, the next tick reads all changes again."""
    await tick(services, NOW)
    before = await watermark(world)
    await asyncio.gather(*[world.put(document(f"tenant-{n}", entry(nextRunUtc=DUE))) for n in range(MOST_RETRIED + 1)])
    await world.jobs.delete_queue()
    try:
        with pytest.raises(ServiceUnavailable):
            await tick(services, LATER)
    finally:
        await world.jobs.create_queue()

    after = await watermark(world)
    assert [after[name] for name in ("sinceTs", "retry")] == [before[name] for name in ("sinceTs", "retry")]


async def test_an_edit_during_a_tick_is_examined(world: World, wire: Wire, services: Services) -> None:
    """The tick patches the edited document, and examines it again. So does the next tick, which finds it changed."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD)))
    edited = document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD, cron="hourly"))
    wire.after(to("POST", "/messages"), lambda: world.put(edited))

    first = await tick(services, NOW)
    second = await tick(services, LATER)

    assert (first.conflicts, first.problems) == (1, 1)
    assert (second.tenants, second.problems) == (1, 1)


async def test_a_problem_that_could_not_be_stored_is_found_by_the_next_tick(
    world: World, wire: Wire, services: Services
) -> None:
    """`nextRunUtc` has advanced, and the document is examined again. The host repeats the tick."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE), entry("first", nextRunUtc=AHEAD, cron="hourly")))
    wire.refuse_all(to("POST", "/docs", "sinceUtc"))
    with pytest.raises(ServiceUnavailable, match="while saving a problem of tenant-1"):
        await tick(services, NOW)
    assert (await world.document("tenant-1"))["flows"][0]["nextRunUtc"] > DUE

    wire.heal()

    assert (await tick(services, LATER)).problems == 1


async def test_a_deleted_document_is_not_examined_again(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names a tenant that is deleted during a tick, and the watermark advances."""
    await world.put(document("tenant-1", entry(nextRunUtc=DUE)))
    wire.after(to("POST", "/messages"), lambda: world.tenants.delete_item("tenant-1", partition_key="tenant-1"))

    await tick(services, NOW)

    assert "there is no tenant 'tenant-1' in container" in caplog.text
    assert (await watermark(world))["retry"] == []


async def test_a_document_that_is_not_a_tenant_any_more_has_no_problems(world: World, services: Services) -> None:
    """After an edit of `type`, the problems of the document are deleted."""
    await world.put(document("tenant-1", entry(cron="hourly")))
    await tick(services, NOW)
    await world.put(document("tenant-1", entry(cron="hourly"), type="Archive"))

    assert (await tick(services, LATER)).problems == 0


async def test_another_container_is_scanned_completely(world: World, services: Services) -> None:
    """The watermark is valid for one container of tenants only."""
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


async def test_a_clock_that_was_once_wrong_does_not_stop_the_daily_scan(world: World, services: Services) -> None:
    """A scan with a time in the future counts as older than a day."""
    await tick(services, datetime(2035, 1, 1, tzinfo=UTC))
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await forget_overlap(world)

    assert (await tick(services, NOW)).tenants == 1


async def test_a_tick_that_cannot_read_the_problems_does_not_report_their_number(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """An alert on `problems=` must not clear while a service is unavailable."""
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
    """The tick does not fail, and the problem is stored."""
    half = "\ud800"
    odd = {
        "id": document(f"t{half}"),
        "enabled": document("t", entry(enabled=half)),
        "name": document("t", entry(half)),
    }
    await world.put(odd[field], document("sound", entry(nextRunUtc=DUE)))

    tally = await tick(services, NOW)
    again = await tick(services, NOW + SCAN_INTERVAL)

    assert (tally.enqueued, tally.problems, tally.failed) == (1, 1, 0)
    assert (again.problems, len(await problems(world))) == (1, 1)


async def test_a_watermark_that_was_edited_is_replaced(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The tick logs this, and examines all documents."""
    await world.put(document("tenant-1", entry(nextRunUtc=AHEAD)))
    await tick(services, NOW)
    await world.runs.upsert_item({**await watermark(world), "sinceTs": "yesterday"})

    tally = await tick(services, LATER)

    assert tally.tenants == 1
    assert "document 'watermark' in partition @fleet: sinceTs: expected a whole number" in caplog.text
    assert isinstance((await watermark(world))["sinceTs"], int)


async def test_a_stored_problem_that_was_edited_is_replaced(world: World, services: Services) -> None:
    """A stored problem that cannot be read is deleted. The next complete scan finds the problem again."""
    await world.put(document("tenant-1", entry(cron="hourly")))
    await tick(services, NOW)
    (stored,) = await problems(world)
    await world.runs.upsert_item({**stored, "why": None})

    await tick(services, LATER)
    await tick(services, NOW + SCAN_INTERVAL)

    assert [problem["why"] for problem in await problems(world)] == [stored["why"]]


async def test_a_document_with_a_long_id_has_its_problems_once(world: World, services: Services) -> None:
    """Scans keep them, and a correction deletes them."""
    long = "x" * 220
    await world.put(document(long, entry(cron="hourly")))
    for now in (NOW, LATER, NOW + SCAN_INTERVAL):
        assert (await tick(services, now)).problems == 1
        assert len(await problems(world)) == 1

    await world.put(document(long, entry(nextRunUtc=AHEAD)))

    assert (await tick(services, NOW + SCAN_INTERVAL)).problems == 0


async def test_of_two_enabled_entries_of_one_flow_the_first_is_used(world: World, services: Services) -> None:
    """One has the name, the other an alias. The second is a problem: state and window belong to the flow."""
    registry = FlowRegistry()
    registry.flow("flow", aliases=("old",))(does_nothing)
    await world.put(
        document("both", entry("old", nextRunUtc=DUE), entry("flow", nextRunUtc=DUE)),
        document("migrated", entry("old", enabled=False), entry("flow", nextRunUtc=DUE)),
    )

    tally = await tick(services, NOW, registry)

    assert (tally.enqueued, tally.problems) == (2, 1)
    (stored,) = await problems(world)
    assert (stored["tenant"], stored["path"]) == ("both", "flows[1].name")
    assert "'flow' is another name of 'old' at flows[0], which is the entry used" in stored["why"]


async def test_many_problems_are_counted_and_some_are_listed(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A removed flow is a problem of every tenant that uses it. The log names the place with the complete list."""
    count = MOST_LISTED + 5
    await asyncio.gather(*[world.put(document(f"tenant-{n}", entry("gone"))) for n in range(count)])

    tally = await tick(services, NOW)

    assert (tally.problems, len(await problems(world))) == (count, count)
    assert sum("INVALID tenant-" in record.getMessage() for record in caplog.records) == MOST_LISTED
    assert "INVALID 5 more problems: query partition @fleet" in caplog.text


async def test_a_broken_flow_file_is_logged_at_each_tick(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """On Azure, the log line at import is lost, so each tick logs the file again."""
    registry = registry_of("weather")
    registry.broken["flows.crm"] = "Traceback …\nModuleNotFoundError: No module named 'crm'"

    tally = await tick(services, NOW, registry)

    assert tally.broken == 1
    assert "BROKEN flow file flows.crm could not be loaded: ModuleNotFoundError: No module named 'crm'" in caplog.text


async def test_a_write_whose_answer_is_lost_is_repeated(world: World, wire: Wire, services: Services) -> None:
    """Repeating a write of a tick changes nothing."""
    await world.put(document("tenant-1", entry(cron="hourly")), document("tenant-2", entry(nextRunUtc=DUE)))
    for method in ("PATCH", "POST", "PATCH"):
        wire.lose_answer(to(method, "/docs"))

    tally = await tick(services, NOW, FLOWS)

    assert (tally.enqueued, tally.advanced, tally.problems) == (1, 1, 1)
    assert len(await problems(world)) == 1
