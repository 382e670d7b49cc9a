"""The help of all commands; `schedule` and `validate`. tests/emulators has the output of the other commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from datasync.cli import local_settings
from datasync.cli.main import cli
from localdev.hosting import ROOT
from tests.documents import document, entry

NOW = datetime(2025, 8, 23, 12, 0, 3, 500_000, tzinfo=UTC)


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, arguments, input=stdin, obj=NOW)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def schedule(*arguments: str) -> list[str]:
    """Return the lines of the table, without its header."""
    result = run("schedule", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()[3:]


def process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, as a user does."""
    return subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


# --- help


def commands(group: click.Group = cli, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from commands(each, *words, name)
        else:
            yield *words, name


COMMANDS = [*commands()]


def test_the_help_has_all_commands_in_groups_and_says_what_to_do_first() -> None:
    """The reader has never seen the code: the first commands are named before all others, and each has a line."""
    shown = run("--help").stdout
    sections = dict(re.findall(r"^([A-Z][^\n]*):\n((?:  .*\n)+)", shown, re.MULTILINE))

    assert [line.split("  ")[1] for line in sections["Start with"].splitlines()] == [
        "cli status",
        "cli incidents",
        "cli why TENANT FLOW",
    ]
    names = {heading: [line.split()[0] for line in lines.splitlines()] for heading, lines in sections.items()}
    assert dict([*names.items()][2:8]) == {
        "Look into a running app": [
            "status", "incidents", "why", "flows", "runs", "show", "ticks", "queue", "audit",
        ],
        "Run, pause and resume flows": ["enqueue", "pause", "resume", "next-run", "gate"],
        "Dead runs, and what a flow keeps": ["dead", "cursor", "window"],
        "Tenants": ["tenant", "add-flow", "secrets"],
        "Write a flow": ["new", "try", "run", "replay"],
        "Check before you deploy": ["validate", "schedule", "check", "simulate"],
    }  # fmt: skip
    assert "az login" in shown


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_names_each_exit_code_once(words: tuple[str, ...]) -> None:
    """After the options, in one sentence. Only commands on services can find nothing, or not be let in."""
    shown = " ".join(run(*words, "--help").stdout.split())
    codes = re.findall(r"(?:Exit codes:|;) (\d+) \w", shown)

    assert codes[:3] == ["0", "1", "2"]
    assert codes[-1] == "130"
    assert len({*codes}) == len(codes)
    assert shown.lower().count("exit code") == 1
    assert ("4" in codes) == (not words or "--local" in shown)
    assert ("5" in codes) == (not words or "--action-id" in shown)


@pytest.mark.parametrize("words", dict.fromkeys([*COMMANDS, *(words[:1] for words in COMMANDS)]), ids=" ".join)
def test_help_has_an_example_that_can_be_typed(words: tuple[str, ...]) -> None:
    """Its command and its options exist, and it has the arguments that the command needs."""
    shown = run(*words, "--help").stdout
    (example,) = re.findall(r"^Example:\n  cli (.*)\n", shown, re.MULTILINE)
    typed = shlex.split(example.partition(" > ")[0])
    named = next(each for each in COMMANDS if tuple(typed[: len(each)]) == each)

    assert tuple(typed[: len(words)]) == words
    accepted = run(*typed, "--help").stdout
    assert accepted.startswith(f"Usage: cli {' '.join(named)} ")
    assert {word for word in typed if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", accepted))
    needed = re.findall(r" ([A-Z]+)(?![\w\]])", accepted.partition("\n")[0].partition("[OPTIONS]")[2])
    assert len(typed) - len(named) >= len(needed)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_option_has_a_name_of_its_own(words: tuple[str, ...]) -> None:
    """Of two parameters with one name, a command would get one value."""
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]

    names = [parameter.name for parameter in command.params]
    assert sorted(names) == sorted({*names})


# --- schedule


def test_occurrences_are_listed_in_utc_and_local_time() -> None:
    """Without `--from`, the list starts now. The columns are aligned."""
    result = run("schedule", "0 0 */6 * * *", "--tz", "America/Chicago", "--count", "3")

    assert result.stdout.splitlines() == [
        "0 0 */6 * * * in America/Chicago, after 2025-08-23T12:00:03Z",
        "",
        "#   UTC                        America/Chicago",
        "1   Sat 2025-08-23T17:00:00Z   Sat 2025-08-23 12:00:00-05:00",
        "2   Sat 2025-08-23T23:00:00Z   Sat 2025-08-23 18:00:00-05:00",
        "3   Sun 2025-08-24T05:00:00Z   Sun 2025-08-24 00:00:00-05:00",
    ]
    assert result.exit_code == 0


def test_utc_has_no_local_time_column() -> None:
    """The defaults are UTC, as in a tenant document, and five occurrences."""
    lines = schedule("@daily")

    assert lines == [f"{n}   {day}T00:00:00Z" for n, day in enumerate(weekdays(), start=1)]


def weekdays() -> list[str]:
    return ["Sun 2025-08-24", "Mon 2025-08-25", "Tue 2025-08-26", "Wed 2025-08-27", "Thu 2025-08-28"]


def test_occurrences_are_those_after_from() -> None:
    """An occurrence at `--from` itself is not listed, and none is listed twice."""
    lines = schedule("*/20 * * * * *", "--from", "2025-01-01T09:00:00+09:00", "--count", "4")

    assert [line.split("T")[1] for line in lines] == ["00:00:20Z", "00:00:40Z", "00:01:00Z", "00:01:20Z"]


def test_from_without_an_offset_is_read_as_utc() -> None:
    """The first line states this."""
    naive = run("schedule", "@hourly", "--from", "2025-01-01T09:00:00").stdout
    aware = run("schedule", "@hourly", "--from", "2025-01-01T09:00:00Z").stdout

    assert naive.splitlines()[0] == (
        "@hourly in UTC, after 2025-01-01T09:00:00Z (--from has no offset, and is read as UTC)"
    )
    assert "read as UTC" not in aware
    assert naive.splitlines()[1:] == aware.splitlines()[1:]


SPRING = ("--tz", "America/Chicago", "--from", "2025-03-08T12:00:00Z")
AUTUMN = ("--tz", "America/Chicago", "--from", "2025-11-02T00:00:00Z")
FORWARD = "offset changes from -06:00 to -05:00"
BACK = "offset changes from -05:00 to -06:00"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            ("0 30 2 * * *", *SPRING),
            [
                ("2025-03-09T08:00:00Z", "Sun 2025-03-09 03:00:00-05:00",
                 "clocks go forward: 02:30 does not exist, runs at 03:00"),
                ("2025-03-10T07:30:00Z", "Mon 2025-03-10 02:30:00-05:00", ""),
            ],
            id="a fixed time in a spring gap",
        ),
        pytest.param(
            ("0 0 1 * * *", *SPRING),
            [
                ("2025-03-09T07:00:00Z", "Sun 2025-03-09 01:00:00-06:00", ""),
                ("2025-03-10T06:00:00Z", "Mon 2025-03-10 01:00:00-05:00", FORWARD),
            ],
            id="a change between two occurrences",
        ),
        pytest.param(
            ("0 */30 * * * *", *SPRING[:3], "2025-03-09T07:00:00Z"),
            [
                ("2025-03-09T07:30:00Z", "Sun 2025-03-09 01:30:00-06:00", ""),
                ("2025-03-09T08:00:00Z", "Sun 2025-03-09 03:00:00-05:00",
                 f"clocks go forward: 02:00, 02:30 do not exist; {FORWARD}"),
                ("2025-03-09T08:30:00Z", "Sun 2025-03-09 03:30:00-05:00", ""),
            ],
            id="an interval over a spring gap, with an occurrence at its end",
        ),
        pytest.param(
            ("30 5-59/10 * * * *", *SPRING[:3], "2025-03-09T07:50:00Z"),
            [
                ("2025-03-09T07:55:30Z", "Sun 2025-03-09 01:55:30-06:00", ""),
                ("2025-03-09T08:00:00Z", "Sun 2025-03-09 03:00:00-05:00",
                 "clocks go forward: 02:05:30, 02:15:30, 02:25:30, … do not exist, runs once, at 03:00; " + FORWARD),
                ("2025-03-09T08:05:30Z", "Sun 2025-03-09 03:05:30-05:00", ""),
            ],
            id="an interval over a spring gap, without an occurrence at its end",
        ),
        pytest.param(
            ("0 0 3 * * *", *SPRING),
            [("2025-03-09T08:00:00Z", "Sun 2025-03-09 03:00:00-05:00", "")],
            id="a fixed time at the end of a gap",
        ),
        pytest.param(
            ("0 30 1 * * *", *AUTUMN),
            [
                ("2025-11-02T06:30:00Z", "Sun 2025-11-02 01:30:00-05:00",
                 "clocks go back: 01:30 happens twice; runs the first time only"),
                ("2025-11-03T07:30:00Z", "Mon 2025-11-03 01:30:00-06:00", BACK),
            ],
            id="a fixed time in an autumn overlap",
        ),
        pytest.param(
            ("0 30 * * * *", *AUTUMN[:3], "2025-11-02T06:00:00Z"),
            [
                ("2025-11-02T06:30:00Z", "Sun 2025-11-02 01:30:00-05:00",
                 "clocks go back: 01:30 happens twice, first pass"),
                ("2025-11-02T07:30:00Z", "Sun 2025-11-02 01:30:00-06:00",
                 f"clocks go back: 01:30 happens twice, second pass; {BACK}"),
                ("2025-11-02T08:30:00Z", "Sun 2025-11-02 02:30:00-06:00", ""),
            ],
            id="an interval in an autumn overlap",
        ),
        pytest.param(
            ("0 0 2 * * *", "--tz", "Europe/Berlin", "--from", "2025-03-29T12:00:00Z"),
            [
                ("2025-03-30T01:00:00Z", "Sun 2025-03-30 03:00:00+02:00",
                 "clocks go forward: 02:00 does not exist, runs at 03:00"),
                ("2025-03-31T00:00:00Z", "Mon 2025-03-31 02:00:00+02:00", ""),
            ],
            id="Berlin, spring",
        ),
        pytest.param(
            ("0 59 2 * * *", "--tz", "Europe/Berlin", "--from", "2025-10-25T12:00:00Z"),
            [
                ("2025-10-26T00:59:00Z", "Sun 2025-10-26 02:59:00+02:00",
                 "clocks go back: 02:59 happens twice; runs the first time only"),
                ("2025-10-27T01:59:00Z", "Mon 2025-10-27 02:59:00+01:00", "offset changes from +02:00 to +01:00"),
            ],
            id="Berlin, autumn",
        ),
        pytest.param(
            ("0 15 2 * * *", "--tz", "Australia/Lord_Howe", "--from", "2025-10-04T00:00:00Z"),
            [
                ("2025-10-04T15:30:00Z", "Sun 2025-10-05 02:30:00+11:00",
                 "clocks go forward: 02:15 does not exist, runs at 02:30"),
                ("2025-10-05T15:15:00Z", "Mon 2025-10-06 02:15:00+11:00", ""),
            ],
            id="Lord Howe, half an hour forward",
        ),
        pytest.param(
            ("0 */15 * * * *", "--tz", "Australia/Lord_Howe", "--from", "2025-04-05T14:15:00Z"),
            [
                ("2025-04-05T14:30:00Z", "Sun 2025-04-06 01:30:00+11:00",
                 "clocks go back: 01:30 happens twice, first pass"),
                ("2025-04-05T14:45:00Z", "Sun 2025-04-06 01:45:00+11:00",
                 "clocks go back: 01:45 happens twice, first pass"),
                ("2025-04-05T15:00:00Z", "Sun 2025-04-06 01:30:00+10:30",
                 "clocks go back: 01:30 happens twice, second pass; offset changes from +11:00 to +10:30"),
                ("2025-04-05T15:15:00Z", "Sun 2025-04-06 01:45:00+10:30",
                 "clocks go back: 01:45 happens twice, second pass"),
                ("2025-04-05T15:30:00Z", "Sun 2025-04-06 02:00:00+10:30", ""),
            ],
            id="Lord Howe, half an hour back",
        ),
        pytest.param(
            ("0 0 12 30 12 *", "--tz", "Pacific/Apia", "--from", "2010-12-31T12:00:00Z"),
            [
                ("2011-12-30T10:00:00Z", "Sat 2011-12-31 00:00:00+14:00",
                 "clocks go forward: 2011-12-30 12:00 does not exist, runs at 2011-12-31 00:00"),
            ],
            id="Samoa, a skipped day",
        ),
    ],
)  # fmt: skip
def test_a_clock_change_has_a_note(arguments: tuple[str, ...], expected: list[tuple[str, str, str]]) -> None:
    """Each affected occurrence has a note. The first occurrence after the change shows the new offset."""
    lines = schedule(*arguments, "--count", str(len(expected)))

    assert [tuple(f"{line}      ".split("   ")[1:4]) for line in lines] == [
        (f"{datetime.fromisoformat(utc):%a} {utc}", local, notes) for utc, local, notes in expected
    ]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["0 * * * *"], ["CRON", "'0 * * * *'", "5 fields found, 6 needed", "perhaps '0 0 * * * *'"]),
        (["0", "0", "12", "a.txt", "b.txt"], ["5 arguments", 'quote the expression: "0 0 * * * *"']),
        ([], ["Missing argument 'CRON'"]),
        (["@daily", "--tz", "Mars/Base"], ["--tz", "'Mars/Base'", "expected an IANA name such as America/Chicago"]),
        (["@daily", "--tz", ""], ["--tz", "''", "expected an IANA name"]),
        (["@daily", "--from", "yesterday"], ["--from", "'yesterday'", "such as 2025-08-23T01:00:00Z"]),
        (["@daily", "--from", "0001-01-01T00:00:00+14:00"], ["--from", "expected an ISO 8601 time such as"]),
        (["@daily", "--count", "0"], ["--count", "0 is not in the range 1<=x<=1000"]),
        (["@daily", "--count", "1001"], ["--count", "1001 is not in the range 1<=x<=1000"]),
        (["@daily", "--count", "many"], ["--count", "'many'"]),
    ],
)
def test_bad_input_is_named_with_its_remedy(arguments: list[str], parts: list[str]) -> None:
    """The message names the argument, the value and the expected value. It is on standard error, with exit code 2."""
    result = run("schedule", *arguments)

    assert result.exit_code == 2
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


def test_an_expression_that_never_fires_has_exit_code_1() -> None:
    """The expression is valid, but has no occurrence."""
    result = run("schedule", "0 0 0 30 2 *")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("cron '0 0 0 30 2 *' never fires after 2025-08-23T12:00:03Z")


def test_the_table_ends_with_the_calendar() -> None:
    """If there are fewer occurrences than requested, the last line has the reason."""
    lines = schedule("@yearly", "--from", "9998-06-01", "--count", "3")

    assert lines == ["1   Fri 9999-01-01T00:00:00Z", "no more occurrences: the calendar ends with year 9999"]


def test_the_lines_of_a_long_table_are_aligned() -> None:
    """All lines of the longest table, 1000 occurrences, have the same length."""
    lines = schedule("@hourly", "--count", "1000")

    assert (lines[0][:7], lines[-1][:7]) == ("   1   ", "1000   ")
    assert len(lines) == 1000
    assert len(set(map(len, lines))) == 1


def test_occurrences_have_a_json_form() -> None:
    """Times, and the notes about clock changes. It is the only text on standard output."""
    shown = json.loads(run("schedule", "0 30 2 * * *", *SPRING, "--count", "1", "--json").stdout)

    assert shown == {
        "cron": "0 30 2 * * *",
        "timezone": "America/Chicago",
        "afterUtc": "2025-03-08T12:00:00Z",
        "occurrences": [
            {
                "utc": "2025-03-09T08:00:00Z",
                "local": "2025-03-09T03:00:00-05:00",
                "notes": ["clocks go forward: 02:30 does not exist, runs at 03:00"],
            }
        ],
    }


def test_an_expression_that_never_fires_has_an_empty_json_list() -> None:
    """The sentence is on standard error."""
    result = run("schedule", "0 0 0 30 2 *", "--json")

    assert (json.loads(result.stdout)["occurrences"], result.exit_code) == ([], 1)
    assert "never fires" in result.stderr


# --- validate


def write(path: Path, content: object) -> str:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return str(path)


def validate(*arguments: str, stdin: bytes | None = None) -> tuple[int, list[str]]:
    """Return the exit code, and the lines up to the numbers. The meanings of the entries come after them."""
    result = run("validate", *arguments, stdin=stdin)
    lines = result.stdout.splitlines()
    end = next(at for at, line in enumerate(lines) if re.match(r"\d+ documents?, \d+ problems?", line))
    return result.exit_code, lines[: end + 1]


def test_valid_documents_have_no_findings(tmp_path: Path) -> None:
    """A file holds one document or a list of documents."""
    one = write(tmp_path / "one.json", document("tenant-1"))
    more = write(tmp_path / "more.json", [document("tenant-2"), document("tenant-3", timezone=None)])

    assert validate(one, more) == (0, ["3 documents, 0 problems"])
    assert validate(write(tmp_path / "none.json", [])) == (0, ["0 documents, 0 problems"])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["without BOM", "with BOM"])
def test_validate_reads_standard_input(mark: bytes) -> None:
    """`-` reads standard input, with or without a byte order mark."""
    content = mark + json.dumps(document("tenant-1", entry(cron="0 0 24 * * *"))).encode()

    code, (problem, summary) = validate("-", stdin=content)

    assert problem.startswith("-: tenant-1/weather flows[0].cron: cron '0 0 24 * * *': hour '24' is not allowed")
    assert (code, summary) == (1, "1 document, 1 problem")


@pytest.mark.parametrize(
    "state",
    [{}, {"enabled": False}, {"nextRunUtc": "2099-01-01T00:00:00Z"}, {"nextRunUtc": None}],
    ids=["due", "disabled", "in the future", "new"],
)
def test_every_entry_is_checked_even_if_it_is_disabled_or_not_due(tmp_path: Path, state: dict[str, Any]) -> None:
    """The result is the same for an entry that is disabled, not due, or new."""
    bad = entry("home-depot→builder-prime", **{**state, "cron": "0 * * * *"})
    file = write(tmp_path / "a.json", document("tenant-1", entry(), bad))

    code, (found, summary) = validate(file)

    assert found.startswith(f"{file}: tenant-1/home-depot→builder-prime flows[1].cron: cron '0 * * * *': 5 fields")
    assert (code, summary) == (1, "1 document, 1 problem")


def test_all_problems_of_a_document_are_reported(tmp_path: Path) -> None:
    """A bad cron does not hide a bad time zone or an unknown flow in the same entry."""
    bad = entry("wether", cron="soon", timezone="Nowhere")
    code, lines = validate(write(tmp_path / "a.json", document("tenant-1", bad, entry(), entry())))

    assert [line.split(": ")[1] for line in lines[:-1]] == [
        "tenant-1/weather flows[2].name",
        "tenant-1/wether flows[0].name",
        "tenant-1/wether flows[0].cron",
        "tenant-1/wether flows[0].timezone",
    ]
    assert "no flow is named 'wether'; did you mean 'weather'? Known flows: " in lines[1]
    assert (code, lines[-1]) == (1, "1 document, 4 problems")


def test_the_tenants_zone_is_always_checked(tmp_path: Path) -> None:
    """A bad tenant zone is reported once, even if several entries use it. Their crons are checked too."""
    unused = write(tmp_path / "unused.json", document("tenant-1", timezone="Chicago"))
    flows = [entry(timezone="tenant"), entry("home-depot→builder-prime", timezone="tenant", cron="soon")]
    used = write(tmp_path / "used.json", document("tenant-2", *flows, timezone="Chicago"))

    code, lines = validate(unused, used)

    expected = "timezone: 'Chicago' is not a time zone; expected an IANA name such as America/Chicago"
    assert lines[0] == f"{unused}: tenant-1 {expected}"
    assert lines[1] == f"{used}: tenant-2 {expected}"
    assert lines[2].startswith(f"{used}: tenant-2/home-depot→builder-prime flows[1].cron: ")
    assert (code, lines[3:]) == (1, ["2 documents, 3 problems"])


def test_documents_that_cannot_be_used_are_reported(tmp_path: Path) -> None:
    """The message gives the position in the list. The other documents are checked."""
    other_id = document("tenant-1", tenantId="tenant-2")
    file = write(tmp_path / "a.json", [{"id": "x"}, other_id, "tenant-3", document("tenant-4", entry(cron="soon"))])

    code, lines = validate(file)

    assert lines[0].startswith(f"{file}[0]: x tenantId: missing")
    assert lines[1].startswith(f"{file}[1]: tenant-1 tenantId: 'tenant-2' is not")
    assert lines[2] == f'{file}[2]: expected a tenant document, which is a JSON object, got "tenant-3"'
    assert lines[3].startswith(f"{file}: tenant-4/weather flows[0].cron: ")
    assert (code, lines[4:]) == (1, ["4 documents, 4 problems"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"id": "x",\n  "flows": [,]}', "not JSON at line 2, column 13: Expecting value"),
        (b"", "not JSON at line 1, column 1: Expecting value"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8 at byte 0: save the file as UTF-8"),
        (b"[" * 100_000, "not a tenant document: the JSON is nested too deeply"),
        (b'{"id": "\\ud800"}', "not valid text: \\ud800 is half of a surrogate pair, which cannot be stored"),
    ],
    ids=["syntax", "empty", "UTF-16", "deep", "surrogate"],
)
def test_a_file_that_is_not_json_is_reported_with_the_place(tmp_path: Path, content: bytes, problem: str) -> None:
    """The message gives the line and column, or the byte. The other files are checked."""
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    good = write(tmp_path / "good.json", document())

    assert validate(str(broken), good) == (1, [f"{broken}: {problem}", "1 document, 1 problem"])


def test_a_file_that_cannot_be_read_has_exit_code_2(tmp_path: Path) -> None:
    """The error is printed on standard error. The other files are checked."""
    result = run("validate", str(tmp_path / "none.json"), write(tmp_path / "a.json", document()), str(tmp_path))

    assert result.stderr.splitlines() == [
        f"{tmp_path / 'none.json'}: cannot be read: No such file or directory",
        f"{tmp_path}: cannot be read: Is a directory",
    ]
    assert result.stdout.splitlines()[0] == "1 document, 0 problems, 2 files not read"
    assert result.exit_code == 2


def test_texts_of_a_document_cannot_forge_or_hide_a_line(tmp_path: Path) -> None:
    """Characters that nobody sees are escaped, and names are cut after 200 characters."""
    forged = "acme\n0 problems\r\x1b[2K\u202e\u200b"
    content = [document(forged, entry(f"crm{forged}")), document("a" * 70_000, entry("f" * 70_000))]

    code, lines = validate(write(tmp_path / "t.json", content))

    assert code == 1
    assert [line for line in lines if not line.startswith(str(tmp_path))] == [lines[-1]]
    assert [each for each in "\r\x1b\u202e\u200b" if each in "".join(lines)] == []
    assert r"acme\n0 problems\r\x1b[2K\u202e\u200b" in lines[0]
    assert max(map(len, lines)) < 4_200


def test_one_tenant_has_one_document(tmp_path: Path) -> None:
    """A second document with the same tenantId is a problem that names both places."""
    first = write(tmp_path / "a.json", [document("tenant-1"), document("tenant-2"), document("tenant-1")])
    second = write(tmp_path / "b.json", document("tenant-2"))

    assert validate(first, second) == (
        1,
        [
            f"{first}: tenant-1 tenantId: {first}[2] and {first}[0] are documents of the same tenant: merge them",
            f"{second}: tenant-2 tenantId: {second} and {first}[1] are documents of the same tenant: merge them",
            "4 documents, 2 problems",
        ],
    )


@pytest.mark.parametrize("tenant_id", ["a/b", "a\\b", "a?", "#a", "acme ", "é" * 512])
def test_an_id_that_cosmos_db_refuses_is_a_problem(tmp_path: Path, tenant_id: str) -> None:
    """The document cannot be stored. An id has at most 1,023 bytes."""
    code, (problem, summary) = validate(write(tmp_path / "a.json", document(tenant_id)))

    assert re.search(" id: an id has (none of .* which Cosmos DB does not accept|at most .* as in Cosmos DB)", problem)
    assert (code, summary) == (1, "1 document, 1 problem")


def test_ids_that_differ_only_in_case_are_problems_of_both(tmp_path: Path) -> None:
    """Key Vault does not distinguish them, so one of them would read the secrets of the other."""
    first = write(tmp_path / "a.json", document("acme"))
    second = write(tmp_path / "b.json", document("Acme"))

    code, lines = validate(first, second)

    assert code == 1
    assert lines[0].startswith(f"{second}: Acme id: 'Acme' and the tenant 'acme', which was first, differ")
    assert lines[1].startswith(f"{second}: acme tenantId: there is another tenant 'Acme', whose id differs")
    assert lines[2] == "2 documents, 2 problems"


@pytest.mark.parametrize("tenant_id", ["acme_1", "acme--1", "-acme", "Käse", "a" * 130])
def test_a_tenant_that_cannot_have_secrets_is_a_warning(tmp_path: Path, tenant_id: str) -> None:
    """The tenant can still use flows that read no secrets, so it is not a problem."""
    file = write(tmp_path / "a.json", document(tenant_id))

    code, (warning, summary) = validate(file)

    assert warning.startswith(f"{file}: {tenant_id} tenantId: warning: its flows cannot read secrets of the tenant: ")
    assert (code, summary) == (0, "1 document, 0 problems, 1 warning")


def test_a_declared_secret_that_the_tenant_cannot_have_is_a_problem(tmp_path: Path) -> None:
    """The warning about the tenant's id is not enough: the flow declares a secret of the tenant, so it cannot run."""
    file = write(tmp_path / "a.json", document("acme_1", entry("home-depot→builder-prime"), entry("weather")))

    code, (problem, _, summary) = validate(file)

    secret = "secret 'tenants--acme_1--homedepot--api-base'"
    assert problem.startswith(f"{file}: acme_1/home-depot→builder-prime flows[0]: {secret}: Key Vault takes names")
    assert (code, summary) == (1, "1 document, 1 problem, 1 warning")


def test_settings_that_do_not_fit_the_declared_type_are_problems(tmp_path: Path) -> None:
    """Disabled entries are checked as well. The line names the path in the document."""
    wrong, unknown = ({"projectTypes": {"kitchen": 5}}, {"minTotals": 5})
    file = write(
        tmp_path / "a.json",
        [
            document("t1", entry(), entry("home-depot→builder-prime", settings=wrong, enabled=False)),
            document("t2", entry("home-depot→builder-prime", settings=unknown)),
        ],
    )

    assert validate(file) == (
        1,
        [
            f"{file}: t1/home-depot→builder-prime flows[1].settings.projectTypes.kitchen: expected a text, got 5",
            f"{file}: t2/home-depot→builder-prime flows[0].settings.minTotals: "
            "unknown setting 'minTotals'; did you mean 'minTotal'?",
            "2 documents, 2 problems",
        ],
    )


def test_a_misspelt_field_is_a_warning(tmp_path: Path) -> None:
    """The app ignores unknown fields, so a name close to a known field gets a warning. Other names do not."""
    entry_fields = {"name": "weather", "enabled": True, "cron": "0 0 9 * * *", "nextRunUTC": None, "setings": {}}
    written = {**document("t1"), "owner": "Ann", "flows": [{**entry_fields, "note": "x"}]}
    written["timeZone"] = written.pop("timezone")
    file = write(tmp_path / "a.json", written)

    code, (*warnings, summary) = validate(file)

    assert warnings == [
        f"{file}: t1 timeZone: warning: unknown field, ignored; did you mean 'timezone'?",
        f"{file}: t1/weather flows[0].nextRunUTC: warning: unknown field, ignored; did you mean 'nextRunUtc'?",
        f"{file}: t1/weather flows[0].setings: warning: unknown field, ignored; did you mean 'settings'?",
    ]
    assert (code, summary) == (0, "1 document, 0 problems, 3 warnings")


@pytest.fixture
def flow_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Create a package of flow files, one of them broken. Return its name."""
    name = f"flows_{abs(hash(request.node.nodeid))}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "registry.py").write_text("from datasync import FlowRegistry\n\nregistry = FlowRegistry()\n")
    (package / "good.py").write_text(
        f"from {name}.registry import registry\n\n\n"
        "@registry.flow('new', aliases=('old',))\nasync def good(tenant_id, kv): ...\n"
    )
    (package / "bad.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_flow_names_come_from_the_given_package(tmp_path: Path, flow_package: str) -> None:
    """Aliases are valid names. A broken flow file is a problem, and the error for an unknown flow names it too."""
    file = write(tmp_path / "a.json", document("tenant-1", entry("old"), entry("weather")))

    code, lines = validate("--flows", flow_package, file)

    cause = "ModuleNotFoundError: No module named 'no_such_library' (bad.py, line 1)"
    assert lines[0] == f"{flow_package}.bad: cannot be loaded; its flows cannot run: {cause}"
    assert lines[1].startswith(
        f"{file}: tenant-1/weather flows[1].name: no flow is named 'weather'. Known flows: 'new'"
    )
    assert "no_such_library" in lines[1]
    assert (code, lines[2:]) == (1, ["1 document, 2 problems"])


@pytest.mark.parametrize("package", ["no_such_flows", "json", "datasync.log", "."])
def test_a_package_without_flows_is_a_usage_error(tmp_path: Path, package: str) -> None:
    """The message names the package, the cause, and the expected content."""
    result = run("validate", "--flows", package, write(tmp_path / "a.json", document()))

    assert result.exit_code == 2
    assert f"'--flows': {package!r} cannot be loaded (" in result.stderr
    assert "expected a package of flow files" in result.stderr


def test_findings_have_a_json_form(tmp_path: Path) -> None:
    """With the file, the place and the level of each. Files that cannot be read are on standard error."""
    bad = write(tmp_path / "bad.json", [document("t", entry(cron="soon", setings={})), "no object"])
    result = run("validate", bad, str(tmp_path / "none.json"), "--json")

    found = json.loads(result.stdout)
    assert (found["documents"], found["problems"], found["warnings"], found["unread"]) == (2, 2, 1, 1)
    assert [(each["level"], each["file"], each["place"]) for each in found["findings"]] == [
        ("error", bad, "t/weather flows[0].cron"),
        ("warning", bad, "t/weather flows[0].setings"),
        ("error", f"{bad}[1]", None),
    ]
    assert found["findings"][1]["why"] == "unknown field, ignored; did you mean 'settings'?"
    assert "none.json: cannot be read" in result.stderr
    assert result.exit_code == 2


def test_an_interrupted_command_has_one_line_and_exit_code_130(tmp_path: Path, flow_package: str) -> None:
    """Also where no service is used: here, Ctrl-C comes while the flow files are loaded."""
    (tmp_path / flow_package / "registry.py").write_text("raise KeyboardInterrupt\n")

    result = run("validate", "--flows", flow_package, write(tmp_path / "a.json", document()))

    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted\n")


def test_validate_requires_a_file() -> None:
    """Without a file there is nothing to check, so this is an error."""
    result = run("validate")

    assert result.exit_code == 2
    assert "Missing argument 'FILE...'" in result.stderr


# --- check, without services


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON in UTF-8: "),
        ("[]", 'has no object "Values"'),
        ('{"Values": {}}', "Add it, or decrypt the file: func settings decrypt"),
        ('{"IsEncrypted": true, "Values": {}}', "Add it, or decrypt the file: func settings decrypt"),
        (
            '{"IsEncrypted": false, "Values": {"A": "s3cret", "B": 5, "C": true}}',
            "values must be strings, in quotes: B, C",
        ),
        ('{"IsEncrypted": false, "Values": {"A": "s3cret\\u0000"}}', "an environment variable cannot hold these: A."),
        ('{"IsEncrypted": false, "Values": {"A": "s3cret\\ud800"}}', "an environment variable cannot hold these: A."),
        ('{"IsEncrypted": false, "Values": {"A=B": "s3cret"}}', "an environment variable cannot hold these: A=B."),
        ('{"IsEncrypted": false, "Values": {"A\\u0000": "s3cret"}}', r"cannot hold these: A\x00."),
        ('{"IsEncrypted": false, "Values": {"A\\n\\u3164\\u001b[2J": 5}}', r"in quotes: A\n\u3164\x1b[2J"),
        ('{"IsEncrypted": false, "Values": {"": "s3cret"}}', "an environment variable cannot hold these: ''."),
    ],
)
def test_an_invalid_settings_file_is_a_usage_error(tmp_path: Path, content: str, problem: str) -> None:
    """The message names the mistake, and shows none of the values."""
    file = tmp_path / "local.settings.json"
    file.write_text(content)

    result = run("check", "--settings", str(file))

    assert result.exit_code == 2
    assert f"'--settings': {file}" in result.stderr
    assert problem in result.stderr
    assert "s3cret" not in result.output


def test_a_missing_settings_file_is_a_usage_error(tmp_path: Path) -> None:
    """The message names the file."""
    result = run("check", "--settings", str(tmp_path / "none.json"))

    assert result.exit_code == 2
    assert f"{tmp_path / 'none.json'} cannot be read: No such file or directory" in result.stderr


def test_tenants_need_a_package_of_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that cannot be loaded is a usage error, as it is for `validate`."""
    monkeypatch.setenv("AzureWebJobsStorage", "UseDevelopmentStorage=true")
    monkeypatch.setenv("COSMOS_ENDPOINT", "https://acme.documents.azure.com:443/")
    result = run("check", "--tenants", "--flows", "no_such_flows")

    assert result.exit_code == 2
    assert "'--flows': 'no_such_flows' cannot be loaded (" in result.stderr


# --- --local


def test_without_make_start_local_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a kill, which leaves the file of the settings, but not the certificates."""
    started = tmp_path / ".local" / "started.json"
    started.parent.mkdir()
    monkeypatch.setattr(local_settings, "STARTED", started)
    before = run("status", "--local")
    write(started, {"IsEncrypted": False, "Values": {"SSL_CERT_FILE": str(tmp_path / "gone")}})
    after_a_kill = run("check", "--local")

    for result in (before, after_a_kill):
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"Error: no services run on this machine: run `make start` in {tmp_path} first\n"


def test_a_file_of_settings_and_local_exclude_each_other(tmp_path: Path) -> None:
    """None of the two is silently ignored."""
    file = write(tmp_path / "local.settings.json", {"IsEncrypted": False, "Values": {"QUEUE_NAME": "jobs"}})

    result = run("queue", "--local", "--settings", file)

    assert result.exit_code == 2
    assert "--settings and --local name different services: use one of them" in result.stderr


# --- in a new process


@pytest.mark.skipif(sys.platform == "win32", reason="bin/datasync is a shell script")
@pytest.mark.parametrize(
    ("arguments", "code"), [(("schedule", "@daily", "--tz", "Europe/Berlin"), 0), (("runs", "--since", "soon"), 2)]
)
def test_the_program_runs_from_any_folder_without_colours(
    tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """Its name in messages is `datasync`. A pipe gets neither colours nor borders."""
    ended = subprocess.run(  # noqa: S603 - our own program
        [ROOT / "bin" / "datasync", *arguments],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )

    assert ended.returncode == code
    assert not {"\x1b", "│", "─", "|"} & {*ended.stdout, *ended.stderr}
    assert ("Usage: datasync runs" in ended.stderr) == (code == 2)


def test_the_command_line_runs_as_a_module() -> None:
    """`schedule` starts at the current time."""
    ran = process("-m", "datasync", "schedule", "0 0 0 29 2 *", "--count", "1")

    assert ran.returncode == 0, ran.stderr
    since = datetime.fromisoformat(ran.stdout.splitlines()[0].rpartition(" ")[2])
    assert since > NOW
    assert datetime.fromisoformat(ran.stdout.split()[-1]) > since


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    """The process ends with 0, 1 or 2, so that scripts can use it."""
    good = write(tmp_path / "good.json", document())
    bad = write(tmp_path / "bad.json", document("t", entry(cron="soon")))

    codes = [process("-m", "datasync", "validate", file).returncode for file in (good, bad, str(tmp_path))]

    assert codes == [0, 1, 2]


def test_characters_that_a_terminal_cannot_print_are_escaped(tmp_path: Path) -> None:
    """A Windows code page does not have the arrow of some flow names."""
    file = write(tmp_path / "bad.json", document("t", entry("home-depot→builder-prime", cron="soon")))

    ended = process("-m", "datasync", "validate", file, PYTHONIOENCODING="cp1252")

    assert r"t/home-depot\u2192builder-prime flows[0].cron: " in ended.stdout
    assert ended.returncode == 1


@pytest.fixture
def without_click(tmp_path: Path) -> str:
    """Return a PYTHONPATH without click."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n")
    return str(tmp_path)


def test_without_click_a_sentence_names_the_remedy(without_click: str) -> None:
    """The package click is in requirements-dev.txt only, so it may be the only missing package."""
    ended = process("-m", "datasync", "schedule", "@daily", PYTHONPATH=without_click)

    assert ended.stderr.splitlines() == [
        "python -m datasync needs the packages of this project. Activate the environment "
        "(. .venv/bin/activate, Windows: .venv\\Scripts\\activate) or run make install"
    ]
    assert ended.returncode == 1


def test_another_missing_module_has_a_traceback(tmp_path: Path) -> None:
    """A mistake in an import of the project is not a missing package."""
    (tmp_path / "click.py").write_text("import no_such_module\n")

    ended = process("-m", "datasync", "schedule", "@daily", PYTHONPATH=str(tmp_path))

    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("ModuleNotFoundError: No module named 'no_such_module'\n")
    assert ended.returncode == 1


def test_the_app_does_not_import_the_command_line(without_click: str) -> None:
    """The package click is not deployed, so function_app does not import the command line."""
    script = "import sys, function_app; print(sorted(name for name in sys.modules if name.startswith('datasync.')))"

    ended = process("-c", script, PYTHONPATH=without_click)

    assert ended.returncode == 0, ended.stderr
    assert "'datasync.services'" in ended.stdout
    assert "'datasync.cli'" not in ended.stdout
    assert "__main__" not in ended.stdout
