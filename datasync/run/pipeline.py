"""The stages of a run, in order: receive → admit → call → settle.

The worker may be killed at any await: the message is then delivered again, and the attempt is recorded as interrupted.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from uuid import uuid4

from datasync.errors import (
    FlowSettingsInvalid,
    FlowUnknown,
    JobInvalid,
    LeaseLost,
    RequestRefused,
    ServiceUnavailable,
    TenantUnknown,
)
from datasync.flow.failures import failure_of
from datasync.flow.redact import Redaction
from datasync.flow.registry import FlowRegistry
from datasync.model.job import Job, PlannedJob, QueueMessage
from datasync.model.run import Outcome, RunRecord
from datasync.model.state import FlowState
from datasync.run.admit import Admitted, Stop, admit, apart, find_flow, wait_until_scheduled
from datasync.run.bury import keep_letter
from datasync.run.call import call
from datasync.run.ending import Drop, Ending, PutBack
from datasync.run.receive import receive
from datasync.run.settle import Delivery, outage_pause, settle
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import (
    JobDropped,
    JobPutBack,
    JobRefused,
    RunEnded,
    RunStaysDead,
    RunSuperseded,
    RunUnusual,
    ServiceAway,
)


async def run_message(services: Services, registry: FlowRegistry, message: QueueMessage) -> RunRecord | None:
    """Run the job in a message, and record how the attempt ended.

    Returns:
        The record; None if the message was a duplicate, was not a job, or was put back. The message is complete.

    Raises:
        FlowFailed, TenantInvalid, StateInvalid: the attempt failed. The host delivers the message again.
        RequestRefused: Cosmos DB does not accept a read or a write of the attempt; the host acts as above.
        ServiceUnavailable: neither Cosmos DB nor the queue can be used; the host acts as above.
        LeaseLost: the attempt lost its lease, and another attempt has it; the host acts as above.
        CancelledError: the host stops.

    """
    try:
        job = receive(message)
        await wait_until_scheduled(services, job)
        with services.spans.process(services.settings.queue_name, job, message.id):
            return await _attempt(services, registry, job)
    except JobInvalid as error:
        emit(JobRefused(error=error, attempt=message.dequeue_count))
        await keep_letter(services, message, str(error))
        return None


async def _attempt(services: Services, registry: FlowRegistry, job: Job) -> RunRecord | None:
    """Run a job, or put it back if a service is away."""
    try:
        return await _run_in_turn(services, registry, job)
    except RequestRefused:
        raise
    except ServiceUnavailable as error:
        pause, now = outage_pause(job.outages), services.clock.now()
        emit(ServiceAway(job=job, error=error, since=services.outages.note(error, now), pause=pause))
        again = job.after_outage(error.unstarted)
        await services.jobs.send(PlannedJob(again, now + pause))
        return None


async def _run_in_turn(services: Services, registry: FlowRegistry, job: Job) -> RunRecord | None:
    """Run a job, unless its tenant has as many runs in this process as it may have at once."""
    running, most = services.running, services.settings.concurrency_per_tenant
    if running[job.tenant_id] >= most:
        why = f"{most} runs of the tenant are going on in this process"
        again = job.copy(outages=job.outages)  # no service was asked
        await _put_back(services, job, PutBack(again, _turn(job, services.clock.now()), why))
        return None
    running[job.tenant_id] += 1
    try:
        return await _run(services, registry, job)
    finally:
        running[job.tenant_id] -= 1
        if not running[job.tenant_id]:
            del running[job.tenant_id]


def _turn(job: Job, now: datetime) -> timedelta:
    """Return how long a job waits for its tenant: a quarter of the time that it has waited so far, within limits."""
    waited = now - max(job.enqueued_utc, job.scheduled_utc)
    return min(max(waited / 4, _SHORTEST_TURN), _LONGEST_TURN) + apart(job, job.message_id) / 40


_SHORTEST_TURN = timedelta(seconds=5)
_LONGEST_TURN = timedelta(minutes=2)


async def _put_back(services: Services, job: Job, back: PutBack) -> None:
    await services.jobs.send(PlannedJob(back.message, services.clock.now() + back.delay))
    emit(JobPutBack(job=job, why=back.why, delay=back.delay))


async def _run(services: Services, registry: FlowRegistry, job: Job) -> RunRecord | None:
    flow, started = None, services.clock.now()
    try:
        flow = await find_flow(services, registry, job)
        stop: Admitted | Stop = flow if isinstance(flow, PutBack) else await admit(services, flow, job)
    except RequestRefused as error:  # that of a document; the record may be accepted
        stop = not_started(error)
    except (ServiceUnavailable, JobInvalid):
        raise
    except Exception as error:  # noqa: BLE001 - it is recorded, and raised for the host
        stop = not_started(error)
    delivery = Delivery(job=job, id=uuid4().hex, started_utc=started, flow=None if isinstance(flow, PutBack) else flow)
    match stop:
        case Drop():
            await services.jobs.send_all(stop.send)
            emit((RunStaysDead if stop.stays_dead else JobDropped)(job=job, why=stop.why))
            return None
        case PutBack():
            await _put_back(services, job, stop)
            return None
        case RunRecord():
            emit(RunEnded(record=stop))
            services.spans.ended(stop)
            return stop
        case Ending():
            return await _end(services, delivery, stop)
    return await run_admitted(services, stop, started)


async def run_admitted(
    services: Services, admitted: Admitted, started: datetime, amend: Callable[[Ending], Ending] | None = None
) -> RunRecord | None:
    """Run the flow of a job that has its lease, and record how the attempt ended.

    Args:
        services: The services of the process.
        admitted: The job, with its lease.
        started: The start of the attempt (aware).
        amend: Returns the ending to record, of the one that the call gave. None records that.

    Returns:
        The record; None if another message has ended the run meanwhile.

    Raises:
        FlowFailed, RequestRefused, ServiceUnavailable, LeaseLost, CancelledError: as `run_message` does.

    """
    delivery = Delivery(
        job=admitted.job,
        id=admitted.lease.nonce,
        started_utc=started,
        flow=admitted.flow,
        expectation=admitted.expectation,
        record=admitted.record,
        lease=admitted.lease,
    )
    try:
        with admitted.lease.guarded():
            ending = admitted.ending or await call(services, admitted)
            return await _end(services, delivery, amend(ending) if amend else ending)
    except LeaseLost as error:
        emit(RunSuperseded(job=admitted.job, error=error))
        raise


async def _end(services: Services, delivery: Delivery, ending: Ending) -> RunRecord | None:
    try:
        record = await settle(services, delivery, ending)
    except Exception:
        _keep_until_over(delivery, ending, is_recorded=False)
        raise
    if not record.has(delivery.id):
        emit(JobDropped(job=delivery.job, why=f"the run has ended already ({record.outcome})"))
        return None
    _keep_until_over(delivery, ending, is_recorded=True)
    emit(RunEnded(record=record, stale_utc=_stale_utc(delivery), traceback=ending.traceback))
    services.spans.ended(record)
    for each in record.unusual:
        emit(RunUnusual(record=record, unusual=each))
    await services.jobs.send_all(record.next)
    services.outages.end(*_answering(delivery, ending, record))
    is_to_repeat = record.outcome in (Outcome.FAILED, Outcome.INTERRUPTED)
    is_sent = any(each.message.run_id == record.run_id for each in record.next)
    if ending.raised and is_to_repeat and not is_sent:  # the host repeats it
        raise ending.raised
    return record


def _stale_utc(delivery: Delivery) -> datetime | None:
    """Return the time by which the flow should have succeeded; None if the attempt has not read its state."""
    document = delivery.lease and delivery.lease.document
    return document.stale_utc if isinstance(document, FlowState) else None


def _keep_until_over(delivery: Delivery, ending: Ending, *, is_recorded: bool) -> None:
    """Keep the lease until the tasks and threads that the flow has left behind have ended."""
    if delivery.lease and ending.abandoned:
        delivery.lease.keep_until(ending.abandoned, is_recorded=is_recorded)


def _answering(delivery: Delivery, ending: Ending, record: RunRecord) -> Iterator[str]:
    """Yield the services that have answered an attempt. A secret from the cache says nothing about the vault."""
    yield "Cosmos DB"
    if record.next:
        yield "the queue"
    if not ending.is_outage and any(at >= delivery.started_utc for at in ending.secrets.values()):
        yield "Key Vault"


def not_started(error: Exception) -> Ending:
    """Return the ending of an attempt whose flow could not be called."""
    failure = failure_of(error, Redaction())
    return Ending(Outcome.FAILED, failure, raised=error, is_permanent=isinstance(error, _PERMANENT))


_PERMANENT = (TenantUnknown, FlowUnknown, FlowSettingsInvalid)
"""Errors that another attempt would meet as well."""
