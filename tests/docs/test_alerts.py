"""The queries of alerts, asked of lines that the app logs."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from datasync.errors import JobInvalid, ServiceUnavailable
from datasync.model.failure import Failure
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.tenant import Problem
from datasync.model.usual import Unusual
from datasync.telemetry.emit import emit
from datasync.telemetry.events import (
    DocumentDoubtful,
    DocumentInvalid,
    Event,
    FlowBlocked,
    FlowFileBroken,
    FlowLate,
    JobRefused,
    LateOmitted,
    LateUnknown,
    LetterKept,
    ProblemsOmitted,
    RunEnded,
    RunStarted,
    RunUnusual,
    TickEnded,
    TickFailed,
    Unhealthy,
)
from localdev.hosting import ROOT
from tests.docs.pages import block, rows
from tests.runs import NOON, job

FILES = sorted((ROOT / "docs" / "alerts").glob("*.kql"))
RUNBOOK = ROOT / "docs" / "runbook.md"
NIGHT = datetime(2025, 8, 23, tzinfo=UTC)


# --- a reader of the queries


@dataclass(frozen=True)
class Alert:
    """A query that finds lines, and computes columns from each."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> "Alert":
        return cls(name, (ROOT / "docs" / "alerts" / f"{name}.kql").read_text(encoding="utf-8"))

    @property
    def steps(self) -> list[str]:
        table, *steps = self.text.strip().split("\n| ")
        assert table == "traces"
        return steps

    def found(self, lines: list[str]) -> list[dict[str, str]]:
        """Return the columns of each line that the query finds."""
        return [columns for line in lines if (columns := self._columns(line)) is not None]

    def _columns(self, line: str) -> dict[str, str] | None:
        columns: dict[str, str] = {}
        for step in self.steps:
            if start := re.fullmatch(r'where message startswith "(.*)"', step):
                holds = line.lower().startswith(start[1].lower())
            elif pattern := re.fullmatch(r'where message matches regex @"(.*)"', step):
                holds = re.search(pattern[1], line) is not None
            elif limit := re.fullmatch(r"where (\w+) > (\d+)", step):
                holds = float(columns[limit[1]] or "nan") > int(limit[2])
            else:
                extend = re.fullmatch(r'extend (\w+) = (?:todouble\()?extract\(@"(.*)", 1, message\)\)?', step)
                assert extend, f"{self.name}: no test reads the step {step!r}"
                value = re.search(extend[2], line)
                columns[extend[1]] = value[1] if value else ""
                holds = True
            if not holds:
                return None
        return columns


# --- lines of the log


def ended(
    outcome: Outcome, tenant: str = "acme", flow: str = "a→b", message: str = "OSError: down", fingerprint: str = "9c-e"
) -> RunRecord:
    error = None if outcome is Outcome.SUCCEEDED else Failure(message=message, fingerprint=fingerprint)
    attempt = Attempt(id="a", outcome=outcome, started_utc=NOON, finished_utc=NOON + timedelta(seconds=2), error=error)
    run = job(tenant_id=tenant, flow_name=flow)
    return RunRecord.begin(run, flow, NOON).after(attempt, counts={"orders": 3}, http={"requests": 2.0})


def started(seconds: float | None) -> RunStarted:
    queued = None if seconds is None else timedelta(seconds=seconds)
    return RunStarted(subject="acme/a→b", run="5f", attempt=1, queued=queued)


TICK = TickEnded(
    tenants=2, due=1, enqueued=1, advanced=1, conflicts=0, problems=0, late=0, broken=0, failed=0, seconds=0.2
)
DONE = RunEnded(record=ended(Outcome.SUCCEEDED), stale_utc=NIGHT)
DEAD = RunEnded(record=ended(Outcome.DEAD), traceback="Traceback (most recent call last):\n fingerprint=none")
FAILED = RunEnded(record=ended(Outcome.FAILED, message="ValueError: (dead) late_since fingerprint"))
NEVER_RAN = FlowLate(tenant="acme", flow="a→b", since="2025-08-23T00:00:00Z", last_success=None)
MANY_LATE = LateOmitted(count=3)
NOT_LOOKED = LateUnknown(error=ServiceUnavailable("Cosmos DB answered 503"))
LATE = RunEnded(record=ended(Outcome.DEFERRED), stale_utc=NIGHT)
UNUSUAL = RunUnusual(
    record=ended(Outcome.SUCCEEDED), unusual=Unusual(since_utc=NOON, value=0, usual=120, count="orders")
)
INVALID = DocumentInvalid(
    problem=Problem(tenant_id="acme", flow="a→b", path="flows[0].cron", why="5 fields found, 6 needed")
)
UNREADABLE = DocumentInvalid(problem=Problem(tenant_id="acme", path="flows", why="expected a list"))
DOUBTFUL = DocumentDoubtful(
    problem=Problem(tenant_id="acme", flow="a→b", path="flows[0].tz", why="unknown", level="warning")
)
BROKEN = FlowFileBroken(
    module="flows.crm", cause="ImportError: no crm", traceback="Traceback …\n module=other\nImportError: no crm"
)
NOT_IN_TIME = Unhealthy(problems=("Two ticks in a row have not started.", "A flow has not succeeded in time."))
NO_TICK = Unhealthy(problems=("Two ticks in a row have not started.",))
SLOW = started(600.4)
TICK_FAILED = TickEnded(
    tenants=2, due=1, enqueued=0, advanced=0, conflicts=0, problems=None, late=None, broken=0, failed=1, seconds=0.2
)
GAVE_UP = RunEnded(record=ended(Outcome.GAVE_UP, message="the account was closed"))
BLOCKED = FlowBlocked(subject="acme/a→b", seconds=8, place="flows/slow.py:11 (time.sleep)", run="5f", attempt=1)
AWAY = TickFailed(error=ServiceUnavailable("Cosmos DB answered 503"))
LETTER = LetterKept(message_id="m-1", why="not base64")
REFUSED = JobRefused(error=JobInvalid("message m-1 is not a job: not JSON"), attempt=1)

CASES: dict[str, list[tuple[Event, dict[str, str]]]] = {
    "no-tick": [(TICK, {}), (TICK_FAILED, {})],
    "tick-failed": [(TICK_FAILED, {})],
    "no-start": [(SLOW, {}), (started(None), {}), (started(2), {})],
    "queue-age": [(SLOW, {"queued": "600.4"})],
    "late": [
        (LATE, {"flow": "a→b"}),
        (NEVER_RAN, {"flow": "a→b"}),
        (MANY_LATE, {"flow": ""}),
        (NOT_IN_TIME, {"flow": ""}),
    ],
    "dead": [(DEAD, {"fingerprint": "9c-e"})],
    "unusual": [(UNUSUAL, {"flow": "a→b"})],
    "problems": [(INVALID, {"flow": "a→b"}), (UNREADABLE, {"flow": ""}), (ProblemsOmitted(count=3), {"flow": ""})],
    "broken": [(BROKEN, {"module": "flows.crm"})],
    "gave-up": [(GAVE_UP, {"fingerprint": "9c-e"})],
    "blocked": [(BLOCKED, {"flow": "a→b"})],
    "unavailable": [(AWAY, {}), (NOT_LOOKED, {})],
    "dead-letter": [(LETTER, {}), (REFUSED, {})],
}
"""The events that each query finds, with its columns."""

EVENTS = [
    *(DONE, FAILED, DOUBTFUL, NO_TICK),
    *{id(event): event for found in CASES.values() for event, _ in found}.values(),
]


def lines(caplog: pytest.LogCaptureFixture, *events: Event) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="datasync"):
        for event in events:
            emit(event)
    return list(caplog.messages)


# --- tests


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_an_alert_finds_its_lines_and_no_others(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """It computes the column by which pages are split from the same lines."""
    printed = lines(caplog, *EVENTS)
    expected = [columns for event in EVENTS for own, columns in CASES[name] if own is event]

    assert expected
    assert Alert.read(name).found(printed) == expected


def test_one_page_for_each_cause_of_dead_runs(caplog: pytest.LogCaptureFixture) -> None:
    """Runs of all tenants and flows that died of one cause have one fingerprint, for any text of the error."""
    first = RunEnded(record=ended(Outcome.DEAD, "acme", "weather", "HTTPStatusError: 401", "9c2e"))
    second = RunEnded(record=ended(Outcome.DEAD, "other", "orders", "HTTPStatusError: fingerprint=fake", "9c2e"))
    third = RunEnded(record=ended(Outcome.DEAD, "acme", "weather", "the process died", "process-died"))
    found = Alert.read("dead").found(lines(caplog, first, second, third))

    assert [each["fingerprint"] for each in found] == ["9c2e", "9c2e", "process-died"]


def test_every_alert_has_a_row_and_a_rule() -> None:
    """The table of the runbook and the commands below it name each query once."""
    table = [re.findall(r"\(alerts/([\w-]+)\.kql\)", cells[1]) for cells in rows(RUNBOOK, "Alerts")]
    names = sorted(path.stem for path in FILES)

    assert sorted(table) == [[name] for name in names]
    assert sorted(name for name, _ in rules()) == names


def test_rules_split_by_a_column_of_their_query() -> None:
    """A rule for missing lines counts lines. Any other makes a page for each value of a column, or one for all."""
    for name, condition in rules():
        columns = re.findall(r"\| extend (\w+) = ", Alert.read(name).text)
        split = re.findall(r" where (\w+) includes \*$", condition)
        if name.startswith("no-"):
            assert (condition, columns) == ("count 'rows' < 1", [])
        else:
            assert condition.startswith("count 'rows' > 0")
            assert split == [column for column in columns if column != "queued"]


def rules() -> Iterator[tuple[str, str]]:
    """Yield the name and the condition of each rule that the commands create."""
    yield from re.findall(
        r'^rule ([\w-]+) \d \w+ \w+ "(.*)"$', block("sh", "scheduled-query create").text, re.MULTILINE
    )
