"""What a tenant document means at an instant: which runs are due, and when each flow is next. Pure."""

from datetime import datetime, timedelta
from hashlib import sha256
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from datasync import cron
from datasync.errors import CronInvalid
from datasync.model import FlowConfig, Job, Problem, Tenant, revision, run_id

MOST_AHEAD = 1000
"""How many runs of one flow a tick plans at the most."""


class PlannedJob(msgspec.Struct, frozen=True):
    """A job, and how long it is to wait, counted from the instant of planning."""

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


def plan(tenant: Tenant, now: datetime, horizon: datetime, spread: timedelta = timedelta()) -> Plan:
    """Decide what to do about a tenant's flows at `now`, looking ahead to `horizon` (both aware, now <= horizon).

    * Only entries with `enabled: true` count.
    * `nextRunUtc` in the past: one job however many occurrences were missed.
    * Every further occurrence up to and including `horizon`: a job each, to wait until its instant; at most
      MOST_AHEAD for a flow, and a problem that says so.
    * `nextRunUtc` missing: filled in with the next occurrence after `now`, without a job for the past.
    * Each job waits for a part of `spread` on top, always the same one for a flow of a tenant.
    """
    advances: list[Advance] = []
    problems = [*tenant.problems]
    for flow in tenant.flows:
        if not flow.enabled:
            continue
        try:
            advance = _advance(tenant, flow, now, horizon, spread)
        except _Unschedulable as why:
            problems.append(_problem(tenant, flow, why.path, str(why)))
            continue
        if advance is None:
            continue
        advances.append(advance)
        if advance.next_run <= horizon:
            cut = f"more than {MOST_AHEAD} runs lie before {horizon:%H:%M:%S} UTC, and the rest becomes one run"
            problems.append(
                _problem(
                    tenant,
                    flow,
                    f"flows[{flow.index}].cron",
                    f"{cut}: run the flow less often, or the timer more often",
                )
            )
    return Plan(advances=tuple(advances), problems=tuple(problems))


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name.

    Raises:
        ValueError: there is none of that name; the message says what is expected.

    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; expected an IANA name such as America/Chicago") from None


def zone_name(tenant: Tenant, flow: FlowConfig) -> str:
    """Return the zone in which a flow's cron is read: its own, the tenant's where it says `tenant`, else UTC."""
    return tenant.timezone if flow.timezone == "tenant" else flow.timezone or "UTC"


def rev(tenant: Tenant, flow: FlowConfig) -> str:
    """Return the revision of a flow's schedule."""
    return revision(flow.cron, zone_name(tenant, flow))


class _Unschedulable(Exception):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path


def _problem(tenant: Tenant, flow: FlowConfig, path: str, why: str) -> Problem:
    return Problem(tenant_id=tenant.id, flow=flow.name, path=path, why=why)


def _zone(tenant: Tenant, flow: FlowConfig) -> ZoneInfo:
    try:
        return find_zone(zone_name(tenant, flow))
    except ValueError as why:
        if flow.timezone == "tenant":
            raise _Unschedulable("timezone", str(why)) from None
        raise _Unschedulable(f"flows[{flow.index}].timezone", f"{why}, or 'tenant' for the tenant's own") from None


def _advance(tenant: Tenant, flow: FlowConfig, now: datetime, horizon: datetime, spread: timedelta) -> Advance | None:
    if flow.next_run and flow.next_run > horizon:
        return None
    cron_path = f"flows[{flow.index}].cron"
    try:
        schedule = cron.parse(flow.cron)
    except CronInvalid as error:
        raise _Unschedulable(cron_path, str(error)) from None
    zone = _zone(tenant, flow)
    after_now = schedule.next(now, zone)
    if after_now is None:
        raise _Unschedulable(cron_path, f"cron {flow.cron!r} never fires: no date matches all of its fields")
    served = flow.next_run
    instants = [served] if served and served <= now else []
    upcoming: datetime | None = served if served and served > now else after_now
    while upcoming and upcoming <= horizon and len(instants) < MOST_AHEAD:
        instants.append(upcoming)
        upcoming = schedule.next(upcoming, zone)
    if upcoming is None:
        return None  # the calendar ends with year 9999
    smear = spread * _fraction(tenant.id, flow.name)
    jobs = (_job(tenant, flow, at, max(at - now, timedelta()) + smear, ahead=at > now) for at in instants)
    return Advance(flow=flow, jobs=tuple(jobs), next_run=upcoming)


def _job(tenant: Tenant, flow: FlowConfig, at: datetime, delay: timedelta, *, ahead: bool) -> PlannedJob:
    revised = rev(tenant, flow)
    # An overdue instant is decided on once per version of the document: a person may set the same one again, to force
    # a run. One to come is decided on by the schedule: no edit of the document plans it twice.
    decided_on = revised if ahead else tenant.etag
    job = Job(
        tenant_id=tenant.id,
        flow_name=flow.name,
        scheduled_utc=at,
        run_id=run_id(tenant.id, flow.name, at.isoformat(), decided_on),
        rev=revised,
    )
    return PlannedJob(job=job, delay=delay)


def _fraction(*parts: str) -> float:
    """Hash some texts to a number from 0 to 1, the same in every process."""
    return int.from_bytes(sha256("\n".join(parts).encode()).digest()[:4]) / 2**32
