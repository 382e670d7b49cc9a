"""The usual duration and counts of a flow, and the runs that differ from them."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from datasync.model.run import Outcome
from datasync.model.state import FlowState
from datasync.model.usual import MOST, RUNS, SLOW_RUNS, Mean, Usual
from tests.runs import NOON, attempt, job

HOUR = timedelta(hours=1)
EMPTY = FlowState(tenant_id="t", flow_name="weather")


def after(state: FlowState, *runs: Mapping[str, int], seconds: float = 12) -> FlowState:
    """Return the state after successful runs with these counts, an hour apart."""
    for counts in runs:
        start = (state.last_success_utc or NOON) + HOUR
        ended = replace(attempt(Outcome.SUCCEEDED), started_utc=start, finished_utc=start + timedelta(seconds=seconds))
        state = state.after(ended, job(), None, None, counts)
    return state


def said(state: FlowState) -> list[str]:
    """Return the unusual numbers of the last run."""
    return [str(each) for each in state.unusual]


@settings(deadline=None)
@given(st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=RUNS))
def test_the_mean_and_the_deviation_are_those_of_all_runs(values: list[int]) -> None:
    """Up to the number of runs that are remembered. They are kept with six digits."""
    found = Mean.of(values[0])
    for value in values[1:]:
        found = found.after(value)

    size = max(map(abs, values)) + 1
    assert found.mean == pytest.approx(fmean(values), abs=size * 1e-3)
    assert found.deviation == pytest.approx(pstdev(values), abs=size * 1e-3)
    assert found.runs == len(values)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=5), st.floats(1, 1e6))
def test_later_runs_take_the_place_of_earlier_ones(values: list[float], later: float) -> None:
    """After many runs of the same duration, nothing is left of those before. No number grows beyond its values."""
    found = Mean.of(later)
    for value in values:
        found = found.after(value)
        assert 0 <= found.mean <= max(*values, later) * 1.001
    for _ in range(20 * RUNS):
        found = found.after(later)

    assert found.mean == pytest.approx(later, rel=0.01)
    assert found.runs == RUNS
    assert found.deviation <= max(*values, later, later) * 0.01


def test_the_first_zero_in_many_runs_is_unusual() -> None:
    """The text has the usual number. Another count that was zero before is not unusual."""
    state = after(EMPTY, *[{"orders": 120, "skipped": 0}] * RUNS)
    assert said(state) == []

    assert said(after(state, {"orders": 0, "skipped": 0})) == ["orders=0, usually 120"]


def test_a_count_that_is_not_reported_is_zero() -> None:
    """A flow that counts each order reports nothing if there is none."""
    assert said(after(after(EMPTY, *[{"orders": 120}] * RUNS), {})) == ["orders=0, usually 120"]


@pytest.mark.parametrize(
    "runs", [[{"orders": 5}] * (RUNS - 1), [{"orders": 5}] * 30 + [{"orders": 0}] + [{"orders": 5}] * 39]
)
def test_a_zero_is_usual_after_fewer_runs_without_one(runs: Sequence[Mapping[str, int]]) -> None:
    """The flow is new, or had a zero among the last runs."""
    assert said(after(EMPTY, *runs, {"orders": 0})) == []


def test_a_zero_stays_unusual_until_another_number_comes() -> None:
    """It says since when. So it is found the next morning, although it was only the first time unusual in itself."""
    state = after(after(EMPTY, *[{"orders": 120}] * RUNS), {"orders": 0})
    first = state.unusual
    assert first[0].since_utc == state.last_success_utc

    state = after(state, {"orders": 0}, {"orders": 0})
    assert state.unusual == first
    assert said(after(state, {"orders": 1})) == []


def test_a_zero_becomes_usual() -> None:
    """After as many zeros in a row. The count makes room for others then, and can become unusual again."""
    zeros = after(after(EMPTY, *[{"orders": 120}] * RUNS), *[{"orders": 0}] * (RUNS - 1))
    assert said(zeros) == ["orders=0, usually 120"]

    zeros = after(zeros, {"orders": 0})
    assert said(zeros) == []
    assert zeros.usual is not None
    assert zeros.usual.counts == ()
    assert said(after(zeros, *[{"orders": 7}] * RUNS, {"orders": 0})) == ["orders=0, usually 7"]


@pytest.mark.parametrize(
    ("usual", "runs", "seconds", "expected"),
    [
        (12, SLOW_RUNS, 60, ["took 60 s, usually 12 s"]),
        (12, SLOW_RUNS, 59, []),
        (12, SLOW_RUNS - 1, 60, []),
        (0.2, SLOW_RUNS, 9, []),
        (0.2, SLOW_RUNS, 10, ["took 10 s, usually 0.2 s"]),
    ],
)
def test_a_run_that_takes_five_times_as_long_is_unusual(
    usual: float, runs: int, seconds: float, expected: list[str]
) -> None:
    """From ten seconds on, since the first run of a process takes seconds longer."""
    state = after(EMPTY, *[{}] * runs, seconds=usual)

    state = after(state, {}, seconds=seconds)

    assert said(state) == expected
    assert said(after(state, {}, seconds=usual)) == []


def test_only_a_success_is_compared() -> None:
    """A failed run has counts, too, and leaves the usual numbers and the unusual ones."""
    state = after(EMPTY, *[{"orders": 120}] * RUNS, {})
    for outcome in set(Outcome) - {Outcome.SUCCEEDED}:
        later = state.after(attempt(outcome), job(), None, None, {"orders": 1})
        assert (later.usual, later.unusual) == (state.usual, state.unusual)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=200), st.integers(0, 3), max_size=20), max_size=12))
def test_the_number_of_counts_is_limited(runs: list[dict[str, int]]) -> None:
    """For any reports of a flow, the first counts stay, with short names only."""
    seen: list[str] = []
    found: Usual | None = None
    for counts in runs:
        found = Usual.after(found, 1, counts)
        names = [each.name for each in found.counts]
        assert names[: len(seen)] == seen
        seen = names
    assert len(seen) <= MOST
    assert all(len(name) <= 80 for name in seen)


def test_a_state_with_many_counts_is_small() -> None:
    """With 24 ended runs, eight counts, and the outcomes: about 2 KB, and half of that with one count."""
    counts = {f"records_{number}": 1_234_567 + number for number in range(20)}

    assert len(str(after(EMPTY, *[counts] * RUNS, {}).document())) < 2100
