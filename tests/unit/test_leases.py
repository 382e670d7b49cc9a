"""Leases: how long one counts, and for whom, by clocks that differ."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from datasync.model.job import Job
from datasync.model.lease import DURATION, MARGIN, Lease
from tests.runs import NOON, job

TINY = timedelta(milliseconds=1)
NONE = timedelta()
ANY = timedelta(days=400)


def ending(after: timedelta) -> Lease:
    """Return a lease that ends some time after noon."""
    return Lease(until=(NOON + after).timestamp())


def times(shortest: timedelta, longest: timedelta) -> st.SearchStrategy[timedelta]:
    """Draw times in whole milliseconds, which the floats of a lease hold well enough."""
    return st.integers(shortest // TINY, longest // TINY).map(TINY.__mul__)


@pytest.mark.parametrize(
    ("lease", "is_live"),
    [
        (Lease(), False),
        (Lease(until=0), False),
        (ending(-MARGIN - TINY), False),
        (ending(-MARGIN), True),
        (ending(NONE), True),
        (ending(DURATION), True),
        (ending(DURATION + MARGIN), True),
        (ending(DURATION + MARGIN + TINY), False),
        (Lease(until=NOON.timestamp() * 1000), False),
        (Lease(until=1e300), False),
        (Lease(until=-1e300), False),
    ],
    ids=repr,
)
def test_a_lease_counts_around_its_end_and_not_if_it_lasts_too_long(lease: Lease, is_live: bool) -> None:  # noqa: FBT001
    """An end further ahead than a lease lasts was edited by hand, such as one in milliseconds."""
    assert lease.is_live(NOON) == is_live


@settings(deadline=None)
@given(left=times(NONE, DURATION), difference=times(-MARGIN + TINY, MARGIN - TINY))
def test_a_lease_that_its_holder_uses_is_live_for_everybody(left: timedelta, difference: timedelta) -> None:
    """The clock of another process may differ by MARGIN. The lease may be new, or about to end."""
    assert ending(left).is_live(NOON + difference)


@settings(deadline=None)
@given(left=times(-MARGIN, DURATION + MARGIN))
def test_a_lease_is_over_after_the_time_that_is_left(left: timedelta) -> None:
    """A message that meets a live lease is put back for this time, and finds the lease over. It waits no longer."""
    lease = ending(left)
    wait = lease.left(NOON)

    assert NONE < wait <= DURATION + 2 * MARGIN + timedelta(seconds=1)
    assert not lease.is_live(NOON + wait)
    assert lease.is_live(NOON + wait - timedelta(seconds=2)) or wait < timedelta(seconds=2)


MESSAGE = job().copy()


@pytest.mark.parametrize(
    ("changes", "holder"),
    [
        ({}, job()),
        ({"rev": "a", "part": 2, "deferral": 3}, job(rev="a", part=2, deferral=3)),
        ({"tenant_id": "another"}, None),
        ({"run_id": None}, None),
        ({"message_id": None}, None),
    ],
    ids=str,
)
def test_the_holder_is_the_job_of_the_message(changes: dict[str, Any], holder: Job | None) -> None:
    """A message of another tenant, or one that lacks a field, was edited by hand: nobody knows the holder then."""
    assert Lease(message=replace(MESSAGE, **changes)).holder("t") == holder


def test_a_lease_without_a_message_has_no_holder() -> None:
    """It was edited by hand."""
    assert Lease(until=NOON.timestamp(), nonce="n").holder("t") is None
