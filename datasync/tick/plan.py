"""The plan for a tenant at an instant: jobs to enqueue, and the next `nextRunUtc` of each entry. Pure."""

from datetime import datetime, timedelta
from hashlib import sha256

import msgspec

from datasync import cron
from datasync.flow.registry import FlowRegistry
from datasync.model.job import HEAD_START, JobMessage, PlannedJob, Trigger, run_id
from datasync.model.tenant import FlowEntry, Problem, Tenant
from datasync.model.times import utc_text
from datasync.tick.check import entry_problems, find_zone, tenant_problems

MOST_AHEAD = 1000
"""The most runs of one flow that a tick plans."""


class Advance(msgspec.Struct, frozen=True):
    """The plan for one entry: put its jobs on the queue, then move its `nextRunUtc`."""

    entry: FlowEntry
    jobs: tuple[PlannedJob, ...]
    next_run: datetime
    """The first occurrence that is not planned yet (aware, UTC)."""

    @property
    def needs_note(self) -> bool:
        """Whether a note has to be made in the entry first, without which a repeated tick may choose another run id."""
        return bool(self.jobs) and self.entry.next_run is not None and self.entry.planned is None


class Plan(msgspec.Struct, frozen=True):
    """The plan for one tenant."""

    advances: tuple[Advance, ...]
    problems: tuple[Problem, ...]
    """Fields that somebody must correct. An entry with a problem is not scheduled."""


def plan(
    tenant: Tenant, registry: FlowRegistry, now: datetime, horizon: datetime, spread: timedelta = timedelta()
) -> Plan:
    """Plan a tenant's entries at `now`, looking ahead to `horizon` (both aware, now <= horizon).

    * Disabled entries, and entries with problems (see datasync.tick.check), are left out.
    * `nextRunUtc` in the past gives one job, however many occurrences were missed.
    * Each further occurrence up to and including `horizon` gives a job that waits for its instant: at most MOST_AHEAD
      for an entry, and a problem that says so.
    * A missing `nextRunUtc` is filled in with the next occurrence after `now`, without a job for the past.
    * A `nextRunUtc` in another form than `2025-08-23T01:00:00Z` is written again in this form.
    * Each job waits for a part of `spread` as well, always the same part for a flow of a tenant.
    """
    advances: list[Advance] = []
    problems = [*tenant_problems(tenant)]
    for entry in tenant.flows:
        if not entry.enabled:
            continue
        if found := [*entry_problems(tenant, entry, registry, now)]:
            problems += found
        elif advance := _advance(tenant, entry, now, horizon, spread):
            advances.append(advance)
            if advance.next_run <= horizon:
                problems.append(_too_often(tenant, entry, horizon))
    return Plan(advances=tuple(advances), problems=tuple(dict.fromkeys(problems)))


def _advance(tenant: Tenant, entry: FlowEntry, now: datetime, horizon: datetime, spread: timedelta) -> Advance | None:
    served = entry.next_run
    if served and served > horizon:
        in_own_form = entry.next_run_text == utc_text(served)
        return None if in_own_form else Advance(entry=entry, jobs=(), next_run=served)
    schedule, zone = cron.parse(entry.cron), find_zone(tenant.zone_of(entry))
    instants = [served] if served and served <= now else []
    upcoming = served if served and served > now else schedule.next(now, zone)
    while upcoming and upcoming <= horizon and len(instants) < MOST_AHEAD:
        instants.append(upcoming)
        upcoming = schedule.next(upcoming, zone)
    if upcoming is None:
        return None  # the calendar ends with year 9999
    late = spread * _fraction(tenant.id, entry.name)
    jobs = (_job(tenant, entry, at, now, late) for at in instants)
    return Advance(entry=entry, jobs=tuple(jobs), next_run=upcoming)


def _job(tenant: Tenant, entry: FlowEntry, at: datetime, now: datetime, late: timedelta) -> PlannedJob:
    is_forced = at == entry.next_run and not entry.is_planned
    message = JobMessage(
        tenant_id=tenant.id,
        flow_name=entry.name,
        scheduled_utc=at,
        run_id=_run_id(tenant, entry, at, is_forced=is_forced),
        rev=tenant.revision_of(entry),
        trigger=Trigger.FORCED if is_forced else Trigger.SCHEDULE,
        enqueued_utc=now,
    )
    return PlannedJob(message=message, visible_at=max(at, now) + late - HEAD_START)


def _run_id(tenant: Tenant, entry: FlowEntry, at: datetime, *, is_forced: bool) -> str:
    """Return the same id in each tick that decides about the same occurrence, whatever else is edited meanwhile.

    An occurrence of the schedule has one run. A time that a person has set back to has one run each time it is set:
    until a tick has moved `nextRunUtc`, the note of the tick before does not change. A time that a person has set, and
    that no tick has passed yet, is an occurrence like those of the schedule.
    """
    note = entry.planned
    is_passed = note is not None and (note.next_run is None or at < note.next_run)
    decided_after = [note.key] if note and is_forced and is_passed else []
    return run_id(tenant.id, entry.name, at.isoformat(), *decided_after)


def _fraction(*parts: str) -> float:
    """Hash texts to a number from 0 to 1, the same in every process."""
    return int.from_bytes(sha256("\n".join(parts).encode()).digest()[:4]) / 2**32


def _too_often(tenant: Tenant, entry: FlowEntry, horizon: datetime) -> Problem:
    return Problem(
        tenant_id=tenant.id,
        flow=entry.name,
        path=f"flows[{entry.index}].cron",
        why=f"more than {MOST_AHEAD} runs lie before {horizon:%H:%M:%S} UTC, and the rest becomes one run: "
        "run the flow less often, or the timer more often",
    )
