"""The command `simulate`, with files. tests/emulators has it with stored tenants."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from datasync.cli.main import cli
from tests.documents import document, entry

NOW = datetime(2026, 3, 28, 12, 0, 3, tzinfo=UTC)
FEED = "home-depot→builder-prime"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Write a file with two tenants: hourly, and every ten minutes in the morning of Berlin."""
    path = tmp_path / "tenants.json"
    tenants = [
        document("a", entry(nextRunUtc="2026-03-28T11:00:00Z")),
        document("b", entry(nextRunUtc=None), entry(FEED, cron="0 */10 8-9 * * *", timezone="Europe/Berlin")),
    ]
    path.write_text(json.dumps(tenants), encoding="utf-8")
    return str(path)


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["simulate", *arguments], obj=NOW)


def test_the_chart_has_a_bar_for_each_hour(file: str) -> None:
    """With the conditions, the busiest minute, and the providers. It has no colours."""
    result = simulate(file, "--from", "2026-03-29T06:00", "--to", "2026-03-29T10:00", "--tz", "Europe/Berlin")

    assert result.stdout.splitlines() == [
        "2026-03-29T04:00:00Z to 2026-03-29T08:00:00Z",
        "timer: '0 0 * * * *', lookahead 0 s, spread 0 s",
        "entries: 3 run",
        "jobs: 10; most in a minute: 3 at 2026-03-29T06:00:00Z",
        "",
        f"Europe/Berlin          jobs   most in a minute   {'':30}   no provider   homedepot",
        f"Sun 2026-03-29 06:00   2      2                  {'█' * 20:30}   2             0",
        f"Sun 2026-03-29 07:00   2      2                  {'█' * 20:30}   2             0",
        f"Sun 2026-03-29 08:00   3      3                  {'█' * 30:30}   2             1",
        f"Sun 2026-03-29 09:00   3      3                  {'█' * 30:30}   2             1",
    ]
    assert result.exit_code == 0


def test_what_if_another_setting_or_cron_was_used(file: str) -> None:
    """The busiest minute without the changes is there to compare."""
    day = ("--from", "2026-03-29T06:00Z", "--to", "2026-03-29T08:00Z")
    result = simulate(file, *day, "--lookahead", "3600", "--cron", f"{FEED}=0 */20 * * * *", "--by", "minute")

    lines = result.stdout.splitlines()
    assert lines[1:5] == [
        "timer: '0 0 * * * *', lookahead 1 h, spread 0 s",
        f"cron of {FEED}: '0 */20 * * * *'",
        "entries: 3 run",
        "jobs: 10; most in a minute: 3 at 2026-03-29T06:00:00Z; without the changes: 3 at 2026-03-29T06:00:00Z",
    ]
    assert [line.split()[2] for line in lines[7:]] == ["06:00", "06:20", "06:40", "07:00", "07:20", "07:40"]


def test_the_rows_can_be_read_by_a_spreadsheet(file: str) -> None:
    """A row for each provider with a job. Jobs without a provider have an empty name."""
    result = simulate(file, "--from", "2026-03-29T06:00Z", "--to", "2026-03-29T09:00Z", "--csv")

    assert [*csv.reader(result.stdout.splitlines())] == [
        ["start", "provider", "jobs"],
        ["2026-03-29T06:00:00Z", "", "2"],
        ["2026-03-29T06:00:00Z", "homedepot", "1"],
        ["2026-03-29T07:00:00Z", "", "2"],
        ["2026-03-29T07:00:00Z", "homedepot", "1"],
        ["2026-03-29T08:00:00Z", "", "2"],
        ["2026-03-29T08:00:00Z", "homedepot", "1"],
    ]


def test_without_a_start_the_documents_count_as_they_are(file: str) -> None:
    """An overdue entry runs at the next tick, and one without a `nextRunUtc` at the tick after it."""
    found = json.loads(simulate(file, "--to", "2026-03-28T15:00Z", "--json").stdout)

    assert [(each["startUtc"][11:16], each["jobs"]) for each in found["hours"]] == [
        ("12:00", 0),
        ("13:00", 1 + 1),
        ("14:00", 2),
    ]
    assert found["busiest"] == {"minuteUtc": "2026-03-28T13:00:00Z", "jobs": 2}
    assert (found["unchanged"], found["entries"], found["crons"]) == (None, 3, {})


def test_the_default_is_a_day_of_the_time_zone(file: str) -> None:
    """On the day on which clocks go forward, it has 23 hours."""
    found = json.loads(simulate(file, "--from", "2026-03-29", "--tz", "Europe/Berlin", "--json").stdout)

    assert (found["fromUtc"], found["toUtc"], len(found["hours"])) == (
        "2026-03-28T23:00:00Z",
        "2026-03-29T22:00:00Z",
        23,
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "2026-03-28T12:00Z"], "the end 2026-03-28T12:00:00Z is not after the start 2026-03-28T12:00:03Z"),
        (["--to", "2026-05-28"], "the span has 60 days; at most 31 are simulated at once"),
        (["--from", "9999-12-31", "--to", "9999-12-31T10:00Z"], "is not in the years 1970 to 8999"),
        (["--from", "soon"], "expected an ISO 8601 time such as"),
        (["--tz", "Mars"], "'Mars' is not a time zone"),
        (["--provider", "homdepot"], "no flow has the provider 'homdepot'; known: homedepot"),
        (["--cron", "0 0 * * * *"], "expected FLOW=CRON"),
        (["--cron", "weather=0 * * * *"], "5 fields found, 6 needed"),
        (["--cron", "weather=0 0 0 30 2 *"], "never fires"),
        (["--cron", "wether=0 0 * * * *"], "no flow is named 'wether'; did you mean 'weather'?"),
        (["--schedule", "hourly"], "1 field found, 6 needed"),
        (["--lookahead", "518401"], "518401 is not in the range"),
        (["--spread", "-1"], "-1 is not in the range"),
        (["--csv", "--json"], "use one of them"),
        (["acme"], "name tenants or files, not both"),
        (["none.json"], "none.json cannot be read: No such file or directory"),
    ],
)
def test_arguments_that_cannot_be_used_have_exit_code_2(file: str, arguments: list[str], problem: str) -> None:
    """The error names the value and the remedy."""
    result = simulate(file, *arguments)

    assert problem in " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("content", "problem"), [("{", "not JSON at line 1"), ("[5]", "has something else than tenant documents")]
)
def test_a_file_without_documents_has_exit_code_2(tmp_path: Path, content: str, problem: str) -> None:
    """A document that cannot be used as a whole is counted instead."""
    path = tmp_path / "x.json"
    path.write_text(content)

    result = simulate(str(path))
    assert (result.exit_code, problem in result.stderr) == (2, True)

    path.write_text(json.dumps([document("t"), {"id": "x"}]))
    assert "entries: 1 run, 1 document that cannot be used" in simulate(str(path)).stdout
