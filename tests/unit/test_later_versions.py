"""Documents and messages of a later version of the app: this version keeps the fields that it does not know."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from datasync.errors import JobInvalid
from datasync.model.job import Job, QueueMessage
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.state import FlowState
from datasync.run.receive import receive

NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)
TIME = "2025-08-23T12:00:00Z"
LATER: dict[str, Any] = {"later": {"unknown": [1, None]}, "unknown": "x"}
MESSAGE: dict[str, Any] = {
    "tenantId": "t",
    "flowName": "weather",
    "scheduledUtc": TIME,
    "runId": "r-1",
    "trigger": "webhook",
    "enqueuedUtc": TIME,
    "messageId": "m-1",
    **LATER,
}
ATTEMPT = {
    "id": "a-1",
    "outcome": "paused",
    "startedUtc": TIME,
    "finishedUtc": TIME,
    "error": {"message": "m", "class": "E", "fingerprint": "f", **LATER},
    **LATER,
}


def job(**changes: Any) -> Job:
    body = json.dumps({**MESSAGE, **changes}).encode()
    return receive(QueueMessage(id="m-1", body=body, dequeue_count=1, inserted=NOON))


def test_a_state_keeps_fields_at_any_depth() -> None:
    """Its lease and the message in it are rewritten whenever an attempt begins or ends."""
    stored = {
        "id": "state-weather",
        "type": "FlowState",
        "tenantId": "t",
        "flowName": "weather",
        "token": 3,
        "lastOutcome": "paused",
        "consecutiveFailures": 2,
        "failingSinceUtc": TIME,
        "lastError": {"message": "m", "class": "E", "fingerprint": "f", "runId": "r-1", "finishedUtc": TIME, **LATER},
        "lease": {"until": 5.5, "nonce": "n", "message": MESSAGE, **LATER},
        "wanted": MESSAGE,
        "cursor": {"unknown": {"a": 1}},
        "outcomes": "sfz",
        "staleUtc": TIME,
        "scheduleRev": "5f",
        "scheduleSinceUtc": TIME,
        "usual": {
            "seconds": {"mean": 1.5, "deviation": 0.5, "runs": 2, **LATER},
            "counts": [{"name": "orders", "mean": 5.0, "deviation": 0.5, "runs": 2, "streak": 2, **LATER}],
            **LATER,
        },
        "unusual": [{"sinceUtc": TIME, "value": 0.0, "usual": 5.0, "count": "orders", **LATER}],
        **LATER,
    }

    assert FlowState.from_document({**stored, "_etag": "e", "_ts": 1}).document() == stored


def test_a_record_keeps_fields_at_any_depth() -> None:
    """They survive another attempt."""
    stored = {
        "id": "run-r-1",
        "type": "Run",
        "ttl": 60,
        "tenantId": "t",
        "flowName": "weather",
        "runId": "r-1",
        "scheduledUtc": TIME,
        "startedUtc": TIME,
        "finishedUtc": TIME,
        "outcome": "deferred",
        "trigger": "webhook",
        "attemptCount": 1,
        "attempts": [ATTEMPT],
        "window": {"start": TIME, "end": TIME, **LATER},
        "log": [{"level": "info", "seconds": 0.5, "text": "page 1", **LATER}],
        "logLeftOut": 3,
        "next": [{"message": MESSAGE, "visibleAt": TIME, **LATER}],
        **LATER,
    }
    read = RunRecord.from_document(stored)
    assert read.document(timedelta(minutes=1)) == stored

    done = Attempt(id="a-2", outcome=Outcome.SUCCEEDED, started_utc=NOON, finished_utc=NOON)
    after = read.after(done).document(timedelta(minutes=1))
    assert after["attempts"][0] == ATTEMPT
    assert after["later"] == LATER["later"]


def test_a_field_that_this_version_resets_is_not_kept() -> None:
    """Only unknown fields are."""
    stored = {"tenantId": "t", "flowName": "weather", "id": "state-weather", "consecutiveFailures": 2, **LATER}
    state = FlowState.from_document(stored)
    done = Attempt(id="a-2", outcome=Outcome.SUCCEEDED, started_utc=NOON, finished_utc=NOON)

    after = state.after(done, job(), NOON, None).document()

    assert "consecutiveFailures" not in after
    assert after["unknown"] == "x"


def test_an_error_that_an_earlier_version_keeps_after_a_success_is_not_read() -> None:
    """An earlier version knows neither the error nor since when the flow fails. Another failure begins anew."""
    error = {"message": "old", "runId": "r-0", "finishedUtc": TIME}
    kept = {"tenantId": "t", "flowName": "weather", "id": "state-weather", "failingSinceUtc": TIME, "lastError": error}

    recovered = FlowState.from_document(kept)
    failing = FlowState.from_document({**kept, "consecutiveFailures": 1, "lastSuccessUtc": "2025-08-23T12:30:00Z"})

    assert (recovered.failing_since_utc, recovered.last_error) == (None, None)
    assert (failing.failing_since_utc, failing.last_error) == (None, None)
    hour_later = NOON + timedelta(hours=1)
    failed = Attempt(id="a-3", outcome=Outcome.FAILED, started_utc=hour_later, finished_utc=hour_later)
    assert recovered.after(failed, job(), None, None).failing_since_utc == hour_later
    assert failing.after(failed, job(), None, None).failing_since_utc is None


def test_a_message_that_is_put_back_keeps_its_fields() -> None:
    """A host of the later version may receive the copy."""
    assert json.loads(job().copy(outages=1).encode()) == {**MESSAGE, "outages": 1}


def test_another_message_of_the_run_does_not_have_them() -> None:
    """Their values are about the first message."""
    assert "later" not in json.loads(job().next_part(NOON).encode())
    assert "later" not in json.loads(job().once_more(NOON).encode())


def test_a_run_with_an_unknown_outcome_is_over() -> None:
    """So this version does not run it again."""
    job_again = job()
    record = RunRecord.begin(job_again, "weather", NOON)
    stored = {**record.document(timedelta(minutes=1)), "outcome": "paused"}

    assert RunRecord.from_document(stored).is_over_for(job_again)


def test_an_unknown_trigger_that_cannot_be_stored_is_refused() -> None:
    """As other fields."""
    with pytest.raises(JobInvalid, match="trigger: expected .* without half of a surrogate pair"):
        job(trigger="\ud800")


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), {"a": ["\udfff"]}], ids=repr)
def test_an_unknown_field_that_cannot_be_stored_is_refused(value: object) -> None:
    """It would fail again with each record and each copy of the message."""
    with pytest.raises(JobInvalid, match="comment: cannot be stored as JSON"):
        job(comment=value)
