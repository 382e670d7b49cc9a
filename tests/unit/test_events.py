"""An event is a log line: a word to search for, a sentence, and every attribute as `key=value`."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from datasync.errors import JobInvalid, LeaseLost, ServiceUnavailable, StateInvalid
from datasync.model.failure import Failure
from datasync.model.job import Job, Trigger
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.tenant import Problem
from datasync.model.usual import Unusual
from datasync.telemetry import events
from datasync.telemetry.emit import configure, emit
from datasync.telemetry.events import (
    CooldownInvalid,
    DocumentDoubtful,
    DocumentInvalid,
    EndingNotRecorded,
    Event,
    FlowBlocked,
    FlowFileBroken,
    FlowLate,
    HeartbeatFailed,
    JobDropped,
    JobPutBack,
    JobRefused,
    LateOmitted,
    LateUnknown,
    LetterKept,
    MisplacedOmitted,
    NotBuried,
    ProblemsOmitted,
    RecordingLost,
    RunEnded,
    RunRenamed,
    RunStarted,
    RunStaysDead,
    RunSuperseded,
    RunUnusual,
    ServiceAway,
    SettingDoubtful,
    StateMisplaced,
    TenantFailed,
    TickEnded,
    TickFailed,
    Unhealthy,
    WatermarkInvalid,
)

NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)
JOB = Job(
    tenant_id="acme",
    flow_name="weather",
    scheduled_utc=NOON,
    run_id="5f",
    trigger=Trigger.SCHEDULE,
    enqueued_utc=NOON,
    message_id="m-1",
    delivery=2,
)
AWAY = ServiceUnavailable("Cosmos DB answered 503")
HTTP = {"requests": 13.0, "retries": 4.0, "waited": 3.1}
NO_HTTP = {"requests": 0.0, "retries": 0.0, "waited": 0.0}


def ended(
    outcome: Outcome,
    message: str | None = None,
    *,
    counts: dict[str, int] | None = None,
    http: dict[str, float] | None = None,
    fingerprint: str = "",
) -> RunRecord:
    """Return the record of a run after its first attempt, with that error."""
    error = Failure(message=message, fingerprint=fingerprint) if message else None
    attempt = Attempt(
        id="a-1", outcome=outcome, started_utc=NOON, finished_utc=NOON + timedelta(seconds=4.5), error=error
    )
    return RunRecord.begin(JOB, "weather", NOON).after(attempt, counts=counts or {}, http=http or {})


def ended_twice() -> RunRecord:
    """Return the record of a run whose second attempt succeeded, an hour after the first one."""
    later = NOON + timedelta(hours=1)
    second = Attempt(id="a-2", outcome=Outcome.SUCCEEDED, started_utc=later, finished_utc=later + timedelta(seconds=2))
    return ended(Outcome.FAILED, "OSError: down").after(second)


UNUSUAL_COUNT = Unusual(since_utc=NOON, value=0, usual=119.6, count="orders")
UNUSUAL_TIME = Unusual(since_utc=NOON, value=310.2, usual=12)


EVENTS: list[tuple[Event, int, str]] = [
    (
        TickEnded(
            tenants=7,
            due=5,
            enqueued=4,
            advanced=3,
            conflicts=2,
            problems=1,
            late=0,
            broken=0,
            failed=0,
            seconds=0.2249,
        ),
        logging.INFO,
        "TICK tenants=7 due=5 enqueued=4 advanced=3 conflicts=2 problems=1 late=0 broken=0 failed=0 seconds=0.22",
    ),
    (
        TickEnded(
            tenants=0,
            due=0,
            enqueued=0,
            advanced=0,
            conflicts=0,
            problems=None,
            late=None,
            broken=0,
            failed=1,
            seconds=3,
        ),
        logging.INFO,
        "TICK tenants=0 due=0 enqueued=0 advanced=0 conflicts=0 problems=? late=? broken=0 failed=1 seconds=3",
    ),
    (
        TickEnded(
            tenants=0,
            due=0,
            enqueued=0,
            advanced=0,
            conflicts=0,
            problems=0,
            late=12,
            broken=0,
            failed=1,
            seconds=3,
            away="the queue since 2025-08-23T12:00:00Z",
        ),
        logging.INFO,
        "TICK tenants=0 due=0 enqueued=0 advanced=0 conflicts=0 problems=0 late=12 broken=0 failed=1 seconds=3 "
        "away=[the queue since 2025-08-23T12:00:00Z]",
    ),
    (
        TickFailed(error=AWAY),
        logging.ERROR,
        "UNAVAILABLE the tick could not examine all documents: Cosmos DB answered 503 error=ServiceUnavailable",
    ),
    (
        TenantFailed(tenant="acme", error=AWAY),
        logging.ERROR,
        "UNAVAILABLE tenant 'acme' could not be scheduled: Cosmos DB answered 503 tenant=acme error=ServiceUnavailable",
    ),
    (
        WatermarkInvalid(error=StateInvalid("document 'watermark' in partition @fleet: sinceTs: got 'x'")),
        logging.WARNING,
        "document 'watermark' in partition @fleet: sinceTs: got 'x'. All documents are examined, and the watermark is "
        "replaced",
    ),
    (
        DocumentInvalid(problem=Problem(tenant_id="acme", flow="weather", path="flows[0].cron", why="5 fields")),
        logging.ERROR,
        "INVALID acme/weather flows[0].cron: 5 fields tenant=acme flow=weather path=flows[0].cron",
    ),
    (
        DocumentDoubtful(
            problem=Problem(tenant_id="acme", flow="weather", path="flows[0].tz", why="unknown", level="warning")
        ),
        logging.WARNING,
        "WARNING acme/weather flows[0].tz: unknown tenant=acme flow=weather path=flows[0].tz",
    ),
    (
        RunUnusual(record=ended(Outcome.SUCCEEDED), unusual=UNUSUAL_COUNT),
        logging.WARNING,
        "UNUSUAL acme/weather: orders=0, usually 120 count=orders run=5f",
    ),
    (
        RunUnusual(record=ended(Outcome.SUCCEEDED), unusual=UNUSUAL_TIME),
        logging.WARNING,
        "UNUSUAL acme/weather: took 310 s, usually 12 s run=5f",
    ),
    (
        SettingDoubtful(why="KEY_VAULT_URL: unknown, and has no effect; did you mean KEY_VAULT_URI?"),
        logging.WARNING,
        "WARNING app setting KEY_VAULT_URL: unknown, and has no effect; did you mean KEY_VAULT_URI?",
    ),
    (
        HeartbeatFailed(why="the answer was 404"),
        logging.WARNING,
        "WARNING the request to HEARTBEAT_URL failed: the answer was 404",
    ),
    (
        Unhealthy(problems=("Two ticks in a row have not started.", "A flow has not succeeded in time.")),
        logging.ERROR,
        "UNHEALTHY Two ticks in a row have not started. A flow has not succeeded in time.",
    ),
    (
        FlowLate(tenant="acme", flow="weather", since="2025-08-23T12:00:00Z", last_success="2025-08-23T09:00:04Z"),
        logging.ERROR,
        "LATE acme/weather since=2025-08-23T12:00:00Z last_success=2025-08-23T09:00:04Z",
    ),
    (
        FlowLate(tenant="a\nb", flow="weather", since="2025-08-23T12:00:00Z", last_success=None),
        logging.ERROR,
        r"LATE a\nb/weather since=2025-08-23T12:00:00Z last_success=never",
    ),
    (
        LateOmitted(count=3),
        logging.ERROR,
        "LATE at least 3 more flows: python -m datasync flows --late lists all of them",
    ),
    (
        LateUnknown(error=ServiceUnavailable("Cosmos DB answered 503")),
        logging.ERROR,
        "UNAVAILABLE the tick could not look for late flows: Cosmos DB answered 503 error=ServiceUnavailable",
    ),
    (
        ProblemsOmitted(count=3),
        logging.ERROR,
        "INVALID 3 more problems: query partition @fleet of the runs container for type = 'Problem'",
    ),
    (
        FlowFileBroken(
            module="flows.crm",
            cause="ImportError: no crm",
            traceback="Traceback …\n  in flows/crm.py\nImportError: no crm",
        ),
        logging.ERROR,
        "BROKEN flow file flows.crm could not be loaded: ImportError: no crm module=flows.crm\n"
        "  Traceback …\n    in flows/crm.py\n  ImportError: no crm",
    ),
    (RunStarted(subject="acme/weather", run="5f", attempt=1), logging.INFO, "START acme/weather run=5f attempt=1"),
    (
        RunStarted(subject="acme/weather", run="5f", attempt=1, queued=timedelta(minutes=12)),
        logging.INFO,
        "START acme/weather queued=720.0s run=5f attempt=1",
    ),
    (
        RecordingLost(
            subject="acme/weather", error=ServiceUnavailable("the blob container refused"), run="5f", attempt=2
        ),
        logging.WARNING,
        "UNRECORDED acme/weather: the recording was not stored: the blob container refused run=5f attempt=2 "
        "error=ServiceUnavailable",
    ),
    (
        FlowBlocked(subject="acme/slow", seconds=8.04, place="flows/slow.py:11 (time.sleep)", run="5f", attempt=1),
        logging.ERROR,
        "BLOCKED acme/slow blocked every flow for 8.0 s at flows/slow.py:11 (time.sleep) run=5f attempt=1",
    ),
    (
        FlowBlocked(subject=None, seconds=2.5, place="app.py:3 (main)", run="5f", attempt=1),
        logging.ERROR,
        "BLOCKED code outside a run blocked every flow for 2.5 s at app.py:3 (main) run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.SUCCEEDED, counts={"readings": 1}, http=HTTP)),
        logging.INFO,
        "DONE acme/weather in 4.5s readings=1 http=13 retried=4 waited=3.1s run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.SUCCEEDED, http=NO_HTTP)),
        logging.INFO,
        "DONE acme/weather in 4.5s run=5f attempt=1",
    ),
    (RunEnded(record=ended_twice()), logging.INFO, "DONE acme/weather in 2.0s run=5f attempt=2"),
    (
        RunEnded(record=ended(Outcome.FAILED, "OSError: down"), traceback="Traceback …"),
        logging.ERROR,
        "FAIL acme/weather after 4.5s (failed): OSError: down run=5f attempt=1\n  Traceback …",
    ),
    (
        RunEnded(record=ended(Outcome.DEAD, "OSError: down"), traceback="Traceback …"),
        logging.ERROR,
        "FAIL acme/weather after 4.5s (dead): OSError: down run=5f attempt=1\n  Traceback …",
    ),
    (
        RunEnded(record=ended(Outcome.DEAD, "OSError: down", fingerprint="9c2e", http=HTTP), stale_utc=NOON),
        logging.ERROR,
        "FAIL acme/weather after 4.5s (dead): OSError: down fingerprint=9c2e late_since=2025-08-23T12:00:00Z http=13 "
        "retried=4 waited=3.1s run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.FAILED, "OSError: down"), stale_utc=NOON + timedelta(seconds=5)),
        logging.ERROR,
        "FAIL acme/weather after 4.5s (failed): OSError: down run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.SUCCEEDED), stale_utc=NOON),
        logging.INFO,
        "DONE acme/weather in 4.5s run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.SKIPPED_OVERLAP, "run 4e is going on", fingerprint="skipped_overlap")),
        logging.WARNING,
        "SKIPPED_OVERLAP acme/weather after 4.5s: run 4e is going on run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.CONTINUED, counts={"orders": 500})),
        logging.INFO,
        "CONTINUED acme/weather after 4.5s orders=500 run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.GAVE_UP, "the account was closed")),
        logging.WARNING,
        "GAVE_UP acme/weather after 4.5s: the account was closed run=5f attempt=1",
    ),
    (
        RunEnded(record=ended(Outcome.SKIPPED_OVERLAP, "run 4e of the same flow and tenant is going on")),
        logging.WARNING,
        "SKIPPED_OVERLAP acme/weather after 4.5s: run 4e of the same flow and tenant is going on run=5f attempt=1",
    ),
    (
        JobDropped(job=JOB, why="the run has ended already (succeeded)"),
        logging.INFO,
        "DUPLICATE acme/weather dropped: the run has ended already (succeeded) run=5f delivery=2",
    ),
    (
        RunStaysDead(job=JOB, why="the flow is disabled"),
        logging.WARNING,
        "REFUSED acme/weather stays dead: the flow is disabled run=5f delivery=2",
    ),
    (
        JobPutBack(job=JOB, why="an earlier delivery of the message has the lease", delay=timedelta(minutes=3)),
        logging.WARNING,
        "WAITING acme/weather for 180s: an earlier delivery of the message has the lease run=5f delivery=2",
    ),
    (
        RunSuperseded(job=JOB, error=LeaseLost("the lease of acme/weather is over, and was taken over")),
        logging.WARNING,
        "SUPERSEDED acme/weather: the lease of acme/weather is over, and was taken over run=5f delivery=2",
    ),
    (
        RunRenamed(job=JOB, renamed="6a", owner="other"),
        logging.WARNING,
        "RENAMED acme/weather: run 5f goes on as 6a, because a run of other was posted under its runId "
        "run=5f delivery=2",
    ),
    (
        ServiceAway(job=JOB, error=AWAY, since=NOON, pause=timedelta(seconds=30)),
        logging.ERROR,
        "UNAVAILABLE acme/weather waits for 30s: Cosmos DB is away since 2025-08-23T12:00:00Z. "
        "Cosmos DB answered 503 run=5f delivery=2",
    ),
    (
        EndingNotRecorded(job=JOB, outcome=Outcome.FAILED, error=AWAY, traceback="Traceback …"),
        logging.ERROR,
        "UNAVAILABLE acme/weather ended (failed), which could not be recorded: Cosmos DB answered 503 "
        "run=5f delivery=2\n  Traceback …",
    ),
    (
        NotBuried(message_id="m-1", error=AWAY),
        logging.ERROR,
        "UNAVAILABLE message m-1 stays in the poison queue: Cosmos DB answered 503 error=ServiceUnavailable",
    ),
    (
        StateMisplaced(error=StateInvalid("flow state id='state-crm' in partition None: tenantId: missing")),
        logging.ERROR,
        "INVALID flow state id='state-crm' in partition None: tenantId: missing",
    ),
    (
        MisplacedOmitted(count=3),
        logging.ERROR,
        "INVALID 3 more flow states that no run finds: delete the others first",
    ),
    (
        CooldownInvalid(error=StateInvalid("document cooldown-crm in partition t: untilUtc: expected a time")),
        logging.ERROR,
        "INVALID document cooldown-crm in partition t: untilUtc: expected a time",
    ),
    (
        LetterKept(message_id="m-1", why="the message is not a text in base64"),
        logging.ERROR,
        "FAIL message m-1 is kept as a dead letter: the message is not a text in base64",
    ),
    (
        JobRefused(error=JobInvalid("message m-1 is not a job"), attempt=2),
        logging.ERROR,
        "FAIL message m-1 is not a job attempt=2",
    ),
]


@pytest.mark.parametrize(
    ("event", "level", "line"), EVENTS, ids=lambda value: type(value).__name__ if isinstance(value, Event) else ""
)
def test_an_event_is_one_line_with_every_attribute(
    event: Event, level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the text arrives on Azure, so it contains everything that operators search for."""
    configure()
    emit(event)

    (logged,) = caplog.records
    assert (logged.levelno, logged.getMessage()) == (level, line)


def test_every_event_has_a_case() -> None:
    """The list above is complete."""
    public = {each for name, each in vars(events).items() if not name.startswith("_") and isinstance(each, type)}
    defined = {each for each in public if issubclass(each, Event) and each is not Event}

    assert defined == {type(event) for event, _, _ in EVENTS}


def test_a_count_does_not_replace_an_attribute_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    """A flow may use any name for a count, such as `run`. The run id in the line is still that of the run."""
    configure()
    emit(RunEnded(record=ended(Outcome.SUCCEEDED, counts={"run": 3, "http": 7}, http=HTTP)))

    assert caplog.messages == [
        "DONE acme/weather in 4.5s count.run=3 count.http=7 http=13 retried=4 waited=3.1s run=5f attempt=1"
    ]


def test_a_name_cannot_start_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """A line break in a document is escaped in the log."""
    emit(DocumentInvalid(problem=Problem(tenant_id="t\nTICK tenants=0", path="flows", why="wrong\r\nDONE")))

    assert caplog.messages == [
        r"INVALID t\nTICK tenants=0 flows: wrong\r\nDONE tenant=t\nTICK tenants=0 path=flows",
    ]


UNSEEN = "\x00\x07\x1b[31m\x85\u200b\u200d\u2028\u202e\u2066\ufeff\U000e0041"


@pytest.mark.parametrize(
    "event",
    [
        TenantFailed(tenant=f"t{UNSEEN}", error=ServiceUnavailable(f"text{UNSEEN}")),
        DocumentInvalid(problem=Problem(tenant_id=f"t{UNSEEN}", flow=f"f{UNSEEN}", path=f"p{UNSEEN}", why=UNSEEN)),
        FlowFileBroken(module=f"m{UNSEEN}", cause=f"c{UNSEEN}", traceback=f"t{UNSEEN}"),
        RunStarted(subject=f"t{UNSEEN}/f{UNSEEN}", run="5f", attempt=1),
        RecordingLost(subject=f"t{UNSEEN}/f{UNSEEN}", error=ValueError(UNSEEN), run="5f", attempt=1),
        FlowBlocked(subject=f"t{UNSEEN}/f{UNSEEN}", seconds=1, place=f"p{UNSEEN}", run="5f", attempt=1),
        RunEnded(record=ended(Outcome.DEAD, f"text{UNSEEN}", counts={f"c{UNSEEN}": 1}), traceback=f"t{UNSEEN}"),
        JobDropped(job=replace(JOB, tenant_id=f"t{UNSEEN}", flow_name=f"f{UNSEEN}"), why=UNSEEN),
        NotBuried(message_id=UNSEEN, error=ValueError(UNSEEN)),
        LetterKept(message_id=UNSEEN, why=UNSEEN),
        JobRefused(error=JobInvalid(UNSEEN), attempt=1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_characters_that_nobody_sees_are_escaped(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    """Controls, bidirectional marks and zero-width characters cannot colour, hide or reorder a line."""
    configure()
    emit(event)

    (line,) = caplog.messages
    assert [each for each in UNSEEN if each in line and not each.isprintable()] == []
    assert r"\x1b[31m" in line
    assert r"\u202e" in line


@pytest.mark.parametrize(
    "event",
    [
        TenantFailed(tenant="t" * 70_000, error=AWAY),
        DocumentInvalid(
            problem=Problem(tenant_id="t" * 70_000, flow="f" * 70_000, path="p" * 70_000, why="w" * 70_000)
        ),
        RunStarted(subject="t" * 70_000, run="5f", attempt=1),
        JobDropped(job=replace(JOB, tenant_id="t" * 70_000, flow_name="f" * 70_000), why="w" * 70_000),
        NotBuried(message_id="m" * 70_000, error=ValueError("e" * 70_000)),
    ],
    ids=lambda event: type(event).__name__,
)
def test_names_are_bounded(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    """A name has at most 200 characters in a line, tenant and flow 400. The attributes follow in any case."""
    configure()
    emit(event)

    (line,) = caplog.messages
    assert len(line) < 5_000
    assert "characters)" in line
    for letter in "tfpm":
        assert letter * 401 not in line


def test_attributes_stay_on_the_log_record(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that keeps attributes gets them as `fields`."""
    configure()
    emit(RunEnded(record=ended(Outcome.SUCCEEDED, counts={"readings": 1})))

    assert caplog.records[0].fields == {"readings": 1, "run": "5f", "attempt": 1}  # type: ignore[attr-defined]


def test_the_parts_of_an_event_are_on_the_log_record(caplog: pytest.LogCaptureFixture) -> None:
    """A handler on the same machine shows them in its own way. They are JSON."""
    configure()
    emit(RunStarted(subject="acme/weather", run="5f", attempt=2))
    emit(RunEnded(record=ended(Outcome.SUCCEEDED, counts={"readings": 1})))
    emit(NotBuried(message_id="m", error=ValueError("no")))

    started, run, other = (record.facts for record in caplog.records)  # type: ignore[attr-defined]
    assert (started["event"], started["subject"], started["attempt"]) == ("RunStarted", "acme/weather", 2)
    assert (run["event"], run["outcome"], run["counts"], run["error"]) == (
        "RunEnded",
        "succeeded",
        {"readings": 1},
        None,
    )
    assert other == {"event": "NotBuried", "sentence": "UNAVAILABLE message m stays in the poison queue: no"}
    assert json.loads(json.dumps(run)) == run


def test_an_attempt_that_fails_like_the_one_before_is_marked() -> None:
    """The fingerprints are the same. The texts may differ, for example in a time."""
    record = RunRecord.begin(JOB, "weather", NOON)
    errors = [Failure(message=text, fingerprint=mark) for text, mark in (("at 1", "a"), ("at 2", "a"), ("at 3", "b"))]
    marks = []
    for error in errors:
        record = record.after(Attempt(id="a", outcome=Outcome.FAILED, started_utc=NOON, finished_utc=NOON, error=error))
        marks.append(RunEnded(record=record).facts()["repeated"])

    assert marks == [False, True, False]
