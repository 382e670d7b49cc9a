"""settle: records the end of an attempt in one transaction, and sends the messages that follow from it."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from datasync.errors import LeaseLost, RequestRefused, ServiceUnavailable, StateInvalid, TenantUnknown
from datasync.flow.registry import Flow
from datasync.model.decode import fits_in_id
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.job import MOST_COUNTED, Job, PlannedJob, run_id
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.state import Deferral, FlowState, Leased
from datasync.model.usual import Unusual
from datasync.run.ending import Ending
from datasync.run.lease import HeldLease
from datasync.run.own import check_own, is_own
from datasync.schedule import Expectation
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import EndingNotRecorded, RunRenamed
from datasync.tries import MOST, tries

MOST_DEFERRALS = 100
"""How often a flow may defer a run."""

LONGEST_DEFERRAL = timedelta(days=7)
"""How long a run may be deferred, from the first time on."""

SHORTEST_DEFERRAL_AT_LAST = timedelta(minutes=1)
"""The shortest time between two attempts of a run that is deferred again and again. At first it is a second."""

_LONGEST_OUTAGE_PAUSE = timedelta(minutes=15)
PATIENCE = timedelta(minutes=10)
"""How long an attempt waits for Cosmos DB to record its end. No other attempt can start while Cosmos DB is away."""

_BEFORE_TIMEOUT = timedelta(minutes=2)
_RECORDED_CURSOR = 1024  # bytes of JSON


class Delivery(msgspec.Struct, frozen=True):
    """One delivery of a job, as far as it came."""

    job: Job
    id: str
    """Identifies the attempt: the nonce of the lease, where it has one."""
    started_utc: datetime
    flow: Flow | None = None
    expectation: Expectation | None = None
    """How often the entry should succeed; None where the flow was not called."""
    record: RunRecord | None = None
    lease: HeldLease | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The flow's name and aliases; only the name in the job where no flow has it."""
        return self.flow.names if self.flow else (self.job.flow_name,)


class _Contended(ServiceUnavailable):
    """Others have changed the documents in every try."""


async def settle(services: Services, delivery: Delivery, ending: Ending) -> RunRecord:
    """Record the end of an attempt: the run's record and the flow's state in one transaction.

    An attempt is recorded once, also after several tries and lost answers.

    Returns:
        The record. Its messages (`next`) are not sent yet. It does not have an attempt without a lease whose run
        another message has ended meanwhile.

    Raises:
        LeaseLost: another attempt holds the lease, and nothing was recorded.
        JobInvalid: the flow was not called, and a run of another flow has ended under the job's run id.
        RequestRefused: Cosmos DB accepts neither the end nor a failure in its place.
        ServiceUnavailable: Cosmos DB refused or could not be reached, or others changed the documents in every try.

    """
    waited, pause, is_refused = timedelta(), timedelta(seconds=1), False
    while True:
        try:
            return await _record(services, delivery, ending)
        except ServiceUnavailable as error:
            if isinstance(error, RequestRefused):
                if is_refused:
                    raise
                ending, is_refused = _refused(error, ending), True
                continue
            is_late = waited >= PATIENCE or _is_near_its_timeout(services, delivery)
            if delivery.lease is None or is_late or isinstance(error, _Contended):
                raise
            services.outages.note(error, services.clock.now())
            if not waited:
                emit(
                    EndingNotRecorded(job=delivery.job, outcome=ending.outcome, error=error, traceback=ending.traceback)
                )
        with suppress(ServiceUnavailable, LeaseLost):  # the batch shows whether the lease is lost
            await delivery.lease.renew()
        await services.clock.sleep(pause)
        waited, pause = waited + pause, min(pause * 2, timedelta(seconds=5))


def _is_near_its_timeout(services: Services, delivery: Delivery) -> bool:
    """Return whether the host will soon end the process, with all of its runs, because of this invocation."""
    end = delivery.started_utc + services.settings.function_timeout
    return services.clock.now() >= end - _BEFORE_TIMEOUT


def _refused(error: ServiceUnavailable, ending: Ending) -> Ending:
    """Return the ending of an attempt whose counts, cursor or error Cosmos DB does not accept."""
    failure = Failure(kind="RecordRefused", message=str(error), fingerprint="record-refused")
    return Ending(Outcome.FAILED, failure, raised=error, abandoned=ending.abandoned)


async def _record(services: Services, delivery: Delivery, ending: Ending) -> RunRecord:
    runs, job = services.runs, delivery.job
    counts = delivery.lease is not None or await _counts(services, delivery, ending)
    record = _leased_record(delivery) or delivery.record
    state = await _state_to_write(services, delivery, counts=counts)
    async for _ in tries(services.clock.sleep):
        own = (record or RunRecord.begin(job, delivery.names[0], delivery.started_utc)).is_present_for(job)
        ended, after = _after(services, delivery, ending, own, state, counts=counts)
        documents: list[Leased] = [ended] if after is None else [ended, after]
        if await runs.save(*documents):
            return ended
        record = await runs.record(job.tenant_id, job.run_id)
        if record and not is_own(record, job, delivery.names):
            delivery = _renamed(services, delivery, record)
            job, record = delivery.job, await runs.record(job.tenant_id, delivery.job.run_id)
        if record and (_is_written(record, delivery, ending) or (delivery.lease is None and record.is_over_for(job))):
            return record
        if delivery.lease:
            await delivery.lease.refresh()
        state = await _state_to_write(services, delivery, counts=counts)
    raise _Contended(
        f"the state of {job.tenant_id}/{shown(delivery.names[0])} was changed by others in each of {MOST} tries. "
        "It will be tried again"
    )


def _renamed(services: Services, delivery: Delivery, taken: RunRecord) -> Delivery:
    """Return the delivery under another run id, as a run of another flow has ended under its own meanwhile.

    Raises:
        JobInvalid: the flow was not called, so the message can be refused.

    """
    job = delivery.job
    if delivery.lease is None:
        check_own(taken, job, delivery.names)
    renamed = replace(
        job,
        run_id=run_id(job.run_id, delivery.names[0]),
        delivery=services.settings.max_attempts,  # the host would deliver the message with the former id
    )
    emit(RunRenamed(job=job, renamed=renamed.run_id, owner=taken.flow_name))
    return replace(delivery, job=renamed)


def _is_written(record: RunRecord, delivery: Delivery, ending: Ending) -> bool:
    """Return whether an earlier try, whose answer was lost, has written the attempt.

    An attempt that has lost its lease is on record, too: as interrupted, written by the attempt that has the lease.
    """
    written = [attempt.outcome for attempt in record.attempts if attempt.id == delivery.id]
    return bool(written) and (written[0] is Outcome.INTERRUPTED) == (ending.outcome is Outcome.INTERRUPTED)


def _leased_record(delivery: Delivery) -> RunRecord | None:
    """Return the record of the run, as it was read last, if it has the lease itself."""
    document = delivery.lease and delivery.lease.document
    return document if isinstance(document, RunRecord) else None


async def _state_to_write(services: Services, delivery: Delivery, *, counts: bool) -> FlowState | None:
    """Return the flow's state, as it was read last.

    None if the attempt says nothing about the flow, and the state cannot be read to see whether a run is wanted.
    """
    job, lease = delivery.job, delivery.lease
    if lease and isinstance(lease.document, FlowState):
        return lease.document
    if not fits_in_id(delivery.names[0]):
        return None
    try:
        return await services.runs.state(job.tenant_id, delivery.names)
    except StateInvalid:  # the record says why the run has ended
        return None
    except RequestRefused:
        if counts:
            raise
        return None


async def _counts(services: Services, delivery: Delivery, ending: Ending) -> bool:
    """Return whether an attempt that did not start counts as a failure of a flow of the tenant."""
    if ending.outcome not in (Outcome.FAILED, Outcome.DEAD):
        return False
    if isinstance(ending.raised, RequestRefused | StateInvalid | TenantUnknown):  # perhaps of the documents asked here
        return False
    if not fits_in_id(delivery.names[0]):  # no flow can have this name, and no state can be stored under it
        return False
    return await services.tenants.has_entry(delivery.job.tenant_id, (delivery.job.flow_name, *delivery.names))


def _after(
    services: Services, delivery: Delivery, ending: Ending, record: RunRecord, state: FlowState | None, *, counts: bool
) -> tuple[RunRecord, FlowState | None]:
    """Return the record and the state after the attempt; no state if it does not change."""
    job, lease = delivery.job, delivery.lease
    now = max(services.clock.now(), delivery.started_utc)
    ending = _decided(services, job, ending, record, now)
    attempt = Attempt(
        id=delivery.id,
        outcome=ending.outcome,
        started_utc=delivery.started_utc,
        finished_utc=now,
        token=lease.document.token if lease else 0,
        error=ending.error,
        secrets=ending.secrets,
    )
    messages = [*_next(services, job, ending, record, now)]
    after = _state_after(delivery, ending, attempt, state, messages, counts=counts)
    if after and ending.outcome is Outcome.SUCCEEDED and (expected := delivery.expectation):
        after = after.expecting(expected.rev, partial(expected.stale_after, now), attempt.started_utc)
    if state and after and state.wanted and not after.wanted:
        messages.append(PlannedJob(state.wanted, now))
    # The process may have died before it sent the run that follows an earlier end, which a redrive has undone, say.
    messages.extend(each for each in record.next if each.message.run_id != job.run_id)
    is_deferred = ending.outcome is Outcome.DEFERRED
    record = replace(
        record.after(attempt),
        retry_laters=record.retry_laters + (is_deferred and not ending.is_outage),
        deferred_since_utc=record.deferred_since_utc or (now if is_deferred else None),
        counts=ending.counts,
        unusual=_new(state, after),
        http=ending.http,
        log=ending.log,
        log_left_out=ending.log_left_out,
        window=ending.window,
        cursor_before=_short(ending.cursor_before),
        cursor_after=_short(after.cursor) if after else None,
        recording=ending.recording or record.recording,
        message_id=job.message_id,
        next=tuple(messages),
        lease=None if lease else record.lease,  # that of another message of the run
    )
    return record, after


def _new(before: FlowState | None, after: FlowState | None) -> tuple[Unusual, ...]:
    """Return the unusual numbers of an attempt that the run before did not have."""
    if before is None or after is None or after.last_outcome is not Outcome.SUCCEEDED:
        return ()
    known = {each.count for each in before.unusual}
    return tuple(each for each in after.unusual if each.count not in known)


def _state_after(
    delivery: Delivery,
    ending: Ending,
    attempt: Attempt,
    state: FlowState | None,
    messages: Sequence[PlannedJob],
    *,
    counts: bool,
) -> FlowState | None:
    if state is None:
        return None
    job = delivery.job
    if delivery.lease is None or not isinstance(delivery.lease.document, FlowState):
        is_final = ending.outcome.is_final
        was_deferred = is_final and state.deferral is not None and state.deferral.run_id == job.run_id
        is_sent = is_final and state.wanted is not None and (was_deferred or _is_idle(state, attempt.finished_utc))
        if not (counts or was_deferred or is_sent):
            return None
        # Without the lease, neither window nor cursor may change.
        after = state.after(attempt, job, None, state.cursor, ending.counts) if counts else state
        if was_deferred:  # else the run that follows would be skipped because of it
            after = replace(after, deferral=None)
        return replace(after, wanted=None if is_sent else state.wanted)
    is_done = ending.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED)
    after = state.after(attempt, job, ending.window_end, ending.cursor if is_done else state.cursor, ending.counts)
    if ending.outcome is Outcome.DEFERRED:
        (again,) = messages
        after = replace(after, deferral=Deferral(job.next_leg, job.run_id, again.visible_at))
    is_sent = ending.outcome.is_final and not after.deferred(attempt.finished_utc)  # else a later end sends it
    return replace(
        after,
        lease=state.lease if ending.abandoned else None,
        wanted=None if is_sent else state.wanted,
    )


def _is_idle(state: FlowState, now: datetime) -> bool:
    """Return whether no run is going on or deferred, whose end will send the run that is wanted."""
    return not (state.deferred(now) or (state.lease and state.lease.is_live(now)))


def _decided(services: Services, job: Job, ending: Ending, record: RunRecord, now: datetime) -> Ending:
    """Return the ending with its final outcome: an attempt that was the last one has ended the run."""
    if ending.outcome is Outcome.FAILED:
        is_last = job.is_by_hand or record.failures + 1 >= services.settings.max_attempts
        return replace(ending, outcome=Outcome.DEAD) if is_last or ending.is_permanent else ending
    if ending.outcome is not Outcome.DEFERRED:
        return ending
    since = record.deferred_since_utc or now
    is_often = not ending.is_outage and record.retry_laters >= MOST_DEFERRALS
    if now - since >= LONGEST_DEFERRAL or is_often or job.deferral >= MOST_COUNTED:
        often = max(record.deferrals, job.deferral)
        why = f"the run was deferred {often} times since {since:%Y-%m-%d %H:%M} UTC, and is not deferred again"
        last = f". The last reason: {ending.error.message}" if ending.error else ""
        error = Failure(kind="DeferredTooOften", message=why + last, fingerprint="deferred-too-often")
        return replace(ending, outcome=Outcome.DEAD, error=error)
    return ending


def _next(services: Services, job: Job, ending: Ending, record: RunRecord, now: datetime) -> Iterable[PlannedJob]:
    """Yield the messages that go on with the run, which had this record before the attempt."""
    if ending.outcome is Outcome.CONTINUED and not job.is_by_hand:
        yield PlannedJob(job.next_part(now), now)
    if ending.outcome is Outcome.DEFERRED:
        outages = job.outages + 1 if ending.is_outage else 0
        delay = outage_pause(job.outages) if ending.is_outage else _deferral_pause(ending, record)
        yield PlannedJob(replace(job.next_deferral(), outages=outages), now + delay)
    if ending.outcome is Outcome.FAILED and job.delivery >= services.settings.max_attempts:
        yield PlannedJob(job.copy(), now + services.settings.retry_delay)  # the host would not deliver it again


def _deferral_pause(ending: Ending, record: RunRecord) -> timedelta:
    """Return how long a deferred run waits: as long as its flow asked for, and at least 1, 2, 4 … 60 seconds."""
    shortest = timedelta(seconds=1 << min(record.retry_laters, 6))
    return max(ending.delay or timedelta(), min(shortest, SHORTEST_DEFERRAL_AT_LAST))


def outage_pause(outages: int) -> timedelta:
    """Return how long a job waits for a service, or for a state: 15 seconds at first, 15 minutes at most."""
    return min(timedelta(seconds=15 * (1 << min(outages, 10))), _LONGEST_OUTAGE_PAUSE)


def _short(cursor: Any) -> Any:
    return cursor if len(msgspec.json.encode(cursor)) <= _RECORDED_CURSOR else None
