"""A schedule is data: a cron expression in the tenant's document, and the time of the next run."""

from datetime import UTC, datetime, timedelta

from datasync.model.tenant import Tenant
from tests.documents import document, entry
from tests.stages import Plan, plan

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)


def planned(*flows: dict[str, object], now: datetime = NOW, **fields: object) -> Plan:
    return plan(Tenant.from_document(document("tenant-123", *flows, **fields)), now, now)


def test_a_flow_is_due_when_its_next_run_is_reached() -> None:
    """A due flow gets one job. Its next run becomes the next occurrence of the cron."""
    (advance,) = planned(entry(cron="0 0 */2 * * *", nextRunUtc="2025-08-23T12:00:00Z")).advances

    (due,) = advance.jobs()
    assert (due.message.tenant_id, due.message.flow_name) == ("tenant-123", "weather")
    assert due.message.scheduled_utc == datetime(2025, 8, 23, 12, tzinfo=UTC)
    assert due.visible_at <= NOW
    assert advance.next_run == datetime(2025, 8, 23, 14, tzinfo=UTC)


def test_a_flow_is_not_due_before_its_next_run() -> None:
    """A flow that is not due gets no job, and its next run is not changed."""
    assert planned(entry(nextRunUtc="2025-08-23T12:00:04Z")) == Plan(advances=(), problems=())


def test_missed_occurrences_become_one_run() -> None:
    """The flow runs once for all missed occurrences. Its next run is in the future."""
    (advance,) = planned(entry(cron="0 * * * * *", nextRunUtc="2025-08-01T00:00:00Z")).advances

    assert len([*advance.jobs()]) == 1
    assert advance.next_run == datetime(2025, 8, 23, 12, 1, tzinfo=UTC)


def test_a_flow_without_next_run_is_scheduled_but_not_run() -> None:
    """A new entry does not need `nextRunUtc`. The tick computes it from the cron."""
    (advance,) = planned(entry(nextRunUtc=None)).advances

    assert advance.instants == ()
    assert advance.next_run == datetime(2025, 8, 23, 13, tzinfo=UTC)


def test_only_enabled_flows_run() -> None:
    """A flow with `enabled: false` gets no job, even if it is due."""
    assert planned(entry(enabled=False)) == Plan(advances=(), problems=())


def test_cron_is_utc_unless_the_entry_has_a_time_zone() -> None:
    """The tenant's zone is used only by entries with `"timezone": "tenant"`."""
    plans = planned(
        entry("in-utc", cron="0 0 13 * * *"),
        entry("in-chicago", cron="0 0 13 * * *", timezone="tenant"),
        entry("in-berlin", cron="0 0 13 * * *", timezone="Europe/Berlin"),
        timezone="America/Chicago",
    )

    assert {advance.entry.name: advance.next_run.strftime("%d. %H:%M") for advance in plans.advances} == {
        "in-utc": "23. 13:00",
        "in-chicago": "23. 18:00",
        "in-berlin": "24. 11:00",
    }


def test_a_bad_cron_is_a_problem_of_that_flow_only() -> None:
    """A bad cron is reported with its path. The other flows of the tenant are planned."""
    plans = planned(entry("five-fields", cron="0 * * * *"), entry("weather"))

    assert [advance.entry.name for advance in plans.advances] == ["weather"]
    (problem,) = plans.problems
    assert (problem.flow, problem.path) == ("five-fields", "flows[0].cron")
    assert "5 fields found, 6 needed" in problem.why


def test_the_same_decision_has_the_same_run_id() -> None:
    """Planning the same time twice gives the same run id, though other fields are edited. Setting it again does not."""
    before = {"nextRunUtc": None, "enqueuedUtc": "2025-08-23T10:00:00Z", "key": "a1"}
    after = {"nextRunUtc": "2025-08-23T13:00:00Z", "enqueuedUtc": "2025-08-23T12:00:00Z", "key": "b2"}
    first, again = planned(entry(planned=before)), planned(entry(planned=before), now=NOW + timedelta(hours=1))
    edited = planned(entry(planned=before, settings={"limit": 5}), _etag='"2"')
    set_again = planned(entry(planned=after))

    run_ids = [next(p.advances[0].jobs()).message.run_id for p in (first, again, edited, set_again)]
    assert run_ids[0] == run_ids[1] == run_ids[2] != run_ids[3]
