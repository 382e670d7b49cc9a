"""Run records: whom they end, how they count, and those that an earlier version wrote."""

from datetime import timedelta
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from datasync.model.decode import FieldError
from datasync.model.failure import Failure
from datasync.model.job import Trigger
from datasync.model.lease import Lease
from datasync.model.run import MOST_ATTEMPTS, Outcome, RunRecord
from tests.runs import NOON, attempt, job

BEGUN = RunRecord.begin(job(), "weather", NOON)
ENDINGS = {
    Outcome.SUCCEEDED,
    Outcome.DEAD,
    Outcome.GAVE_UP,
    Outcome.CONTINUED,
    Outcome.SKIPPED_OVERLAP,
}
"""The outcomes after which a run does not run again."""

OUTCOMES = [None, *Outcome]
WHATEVER = dict.fromkeys(OUTCOMES, True)
ENDED = {outcome: outcome in ENDINGS for outcome in OUTCOMES}
NEVER = dict.fromkeys(OUTCOMES, False)

outcomes = st.lists(st.sampled_from(Outcome), min_size=1, max_size=8) | st.lists(
    st.sampled_from(Outcome), min_size=MOST_ATTEMPTS + 1, max_size=MOST_ATTEMPTS + 5
)


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(
    ("redrive", "deferral", "is_over"),
    [
        (0, 9, WHATEVER),  # a redrive before the present one
        (1, 1, WHATEVER),  # a deferral before the present one
        (1, 2, ENDED),
        (1, 3, ENDED),
        (2, 0, NEVER),  # a redrive after the present one
    ],
)
def test_a_record_ends_the_messages_up_to_its_own(
    outcome: Outcome | None, redrive: int, deferral: int, is_over: dict[Outcome | None, bool]
) -> None:
    """The record is at redrive 1 and deferral 2. A run that was skipped because of its entry may still run."""
    record = replace(BEGUN, redrive=1, deferrals=2, outcome=outcome)

    assert record.is_over_for(job(redrive=redrive, deferral=deferral)) is is_over[outcome]


@settings(deadline=None)
@given(outcomes=outcomes, redrive=st.integers(1, 9), deferral=st.integers(0, 9))
def test_a_redrive_starts_the_counting_again(outcomes: list[Outcome], redrive: int, deferral: int) -> None:
    """It is never over for the redriven message. The attempts before are kept, and still counted."""
    before = replace(recorded(outcomes), retry_laters=3, deferred_since_utc=NOON, token=7, etag="e", next=())
    again = job(redrive=redrive, deferral=deferral, trigger=Trigger.REDRIVE)

    after = before.is_present_for(again)

    assert not after.is_over_for(again)
    assert (after.redrive, after.trigger, after.outcome) == (redrive, Trigger.REDRIVE, None)
    counts = (after.failures, after.interruptions, after.deferrals, after.retry_laters, after.deferred_since_utc)
    assert counts == (0, 0, 0, 0, None)
    for kept in ("attempts", "attempt_count", "error", "started_utc", "token", "etag", "run_id"):
        assert getattr(after, kept) == getattr(before, kept), kept
    assert after.is_present_for(again) is after
    assert after.is_present_for(job(redrive=redrive - 1)) is after


@settings(deadline=None)
@given(outcomes=outcomes)
def test_the_counts_of_a_record(outcomes: list[Outcome]) -> None:
    """Failures and deferrals add up, interruptions count in a row, and the last attempts are listed."""
    record = recorded(outcomes)

    assert record.attempt_count == len(outcomes)
    assert [each.outcome for each in record.attempts] == outcomes[-MOST_ATTEMPTS:]
    assert record.failures == sum(each in (Outcome.FAILED, Outcome.DEAD) for each in outcomes)
    assert record.deferrals == outcomes.count(Outcome.DEFERRED)
    assert record.interruptions == len([*takewhile(lambda each: each is Outcome.INTERRUPTED, reversed(outcomes))])


@pytest.mark.parametrize("outcome", Outcome)
def test_an_interruption_that_is_noticed_late_does_not_change_the_end(outcome: Outcome) -> None:
    """An ended run stays ended as it did. A run that has not ended is interrupted now. Either lists the attempt."""
    first = replace(attempt(outcome), error=Failure(message="the first"))
    second = replace(attempt(Outcome.INTERRUPTED, 2), error=Failure(message="the second"))
    has_ended = outcome not in (Outcome.FAILED, Outcome.DEFERRED, Outcome.INTERRUPTED)

    record = BEGUN.after(first).after(second)

    last = first if has_ended else second
    assert (record.outcome, record.finished_utc, record.error) == (last.outcome, last.finished_utc, last.error)
    assert record.attempts == (first, second)


def test_a_run_that_was_skipped_and_then_runs_ends_as_it_did() -> None:
    """Only an interruption can be late. The entry was enabled again before another message of the run came."""
    first, second = attempt(Outcome.SKIPPED_DISABLED), attempt(Outcome.SUCCEEDED, 2)

    record = BEGUN.after(first).after(second)

    assert (record.outcome, record.finished_utc) == (Outcome.SUCCEEDED, second.finished_utc)


def test_an_attempt_that_ends_releases_the_lease_and_keeps_the_start() -> None:
    """The run has started with its first attempt. Further fields are changed as the caller says."""
    late = replace(attempt(Outcome.FAILED), started_utc=NOON + timedelta(hours=1))
    later = replace(attempt(Outcome.SUCCEEDED, 2), started_utc=NOON + timedelta(hours=2))

    record = replace(BEGUN, lease=Lease(until=1)).after(late)
    assert (record.lease, record.started_utc) == (None, late.started_utc)

    record = record.after(later, message_id="m-2")
    assert (record.started_utc, record.message_id) == (late.started_utc, "m-2")


OLDER = {
    "id": "run-r-1-2",
    "type": "Run",
    "tenantId": "t",
    "flowName": "weather",
    "runId": "r-1",
    "attempt": 2,
    "outcome": "failed",
    "scheduledUtc": "2025-08-23T12:00:00Z",
    "startedUtc": "2025-08-23T12:00:00Z",
    "finishedUtc": "2025-08-23T12:00:01Z",
    "error": "HTTPStatusError: 401",
    "counts": {"items": 1},
}


def test_a_record_of_an_earlier_version_can_be_read() -> None:
    """It has a single attempt, with its number, and its error is a text."""
    record = RunRecord.from_document(OLDER)

    assert record.error is not None
    assert record.error.message == "HTTPStatusError: 401"
    assert (record.attempt_count, record.outcome, record.unknown) == (2, "failed", {})


def test_a_run_goes_on_after_an_earlier_version() -> None:
    """Its next attempt is counted after those before. The record is then written in the present form."""
    stored = RunRecord.from_document({**OLDER, "later": 1}).after(attempt(Outcome.SUCCEEDED, 3))
    document = stored.document(timedelta(days=30))

    assert "attempt" not in document
    assert (document["id"], document["attemptCount"], document["later"]) == ("run-r-1", 3, 1)
    assert (document["startedUtc"], document["finishedUtc"]) == ("2025-08-23T12:00:00Z", "2025-08-23T12:00:03Z")
    assert RunRecord.from_document(document) == stored


@pytest.mark.parametrize(
    ("edit", "path"),
    [({"id": "run-r-2"}, "runId"), ({"error": 5}, ""), ({"attemptCount": "2"}, "attemptCount")],
    ids=str,
)
def test_a_record_that_was_edited_wrongly_is_refused(edit: dict[str, Any], path: str) -> None:
    """The error names the field. An id belongs to one run."""
    with pytest.raises(FieldError) as refused:
        RunRecord.from_document({**BEGUN.document(timedelta(days=30)), **edit})

    assert refused.value.path == path


def recorded(outcomes: list[Outcome]) -> RunRecord:
    """Return the record of a run with attempts of these outcomes."""
    record = BEGUN
    for number, outcome in enumerate(outcomes, start=1):
        record = record.after(replace(attempt(outcome, number), error=Failure(message=f"error {number}")))
    return record
