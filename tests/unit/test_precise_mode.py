"""Planning ahead: each occurrence up to the horizon gets a job with a delay. Spreading of jobs."""

from datetime import UTC, datetime, timedelta
from itertools import islice

from datasync.model.job import HEAD_START
from datasync.model.tenant import Tenant
from datasync.tick.plan import MOST_AHEAD
from tests.documents import document, entry
from tests.stages import Plan, plan

NOW = datetime(2025, 8, 23, 12, 0, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ahead(*flows: dict[str, object], now: datetime = NOW, spread: timedelta = timedelta(), **fields: object) -> Plan:
    return plan(Tenant.from_document(document("tenant-123", *flows, **fields)), now, now + HOUR, spread)


def test_every_occurrence_up_to_the_horizon_is_planned() -> None:
    """An hourly tick with a lookahead of one hour keeps a five-minute schedule, exact to the second."""
    (advance,) = ahead(entry(cron="0 */5 * * * *", nextRunUtc="2025-08-23T12:05:00Z")).advances

    instants = [planned.message.scheduled_utc for planned in advance.jobs()]
    assert instants == [datetime(2025, 8, 23, 12, 5 * n, tzinfo=UTC) for n in range(1, 12)] + [
        datetime(2025, 8, 23, 13, tzinfo=UTC)
    ]
    assert [planned.visible_at for planned in advance.jobs()] == [at - HEAD_START for at in instants if at]
    assert advance.next_run == datetime(2025, 8, 23, 13, 5, tzinfo=UTC)


def test_missed_occurrences_add_one_run() -> None:
    """An overdue flow gets one run at once, and one for each occurrence up to the horizon."""
    (advance,) = ahead(entry(cron="0 */20 * * * *", nextRunUtc="2025-08-20T00:00:00Z")).advances

    assert [(planned.message.scheduled_utc or NOW).strftime("%d. %H:%M") for planned in advance.jobs()] == [
        "20. 00:00",
        "23. 12:20",
        "23. 12:40",
        "23. 13:00",
    ]
    assert next(advance.jobs()).visible_at <= NOW


def test_a_new_flow_gets_future_occurrences_only() -> None:
    """Without `nextRunUtc`, only occurrences from now to the horizon are planned."""
    (advance,) = ahead(entry(cron="0 30 * * * *", nextRunUtc=None)).advances

    assert [planned.message.scheduled_utc for planned in advance.jobs()] == [datetime(2025, 8, 23, 12, 30, tzinfo=UTC)]


def test_an_edit_of_the_document_does_not_repeat_a_planned_run() -> None:
    """A future occurrence keeps its run id after any edit, so that it runs once."""
    flow = entry(cron="0 */30 * * * *", nextRunUtc="2025-08-23T12:30:00Z")
    found = [
        ahead(flow, _etag='"1"'),
        ahead(flow, _etag='"1"', now=NOW + timedelta(minutes=1)),
        ahead({**flow, "settings": {"a": 1}}, _etag='"2"'),
        ahead({**flow, "nextRunUtc": None}, _etag='"3"'),
        ahead({**flow, "timezone": "Europe/Berlin"}, _etag='"4"'),
    ]

    ids = [[planned.message.run_id for planned in islice(each.advances[0].jobs(), 2)] for each in found]
    assert len(set(ids[0])) == 2
    assert all(each == ids[0] for each in ids)


def test_an_edit_of_the_schedule_changes_the_revision_of_a_planned_run() -> None:
    """A job with an earlier revision is skipped, and the job of the changed schedule runs at the same instant."""
    flow = entry(cron="0 */30 * * * *", nextRunUtc="2025-08-23T12:30:00Z")

    def revision(**edited: object) -> str | None:
        return next(ahead({**flow, **edited}).advances[0].jobs()).message.rev

    assert revision(settings={"a": 1}) == revision(nextRunUtc=None) == revision()
    assert len({revision(), revision(timezone="Europe/Berlin"), revision(cron="0 0,30 * * * *")}) == 3


def test_one_flow_cannot_fill_the_queue() -> None:
    """A flow that runs every second for an hour is limited to MOST_AHEAD jobs, and a problem is reported."""
    found = ahead(entry(cron="* * * * * *", nextRunUtc="2025-08-23T12:00:04Z"))

    (advance,) = found.advances
    assert len([*advance.jobs()]) == MOST_AHEAD
    assert advance.next_run == NOW + timedelta(seconds=MOST_AHEAD + 1)
    (problem,) = found.problems
    assert "more than 1000 runs lie before 13:00:03 UTC" in problem.why
    assert "run the flow less often, or the timer more often" in problem.why


def test_jobs_of_the_full_hour_are_spread() -> None:
    """Each flow of each tenant has its own constant delay within the spread."""
    spread = timedelta(minutes=10)
    flows = [entry(f"flow-{n}", nextRunUtc="2025-08-23T12:00:00Z") for n in range(200)]
    first, again = (plan(Tenant.from_document(document("t", *flows)), NOW, NOW, spread) for _ in range(2))

    delays = [next(advance.jobs()).visible_at + HEAD_START - NOW for advance in first.advances]
    assert delays == [next(advance.jobs()).visible_at + HEAD_START - NOW for advance in again.advances]
    assert len(set(delays)) == 200
    assert all(timedelta() <= delay < spread for delay in delays)
    halves = sum(delay < spread / 2 for delay in delays)
    assert 60 < halves < 140, "about as many in one half as in the other"
    assert {planned.message.scheduled_utc for advance in first.advances for planned in advance.jobs()} == {
        datetime(2025, 8, 23, 12, tzinfo=UTC)
    }
