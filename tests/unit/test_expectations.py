"""The time by which a flow should succeed again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasync.model.run import Outcome
from datasync.model.state import FlowState
from datasync.model.tenant import Tenant
from datasync.schedule import Expectation
from tests.documents import document, entry
from tests.runs import NOON, attempt, job

HOURLY = "0 0 * * * *"


def expectation(ticks: str = HOURLY, **fields: Any) -> Expectation:
    tenant = Tenant.from_document(document("t", entry(**fields)))
    return Expectation.of(tenant, tenant.flows[0], ticks)


@pytest.mark.parametrize(
    ("fields", "usual", "expected"),
    [
        pytest.param({}, 0, "2025-08-23T15:00:00+00:00", id="the tick after 14:00"),
        pytest.param({}, 600.5, "2025-08-23T15:30:02+00:00", id="three times as long as usual, in whole seconds"),
        pytest.param({"cron": "0 0 9 * * *"}, 0, "2025-08-25T10:00:00+00:00", id="the day after tomorrow"),
        pytest.param(
            {"cron": "0 0 9 * * *", "timezone": "tenant"}, 0, "2025-08-24T15:00:00+00:00", id="9:00 in Chicago"
        ),
        pytest.param({"freshness": "90m"}, 600, "2025-08-23T13:30:00+00:00", id="as the entry says"),
        pytest.param({"freshness": "7d", "cron": "bad"}, 0, "2025-08-30T12:00:00+00:00", id="whatever the cron says"),
        pytest.param({"cron": "0 0 0 30 2 *"}, 0, None, id="a cron that never fires"),
        pytest.param({"cron": "bad"}, 0, None, id="a cron that cannot be read"),
        pytest.param({"timezone": "Chicago"}, 0, None, id="a zone that does not exist"),
    ],
)
def test_the_time_by_which_a_flow_should_succeed_again(
    fields: dict[str, Any], usual: float, expected: str | None
) -> None:
    """The freshness of the entry; else the tick after the second next occurrence, and three usual durations."""
    found = expectation(**fields).stale_after(NOON, usual)

    assert (found and found.isoformat()) == expected


def test_the_interval_of_the_ticks_counts() -> None:
    """A flow that runs more often than the ticks come has one run a tick."""
    assert expectation("0 0 */6 * * *").stale_after(NOON) == NOON + timedelta(hours=6)


@settings(deadline=None)
@given(at=st.datetimes(timezones=st.just(UTC)), usual=st.floats(0, 1e9))
def test_the_time_is_later_than_the_success(at: datetime, usual: float) -> None:
    """At any time of the calendar; near its end there is none."""
    found = expectation().stale_after(at, usual)

    assert found is None or (found > at and not found.microsecond)


@pytest.mark.parametrize(
    "fields", [{"cron": "0 0 9 * * *"}, {"timezone": "tenant"}, {"freshness": "2h"}, {"ticks": "0 0 0 * * *"}], ids=str
)
def test_another_schedule_is_another_expectation(fields: dict[str, Any]) -> None:
    """The settings of an entry and its next run are not part of it."""
    assert expectation(**fields).rev != expectation().rev
    assert expectation(settings={"a": 1}, nextRunUtc=None).rev == expectation().rev


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "2025-08-23T12:00:00+00:00"),
        ({"cron": "1 0 * * * *"}, "2025-08-23T11:00:01+00:00"),
        ({"cron": "0 0 0 * * *", "timezone": "tenant"}, "2025-08-23T05:00:00+00:00"),
        ({"cron": "hourly"}, None),
        ({"cron": "0 0 0 1 * *"}, None),
    ],
)
def test_the_last_occurrence_until_a_time(fields: dict[str, Any], expected: str | None) -> None:
    """The time itself counts. Nothing is found beyond the window, or with a cron that cannot be read."""
    found = expectation(**fields).last_until(NOON, timedelta(days=1))

    assert (found and found.isoformat()) == expected


@settings(deadline=None)
@given(at=st.datetimes(timezones=st.just(UTC)))
def test_the_last_occurrence_is_followed_by_none_until_the_time(at: datetime) -> None:
    """Near the ends of the calendar there may be none."""
    found = expectation().last_until(at, timedelta(hours=2))

    assert found is None or timedelta() <= at - found < timedelta(hours=1)


def test_a_time_that_was_edited_without_an_offset_is_in_utc() -> None:
    """It can be compared with others."""
    stored = {"id": "state-weather", "tenantId": "t", "flowName": "weather", "scheduleRev": "5f"}
    times = {"staleUtc": "2025-08-23T15:00:00", "scheduleSinceUtc": "2025-08-23T14:00:00+02:00"}

    state = FlowState.from_document({**stored, **times})

    assert (state.stale_utc, state.schedule_since_utc) == (NOON + timedelta(hours=3), NOON)


def after_success(state: FlowState, expected: Expectation) -> FlowState:
    ended = attempt(Outcome.SUCCEEDED)
    state = state.after(ended, job(), None, None)
    return state.expecting(
        expected.rev, lambda usual: expected.stale_after(ended.finished_utc, usual), ended.started_utc
    )


def test_a_success_moves_the_time() -> None:
    """With the usual duration of the runs, which is a second."""
    state = after_success(FlowState(tenant_id="t", flow_name="weather"), expectation())

    assert state.stale_utc == datetime(2025, 8, 23, 15, 0, 3, tzinfo=UTC)
    assert state.document()["staleUtc"] == "2025-08-23T15:00:03Z"


@pytest.mark.parametrize(
    ("since", "rev", "stays"),
    [
        (NOON + timedelta(milliseconds=1), None, True),
        (NOON + timedelta(milliseconds=1), "another", True),
        (NOON + timedelta(milliseconds=1), expectation().rev, False),
        (NOON, None, False),
    ],
)
def test_an_edit_during_a_run_is_newer_than_its_entry(since: datetime, rev: str | None, stays: bool) -> None:  # noqa: FBT001
    """The tick that has examined it has noted another schedule since the attempt started, or that there is none."""
    before = FlowState(tenant_id="t", flow_name="weather", schedule_rev=rev, schedule_since_utc=since)

    after = after_success(before, expectation())

    assert (after.schedule_rev == rev and after.stale_utc is None) is stays
