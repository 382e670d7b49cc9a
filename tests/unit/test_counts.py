"""The numbers that a flow reports with `run.count()`."""

from datetime import UTC, datetime

import httpx
import pytest

from datasync import FlowRun, Window
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.model.tenant import Tenant

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


@pytest.fixture
def run() -> FlowRun:
    """Return a run without counts."""
    return FlowRun(
        run_id="r-1",
        tenant=Tenant(id="acme", name="acme", timezone="UTC", has_zone=False, flows=(), problems=(), etag=""),
        flow_name="flow",
        settings={},
        scheduled_utc=NOW,
        attempt=1,
        window=Window(start=None, end=NOW),
        http=httpx.AsyncClient(),
        log=RunLog("acme/flow", {}, Redaction()),
    )


def test_numbers_are_added(run: FlowRun) -> None:
    """Zero and negative numbers too."""
    run.count(orders=2, leads=0)
    run.count(orders=1, corrections=-3)

    assert run.counts == {"orders": 3, "leads": 0, "corrections": -3}


def test_a_run_has_at_most_100_counts(run: FlowRun) -> None:
    """The error says so when the flow reports the next one. The names that exist can still grow."""
    for number in range(100):
        run.count(**{f"item-{number}": 1})

    with pytest.raises(ValueError, match=r"run.count: more than 100 names. Count the kinds of things, not each thing"):
        run.count(another=1)
    run.count(**{"item-7": 1})

    assert (len(run.counts), run.counts["item-7"]) == (100, 2)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**64, 10**5000], ids=["2**53", "-2**53", "2**64", "10**5000"])
def test_a_number_that_is_not_stored_exactly_is_refused(run: FlowRun, number: int) -> None:
    """Cosmos DB stores whole numbers exactly below 2**53."""
    with pytest.raises(
        ValueError, match=r"run.count\(items=…\): expected a whole number below 2\*\*53, got -?2\*\*\d+"
    ):
        run.count(items=number)

    assert run.counts == {}


def test_a_sum_that_is_not_stored_exactly_is_refused(run: FlowRun) -> None:
    """The numbers are checked when they are reported, not at the end of the run."""
    run.count(items=2**53 - 1)
    with pytest.raises(ValueError, match=r"expected a whole number below 2\*\*53"):
        run.count(items=1)

    assert run.counts == {"items": 2**53 - 1}


@pytest.mark.parametrize("number", ["many", 1.5, None, float("nan")], ids=repr)
def test_only_whole_numbers_count(run: FlowRun, number: int) -> None:
    """The error names the count and the value."""
    with pytest.raises(TypeError, match=rf"run.count\(items={number!r}\): expected a whole number"):
        run.count(items=number)


def test_a_name_has_up_to_100_characters(run: FlowRun) -> None:
    """A longer one is a text, and not the name of a kind of things."""
    run.count(**{"x" * 100: 1})
    with pytest.raises(ValueError, match="has more than 100 characters"):
        run.count(**{"x" * 101: 1})
