"""The lines of `make start`: one for each event, made from the parts of the event."""

import dataclasses
import io
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from rich.console import Console

from datasync.model.failure import Failure
from datasync.model.run import Outcome, RunRecord
from datasync.telemetry.emit import configure, emit
from datasync.telemetry.events import Event, FlowFileBroken, JobDropped, RunEnded, RunStarted, TickEnded
from localdev.host.console import NOT_SEEN, Objects
from localdev.lines import Lines
from tests.runs import attempt, job

NOW = datetime(2026, 1, 31, 9, tzinfo=UTC)
TICK = TickEnded(
    tenants=7, due=11, enqueued=11, advanced=11, conflicts=0, problems=2, late=0, broken=0, failed=0, seconds=0.22
)
TRACEBACK = 'Traceback (most recent call last):\n  File "flows/weather.py", line 3, in weather\nValueError: no'
BROKEN = FlowFileBroken(module="flows.weather", cause="NameError: x (weather.py, line 3)", traceback=TRACEBACK)


class Shown:
    """The lines of a console, and the records of a host."""

    def __init__(self, *, verbose: bool = False, colours: bool = False) -> None:
        self._output = io.StringIO()
        console = Console(file=self._output, width=80, highlight=False, force_terminal=colours)
        self.lines = Lines(console, verbose=verbose)
        self._objects = Objects()

    def log(self, *records: logging.LogRecord) -> list[str]:
        """Pass records to the console as the host sends them. Return the new lines, without the times."""
        return self.write(*map(self._objects.format, records))

    def write(self, *texts: str) -> list[str]:
        """Pass lines of the host to the console, and return the new lines, without the times."""
        before = len(self._output.getvalue())
        for text in texts:
            self.lines.line(text)
        return [line[11:] for line in self._output.getvalue()[before:].splitlines()]


type Emitted = Callable[..., list[logging.LogRecord]]


@pytest.fixture
def emitted(caplog: pytest.LogCaptureFixture) -> Emitted:
    """Return a function that returns the log records of events, as the app logs them."""
    configure()

    def records(*events: Event) -> list[logging.LogRecord]:
        caplog.clear()
        for event in events:
            emit(event)
        return [*caplog.records]

    return records


def ended(*outcomes: Outcome, message: str = "", fingerprint: str = "f-1", **fields: object) -> RunRecord:
    """Return a record with attempts that took half a second, and ended with an error if `message` is given."""
    error = Failure(message=message, fingerprint=fingerprint) if message else None
    record = RunRecord.begin(job(), "weather", NOW)
    for number, outcome in enumerate(outcomes, 1):
        one = replace(attempt(outcome, number), started_utc=NOW, finished_utc=NOW + timedelta(seconds=0.5), error=error)
        record = record.after(one)
    return replace(record, tenant_id="acme", **fields)


def test_a_run_is_a_line_in_columns(emitted: Emitted) -> None:
    """Tenant and flow, outcome, seconds, counts, and the requests with their retries and waits."""
    http = {"requests": 12.0, "retries": 1.0, "waited": 1.04}
    records = emitted(
        RunStarted(subject="acme/weather", run="r-1", attempt=1),
        RunEnded(record=ended(Outcome.SUCCEEDED, counts={"readings": 3}, http=http)),
    )

    started, succeeded = Shown().log(*records)

    assert started.split() == ["acme/weather", "started"]
    columns = ["acme/weather", "succeeded", "0.5 s", "readings=3", "12 requests, 1 retry, waited 1.0 s"]
    assert [column.strip() for column in succeeded.split("  ") if column.strip()] == columns
    assert started.index("started") == succeeded.index("succeeded")


def test_a_failure_has_its_error_one_traceback_and_a_command(emitted: Emitted) -> None:
    """An attempt that fails like the one before has none of them again."""
    first = RunEnded(record=ended(Outcome.FAILED, message="ValueError: no"), traceback=TRACEBACK)
    second = RunEnded(record=ended(Outcome.FAILED, Outcome.FAILED, message="ValueError: no"), traceback=TRACEBACK)

    lines = Shown().log(*emitted(first, second))

    assert [line.strip() for line in lines[1:5]] == ["ValueError: no", *map(str.strip, TRACEBACK.splitlines())]
    assert lines[0].split()[:4] == ["acme/weather", "failed", "0.5", "s"]
    assert lines[5] == "next: python -m datasync show r-1 --local"
    assert lines[6].split()[1:] == ["failed", "0.5", "s", "attempt", "2", "same", "error"]
    assert len(lines) == 7


def test_a_failure_with_a_recording_can_be_replayed(emitted: Emitted) -> None:
    """The command below its error does that."""
    record = ended(Outcome.FAILED, message="ValueError: no", recording="r-1-1.yaml")

    *_, last = Shown().log(*emitted(RunEnded(record=record)))

    assert last == "next: python -m datasync replay r-1 --local"


def test_the_failure_of_an_invocation_that_the_app_has_logged_is_not_shown_again(
    emitted: Emitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure of another invocation, which the app did not log, is shown with its traceback."""
    monkeypatch.setattr("localdev.host.console.current_invocation", lambda: "one")

    def failed(invocation: str) -> logging.LogRecord:
        name = "localdev.host.execution"
        record = logging.LogRecord(name, logging.ERROR, "", 0, "Executed (Failed)\nTraceback", None, None)
        record.ended = invocation
        return record

    shown = Shown()
    shown.log(*emitted(RunEnded(record=ended(Outcome.FAILED, message="no"))))

    assert shown.log(failed("one")) == []
    assert shown.log(failed("two")) == ["Executed (Failed)", "Traceback"]


def test_a_tick_is_a_line(emitted: Emitted) -> None:
    """The numbers that are zero are left out, except those that say what was done."""
    (line,) = Shown().log(*emitted(TICK))

    assert line.split("  ")[0] == "tick"
    assert line.endswith("0.2 s  11 due, 11 enqueued, 2 problems")


def test_a_broken_file_is_a_line_of_each_tick(emitted: Emitted) -> None:
    """It names the file and the error."""
    (line,) = Shown().log(*emitted(BROKEN))

    assert " ".join(line.split()) == "flows/weather.py broken NameError: x (weather.py, line 3)"


def test_other_events_are_sentences(emitted: Emitted) -> None:
    """They are without attributes."""
    lines = Shown().log(*emitted(JobDropped(job=job(), why="the run has ended already")))

    assert lines == [f"DUPLICATE {job().tenant_id}/{job().flow_name} dropped: the run has ended already"]


def test_lines_of_flows_are_shown_and_steps_of_the_host_are_not() -> None:
    """Output of `print`, records of any logger, and warnings of the host are shown."""

    def record(name: str, level: int, text: str) -> logging.LogRecord:
        return logging.LogRecord(name, level, "", 0, text, None, None)

    shown = Shown()

    assert shown.write("printed [bold] \x1b[31mtext") == ["printed [bold] \\x1b[31mtext"]
    assert shown.log(record("datasync", logging.INFO, "acme/weather: 3 °C")) == ["acme/weather: 3 °C"]
    assert shown.log(record("some.library", logging.INFO, "hello")) == ["hello"]
    assert shown.log(record("localdev.host.execution", logging.INFO, "Executing")) == []
    assert shown.log(record("localdev.host.queues", logging.WARNING, "Moving message")) == ["Moving message"]
    assert shown.write("Host started: 4 functions on http://127.0.0.1:7071") == []
    for text in ('{"line": "a flow printed this"', '{"line": "and this"}'):
        assert shown.write(text) == [text]


def test_an_app_with_other_facts_is_shown_as_it_logs() -> None:
    """The app may be edited while it runs."""
    record = logging.LogRecord("datasync", logging.INFO, "", 0, "DONE acme/weather in 1.2s", None, None)
    record.facts = {"event": "RunEnded", "outcome": "succeeded"}

    assert Shown().log(record) == ["DONE acme/weather in 1.2s"]


def test_verbose_shows_the_lines_of_the_host(emitted: Emitted) -> None:
    """They are those of the host without a parent."""
    record = logging.LogRecord("localdev.host.execution", logging.INFO, "", 0, "Executing", None, None)
    output = io.StringIO()
    lines = Lines(Console(file=output, width=80), verbose=True)

    for each in (record, *emitted(TICK)):
        lines.line(Objects().format(each))
    lines.line("printed")

    executing, tick, printed = output.getvalue().splitlines()
    assert executing.endswith("Z] Executing")
    assert "Z] TICK tenants=7 due=11" in tick
    assert printed == "printed"


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_has_colours_unless_no_color_is_set(
    emitted: Emitted, monkeypatch: pytest.MonkeyPatch, no_color: str, *, coloured: bool
) -> None:
    """NO_COLOR is the convention of https://no-color.org."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)

    (line,) = Shown(colours=True).log(*emitted(RunEnded(record=ended(Outcome.SUCCEEDED))))

    assert ("\x1b[32m" in line) is coloured


def logged(**fields: object) -> str:
    """Return a line of the host with a record that was logged outside an invocation."""
    at = "2026-01-31T09:00:00.123Z"
    own = {"line": "", "at": at, "level": 40, "logger": "x", "text": "", "seen": False, "facts": None}
    return json.dumps({**own, "reported": False, **fields})


def test_a_line_outside_an_invocation_is_marked() -> None:
    """Azure drops it."""
    assert Shown().write(logged(text="at import")) == [f"at import {NOT_SEEN}"]


def test_a_file_that_is_broken_at_the_start_has_its_traceback() -> None:
    """The traceback of a syntax error says no more than the line. The names of the files are kept."""
    shown = Shown()

    lines = shown.write(logged(facts=BROKEN.facts()))
    syntax = dataclasses.replace(
        BROKEN, module="flows.items", cause="SyntaxError: '(' was never closed (items.py, line 3)"
    )

    assert [line.strip() for line in lines[1:]] == [*map(str.strip, TRACEBACK.splitlines())]
    assert len(shown.write(logged(facts=syntax.facts()))) == 1
    assert shown.lines.take_broken() == {"flows/weather.py", "flows/items.py"}
    assert shown.lines.take_broken() == set()
