"""Documents of the runs container, edited by hand: they are read, or the error names the field."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from datasync.errors import StateInvalid
from datasync.model.decode import FieldError, decode
from datasync.model.failure import Failure
from datasync.model.job import Job, JobMessage, PlannedJob, QueueMessage, Trigger
from datasync.model.lease import Lease
from datasync.model.run import Attempt, Outcome, RunRecord, RunWindow
from datasync.model.state import FlowState, LastError
from datasync.run.receive import receive
from datasync.stores.fleet import StandingProblem, Watermark
from tests.fuzz import grammar
from tests.fuzz.campaign import Campaign

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
MESSAGE = JobMessage(
    tenant_id="t",
    flow_name="weather",
    scheduled_utc=NOW,
    run_id="r-1",
    trigger=Trigger.SCHEDULE,
    enqueued_utc=NOW,
    message_id="m-1",
)
JOB = receive(QueueMessage("m-1", MESSAGE.encode().encode(), 1, NOW))
FAILURE = Failure(message="no", kind="ValueError", fingerprint="f", status=503, host="example.com", body="{}")
LEASE = Lease(until=NOW.timestamp() + 60, nonce="n", started_utc=NOW, message=MESSAGE)
ATTEMPT = Attempt(
    id="a", outcome=Outcome.FAILED, started_utc=NOW, finished_utc=NOW, token=3, error=FAILURE, secrets={"a--b": NOW}
)
STATE = FlowState(
    tenant_id="t",
    flow_name="weather",
    token=3,
    lease=LEASE,
    wanted=MESSAGE,
    cursor={"page": [1, "a", None]},
    window_end_utc=NOW,
    last_run_utc=NOW,
    last_outcome="succeeded",
    last_success_utc=NOW,
    consecutive_failures=2,
    failing_since_utc=NOW,
    last_error=LastError.of(FAILURE, "r-1", NOW),
    ended=("r-0", "r-1~1.0"),
)
RECORD = RunRecord(
    tenant_id="t",
    flow_name="weather",
    run_id="r-1",
    scheduled_utc=NOW,
    started_utc=NOW,
    finished_utc=NOW,
    outcome=Outcome.FAILED,
    attempt_count=1,
    attempts=(ATTEMPT,),
    failures=1,
    deferred_since_utc=NOW,
    error=FAILURE,
    counts={"orders": 3},
    http={"requests": 2, "retries": 1, "waited": 0.5},
    window=RunWindow(NOW, NOW),
    cursor_before=1,
    cursor_after={"a": 2},
    message_id="m-1",
    next=(PlannedJob(MESSAGE, NOW),),
    lease=LEASE,
    token=3,
)
WATERMARK = {"sinceTs": 1_756_000_000, "scannedUtc": "2025-08-23T12:00:00Z", "scope": "a/b c", "retry": ["a", "b"]}
PROBLEM = {
    "document": "t",
    "tenant": "t",
    "path": "flows[0].cron",
    "why": "wrong",
    "sinceUtc": "2025-08-23T12:00:00Z",
    "flow": "weather",
}


def _stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as the database gives it back."""
    document: dict[str, Any] = json.loads(json.dumps({**fields, "_etag": '"1"', "_ts": 1_756_000_000}))
    return document


def check_state(document: Mapping[str, Any]) -> None:
    """Read a state, and use it as a run does."""
    try:
        state = FlowState.from_document(document)
    except StateInvalid as error:
        str(error).encode()
        return
    _use_lease(state.lease)
    after = state.after(ATTEMPT, JOB, NOW, state.cursor)
    _write(after.noting_skip("r-9", state.wanted).document())


def check_record(document: Mapping[str, Any]) -> None:
    """Read a record, and use it as a run does."""
    try:
        record = RunRecord.from_document(document)
    except FieldError as error:
        str(error).encode()
        return
    _use_lease(record.lease)
    record.is_over_for(JOB)
    max(NOW, record.started_utc, record.finished_utc, *(each.finished_utc for each in record.attempts))
    _write(record.is_present_for(JOB).after(ATTEMPT).document(timedelta(days=1)))


def _use_lease(lease: Lease | None) -> None:
    if lease and lease.is_live(NOW):
        lease.left(NOW)
    assert NOW - ((lease and lease.started_utc) or NOW) is not None
    job = (lease or Lease()).holder("t")
    assert job is None or isinstance(job, Job)


def _write(document: Mapping[str, Any]) -> None:
    json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")


def check_watermark(document: Mapping[str, Any]) -> None:
    with suppress(FieldError):
        found = decode(Watermark, document)
        assert found.scanned_utc is None or abs(NOW - found.scanned_utc) >= timedelta()


def check_standing_problem(document: Mapping[str, Any]) -> None:
    with suppress(FieldError):
        found = decode(StandingProblem, document)
        assert found.id.startswith("problem-")
        assert found.problem.why == found.why


@pytest.mark.parametrize(
    ("correct", "check"),
    [
        (STATE.document(), check_state),
        (RECORD.document(timedelta(days=1)), check_record),
        (WATERMARK, check_watermark),
        (PROBLEM, check_standing_problem),
    ],
    ids=["state", "record", "watermark", "problem"],
)
def test_any_stored_document_is_read_or_refused(
    campaign: Campaign, correct: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]
) -> None:
    """A value that can be read can be used, and written again."""

    def make(choices: Random) -> dict[str, Any]:
        made = grammar.mutated(choices, _stored(correct))
        return made if isinstance(made, dict) else {"id": "state-weather", "tenantId": "t", "cursor": made}

    check(_stored(correct))
    campaign.run(800, make, check)
