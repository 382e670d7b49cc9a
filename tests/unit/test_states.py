"""The state of a flow of a tenant, after each kind of attempt."""

from datetime import UTC, datetime, timedelta

import pytest

from datasync.errors import StateInvalid
from datasync.model.run import Outcome, RunRecord
from datasync.model.state import REMEMBERED, FlowState

NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)


def attempt(outcome: Outcome, number: int = 1, run_id: str = "r-1") -> RunRecord:
    return RunRecord(
        tenant_id="t",
        flow_name="weather",
        run_id=run_id,
        attempt=number,
        outcome=outcome,
        scheduled_utc=NOON,
        started_utc=NOON,
        finished_utc=NOON + timedelta(seconds=number),
    )


def applied(state: FlowState, record: RunRecord, window_end: datetime | None) -> FlowState:
    """Apply an attempt, with a message id of its own."""
    return state.after(record, window_end, f"message-{record.run_id}-{record.attempt}")


@pytest.fixture
def empty() -> FlowState:
    return FlowState(tenant_id="t", flow_name="weather")


@pytest.mark.parametrize("outcome", Outcome)
def test_applying_an_attempt_twice_changes_nothing(empty: FlowState, outcome: Outcome) -> None:
    """A write is repeated if its answer was lost. The state stays the same."""
    once = applied(empty, attempt(outcome), NOON)

    assert once != empty
    assert applied(once, attempt(outcome), NOON) == once


def test_an_older_attempt_is_recognised_after_others(empty: FlowState) -> None:
    """Other attempts of the flow may end between a write and its repetition."""
    state = empty
    for number in range(1, REMEMBERED + 1):
        state = applied(state, attempt(Outcome.FAILED, number), None)

    assert applied(state, attempt(Outcome.FAILED, 1), None) == state
    assert state.consecutive_failures == REMEMBERED


def test_two_messages_of_one_run_both_count(empty: FlowState) -> None:
    """A killed tick may send a message twice. The second attempt may succeed after the first one has failed."""
    failed = empty.after(attempt(Outcome.FAILED), NOON, "message-1")
    state = failed.after(attempt(Outcome.SUCCEEDED), NOON, "message-2")

    assert (state.consecutive_failures, state.last_success_utc, state.window_end_utc) == (
        0,
        NOON + timedelta(seconds=1),
        NOON,
    )


def test_the_number_of_remembered_attempts_is_limited(empty: FlowState) -> None:
    """The state stays small after many runs."""
    state = empty
    for number in range(100):
        state = applied(state, attempt(Outcome.SUCCEEDED, run_id=f"{number:032}"), NOON)

    assert len(state.applied) == REMEMBERED
    assert len(str(state.document())) < 2048


def test_only_success_advances_the_window(empty: FlowState) -> None:
    """Each run covers the time since the last success. The window never goes back to an earlier time."""
    state = applied(empty, attempt(Outcome.SUCCEEDED, 1), NOON)
    for number, outcome in enumerate(set(Outcome) - {Outcome.SUCCEEDED}, start=2):
        state = applied(state, attempt(outcome, number), NOON + timedelta(hours=1))
    assert state.window_end_utc == NOON

    assert applied(state, attempt(Outcome.SUCCEEDED, 99), NOON - timedelta(hours=1)).window_end_utc == NOON


@pytest.mark.parametrize("window_end", ["last week", "0001-01-01T00:00:00+05:00", 5])
def test_a_state_that_was_edited_wrongly_is_named(window_end: object) -> None:
    """The error names the document, and the remedy."""
    with pytest.raises(StateInvalid, match="flow state id='state-weather' of tenant 't': .*delete the document"):
        FlowState.from_document(
            {"id": "state-weather", "tenantId": "t", "flowName": "weather", "windowEndUtc": window_end}
        )


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [(Outcome.FAILED, 3), (Outcome.DEAD, 3), (Outcome.SUCCEEDED, 0), (Outcome.GAVE_UP, 2), (Outcome.DEFERRED, 2)],
)
def test_failures_in_a_row_are_counted_until_a_success(empty: FlowState, outcome: Outcome, failures: int) -> None:
    """Other outcomes do not change the number."""
    state = empty
    for number in (1, 2):
        state = applied(state, attempt(Outcome.FAILED, number), None)

    assert applied(state, attempt(outcome, 3), NOON).consecutive_failures == failures
