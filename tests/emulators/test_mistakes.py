"""The reports of a tick about mistakes in stored documents, in the log and in partition `@fleet`."""

import logging
from datetime import timedelta
from typing import Any

import pytest

from datasync.services import Services
from datasync.settings import Settings
from datasync.tick.tick import MOST_WARNINGS
from tests.documents import document
from tests.mistakes import FLOWS, MISTAKES, NEXT, NOW, hourly
from tests.stages import FakeClock, tick
from tests.world import World

LATER = NOW + timedelta(minutes=5)
STORABLE = [mistake for mistake in MISTAKES if "\n" not in mistake.document["id"]]
"""Mistakes in documents that the SDK stores. It refuses an id with a line break."""


async def stored(world: World) -> list[dict[str, Any]]:
    """Return the stored problems and warnings."""
    found = world.runs.query_items("SELECT * FROM c WHERE c.type = 'Problem'", partition_key="@fleet")
    return [dict(item) async for item in found]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about warnings."""
    return [line for line in caplog.messages if line.startswith("WARNING ")]


async def test_a_tick_reports_each_mistake(world: World, services: Services, caplog: pytest.LogCaptureFixture) -> None:
    """It is stored and logged with its level, its path and a remedy."""
    await world.put(*[mistake.document for mistake in STORABLE])

    tally = await tick(services, NOW, FLOWS)

    found = await stored(world)
    for mistake in STORABLE:
        own = [
            each
            for each in found
            if (each["level"], each["path"]) == (mistake.level, mistake.path)
            and str(mistake.document["id"]) in each["document"]
        ]
        assert any(mistake.words in each["why"] for each in own), (mistake, own)
    assert tally.problems == len([each for each in found if each["level"] == "error"])
    assert len(warnings(caplog)) == len([each for each in found if each["level"] == "warning"])
    assert (tally.tenants, tally.failed) == (len(STORABLE), 0)


async def test_a_warning_stops_nothing(world: World, services: Services) -> None:
    """The flow runs, and `problems` counts only the errors."""
    await world.put(document("t", hourly(tz="Europe/Berlin", nextRunUtc="2025-08-23T12:00:00Z"), enabled=True))

    tally = await tick(services, NOW, FLOWS)

    assert (tally.enqueued, tally.problems) == (1, 0)
    assert sorted(each["path"] for each in await stored(world)) == ["enabled", "flows[0].tz"]


async def test_a_warning_is_logged_when_an_edit_brings_it(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stored as long as it lasts, and not logged again by the ticks after that."""
    caplog.set_level(logging.INFO)
    await world.put(document("t", hourly(tz="Europe/Berlin")))
    await tick(services, NOW, FLOWS)
    await tick(services, LATER, FLOWS)
    assert [line.partition(" tenant=")[0] for line in warnings(caplog)] == [
        "WARNING t/weather flows[0].tz: unknown field, ignored; did you mean 'timezone'?"
    ]

    await world.put(document("t", hourly(tz="Europe/Berlin", disabled=True)))
    await tick(services, LATER, FLOWS)
    assert len(warnings(caplog)) == 2

    await world.put(document("t", hourly()))
    await tick(services, LATER, FLOWS)
    assert (len(warnings(caplog)), await stored(world)) == (2, [])


async def test_a_document_has_a_bounded_number_of_warnings(world: World, services: Services) -> None:
    """`validate` shows all of them."""
    await world.put(document("t", *[hourly(f"flow-{n}", tz="UTC") for n in range(MOST_WARNINGS + 5)]))

    await tick(services, NOW)

    assert len([each for each in await stored(world) if each["level"] == "warning"]) == MOST_WARNINGS


HALF = "\ud800"
VALUES: tuple[Any, ...] = (HALF, {HALF: HALF}, [HALF])


BROKEN: list[dict[str, Any]] = [
    hourly(**{field: value})
    for field in ("name", "cron", "timezone", "nextRunUtc", "settings", "planned", "enabled", "note", HALF)
    for value in VALUES
]


@pytest.mark.parametrize("broken", BROKEN, ids=ascii)
async def test_half_of_a_surrogate_pair_in_one_entry_does_not_stop_the_others(
    world: World, services: Services, broken: dict[str, Any]
) -> None:
    """The other entry runs, and the tick handles the tenant."""
    await world.put(document("t", broken, hourly("simple", nextRunUtc="2025-08-23T12:00:00Z")))

    tally = await tick(services, NOW, FLOWS)

    assert (tally.enqueued, tally.failed) == (1, 0)
    assert (await world.document("t"))["flows"][1]["nextRunUtc"] == NEXT


async def test_a_setting_that_is_probably_misspelt_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Each tick says it, since the app runs without the setting."""
    services = Services(Settings.from_environ({**world.environ, "ORCHESTRATOR_LOOK_AHEAD": "3600"}), FakeClock())
    await tick(services, NOW, FLOWS)
    await services.close()

    assert warnings(caplog) == [
        "WARNING app setting ORCHESTRATOR_LOOK_AHEAD: unknown, and has no effect; did you mean ORCHESTRATOR_LOOKAHEAD?"
    ]
