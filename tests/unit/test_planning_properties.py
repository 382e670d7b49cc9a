"""Properties of planning that hold for every schedule, time zone and sequence of ticks.

By default, each property is tried with a few examples. `HYPOTHESIS_MAX_EXAMPLES=4000 python -m pytest
tests/unit/test_planning_properties.py` tries 24,000 examples in total, which takes several minutes.
"""

import os
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from datasync.cron import parse
from datasync.model.job import HEAD_START, PlannedJob
from datasync.model.tenant import Tenant
from datasync.tick.plan import MOST_AHEAD, Advance
from datasync.tick.plan import plan as plan_tenant
from tests.cron_strategies import expressions, moments, zones
from tests.documents import document, entry
from tests.stages import Plan, plan, registry_of

MOST = 150  # occurrences on one timeline, and therefore in one plan
NONE = timedelta()
TINY = timedelta(microseconds=1)

# Hypothesis discards an example if its expression never fires.
properties = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A schedule, and the instants of the ticks that plan it."""

    cron: str
    zone: str
    lookahead: timedelta
    ticks: list[datetime]
    """In ascending order; at least one."""
    occurrences: list[datetime]
    """Every occurrence from the first tick until after the last horizon."""

    def document(self, next_run: str | None = None) -> dict[str, Any]:
        """Return a document with this flow. Half of the zones are set on the tenant, the others on the entry."""
        own = len(self.zone) % 2 == 0
        flow = entry(cron=self.cron, timezone="tenant" if own else self.zone, nextRunUtc=next_run)
        return document("tenant-123", flow, timezone=self.zone if own else "Asia/Tokyo")

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the occurrences after `after`, up to and including `until`."""
        return [each for each in self.occurrences if after < each <= until]


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of a simulation."""

    now: datetime
    horizon: datetime
    before: datetime | None
    """`nextRunUtc` before the tick."""
    after: datetime
    """`nextRunUtc` after the tick; unchanged if the flow was not due."""
    jobs: tuple[PlannedJob, ...]

    @property
    def instants(self) -> list[datetime]:
        return [at(job) for job in self.jobs]


@st.composite
def timelines(draw: DrawFn, *, gapless: bool = False) -> Timeline:
    """Draw timelines. Many of them include a clock change, and many ticks are at or next to an occurrence.

    A gapless timeline has a lookahead, and no tick is later than the horizon of the previous tick.
    """
    cron, zone, start = draw(expressions()), draw(zones()), draw(moments())
    schedule = parse(cron)
    occurrences: list[datetime] = []
    for _ in range(draw(st.integers(2, MOST))):
        following = schedule.next(occurrences[-1] if occurrences else start, zone)
        if following is None:
            break
        occurrences.append(following)
    assume(len(occurrences) > 1)
    end = occurrences[-1] - TINY
    nudge = st.sampled_from((NONE, NONE, TINY, -TINY, timedelta(seconds=1)))
    on_occurrences = st.tuples(st.sampled_from(occurrences[:-1]), nudge).map(sum_of)
    instants = on_occurrences | st.floats(0, 1).map(lambda part: start + (end - start) * part)
    exact = st.sampled_from(occurrences[: (len(occurrences) + 1) // 2])
    lookahead = draw(exact.map(lambda at: at - start) | instants.map(lambda at: (at - start) / 2) | st.just(NONE))
    assume(lookahead > NONE or not gapless)
    horizons = [each - lookahead for each in occurrences]
    ticks = [start]
    for _ in range(draw(st.integers(0, 10))):
        here = ticks[-1]
        if gapless:
            part_of = st.just(lookahead) | st.floats(0.001, 1).map(lambda part: lookahead * part)
            striking = [each for each in (*occurrences, *horizons) if here < each <= here + lookahead]
            ticks.append(draw(part_of.map(here.__add__) | st.sampled_from(striking or [here + lookahead])))
        else:
            ticks.append(draw(instants | st.sampled_from(horizons)))
    ticks = sorted({tick for tick in ticks if start <= tick <= end - lookahead} or {start})
    return Timeline(cron, zone.key, lookahead, ticks, occurrences)


def sum_of(pair: tuple[datetime, timedelta]) -> datetime:
    return pair[0] + pair[1]


def stored_times(line: Timeline) -> SearchStrategy[str]:
    """Return values of `nextRunUtc` before the first tick: overdue or in the future, an occurrence or not."""
    start = line.ticks[0]
    any_time = st.integers(-86_400, 86_400).map(lambda seconds: start + timedelta(seconds=seconds))
    return (any_time | st.sampled_from(line.occurrences)).map(text)


def text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def at(planned: PlannedJob) -> datetime:
    assert planned.message.scheduled_utc
    return planned.message.scheduled_utc


def looked_at(content: dict[str, Any], now: datetime, lookahead: timedelta) -> Plan:
    return plan(Tenant.from_document(content), now, now + lookahead)


def moved(advance: Advance, now: datetime, key: str) -> dict[str, Any]:
    """Return the fields of an entry that the store writes."""
    next_run = text(advance.next_run)
    return {"nextRunUtc": next_run, "planned": {"nextRunUtc": next_run, "enqueuedUtc": text(now), "key": key}}


def simulate(line: Timeline, next_run: str | None = None) -> list[Tick]:
    """Plan the document at each tick, and write `nextRunUtc` and `planned` as the store does."""
    content = line.document(next_run)
    ticks = []
    for number, now in enumerate(line.ticks, start=2):
        (before,) = Tenant.from_document(content).flows
        decision = looked_at(content, now, line.lookahead)
        assert decision.problems == ()
        for advance in decision.advances:
            content["flows"][0] |= moved(advance, now, key=f"tick-{number}")
            content["_etag"] = f'"{number}"'
        (after,) = Tenant.from_document(content).flows
        assert after.next_run
        jobs = tuple(job for advance in decision.advances for job in advance.jobs())
        ticks.append(Tick(now, now + line.lookahead, before.next_run, after.next_run, jobs))
    return ticks


@properties
@given(timelines(gapless=True))
def test_ticks_without_gaps_plan_every_occurrence_once(line: Timeline) -> None:
    """If no tick is later than the previous horizon, each occurrence is planned exactly once."""
    planned = [instant for tick in simulate(line) for instant in tick.instants]

    assert planned == line.between(line.ticks[0], line.ticks[-1] + line.lookahead)


@properties
@given(timelines())
def test_occurrences_missed_between_two_ticks_become_one_run(line: Timeline) -> None:
    """A tick plans the first missed occurrence, and every occurrence from now to its horizon."""
    planned_until = line.ticks[0]
    for tick in simulate(line):
        missed = line.between(planned_until, tick.now)
        ahead = line.between(max(planned_until, tick.now), tick.horizon)

        assert tick.instants == missed[:1] + ahead
        planned_until = max(planned_until, tick.horizon)


@properties
@given(st.data())
def test_next_run_moves_forward_and_is_later_than_all_jobs(data: st.DataObject) -> None:
    """A tick plans the stored `nextRunUtc` once, and no other past time."""
    line = data.draw(timelines())
    first = data.draw(stored_times(line))
    ticks = simulate(line, first)

    for tick in ticks:
        assert tick.before
        assert tick.after >= tick.before
        assert tick.after > tick.horizon
        assert bool(tick.jobs) == (tick.before <= tick.horizon)
        assert tick.instants[:1] == ([tick.before] if tick.jobs else [])
        assert all(tick.now < each <= tick.horizon for each in tick.instants[1:])
        assert [job.visible_at for job in tick.jobs] == [max(each, tick.now) - HEAD_START for each in tick.instants]
    instants = [each for tick in ticks for each in tick.instants]
    assert all(one < other for one, other in pairwise(instants))
    run_ids = {job.message.run_id for tick in ticks for job in tick.jobs}
    assert len(run_ids) == len(instants)


@properties
@given(timelines())
def test_a_flow_without_next_run_does_not_run_for_the_past(line: Timeline) -> None:
    """`nextRunUtc` becomes the first occurrence after the horizon. Occurrences from now to the horizon are jobs."""
    now = line.ticks[-1]
    (advance,) = looked_at(line.document(), now, line.lookahead).advances

    assert [at(job) for job in advance.jobs()] == line.between(now, now + line.lookahead)
    assert advance.next_run == next(each for each in line.occurrences if each > now + line.lookahead)


def notes() -> SearchStrategy[dict[str, str | None] | None]:
    """Return values of `planned`: no note, or one without the time that is stored in `nextRunUtc`."""
    return st.sampled_from((None, {"nextRunUtc": None, "enqueuedUtc": "2025-08-23T12:00:00Z", "key": "a"}))


@properties
@given(st.data())
def test_an_occurrence_has_the_same_run_id_at_every_tick(data: st.DataObject) -> None:
    """If a tick is killed before it writes `nextRunUtc`, the next tick plans the same job with the same run id.

    Another time has another run id. It makes no difference whether a time is ahead, is due, or was missed.
    """
    line = data.draw(timelines())
    content = line.document(data.draw(stored_times(line)))
    content["flows"][0]["planned"] = data.draw(notes())
    run_ids: dict[datetime, set[str | None]] = {}
    for now in (*line.ticks, line.occurrences[-1]):
        for advance in looked_at(content, now, line.lookahead).advances:
            for job in advance.jobs():
                run_ids.setdefault(at(job), set()).add(job.message.run_id)

    assert all(len(ids) == 1 for ids in run_ids.values())
    assert len(set.union(set(), *run_ids.values())) == len(run_ids)


@properties
@given(st.data())
def test_edits_elsewhere_do_not_change_the_run_id_of_the_next_occurrence(data: st.DataObject) -> None:
    """After a tick, an occurrence that the app has planned keeps its run id if people edit other fields."""
    line = data.draw(timelines())
    content = line.document()
    now = line.ticks[-1]
    (advance,) = looked_at(content, now, line.lookahead).advances
    content["flows"][0] |= moved(advance, now, key="a")
    edited = deepcopy(content)
    edited["flows"][0] |= {"settings": {"limit": 5}, "owner": "Ann"}
    edited["flows"].insert(0, entry("another"))
    edited |= {"name": "Another Name", "_etag": '"9"'}
    replanned = deepcopy(content)
    replanned["flows"][0]["nextRunUtc"] = None

    def first_id(tenant: dict[str, Any], instant: datetime) -> str | None:
        advances = looked_at(tenant, instant, NONE if instant == advance.next_run else advance.next_run - now).advances
        jobs = [job for each in advances if each.entry.name == "weather" for job in each.jobs()]
        return next(job.message.run_id for job in jobs if at(job) == advance.next_run)

    ahead = first_id(content, now)
    overdue = first_id(content, advance.next_run)
    assert {ahead, overdue, first_id(edited, now), first_id(edited, advance.next_run)} == {ahead}
    assert first_id(replanned, now) == ahead


@properties
@given(timelines(gapless=True))
def test_an_occurrence_that_is_planned_again_has_the_same_run_id(line: Timeline) -> None:
    """A person removes `nextRunUtc` before each tick, so that it plans the occurrences up to its horizon again."""
    content = line.document()
    run_ids: dict[datetime, set[str | None]] = {}
    for number, now in enumerate((*line.ticks, line.ticks[-1])):
        content["flows"][0]["nextRunUtc"] = None
        (advance,) = looked_at(content, now, line.lookahead).advances
        for job in advance.jobs():
            run_ids.setdefault(at(job), set()).add(job.message.run_id)
        content["flows"][0] |= moved(advance, now, key=f"tick-{number}")

    assert [*run_ids] == line.between(line.ticks[0], line.ticks[-1] + line.lookahead)
    assert all(len(ids) == 1 for ids in run_ids.values())


@properties
@given(st.data())
def test_a_time_that_a_person_sets_again_is_a_run_again(data: st.DataObject) -> None:
    """The tick in between has made another note. Until it has, the run id stays the same."""
    line = data.draw(timelines())
    content = line.document(data.draw(stored_times(line)))
    time, now = content["flows"][0]["nextRunUtc"], line.occurrences[-1] + timedelta(days=1)
    run_ids = []
    for key in ("a", "b"):
        content["flows"][0] |= {
            "nextRunUtc": time,
            "planned": {"nextRunUtc": "2999-01-01T00:00:00Z", "enqueuedUtc": text(now), "key": key},
        }
        first, again = (next(looked_at(content, now, NONE).advances[0].jobs()).message.run_id for _ in range(2))
        assert first == again
        run_ids.append(first)

    assert run_ids[0] != run_ids[1]


@properties
@given(st.data())
def test_planning_is_deterministic_and_has_no_side_effects(data: st.DataObject) -> None:
    """The same document, instant and horizon give the same plan, and the document is not changed."""
    line = data.draw(timelines())
    content = line.document(data.draw(st.none() | stored_times(line)))
    tenant, original = Tenant.from_document(content), deepcopy(content)
    now = line.ticks[-1]

    assert plan(tenant, now, now + line.lookahead) == looked_at(deepcopy(content), now, line.lookahead)
    assert content == original
    assert tenant == Tenant.from_document(original)


def test_the_search_for_many_occurrences_lets_others_work() -> None:
    """A schedule of each second gives a thousand jobs, and a step without a result after each hundred occurrences."""
    tenant = Tenant.from_document(document("t", entry(cron="* * * * * *", nextRunUtc=None)))
    now = datetime(2025, 8, 23, 12, tzinfo=UTC)

    steps = [*plan_tenant(tenant, registry_of("weather"), now, now + timedelta(days=1))]
    advance = next(step for step in steps if isinstance(step, Advance))

    assert len([step for step in steps if step is None]) == 9
    assert advance.instants == tuple(now + timedelta(seconds=n) for n in range(1, MOST_AHEAD + 1))
    assert advance.next_run == now + timedelta(seconds=MOST_AHEAD + 1)
