"""The simulated jobs are those that the ticks plan, minute by minute."""

import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from datasync import FlowRegistry
from datasync.cron import parse
from datasync.errors import ActionInvalid
from datasync.model.job import HEAD_START
from datasync.model.tenant import Tenant
from datasync.model.times import utc_text
from datasync.operate import load as load_module
from datasync.operate.load import Conditions, Simulated, Span, simulate
from datasync.tick.plan import MOST_AHEAD, Advance, plan
from tests.cron_strategies import expressions, zones
from tests.documents import document, entry
from tests.stages import does_nothing

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
"""A day before clocks go forward in Europe."""
TIMERS = ("0 0 * * * *", "0 */20 * * * *", "30 */7 * * * *", "0 0 */6 * * *")

REGISTRY = FlowRegistry()
REGISTRY.flow("first", provider="a", aliases=("once",))(does_nothing)
REGISTRY.flow("second", provider="b")(does_nothing)
REGISTRY.flow("third")(does_nothing)
PROVIDERS = {flow.name: flow.provider for flow in REGISTRY}


def counted(found: Simulated) -> Counter[tuple[str | None, int]]:
    """Return the jobs by provider and minute."""
    return Counter(
        {(each.provider, at): jobs for each in found.providers for at, jobs in enumerate(each.minutes) if jobs}
    )


def planned(
    documents: list[dict[str, Any]], conditions: Conditions, after: datetime, span: Span
) -> Counter[tuple[str | None, int]]:
    """Run the ticks after an instant, and return the jobs that start in the span by provider and minute."""
    counts = Counter[tuple[str | None, int]]()
    for stored in documents:
        for provider, start in starts(stored, conditions, after, span.end):
            minute = (start - span.first_minute) // MINUTE
            counts[provider, minute] += 0 <= minute < span.minutes
    return +counts


def starts(
    stored: dict[str, Any], conditions: Conditions, after: datetime, until: datetime
) -> Iterator[tuple[str | None, datetime]]:
    """Yield the provider and the start of each job of a tenant, as a tick and the store move `nextRunUtc`."""
    now = parse(conditions.schedule).next(after)
    while now and now < until:
        tenant = Tenant.from_document(stored)
        flows = [*stored["flows"]]
        for advance in plan(tenant, REGISTRY, now, now + conditions.lookahead, conditions.spread):
            if isinstance(advance, Advance):
                provider = PROVIDERS[advance.entry.name]
                yield from ((provider, job.visible_at + HEAD_START) for job in advance.jobs())
                flows[advance.entry.index] = {
                    **flows[advance.entry.index],
                    "nextRunUtc": utc_text(advance.next_run),
                    "planned": None,
                }
        stored = {**stored, "flows": flows}
        now = parse(conditions.schedule).next(now)


@st.composite
def fleets(draw: DrawFn) -> list[dict[str, Any]]:
    """Draw tenants whose entries have schedules in common. Some are overdue, disabled, unknown or wrong."""
    crons = [*draw(st.lists(expressions(), min_size=1, max_size=2)), "0 */10 * * * *", "*/40 * * * * *"]
    names = draw(st.lists(zones(), min_size=1, max_size=2))
    offset = st.integers(-100_000, 100_000).map(lambda seconds: utc_text(NOON + timedelta(seconds=seconds)))
    entries = st.fixed_dictionaries(
        {
            "name": st.sampled_from(("first", "second", "third", "unknown")),
            "enabled": st.sampled_from((True, True, True, False)),
            "cron": st.sampled_from((*crons, "never")),
            "timezone": st.sampled_from((None, *(each.key for each in names))),
            "nextRunUtc": st.none() | offset,
        }
    )
    flows = draw(st.lists(st.lists(entries, max_size=3, unique_by=lambda each: each["name"]), min_size=1, max_size=4))
    return [{**document(f"t-{at}"), "flows": each} for at, each in enumerate(flows)]


conditions_of_apps = st.builds(
    Conditions,
    schedule=st.sampled_from(TIMERS),
    lookahead=st.sampled_from((0, 0, 900, 3600, 30_000)).map(lambda seconds: timedelta(seconds=seconds)),
    spread=st.sampled_from((0, 0, 45, 600, 20_000)).map(lambda seconds: timedelta(seconds=seconds)),
)
properties = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@properties
@given(fleets(), conditions_of_apps, st.integers(0, 90))
def test_the_jobs_are_those_that_the_next_ticks_plan(
    documents: list[dict[str, Any]], conditions: Conditions, seconds: int
) -> None:
    """From documents as they are stored: overdue, ahead, or without a time."""
    start = NOON + timedelta(seconds=seconds)
    span = Span.of(start, start + 7 * HOUR, as_stored=True)

    found = simulate(documents, REGISTRY, span, conditions, unchanged=conditions)

    assert counted(found) == planned(documents, conditions, start, span)
    assert found.jobs == sum(hour.jobs for hour in found.hours) == counted(found).total()


@properties
@given(fleets(), conditions_of_apps)
def test_an_app_that_has_always_run_has_the_jobs_of_its_earlier_ticks_too(
    documents: list[dict[str, Any]], conditions: Conditions
) -> None:
    """Jobs that were planned ahead, or that wait for their part of the spread, start in the span."""
    # After a tick that plans its most runs ahead, nextRunUtc depends on all ticks before.
    assume(conditions.lookahead <= MOST_AHEAD * SECOND or conditions.schedule != TIMERS[2])
    span = Span.of(NOON, NOON + 7 * HOUR, as_stored=False)
    fresh = [{**each, "flows": [{**flow, "nextRunUtc": None} for flow in each["flows"]]} for each in documents]

    found = simulate(documents, REGISTRY, span, conditions, unchanged=conditions)

    assert counted(found) == planned(fresh, conditions, NOON - 2 * DAY, span)


def one(cron: str, conditions: Conditions, **fields: Any) -> Simulated:
    """Simulate an entry for the 24 hours after noon."""
    span = Span.of(NOON, NOON + DAY, as_stored=True)
    stored = document("t", entry("third", cron=cron, **fields))
    return simulate([stored], REGISTRY, span, conditions, unchanged=conditions)


def test_a_flow_that_is_due_every_ten_seconds_runs_once_per_tick() -> None:
    """Unless the ticks look ahead: then each occurrence is a job."""
    due = {"nextRunUtc": "2026-03-28T12:00:10Z"}

    assert one("*/10 * * * * *", Conditions(), **due).jobs == 23
    assert one("*/10 * * * * *", Conditions(lookahead=HOUR), **due).jobs == 23 * 360


def test_a_day_on_which_clocks_go_forward_has_23_hours() -> None:
    """An hourly entry runs 23 times, and one inside the gap runs at its end."""
    day = Span.of(datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC), as_stored=False)
    flows = [
        entry("first", cron="0 0 * * * *", timezone="Europe/Berlin"),
        entry("second", cron="0 30 2 * * *", timezone="Europe/Berlin"),
    ]

    found = simulate([document("t", *flows)], REGISTRY, day, Conditions(), unchanged=Conditions())

    assert {each.provider: each.jobs for each in found.providers} == {"a": 23, "b": 1}
    assert counted(found)["b", 120] == 1


def test_jobs_that_wait_on_the_queue_start_in_the_span() -> None:
    """A tick before the start has planned them: `nextRunUtc` is the time after them, and its note says so."""
    ahead = "2026-03-28T13:00:00Z"
    note = {"nextRunUtc": ahead, "enqueuedUtc": "2026-03-28T12:00:00Z", "key": "a"}
    conditions = Conditions(lookahead=HOUR - timedelta(seconds=1))
    start = NOON + timedelta(minutes=30, seconds=1)
    span = Span.of(start, start + HOUR, as_stored=True)

    def jobs(**fields: Any) -> int:
        stored = document("t", entry("third", cron="0 */10 * * * *", nextRunUtc=ahead, **fields))
        return simulate([stored], REGISTRY, span, conditions, unchanged=conditions).jobs

    assert jobs() == 4
    assert jobs(planned=note) == 4 + 3


def test_another_cron_applies_to_all_names_of_a_flow_and_is_compared() -> None:
    """The busiest minute without the change is there too."""
    fleet = [document("t", entry("once", cron="0 0 6 * * *")), document("u", entry("first", cron="wrong"))]
    span = Span.of(NOON, NOON + DAY, as_stored=False)
    changed = Conditions(crons={"first": "0 0 * * * *"})

    found = simulate(fleet, REGISTRY, span, changed, unchanged=Conditions())

    assert (found.jobs, found.entries, found.wrong) == (48, 2, 0)
    assert found.busiest
    assert found.unchanged
    assert (found.busiest.jobs, found.unchanged.jobs) == (2, 1)
    assert found.unchanged.minute_utc == datetime(2026, 3, 29, 6, tzinfo=UTC)


def test_entries_that_do_not_run_are_counted() -> None:
    """Disabled ones, those with a problem, and documents that cannot be used."""
    flows = [entry("first", enabled=False), entry("second", cron="x"), entry("third"), entry("none"), {"name": "bad"}]
    span = Span.of(NOON, NOON + DAY, as_stored=False)

    found = simulate([document("t", *flows), {"id": "x"}], REGISTRY, span, Conditions(), unchanged=Conditions())

    assert (found.entries, found.disabled, found.wrong, found.unreadable, found.jobs) == (1, 1, 3, 1, 24)


def test_too_many_different_times_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries with the same schedule count once."""
    monkeypatch.setattr(load_module, "MOST", 24)
    span = Span.of(NOON, NOON + DAY, as_stored=False)

    fleet = [document(f"t-{at}", entry("third")) for at in range(9)]
    assert simulate(fleet, REGISTRY, span, Conditions(), unchanged=Conditions()).jobs == 9 * 24
    with pytest.raises(ActionInvalid, match="more than 24 times in this span: take a shorter one"):
        one("*/10 * * * * *", Conditions(lookahead=HOUR))
