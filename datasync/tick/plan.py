"""The plan for a tenant at an instant: jobs to enqueue, and the next `nextRunUtc` of each entry. Pure."""

from collections.abc import Generator, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256

import msgspec

from datasync import cron
from datasync.flow.registry import FlowRegistry
from datasync.model.job import HEAD_START, JobMessage, PlannedJob, Trigger, run_id
from datasync.model.tenant import FlowEntry, Planned, Problem, Tenant
from datasync.model.times import utc_text
from datasync.schedule import find_zone
from datasync.tick.check import entry_problems, tenant_problems

MOST_AHEAD = 1000
"""The most runs of one flow that a tick plans."""

_AT_ONCE = 100  # occurrences that are looked for in one step


_RECENT = timedelta(days=1)
"""How far back a time without a note counts as planned by the app. An older time was set by a person."""


class Advance(msgspec.Struct, frozen=True):
    """The plan for one entry: put its jobs on the queue, then move its `nextRunUtc`."""

    tenant_id: str
    entry: FlowEntry
    instants: tuple[datetime, ...]
    """The occurrences that get a job (aware, UTC)."""
    next_run: datetime
    """The first occurrence that is not planned yet (aware, UTC)."""
    rev: str
    """`Tenant.revision_of` the entry."""
    now: datetime
    late: timedelta
    """The part of the spread for which each job waits."""
    oldest_name: str
    """The last one of the flow's names: an entry may get the flow's other name between two ticks."""
    is_own_without_note: bool
    """Whether `nextRunUtc` counts as planned by the app if the entry has no note: it is a recent occurrence of the
    schedule, or no tick has passed it yet."""

    @property
    def needs_note(self) -> bool:
        """Whether a note has to be made in the entry first, without which a repeated tick may choose another run id."""
        return bool(self.instants) and self.entry.next_run is not None and self.entry.planned is None

    def jobs(self) -> Iterator[PlannedJob]:
        """Yield the jobs, each made when it is asked for."""
        return map(self._job, self.instants)

    def _job(self, at: datetime) -> PlannedJob:
        is_own = self.entry.is_planned if self.entry.planned else self.is_own_without_note
        is_forced = at == self.entry.next_run and not is_own
        message = JobMessage(
            tenant_id=self.tenant_id,
            flow_name=self.entry.name,
            scheduled_utc=at,
            run_id=_run_id(self.tenant_id, self.oldest_name, self.entry.planned, at, is_forced=is_forced),
            rev=self.rev,
            trigger=Trigger.FORCED if is_forced else Trigger.SCHEDULE,
            enqueued_utc=self.now,
        )
        return PlannedJob(message=message, visible_at=max(at, self.now) + self.late - HEAD_START)


def plan(
    tenant: Tenant, registry: FlowRegistry, now: datetime, horizon: datetime, spread: timedelta = timedelta()
) -> Iterator[Advance | Problem | None]:
    """Plan a tenant's entries at `now`, looking ahead to `horizon` (both aware, now <= horizon).

    Yields the changes to make and the fields that somebody must correct (some more than once), or None for an entry
    with neither, and for a part of the search for many occurrences. Each entry is planned when the caller asks for it,
    so that a tenant of any size takes little memory, and little time at once.

    * Disabled entries, and entries with problems (see datasync.tick.check), are left out.
    * `nextRunUtc` in the past gives one job, however many occurrences were missed.
    * Each further occurrence up to and including `horizon` gives a job that waits for its instant: at most MOST_AHEAD
      for an entry, and a problem that says so.
    * A missing `nextRunUtc` is filled in with the next occurrence after `now`, without a job for the past.
    * A `nextRunUtc` in another form than `2025-08-23T01:00:00Z` is written again in this form.
    * Each job waits for a part of `spread` as well, always the same part for a flow of a tenant.
    """
    yield from tenant_problems(tenant)
    for entry in tenant.flows:
        if entry.enabled and (found := [*entry_problems(tenant, entry, registry, now)]):
            yield from found
            continue
        advance = None
        if entry.enabled:
            advance = yield from _advance(tenant, entry, registry, now=now, horizon=horizon, spread=spread)
        yield advance
        if advance and advance.next_run <= horizon:
            yield _too_often(tenant, entry, horizon)


def _advance(
    tenant: Tenant, entry: FlowEntry, registry: FlowRegistry, *, now: datetime, horizon: datetime, spread: timedelta
) -> Generator[None, None, Advance | None]:
    served = entry.next_run
    if served and served > horizon:
        if entry.next_run_text == utc_text(served):
            return None
        instants, next_run = [], served
    else:
        found = yield from planned(entry.cron, tenant.zone_of(entry), served, now, horizon)
        if not found:
            return None  # the calendar ends with year 9999
        *instants, next_run = found
    return Advance(
        tenant_id=tenant.id,
        entry=entry,
        instants=tuple(instants),
        next_run=next_run,
        rev=tenant.revision_of(entry),
        now=now,
        late=spread * spread_share(tenant.id, entry.name),
        oldest_name=registry.resolve(entry.name).names[-1],
        is_own_without_note=entry.planned is None
        and served is not None
        and (served > now or _is_recent_occurrence(tenant, entry, served, now)),
    )


def _is_recent_occurrence(tenant: Tenant, entry: FlowEntry, at: datetime, now: datetime) -> bool:
    if now - at > _RECENT:
        return False
    return cron.parse(entry.cron).next(at, find_zone(tenant.zone_of(entry)), inclusive=True) == at


def planned(
    expression: str, zone: str, next_run: datetime | None, now: datetime, horizon: datetime
) -> Generator[None, None, tuple[datetime, ...]]:
    """Return the occurrences that get a job at a tick, and the next `nextRunUtc`. Yields as `plan` does.

    The result is empty if the calendar ends before that.

    Args:
        expression: A cron that can be read.
        zone: Its time zone.
        next_run: `nextRunUtc`, at or before the horizon; None where it is missing.
        now: The instant of the tick (aware).
        horizon: How far it looks ahead (aware).

    """
    stored = (next_run,) if next_run else ()
    following = yield from _following(expression, zone, max((now, *stored)), horizon, MOST_AHEAD - len(stored))
    return (*stored, *following) if following else ()


def _following(
    expression: str, zone: str, after: datetime, horizon: datetime, most: int
) -> Generator[None, None, tuple[datetime, ...]]:
    """Return the result of `_occurrences`, found in steps."""
    found: tuple[datetime, ...] = ()
    while True:
        at_once = min(most - len(found), _AT_ONCE)
        part = _occurrences(expression, zone, found[-1] if found else after, horizon, at_once)
        if not part or len(part) <= at_once or len(found) + at_once == most:
            return (*found, *part) if part else ()
        found += part[:-1]
        yield


@lru_cache(maxsize=1024)  # many flows have the same schedule, and a tick asks for the same times
def _occurrences(expression: str, zone: str, after: datetime, horizon: datetime, most: int) -> tuple[datetime, ...]:
    """Return the occurrences after an instant until the horizon, up to `most`, and the one after them.

    The result is empty if there is none after them.
    """
    schedule, clock = cron.parse(expression), find_zone(zone)
    found: list[datetime] = []
    upcoming = schedule.next(after, clock)
    while upcoming and upcoming <= horizon and len(found) < most:
        found.append(upcoming)
        upcoming = schedule.next(upcoming, clock)
    return (*found, upcoming) if upcoming else ()


def _run_id(tenant_id: str, flow: str, note: Planned | None, at: datetime, *, is_forced: bool) -> str:
    """Return the same id in each tick that decides about the same occurrence, also after edits of other fields.

    An occurrence of the schedule has one run. A time that a person has set back to has one run each time it is set:
    until a tick has moved `nextRunUtc`, the note of the tick before does not change. A time that a person has set, and
    that no tick has passed yet, is an occurrence like those of the schedule.
    """
    is_passed = note is not None and (note.next_run is None or at < note.next_run)
    decided_after = [note.key] if note and is_forced and is_passed else []
    return run_id(tenant_id, flow, at.isoformat(), *decided_after)


def spread_share(*parts: str) -> float:
    """Return the share of the spread for which the jobs of a flow of a tenant wait: a hash, from 0 to 1."""
    return int.from_bytes(sha256("\n".join(parts).encode()).digest()[:4]) / 2**32


def _too_often(tenant: Tenant, entry: FlowEntry, horizon: datetime) -> Problem:
    return Problem(
        tenant_id=tenant.id,
        flow=entry.name,
        path=f"flows[{entry.index}].cron",
        why=f"more than {MOST_AHEAD} runs lie before {horizon:%H:%M:%S} UTC, and the rest becomes one run: "
        "run the flow less often, or the timer more often",
    )
