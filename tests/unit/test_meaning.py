"""`validate` ends with the meaning of each enabled entry: its times in words, the timer, the settings, the secrets."""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from datasync import FlowRegistry
from datasync.cli.cron_words import describe
from datasync.cli.main import cli
from datasync.cli.meaning import meanings_of
from datasync.cron import CronSchedule, parse
from datasync.model.tenant import Tenant
from datasync.operate.load import Conditions
from tests.documents import document, entry
from tests.stages import does_nothing

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)

# --- words


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("* * * * * *", "every second"),
        ("*/10 * * * * *", "every 10 s"),
        ("5/10 * * * * *", "every 10 s from second 5"),
        ("@every_minute", "every minute"),
        ("30 * * * * *", "every minute at second 30"),
        ("0 */15 * * * *", "every 15 min"),
        ("0 0,20,40 * * * *", "every 20 min"),
        ("30 7/15 * * * *", "every 15 min from minute 7 at second 30"),
        ("@hourly", "every hour"),
        ("0 7 * * * *", "every hour at minute 7"),
        ("0 30 1/2 * * *", "every 2 h from 01:30"),
        ("0 0 */6 * * *", "every day at 00:00, 06:00, 12:00 and 18:00"),
        ("@daily", "every day at 00:00"),
        ("15 30 6 * * ?", "every day at 06:30:15"),
        ("0 0 9 * * MON-FRI", "Monday to Friday at 09:00"),
        ("0 0 9 * * SAT,SUN", "Saturday and Sunday at 09:00"),
        ("0 0 9 * * 7", "Sunday at 09:00"),
        ("0 */15 8-17 * * MON-FRI", "every 15 min, in the hours 08 to 17, Monday to Friday"),
        ("*/10 * 9 * * *", "every 10 s, in the hour 09"),
        ("0 0 8-17 * * *", "every hour, in the hours 08 to 17"),
        ("0 0 6 1 * *", "on day 1 of the month at 06:00"),
        ("0 0 6 1,15 * *", "on days 1 and 15 of the month at 06:00"),
        ("0 0 6 L * *", "on the last day of the month at 06:00"),
        ("0 0 6 LW * *", "on the last weekday of the month at 06:00"),
        ("0 0 6 15W * *", "on the weekday nearest to day 15 of the month at 06:00"),
        ("0 0 6 * * MON#2", "on the second Monday of the month at 06:00"),
        ("0 0 6 * * FRIL", "on the last Friday of the month at 06:00"),
        ("0 0 6 1 1,7 *", "on day 1 of the month at 06:00, in January and July"),
        ("0 0 * * 3-5 *", "every hour, in March to May"),
    ],
)
def test_common_crons_have_words(expression: str, words: str) -> None:
    """Seconds come first, and a weekday is from Monday to Friday."""
    assert describe(parse(expression)) == words


@pytest.mark.parametrize(
    "expression",
    [
        "*/45 * * * * *",
        "0 */7 * * * *",
        "0 0 6 1 * MON",
        "0 0 6 L-3 * *",
        "0 0 6 */2 * *",
        "0 0 22-2 * * *",
        "0 0 6 * */2 *",
        "0 */15 8,17 * * *",
    ],
)
def test_other_crons_are_shown_as_they_are(expression: str) -> None:
    """`*/45` is not every 45 seconds, since each minute starts again. Where both day fields count, both must match."""
    assert describe(parse(expression)) == f"by the cron {expression!r}"


def forms() -> Iterator[CronSchedule]:
    """Yield schedules of all forms."""
    times = (
        *("* * *", "*/10 * *", "3/10 * *", "*/7 * *", "30 * *", "0 * *", "0 */5 *", "0 2/5 *", "9 */5 *", "0 */50 *"),
        *("0 0 *", "0 7 *", "5 7 *", "0 0 */2", "0 0 1/2", "0 0 */5", "0 30 */12", "0 0 9", "0 30 9,17", "7 0 9"),
        *("0 */15 9-17", "0 */15 9", "0 */15 22-2", "0 0 9-17", "0 0 0-22/2", "* * 9", "*/30 0 9", "0 0,30 9-10"),
    )
    days = ("*", "1", "L", "LW", "L-1", "L-1W", "15W", "1,15", "*/10", "1-4")
    months = ("*", "1-3", "1,7", "11-2")
    weekdays = ("*", "MON", "7", "MON-FRI", "1-5", "FRI-MON", "MON#1", "FRIL", "SUN-TUE")
    for time, day, month, weekday in product(times, days, months, weekdays):
        yield parse(f"{time} {day} {month} {weekday}")


def test_no_words_stand_for_two_schedules() -> None:
    """Expressions that have the same words have the same values in all fields."""
    values = defaultdict(set)
    for schedule in forms():
        values[describe(schedule)].add(schedule.fields)

    assert len(values) > 500
    assert {words: found for words, found in values.items() if len(found) > 1} == {}


# --- the meaning of an entry

REGISTRY = FlowRegistry()
REGISTRY.flow("weather", secrets=("api--key", "api--url", "shared--geo--key"))(does_nothing)


def meaning(conditions: Conditions, **fields: Any) -> str:
    """Return the meaning of an entry without its subject."""
    flow = entry(**{"nextRunUtc": None, "timezone": "Europe/Berlin", **fields})
    (found,) = meanings_of([Tenant.from_document(document("t", flow))], REGISTRY, NOW, conditions)
    return found.line(NOW).removeprefix("t/weather: ").removesuffix("; secrets needed: 3 (not checked)")


@pytest.mark.parametrize(
    ("conditions", "fields", "expected"),
    [
        ({}, {}, "every hour; next 16:00 Europe/Berlin"),
        ({}, {"nextRunUtc": "2025-08-23T12:00:00Z"}, "every hour; next 15:00 Europe/Berlin"),
        (
            {},
            {"cron": "*/10 * * * * *"},
            "every 10 s, but the timer looks every hour; next 16:00 Europe/Berlin",
        ),
        (
            {"schedule": "0 */5 * * * *"},
            {"cron": "*/10 * * * * *"},
            "every 10 s, but the timer looks every 5 min; next 14:10 Europe/Berlin",
        ),
        (
            {"lookahead": timedelta(hours=1)},
            {"cron": "*/10 * * * * *"},
            "every 10 s; next 15:00:10 Europe/Berlin",
        ),
        (
            {},
            {"cron": "0 30 6 * * MON-FRI"},
            "Monday to Friday at 06:30, at the next tick of the timer; next Mon 2025-08-25 07:00 Europe/Berlin",
        ),
        (
            {"lookahead": timedelta(hours=1)},
            {"cron": "0 30 6 * * *"},
            "every day at 06:30; next Sun 2025-08-24 06:30 Europe/Berlin",
        ),
        (
            {"schedule": "01:00:00"},
            {"cron": "0 */5 * * * *", "timezone": None},
            "every 5 min, but the timer looks by the schedule '01:00:00'; next 14:00 UTC",
        ),
        ({"schedule": "0 0 0 30 2 *"}, {}, "every hour, but the timer never looks; no next time"),
    ],
)
def test_the_times_are_those_of_the_ticks(conditions: dict[str, Any], fields: dict[str, Any], expected: str) -> None:
    """A missing `nextRunUtc` is filled in by the next tick, and the flow runs at the one after it."""
    assert meaning(Conditions(**conditions), **fields) == expected


def test_the_spread_delays_the_next_run() -> None:
    """By the part of the entry, which is always the same."""
    assert meaning(Conditions(spread=timedelta(hours=1))).startswith("every hour; next 16:")


def test_the_timer_keeps_up_across_a_clock_change() -> None:
    """An hourly entry of a zone is hourly in UTC too, on the night when clocks go back."""
    night = datetime(2025, 10, 25, 22, tzinfo=UTC)
    tenant = Tenant.from_document(document("t", entry(nextRunUtc=None, timezone="Europe/Berlin")))

    (found,) = meanings_of([tenant], REGISTRY, night, Conditions())

    assert found.timer is None
    assert found.next_utc == night + timedelta(hours=2)
    assert list(islice(hours(night), 4)) == [2, 2, 3, 4]


def hours(after: datetime) -> Iterator[int]:
    """Yield the local hours of an hourly entry."""
    zone, at = ZoneInfo("Europe/Berlin"), parse("@hourly").next(after + timedelta(hours=1))
    while at:
        yield at.astimezone(zone).hour
        at = parse("@hourly").next(at)


def test_the_secrets_are_counted() -> None:
    """With the number of those that are missing, where the vault was read."""
    (found,) = meanings_of([Tenant.from_document(document("t", entry(enabled=True)))], REGISTRY, NOW, Conditions())
    assert found.secrets == ("tenants--t--api--key", "tenants--t--api--url", "shared--geo--key")

    lines = [replace(found, missing=missing).line(NOW) for missing in (None, (), found.secrets[:2])]

    assert [line.rpartition("; ")[2] for line in lines] == [
        "secrets needed: 3 (not checked)",
        "secrets needed: 3 (all there)",
        "secrets needed: 3 (2 missing)",
    ]


# --- validate


def test_validate_ends_with_a_line_for_each_enabled_entry() -> None:
    """After the numbers. An entry with a problem does not run."""
    flows = [
        entry("weather", cron="*/10 * * * * *", nextRunUtc=None, timezone="tenant"),
        entry("home-depot→builder-prime", cron="0 0 7 * * *", nextRunUtc="2025-08-23T13:00:00Z"),
        entry("wether"),
        entry("other", enabled=False),
    ]
    content = json.dumps(document("t", *flows)).encode()

    result = CliRunner().invoke(cli, ["validate", "-"], input=content, obj=NOW)

    assert result.stdout.splitlines()[2:] == [
        "1 document, 2 problems",
        "t/weather: every 10 s, but the timer looks every hour; next 09:00 America/Chicago; no secrets declared",
        "t/home-depot→builder-prime: every day at 07:00; next 13:00 UTC; settings fit; secrets needed: 4 (not checked)",
        "t/wether: does not run until its problems are corrected",
    ]
    assert result.exit_code == 1


def test_the_meanings_have_a_json_form() -> None:
    """With the names of the secrets."""
    content = json.dumps(document("t", entry("home-depot→builder-prime"))).encode()

    result = CliRunner().invoke(cli, ["validate", "-", "--json"], input=content, obj=NOW)

    (found,) = json.loads(result.stdout)["entries"]
    assert (found["tenantId"], found["schedule"], found["nextUtc"]) == ("t", "every hour", "2025-08-23T13:00:00Z")
    assert (found["hasSettings"], len(found["secrets"]), found["missing"]) == (True, 4, None)
