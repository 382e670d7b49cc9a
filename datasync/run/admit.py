"""admit: gates decide, in order, whether a job runs now."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from datasync.errors import (
    ActionRefused,
    FlowSettingsInvalid,
    FlowUnknown,
    JobInvalid,
    ServiceUnavailable,
    StateInvalid,
    TenantInvalid,
    TenantUnknown,
)
from datasync.flow.context import Window
from datasync.flow.options import Overlap
from datasync.flow.registry import Flow, FlowRegistry
from datasync.model.decode import fits_in_id
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.job import HEAD_START, Job
from datasync.model.lease import Lease
from datasync.model.run import ENTRY_SKIPS, Attempt, Outcome, RunRecord
from datasync.model.state import Deferral, FlowState, Leased
from datasync.model.tenant import FlowEntry, Tenant
from datasync.model.times import utc_text
from datasync.run.acquire import INTERRUPTED, Taken, acquire
from datasync.run.ending import Drop, Ending, PutBack
from datasync.run.lease import HeldLease
from datasync.run.own import check_own, is_own
from datasync.run.settle import outage_pause
from datasync.schedule import Expectation
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import CooldownInvalid

LONGEST_PARKING = timedelta(days=7)
"""How long a job waits for its flow to be published."""

MOST_ROUNDS = 3
"""How many times the attempts of a run whose process dies are repeated in full."""

_PARKED = timedelta(minutes=5)
_LONGEST_HEAD_START = 2 * HEAD_START + timedelta(seconds=1)  # the queue counts whole seconds, by a clock of its own
_SPREAD = timedelta(minutes=10)
"""Runs whose attempts were interrupted again are spread over this time, so that they no longer meet."""
_FRESH = timedelta(seconds=5)
"""How old a record may be when the lease is taken. The state knows the ends since then, unless they are very many."""
_SKEW = timedelta(hours=1)  # far more than clocks differ
_TRIES = 5


class Candidate(msgspec.Struct, frozen=True):
    """A job, with everything that the first gates look at."""

    job: Job
    flow: Flow
    tenant: Tenant
    entry: FlowEntry | None
    """The tenant's entry for the flow; None where it has none."""
    record: RunRecord
    is_dead: bool
    """Whether the run is dead, and the job is the first that attempts it again."""
    read_utc: datetime
    """The time before the reads: the documents are at least as new."""
    now: datetime
    closed_until: datetime | None
    """The instant before which the flow's provider must not be called; None if it may be called."""


class Admitted(msgspec.Struct, frozen=True):
    """A job that runs."""

    job: Job
    flow: Flow
    tenant: Tenant
    entry: FlowEntry
    """Its entry for the flow."""
    settings: Any
    """The settings of the entry, as the flow declares them."""
    expectation: Expectation
    """How often the entry should succeed."""
    record: RunRecord
    lease: HeldLease
    ending: Ending | None = None
    """The end of the run, if its flow need not be called."""
    window: Window | None = None
    """The window that a person has given; None for the next one."""

    @property
    def state(self) -> FlowState | None:
        """The state of the flow; None if the flow allows overlapping runs, which have neither window nor cursor."""
        return self.lease.document if isinstance(self.lease.document, FlowState) else None


type Stop = Ending | RunRecord | Drop | PutBack
"""The end of a delivery that does not run: an ending to record, a record that is written, or neither."""
type Gate = Callable[[Candidate], Stop | None]
"""Returns None to let a job pass, or the end of its delivery."""


def is_present(candidate: Candidate) -> Stop | None:
    """Skip a job whose entry was removed."""
    if candidate.entry:
        return None
    return _skipped(Outcome.SKIPPED_DISABLED, "the tenant's document has no such flow")


def is_enabled(candidate: Candidate) -> Stop | None:
    """Skip a job whose entry was disabled."""
    if candidate.entry and candidate.entry.enabled:
        return None
    return _skipped(Outcome.SKIPPED_DISABLED, "the flow is disabled: enabled is false in the tenant's document")


def is_scheduled(candidate: Candidate) -> Stop | None:
    """Skip a job that was planned ahead by a schedule that has changed since."""
    job, entry = candidate.job, candidate.entry
    if not job.planned_ahead or job.rev is None or (entry and job.rev == candidate.tenant.revision_of(entry)):
        return None
    return _skipped(Outcome.SKIPPED_RESCHEDULED, "the flow's cron or timezone was changed after this run was planned")


def is_within_parts(candidate: Candidate) -> Stop | None:
    """End a run that continues in more parts than its flow allows."""
    job, flow = candidate.job, candidate.flow
    if job.part <= flow.parts:
        return None
    why = f"the run did not end in {flow.parts} parts: correct the flow's Continue, or register it with a higher parts="
    failure = Failure(kind="TooManyParts", message=why, fingerprint="too-many-parts")
    return Ending(Outcome.DEAD, failure, is_permanent=True)


def is_open(candidate: Candidate) -> Stop | None:
    """Put a job back whose provider has asked not to be called for a time."""
    job, until = candidate.job, candidate.closed_until
    if until is None or until <= candidate.now:
        return None
    # They do not all start at the same instant. A queue hides a message for seven days at most.
    delay = min(until - candidate.now + apart(job) / 10, LONGEST_PARKING)
    why = f"{candidate.flow.provider} asked not to be called until {utc_text(until)}: see docs/runbook.md, Cool-downs"
    return PutBack(job.copy(), delay, why)


GATES: tuple[Gate, ...] = (is_present, is_enabled, is_scheduled, is_within_parts, is_open)


async def wait_until_scheduled(services: Services, job: Job) -> None:
    """Wait for the scheduled time of a job that was planned ahead, which appears a little early."""
    early = job.scheduled_utc - services.clock.now()
    if timedelta() < early <= _LONGEST_HEAD_START:
        await services.clock.sleep(early)


async def find_flow(services: Services, registry: FlowRegistry, job: Job) -> Flow | PutBack:
    """Return the flow of a job. A job for an unknown flow waits: a version of the app that has it may be on its way.

    Raises:
        FlowUnknown: the job has waited for LONGEST_PARKING, or no flow can have this name.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    try:
        return registry.resolve(job.flow_name)
    except FlowUnknown as error:
        free = FlowState(tenant_id=job.tenant_id, flow_name=job.flow_name)
        if not fits_in_id(job.flow_name):  # no flow can have this name
            raise
        if isinstance(back := await _settle_lost_attempt(services, (job.flow_name,), job, free), PutBack):
            return back
        if services.clock.now() - job.enqueued_utc >= LONGEST_PARKING:
            raise
        why = f"{error}. The job waits for the flow for up to {LONGEST_PARKING.days} days"
        return PutBack(job.copy(), _PARKED, why)


async def admit(services: Services, flow: Flow, job: Job) -> Admitted | Stop:
    """Read the tenant and the run's record side by side, pass the gates, and take the lease.

    Raises:
        TenantUnknown, TenantInvalid, FlowSettingsInvalid, StateInvalid: the job cannot run.
        JobInvalid: its run id is that of another flow's run.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    for _ in range(_TRIES):
        candidate = await _candidate(services, flow, job)
        if not isinstance(candidate, Candidate):
            return candidate
        stop: Admitted | Stop | None = _first_stop(candidate)
        lost = await _settle_lost_attempt(services, flow.names, job, _free(flow, candidate.record)) if stop else None
        if isinstance(lost, PutBack):
            return lost
        if lost:
            continue  # with the record as it is now
        if isinstance(stop, Ending):
            stop = _not_lost(candidate, stop)
        elif isinstance(stop, PutBack):
            stop = await _park(services, candidate, stop)
        elif stop is None:
            stop = await _take_lease(services, candidate)
        if stop:
            return stop
    delay = outage_pause(job.outages)
    return PutBack(job.after_outage(None), delay, "the state of the flow was changed by others all the time")


async def admit_by_hand(services: Services, flow: Flow, job: Job, settings: Mapping[str, Any]) -> Admitted:
    """Take the lease for a run that a person makes in this process. A run that is not possible leaves no trace.

    Args:
        services: The services of the process.
        flow: The flow of the job.
        job: The job, for which no message stands.
        settings: The fields that replace those of the entry's settings in this run.

    Raises:
        ActionRefused: another run has the lease, or a gate does not let the job pass.
        TenantUnknown, TenantInvalid, FlowSettingsInvalid, StateInvalid: the job cannot run.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    candidate = await _candidate(services, flow, job)
    if not isinstance(candidate, Candidate):
        raise ActionRefused(candidate.why)
    if candidate.entry:
        candidate = replace(candidate, entry=with_settings(candidate.entry, settings))
    if stop := _first_stop(candidate):
        raise ActionRefused(_why(stop))
    admitted = await _acquired(services, candidate)
    if not isinstance(admitted, Admitted):
        raise ActionRefused(_held(admitted, services.clock.now()))
    checked = await _check_again(services, admitted)
    if checked is None or isinstance(checked, Admitted):
        return checked or admitted
    raise ActionRefused(_why(checked))


def with_settings(entry: FlowEntry, settings: Mapping[str, Any]) -> FlowEntry:
    """Return an entry with some fields of its settings replaced."""
    return replace(entry, settings={**entry.settings, **settings})


def _why(stop: Stop) -> str:
    if isinstance(stop, Drop | PutBack):
        return stop.why
    return stop.error.message if stop.error else f"the run has ended: {stop.outcome}"


def _held(found: Leased, now: datetime) -> str:
    """Say which run has the lease, and until when."""
    lease = found.lease or Lease()
    holder, end = lease.holder(found.tenant_id), utc_text((now + lease.left(now)).replace(microsecond=0))
    subject = f"{shown(found.tenant_id)}/{shown(found.flow_name)}"
    if holder is None:
        return f"the lease of {subject} was edited by hand, and lasts until {end}"
    since = f" since {utc_text(lease.started_utc)}" if lease.started_utc else ""
    by_hand = " by hand" if holder.is_by_hand else ""
    return (
        f"run {holder.run_id} of {subject} is going on{by_hand}{since}, and has the lease until {end}, or longer if it "
        "renews it: wait for its end. If its process was killed, the lease ends by itself"
    )


def _first_stop(candidate: Candidate) -> Stop | None:
    for gate in GATES:
        if stop := gate(candidate):
            return stop
    return None


def _not_lost(candidate: Candidate, skipped: Ending) -> Stop:
    """Return the end of a job that would be skipped: a dead run that is attempted again stays dead, or dies again.

    As a skipped run it would leave the list of dead runs, although it was not attempted.
    """
    if not (candidate.job.redrive and skipped.outcome in ENTRY_SKIPS and skipped.error):
        return skipped
    if candidate.is_dead:
        return Drop(f"{skipped.error.message}. Correct that, and attempt the run again", stays_dead=True)
    return replace(skipped, outcome=Outcome.DEAD, is_permanent=True)


async def _candidate(services: Services, flow: Flow, job: Job) -> Candidate | Drop | PutBack:
    read_utc = services.clock.now()
    tenant, record, closed_until = await asyncio.gather(
        services.tenants.get(job.tenant_id),
        services.runs.record(job.tenant_id, job.run_id),
        _closed_until(services, flow, job),
        return_exceptions=True,
    )
    if isinstance(record, BaseException):
        raise record
    check_own(record, job, flow.names)
    if record and record.is_over_for(job):  # whether or not the tenant can be read
        return _duplicate(job, record)
    is_dead = record is not None and record.outcome in (Outcome.DEAD, Outcome.GAVE_UP)
    record = (record or RunRecord.begin(job, flow.name, services.clock.now())).is_present_for(job)
    try:
        if isinstance(tenant, BaseException):
            raise tenant
        entry = tenant.entry((job.flow_name, *flow.names))
    except (TenantUnknown, TenantInvalid):
        if isinstance(back := await _settle_lost_attempt(services, flow.names, job, _free(flow, record)), PutBack):
            return back
        raise
    if isinstance(closed_until, BaseException):
        raise closed_until
    return Candidate(
        job=job,
        flow=flow,
        tenant=tenant,
        entry=entry,
        record=record,
        is_dead=is_dead,
        read_utc=read_utc,
        now=services.clock.now(),
        closed_until=closed_until,
    )


async def _closed_until(services: Services, flow: Flow, job: Job) -> datetime | None:
    if flow.provider is None:
        return None
    try:
        return await services.runs.cooldown(flow.cooldown_partition(job.tenant_id), flow.provider)
    except StateInvalid as error:
        emit(CooldownInvalid(error=error))
        return None


async def _settle_lost_attempt(
    services: Services, names: Sequence[str], job: Job, free: Leased
) -> PutBack | Taken | None:
    """Record the attempt of an earlier delivery that was killed, before the run is skipped, fails or has to wait."""
    try:
        known: Leased = free if isinstance(free, RunRecord) else await services.runs.state(job.tenant_id, names)
    except StateInvalid:  # its run is skipped all the same
        return None
    holder = (known.lease or Lease()).holder(job.tenant_id)
    if holder is None or holder.run_id != job.run_id:
        return None
    found = await acquire(services, free, names, job)
    if isinstance(found, Taken):
        with _unstarted(found.document):
            await services.runs.release(found.document)
        return found
    left = (found.lease or Lease()).left(services.clock.now())
    return PutBack(job.copy(), left, "an earlier delivery of the message has the lease")


@contextmanager
def _unstarted(held: Leased) -> Iterator[None]:
    """Let the next delivery of the job replace a lease whose attempt cannot start, since a service is away."""
    try:
        yield
    except ServiceUnavailable as error:
        error.unstarted = held.lease.nonce if held.lease else None
        raise


async def _park(services: Services, candidate: Candidate, back: PutBack) -> Stop | None:
    """Put a job back until its provider may be called, and note that as a deferral; None if the state has changed.

    Of the jobs that the schedule sends meanwhile, one waits, and the others are skipped.
    """
    job, flow = candidate.job, candidate.flow
    if not flow.has_state:
        return back
    try:
        state = await services.runs.state(job.tenant_id, flow.names)
    except StateInvalid:  # its run says so when the provider may be called
        return back
    if state.etag is None and state.lease:  # of a run of the version before, under an alias
        return back
    return await _wait(services, flow, job, candidate.record, state, back=back)


async def _wait(
    services: Services, flow: Flow, job: Job, own: RunRecord, state: FlowState, *, back: PutBack
) -> Stop | None:
    """Put a job back, and note that as a deferral, so that of many jobs one waits; None if the state has changed."""
    now = services.clock.now()
    waiting = state.deferred(now)
    if waiting is None or waiting.run_id == job.run_id:
        noted = replace(state, deferral=Deferral(leg=job.leg, run_id=job.run_id, until_utc=now + back.delay))
        return back if await services.runs.save(noted) else None
    if job.is_asked_for:
        return back
    return await _skip(services, flow, job, own, state, why=_deferred(waiting))


def _free(flow: Flow, record: RunRecord) -> Leased:
    """Return the document that has the lease of a run, as it is before its first use."""
    if not flow.has_state:
        return record
    return FlowState(tenant_id=record.tenant_id, flow_name=flow.name)


async def _take_lease(services: Services, candidate: Candidate) -> Admitted | Stop | None:
    """Take the lease; None if the documents have changed meanwhile."""
    job, flow = candidate.job, candidate.flow
    try:
        admitted = await _acquired(services, candidate)
    except FlowSettingsInvalid:
        free = _free(flow, candidate.record)
        if isinstance(back := await _settle_lost_attempt(services, flow.names, job, free), PutBack):
            return back
        raise
    if not isinstance(admitted, Admitted):
        return await _meet(services, flow, job, candidate.record, admitted)
    with _unstarted(admitted.lease.document):
        return await _check_again(services, admitted) or await _give_way(services, admitted)


async def _acquired(services: Services, candidate: Candidate) -> Admitted | Leased:
    """Take the lease, or return the document with the live lease of another attempt.

    Raises:
        FlowSettingsInvalid, StateInvalid: the job cannot run.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    job, flow, tenant, record = candidate.job, candidate.flow, candidate.tenant, candidate.record
    if candidate.entry is None:
        raise AssertionError("is_present lets no job without an entry pass")
    settings = flow.decode_settings(tenant.id, candidate.entry)
    found = await acquire(services, _free(flow, record), flow.names, job)
    if not isinstance(found, Taken):
        return found
    if found.interrupted and found.interrupted.run_id == job.run_id:
        record = found.interrupted
    elif services.clock.now() - candidate.read_utc > _FRESH:
        record = await _read_again(services, candidate, found.document)
    return Admitted(
        job=job,
        flow=flow,
        tenant=tenant,
        entry=candidate.entry,
        settings=settings,
        expectation=Expectation.of(tenant, candidate.entry, services.settings.schedule),
        record=record,
        lease=HeldLease(services, found.document),
    )


async def _read_again(services: Services, candidate: Candidate, held: Leased) -> RunRecord:
    """Return the record as it is stored now: the process may have stood still while others ended the run."""
    job = candidate.job
    with _unstarted(held):
        try:
            found = await services.runs.record(job.tenant_id, job.run_id)
            check_own(found, job, candidate.flow.names)
        except (JobInvalid, StateInvalid):
            await services.runs.release(held)
            raise
    return found.is_present_for(job) if found else candidate.record


async def _check_again(services: Services, admitted: Admitted) -> Admitted | Stop | None:
    """Look at the facts that are exact under the lease: a record that another process has written may lag behind."""
    job, state, document = admitted.job, admitted.state, admitted.lease.document
    if isinstance(document, RunRecord) and not is_own(document, job, admitted.flow.names):
        await services.runs.release(document)
        check_own(document, job, admitted.flow.names)
    if document.is_over_for(job) or admitted.record.is_over_for(job):
        await services.runs.release(document)
        return _duplicate(job, await services.runs.record(job.tenant_id, job.run_id))
    if state and (end := state.window_end_utc) and end - services.clock.now() > _SKEW:
        return replace(admitted, ending=_window_ahead(state, end))
    interruptions = admitted.record.interruptions
    if interruptions >= MOST_ROUNDS * services.settings.max_attempts:
        return replace(admitted, ending=interrupted(admitted.record))
    if interruptions > max(job.spread, 1):
        # Twice a victim, or a culprit: from now on it runs apart from the runs that it was interrupted with.
        await services.runs.release(admitted.lease.document)
        delay = apart(job, str(interruptions))
        return PutBack(job.copy(spread=interruptions), delay, f"{interruptions} attempts of the run were interrupted")
    return None


async def _give_way(services: Services, admitted: Admitted) -> Admitted | RunRecord | None:
    """Skip a run while another one is deferred, unless a person has asked for it; None if the state has changed."""
    job, state, now = admitted.job, admitted.state, services.clock.now()
    deferral = state.deferred(now) if state and not job.is_asked_for else None
    if state is None or deferral is None or deferral.run_id == job.run_id:
        return admitted
    free = replace(state, lease=None)
    if record := await _skip(services, admitted.flow, job, admitted.record, free, why=_deferred(deferral)):
        return record
    await services.runs.release(state)
    return None


async def _meet(services: Services, flow: Flow, job: Job, own: RunRecord, found: Leased) -> Stop | None:
    """Decide about a job that meets a live lease; None if the lease is gone meanwhile."""
    now, lease = services.clock.now(), found.lease or Lease()
    holder = lease.holder(job.tenant_id)
    if isinstance(found, RunRecord):
        check_own(found, job, flow.names)
    if holder is None:
        return PutBack(job.copy(), lease.left(now), "the lease of the flow was edited by hand, and is not over")
    if holder.run_id == job.run_id:
        is_newer = (job.redrive, job.deferral, job.rounds) > (holder.redrive, holder.deferral, holder.rounds)
        if holder.message_id != job.message_id and not is_newer:
            return Drop("another message of the same run is being run")
        return PutBack(job.copy(), lease.left(now), "an earlier delivery of the message has the lease")
    why = f"run {holder.run_id} of the same flow and tenant is going on"
    if not isinstance(found, FlowState):
        raise TypeError("the lease of a run that may overlap belongs to the same run")
    if found.etag is None:  # the version before has it under an alias, and will write the window and the cursor there
        return PutBack(job.copy(), lease.left(now), f"{why}, under a former name of the flow")
    holding = await services.runs.record(job.tenant_id, holder.run_id)
    is_left_behind = holding is not None and holding.has(lease.nonce or "")
    if is_left_behind:
        why = f"run {holder.run_id} has left a task or a thread behind, which still runs"
    # Nobody sends a run by hand again if its process dies, nor one that has ended. A skip would not be followed then.
    is_without_end = found.is_over_for(holder) or (holder.is_by_hand and flow.overlap is Overlap.ONCE)
    if is_left_behind or is_without_end or job.redrive:  # a skip would take a run off the list of dead runs
        return await _wait(services, flow, job, own, found, back=PutBack(job.copy(), lease.left(now), why))
    return await _skip(services, flow, job, own, found, why=why)


async def _skip(
    services: Services, flow: Flow, job: Job, own: RunRecord, state: FlowState, *, why: str
) -> RunRecord | None:
    """Record that a job is skipped because of another run, whose end sends one more; None if the state has changed.

    A dead run that was attempted again is dead again, so that it is not lost.
    """
    now = services.clock.now()
    skip = Attempt(
        id=uuid4().hex,
        outcome=Outcome.DEAD if job.redrive else Outcome.SKIPPED_OVERLAP,
        started_utc=now,
        finished_utc=now,
        error=Failure(kind="Skipped", message=why, fingerprint="skipped_overlap"),
    )
    record = own.after(skip, message_id=job.message_id, next=())
    noted = state.noting_skip(job.leg, job.once_more(now) if flow.overlap is Overlap.ONCE else None)
    return record if await services.runs.save(noted, record) else None


def _deferred(deferral: Deferral) -> str:
    return f"run {deferral.run_id} of the same flow and tenant is deferred until {utc_text(deferral.until_utc)}"


def _window_ahead(state: FlowState, end: datetime) -> Ending:
    error = StateInvalid(
        f"flow state id={state.id!r} of tenant {state.tenant_id!r}: windowEndUtc {utc_text(end)} lies in the future. "
        "Set it to the time up to which the data is transferred"
    )
    failure = Failure(kind="StateInvalid", message=str(error), fingerprint="window-ahead")
    return Ending(Outcome.FAILED, failure, raised=error)


def _duplicate(job: Job, record: RunRecord | None) -> Drop:
    outcome = record.outcome if record and record.outcome else "ended"
    is_own = record is not None and record.message_id == job.message_id
    return Drop(f"the run has ended already ({outcome})", record.next if record and is_own else ())


def _skipped(outcome: Outcome, why: str) -> Ending:
    return Ending(outcome, Failure(kind="Skipped", message=why, fingerprint=str(outcome)))


def interrupted(record: RunRecord) -> Ending:
    """Return the ending of a run whose attempts were all interrupted since it was started (again)."""
    attempts = f"{record.interruptions} attempts"
    kinds = {each.error.kind for each in record.attempts[-record.interruptions :] if each.error}
    return died(
        f"the process died in each of {attempts}"
        if kinds <= {INTERRUPTED.kind}
        else f"each of {attempts} was interrupted"
    )


def died(what: str) -> Ending:
    """Return the ending of a run that the process did not survive."""
    message = f"{what}: see docs/runbook.md, A run whose process dies"
    failure = Failure(kind="ProcessDied", message=message, fingerprint="process-died")
    return Ending(Outcome.DEAD, failure, is_permanent=True)


def apart(job: Job, reason: str = "") -> timedelta:
    """Return the delay of a run that is attempted apart from others, always the same for the same reason."""
    digest = sha256(f"{job.tenant_id}\n{job.run_id}\n{reason}".encode()).digest()
    return _SPREAD * (int.from_bytes(digest[:4]) / 2**32)
