"""What a tenant document means at an instant: which runs are due, and when each flow is next. Pure."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from datasync import cron
from datasync.errors import CronInvalid
from datasync.model import FlowConfig, Job, Problem, Tenant, revision, run_id


class PlannedJob(msgspec.Struct, frozen=True):
    """A job, and how long the queue is to hide it."""

    job: Job
    delay: timedelta


class Advance(msgspec.Struct, frozen=True):
    """What is to be done about one flow: put its jobs on the queue, then move its `nextRunUtc`."""

    flow: FlowConfig
    jobs: tuple[PlannedJob, ...]
    next_run: datetime
    """The first occurrence that is not planned yet (aware, UTC)."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be done about one tenant."""

    advances: tuple[Advance, ...]
    problems: tuple[Problem, ...]
    """What a person has to mend: entries that could not be read, and schedules that cannot be kept."""


def plan(tenant: Tenant, now: datetime, horizon: datetime) -> Plan:
    """Decide what to do about a tenant's flows at `now`, looking ahead to `horizon` (both aware, now <= horizon).

    * Only entries with `enabled: true` count.
    * `nextRunUtc` in the past: one job however many occurrences were missed.
    * Every further occurrence up to and including `horizon`: a job each, hidden until its instant.
    * `nextRunUtc` missing: filled in with the next occurrence after `now`, without a job for the past.
    """
    advances: list[Advance] = []
    problems = [*tenant.problems]
    for flow in tenant.flows:
        if not flow.enabled:
            continue
        try:
            advance = _advance(tenant, flow, now, horizon)
        except _Unschedulable as why:
            problems.append(
                Problem(tenant_id=tenant.id, flow=flow.name, path=f"flows[{flow.index}].{why.field}", why=str(why))
            )
        else:
            if advance:
                advances.append(advance)
    return Plan(advances=tuple(advances), problems=tuple(problems))


def zone_name(tenant: Tenant, flow: FlowConfig) -> str:
    """Return the zone in which a flow's cron is read: its own, the tenant's where it says `tenant`, else UTC."""
    return tenant.timezone if flow.timezone == "tenant" else flow.timezone or "UTC"


def rev(tenant: Tenant, flow: FlowConfig) -> str:
    """Return the revision of a flow's schedule."""
    return revision(flow.cron, zone_name(tenant, flow))


class _Unschedulable(Exception):
    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def _advance(tenant: Tenant, flow: FlowConfig, now: datetime, horizon: datetime) -> Advance | None:
    if flow.next_run and flow.next_run > horizon:
        return None
    try:
        schedule = cron.parse(flow.cron)
    except CronInvalid as error:
        raise _Unschedulable("cron", str(error)) from None
    zone = _zone(zone_name(tenant, flow))
    after_now = schedule.next(now, zone)
    if after_now is None:
        raise _Unschedulable("cron", f"cron {flow.cron!r} never fires: no date matches all of its fields")
    served = flow.next_run
    jobs = [_job(tenant, flow, served, now)] if served and served <= now else []
    upcoming: datetime | None = served if served and served > now else after_now
    while upcoming and upcoming <= horizon:
        jobs.append(_job(tenant, flow, upcoming, now))
        upcoming = schedule.next(upcoming, zone)
    if upcoming is None:
        return None  # the calendar ends with year 9999
    return Advance(flow=flow, jobs=tuple(jobs), next_run=upcoming)


def _job(tenant: Tenant, flow: FlowConfig, at: datetime, now: datetime) -> PlannedJob:
    job = Job(
        tenant_id=tenant.id,
        flow_name=flow.name,
        scheduled_utc=at,
        # The ETag tells two decisions about one instant apart: a person may set it again to force a run.
        run_id=run_id(tenant.id, flow.name, at.isoformat(), tenant.etag),
        rev=rev(tenant, flow),
    )
    return PlannedJob(job=job, delay=max(at - now, timedelta()))


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _Unschedulable(
            "timezone", f"{name!r} is no time zone; expected an IANA name such as America/Chicago, or 'tenant'"
        ) from None
