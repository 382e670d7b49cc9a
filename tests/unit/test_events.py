"""An event is a log line: a word to search for, a sentence, and every attribute as `key=value`."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datasync.errors import JobInvalid, ServiceUnavailable
from datasync.flow.http import HttpUsage
from datasync.model.run import Outcome, RunRecord
from datasync.model.tenant import Problem
from datasync.telemetry.emit import configure, emit
from datasync.telemetry.events import (
    DocumentInvalid,
    EndingNotRecorded,
    Event,
    FlowBlocked,
    FlowFileBroken,
    JobRefused,
    RunEnded,
    RunStarted,
    ServiceAway,
    TickEnded,
)

NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)


def record(outcome: Outcome, **fields: Any) -> RunRecord:
    return RunRecord(
        tenant_id="acme",
        flow_name="weather",
        run_id="5f",
        attempt=1,
        outcome=outcome,
        scheduled_utc=NOON,
        started_utc=NOON,
        finished_utc=NOON + timedelta(seconds=4.5),
        **fields,
    )


USAGE = HttpUsage(calls=9, sent=13, waited=timedelta(seconds=3.1))


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (
            TickEnded(
                tenants=7, due=5, enqueued=4, advanced=3, conflicts=2, problems=1, broken=0, failed=0, seconds=0.2249
            ),
            logging.INFO,
            "TICK tenants=7 due=5 enqueued=4 advanced=3 conflicts=2 problems=1 broken=0 failed=0 seconds=0.22",
        ),
        (
            DocumentInvalid(problem=Problem(tenant_id="acme", flow="weather", path="flows[0].cron", why="5 fields")),
            logging.ERROR,
            "INVALID acme/weather flows[0].cron: 5 fields tenant=acme flow=weather path=flows[0].cron",
        ),
        (
            FlowFileBroken(
                module="flows.crm",
                cause="ImportError: no crm",
                traceback="Traceback …\n  in flows/crm.py\nImportError: no crm",
            ),
            logging.ERROR,
            "BROKEN flow file flows.crm could not be loaded: ImportError: no crm module=flows.crm\n"
            "Traceback …\n  in flows/crm.py\nImportError: no crm",
        ),
        (
            FlowBlocked(subject="acme/slow", seconds=8.04, place="flows/slow.py:11 (time.sleep)", run="5f", attempt=1),
            logging.ERROR,
            "BLOCKED acme/slow blocked every flow for 8.0 s at flows/slow.py:11 (time.sleep) run=5f attempt=1",
        ),
        (
            FlowBlocked(subject=None, seconds=2.5, place="flows/slow.py:11", run="5f", attempt=1),
            logging.ERROR,
            "BLOCKED code outside a run blocked every flow for 2.5 s at flows/slow.py:11 run=5f attempt=1",
        ),
        (RunStarted(subject="acme/weather", run="5f", attempt=1), logging.INFO, "START acme/weather run=5f attempt=1"),
        (
            RunEnded(record=record(Outcome.SUCCEEDED, counts={"readings": 1}), http=USAGE.attributes()),
            logging.INFO,
            "DONE acme/weather in 4.5s readings=1 http=13 retried=4 waited=3.1s run=5f attempt=1",
        ),
        (
            RunEnded(record=record(Outcome.SUCCEEDED), http=HttpUsage().attributes()),
            logging.INFO,
            "DONE acme/weather in 4.5s run=5f attempt=1",
        ),
        (
            RunEnded(record=record(Outcome.DEAD, error="OSError: down"), traceback="Traceback …"),
            logging.ERROR,
            "FAIL acme/weather after 4.5s (dead): OSError: down run=5f attempt=1\nTraceback …",
        ),
        (
            RunEnded(record=record(Outcome.GAVE_UP, error="the account was closed")),
            logging.WARNING,
            "GAVE_UP acme/weather after 4.5s: the account was closed run=5f attempt=1",
        ),
        (
            ServiceAway(
                subject="acme/weather", run="5f", attempt=1, error=ServiceUnavailable("Cosmos DB is unavailable")
            ),
            logging.ERROR,
            "UNAVAILABLE acme/weather did not start: Cosmos DB is unavailable run=5f attempt=1",
        ),
        (
            EndingNotRecorded(record=record(Outcome.SUCCEEDED), error=ServiceUnavailable("Cosmos DB answered 503")),
            logging.ERROR,
            "UNAVAILABLE acme/weather ended (succeeded), which could not be recorded: Cosmos DB answered 503 "
            "run=5f attempt=1 error=ServiceUnavailable",
        ),
        (
            JobRefused(error=JobInvalid("message m-1 is not a job"), attempt=2),
            logging.ERROR,
            "FAIL message m-1 is not a job attempt=2",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_an_event_is_one_line_with_every_attribute(
    event: Event, level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the text arrives on Azure, so it contains everything that operators search for."""
    configure()
    emit(event)

    (logged,) = caplog.records
    assert (logged.levelno, logged.getMessage()) == (level, line)


def test_a_count_does_not_replace_an_attribute_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """A flow may use any name for a count, such as `run`. The run id in the line is still that of the run."""
    configure()
    emit(RunEnded(record=record(Outcome.SUCCEEDED, counts={"run": 3, "http": 7}), http=USAGE.attributes()))

    assert caplog.messages == [
        "DONE acme/weather in 4.5s count.run=3 count.http=7 http=13 retried=4 waited=3.1s run=5f attempt=1"
    ]


def test_a_name_cannot_start_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """A line break in a document is a space in the log."""
    emit(DocumentInvalid(problem=Problem(tenant_id="t\nTICK tenants=0", path="flows", why="wrong\r\nDONE")))

    assert caplog.messages == ["INVALID t TICK tenants=0 flows: wrong DONE tenant=t TICK tenants=0 path=flows"]


def test_attributes_stay_on_the_log_record(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that keeps attributes gets them as `fields`."""
    configure()
    emit(RunEnded(record=record(Outcome.SUCCEEDED, counts={"readings": 1})))

    assert caplog.records[0].fields == {"readings": 1, "run": "5f", "attempt": 1}  # type: ignore[attr-defined]
