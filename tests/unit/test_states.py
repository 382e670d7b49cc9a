"""The state of a flow of a tenant, and the record of a run, after each kind of attempt."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from datasync.errors import StateInvalid
from datasync.model.failure import Failure
from datasync.model.job import JobMessage
from datasync.model.lease import Lease
from datasync.model.run import MOST_ATTEMPTS, Outcome, RunRecord
from datasync.model.state import LAST_MESSAGE, REMEMBERED, FlowState
from tests.runs import NOON, attempt, job

HOUR = timedelta(hours=1)


@pytest.fixture
def empty() -> FlowState:
    return FlowState(tenant_id="t", flow_name="weather")


@pytest.mark.parametrize("outcome", Outcome)
def test_an_ended_run_is_remembered(empty: FlowState, outcome: Outcome) -> None:
    """A run that will be attempted again has not ended. A deferred one goes on with another message."""
    state = empty.after(attempt(outcome), job(), None, None)

    will_be_attempted_again = outcome in (Outcome.FAILED, Outcome.INTERRUPTED)
    assert state.ended == (() if will_be_attempted_again else ("r-1",))
    assert (state.last_outcome, state.last_run_utc) == (outcome, NOON + timedelta(seconds=1))


def test_a_deferred_run_is_not_ended_for_its_next_message(empty: FlowState) -> None:
    """Each message of a run that was deferred ends for itself."""
    state = empty.after(attempt(Outcome.DEFERRED), job(), None, None)
    assert job().leg in state.ended
    assert job(deferral=1).leg not in state.ended

    state = state.after(attempt(Outcome.SUCCEEDED, 2), job(deferral=1), NOON, None)
    assert job(deferral=1).leg in state.ended


def test_the_number_of_remembered_runs_is_limited(empty: FlowState) -> None:
    """The state stays small after many runs, and remembers the last ones."""
    state = empty
    for number in range(100):
        state = state.after(attempt(Outcome.SUCCEEDED), job(f"{number:032}"), NOON, None)

    assert state.ended == tuple(f"{number:032}" for number in range(100 - REMEMBERED, 100))
    assert len(str(state.document())) < 2048


@pytest.mark.parametrize("outcome", Outcome)
def test_the_last_outcomes_are_remembered(empty: FlowState, outcome: Outcome) -> None:
    """Each attempt has a letter of its own, so that a state stays small."""
    state = empty.after(attempt(Outcome.FAILED), job(), None, None).after(attempt(outcome, 2), job(), None, None)
    assert FlowState.from_document(state.document()).last_outcomes == ("failed", str(outcome))

    for number in range(REMEMBERED - 1):
        state = state.after(attempt(Outcome.SUCCEEDED, number), job(), None, None)
    assert state.last_outcomes == (str(outcome), *["succeeded"] * (REMEMBERED - 1))


def test_a_skipped_run_is_an_outcome_too(empty: FlowState) -> None:
    """An outcome of a later version is unknown."""
    skipped = empty.noting_skip("r-1", None)
    assert (skipped.last_outcomes, skipped.last_outcome) == (("skipped_overlap",), None)

    assert skipped.noting_outcome(Outcome("paused")).last_outcomes == ("skipped_overlap", "unknown")


def test_a_record_recognises_its_attempts() -> None:
    """Settlement reads a record back if the answer of its write was lost. All attempts are counted, the last listed."""
    record = RunRecord.begin(job(), "weather", NOON)
    for number in range(1, MOST_ATTEMPTS + 6):
        assert not record.has(f"attempt-{number}")
        record = record.after(attempt(Outcome.FAILED, number))
        assert record.has(f"attempt-{number}")

    assert [each.id for each in record.attempts] == [f"attempt-{number}" for number in range(6, MOST_ATTEMPTS + 6)]
    assert (record.attempt_count, record.failures) == (MOST_ATTEMPTS + 5, MOST_ATTEMPTS + 5)


def test_only_success_advances_the_window(empty: FlowState) -> None:
    """Each run covers the time since the last success. The window never goes back to an earlier time."""
    state = empty.after(attempt(Outcome.SUCCEEDED), job(), NOON, None)
    others = set(Outcome) - {Outcome.SUCCEEDED, Outcome.CONTINUED}
    for number, outcome in enumerate(sorted(others), start=2):
        state = state.after(attempt(outcome, number), job(), NOON + timedelta(hours=1), None)
    assert state.window_end_utc == NOON
    assert state.last_success_utc == NOON + timedelta(seconds=1)

    assert state.after(attempt(Outcome.SUCCEEDED), job(), NOON - timedelta(hours=1), None).window_end_utc == NOON
    later = state.after(attempt(Outcome.SUCCEEDED), job(), NOON + timedelta(hours=1), None)
    assert later.window_end_utc == NOON + timedelta(hours=1)


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(Outcome), st.none() | st.integers(-48, 48).map(lambda hours: NOON + hours * HOUR))
    )
)
def test_a_window_never_moves_back(steps: list[tuple[Outcome, datetime | None]]) -> None:
    """After any ends in any order, the window ends at the latest time that a success or a part has reached."""
    state, reached = FlowState(tenant_id="t", flow_name="weather"), set[datetime]()
    for number, (outcome, end) in enumerate(steps):
        state = state.after(attempt(outcome, number), job(), end, None)
        if end and outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED):
            reached.add(end)
        assert state.window_end_utc == max(reached, default=None)


@pytest.mark.parametrize(("wish", "wanted"), [(job("r-2").copy(), "r-2"), (None, "r-0")])
def test_a_skipped_run_is_remembered_beside_the_run_that_goes_on(wish: JobMessage | None, wanted: str) -> None:
    """It is an ended leg. One run more is wanted in the end, the last one that was asked for; nothing else changes."""
    before = FlowState(
        tenant_id="t",
        flow_name="weather",
        token=3,
        lease=Lease(until=1, nonce="n"),
        wanted=job("r-0").copy(),
        cursor=5,
        window_end_utc=NOON,
        last_outcome="succeeded",
        consecutive_failures=1,
        ended=tuple(f"r-{number}" for number in range(REMEMBERED)),
    )

    after = before.noting_skip("r-skipped", wish)

    assert after.ended == (*before.ended[1:], "r-skipped")
    assert after.wanted
    assert after.wanted.run_id == wanted
    assert replace(after, ended=before.ended, wanted=before.wanted, outcomes=before.outcomes) == before


def test_a_part_advances_the_window_as_far_as_it_is_done(empty: FlowState) -> None:
    """A part without an end of its own leaves the window. It is not the success of the run."""
    state = empty.after(attempt(Outcome.CONTINUED), job(), NOON, None)
    assert (state.window_end_utc, state.last_success_utc) == (NOON, None)

    assert state.after(attempt(Outcome.CONTINUED), job("r-1.2"), None, None).window_end_utc == NOON


@pytest.mark.parametrize("window_end", ["last week", "0001-01-01T00:00:00+05:00", 5])
def test_a_state_that_was_edited_wrongly_is_named(window_end: object) -> None:
    """The error names the document, and the remedy."""
    with pytest.raises(StateInvalid, match="flow state id='state-weather' of tenant 't': .*delete the document"):
        FlowState.from_document(
            {"id": "state-weather", "tenantId": "t", "flowName": "weather", "windowEndUtc": window_end}
        )


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        (Outcome.FAILED, 3),
        (Outcome.DEAD, 3),
        (Outcome.SUCCEEDED, 0),
        (Outcome.CONTINUED, 0),
        (Outcome.GAVE_UP, 3),
        (Outcome.DEFERRED, 2),
        (Outcome.INTERRUPTED, 2),
    ],
)
def test_failures_in_a_row_are_counted_until_a_success(empty: FlowState, outcome: Outcome, failures: int) -> None:
    """Giving up counts, so that a flow that always gives up is among the failing ones. Deferrals do not count."""
    state = empty
    for number in (1, 2):
        state = state.after(attempt(Outcome.FAILED, number), job(), None, None)

    assert state.after(attempt(outcome, 3), job(), NOON, None).consecutive_failures == failures


@pytest.mark.parametrize("outcome", Outcome)
def test_the_first_and_the_last_failure_are_remembered_until_a_success(empty: FlowState, outcome: Outcome) -> None:
    """A deferral, an interruption or a skipped run does not end the failure. A part that was done does."""
    first = replace(attempt(Outcome.FAILED, 1), error=Failure(message="first", fingerprint="1"))
    second = replace(attempt(Outcome.GAVE_UP, 2), started_utc=NOON + HOUR, error=Failure(message="second"))
    third = replace(attempt(outcome, 3), started_utc=NOON + 2 * HOUR, error=Failure(message="third"))

    failing = empty.after(first, job(), None, None).after(second, job("r-2"), None, None)
    after = FlowState.from_document(failing.after(third, job("r-3"), None, None).document())

    if outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED):
        assert (after.failing_since_utc, after.last_error) == (None, None)
        return
    assert after.failing_since_utc == NOON
    assert after.last_error is not None
    last = ("third", "r-3", third.finished_utc) if outcome.is_failing else ("second", "r-2", second.finished_utc)
    assert (after.last_error.message, after.last_error.run_id, after.last_error.finished_utc) == last


def test_a_failure_after_a_success_is_the_first_again(empty: FlowState) -> None:
    """The time of the failures before the success is not kept."""
    state = empty.after(attempt(Outcome.FAILED), job(), None, None).after(attempt(Outcome.SUCCEEDED), job(), None, None)
    failed = replace(attempt(Outcome.FAILED), started_utc=NOON + HOUR)

    assert state.after(failed, job("r-2"), None, None).failing_since_utc == NOON + HOUR


def test_a_state_keeps_the_start_of_an_error(empty: FlowState) -> None:
    """The record has the whole message, and the body of the answer. A state is read with those of all flows."""
    error = Failure("m" * 2000, "HTTPStatusError", "5f" * 8, status=503, host="api.example.com", body="b" * 300)
    state = empty.after(replace(attempt(Outcome.FAILED), error=error), job(), None, None)

    assert state.last_error is not None
    assert (len(state.last_error.message), state.last_error.message[:200]) == (LAST_MESSAGE, "m" * 200)
    kept = state.document()["lastError"]
    assert [kept[name] for name in ("class", "fingerprint", "status", "host")] == [
        "HTTPStatusError",
        "5f" * 8,
        503,
        "api.example.com",
    ]
    assert "body" not in kept
    assert len(str(state.document())) < 1024


@pytest.mark.parametrize(("error", "message"), [("OSError: down", "OSError: down"), ("", "no message")])
def test_a_record_of_an_earlier_version_is_read(error: str, message: str) -> None:
    """It has the fields of one attempt, and its error is a text. A final one still ends its run."""
    stored = {
        "id": "run-r-1",
        "type": "Run",
        "tenantId": "t",
        "flowName": "weather",
        "runId": "r-1",
        "attempt": 5,
        "outcome": "dead",
        "scheduledUtc": "2025-08-23T12:00:00Z",
        "startedUtc": "2025-08-23T12:00:00Z",
        "finishedUtc": "2025-08-23T12:00:01Z",
        "error": error,
        "counts": {"orders": 3},
        "_etag": '"1"',
    }

    record = RunRecord.from_document(stored)

    assert (record.outcome, record.attempt_count, record.counts) == (Outcome.DEAD, 5, {"orders": 3})
    assert record.error == Failure(message=message)
    assert record.is_over_for(job())


@pytest.mark.parametrize("shape", [FlowState, RunRecord])
def test_fields_of_a_later_version_are_kept(shape: type[FlowState] | type[RunRecord]) -> None:
    """During a deployment, older code writes documents that later code has written."""
    document = FlowState(tenant_id="t", flow_name="weather").document()
    if shape is RunRecord:
        document = RunRecord.begin(job(), "weather", NOON).document(timedelta(days=30))

    read = shape.from_document({**document, "later": {"a": 1}, "_etag": '"1"', "_ts": 5})
    again = read.document() if isinstance(read, FlowState) else read.document(timedelta(days=30))

    assert again == {**document, "later": {"a": 1}}


@pytest.mark.parametrize("cursor", ["\ud800", {"\udfff": 1}, [["\ud83d"]]])
def test_a_cursor_with_half_a_surrogate_pair_is_refused(empty: FlowState, cursor: object) -> None:
    """It was edited by hand, and could not be recorded after the run."""
    with pytest.raises(StateInvalid, match="cursor: half of a surrogate pair"):
        FlowState.from_document({**empty.document(), "cursor": cursor})


def test_times_without_an_offset_are_utc(empty: FlowState) -> None:
    """In states and records that somebody has edited, at any depth. They are compared with times of the app."""
    local = "2025-08-23T14:00:00"
    state = FlowState.from_document({**empty.document(), "lastRunUtc": local, "lease": {"startedUtc": local}})
    attempts = [{"id": "a", "outcome": "failed", "startedUtc": local, "finishedUtc": "2025-08-23T16:00:00+02:00"}]
    document = RunRecord.begin(job(), "weather", NOON).document(timedelta(days=30))
    record = RunRecord.from_document({**document, "finishedUtc": local, "attempts": attempts})

    assert state.lease
    times = [state.last_run_utc, state.lease.started_utc, record.finished_utc]
    times += [time for each in record.attempts for time in (each.started_utc, each.finished_utc)]
    assert [time and time.isoformat() for time in times] == ["2025-08-23T14:00:00+00:00"] * 5


def test_a_time_that_is_none_in_utc_is_named(empty: FlowState) -> None:
    """The path of its field is part of the error."""
    lease = {"startedUtc": "0001-01-01T00:00:00+05:00"}

    with pytest.raises(StateInvalid, match=r"of tenant 't': lease: startedUtc: expected an ISO 8601 time such as"):
        FlowState.from_document({**empty.document(), "lease": lease})
