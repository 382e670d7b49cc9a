"""bury: ends the runs whose messages reach the poison queue, and keeps the messages that are not jobs.

The host moves a message there if the process died in each of its deliveries, or if nothing could be recorded.
"""

from datetime import timedelta

from datasync.errors import FlowUnknown, JobInvalid, RequestRefused
from datasync.flow.registry import FlowRegistry
from datasync.model.job import Job, PlannedJob, QueueMessage
from datasync.model.lease import Lease
from datasync.model.run import RunRecord
from datasync.model.state import FlowState
from datasync.run.acquire import Taken, acquire
from datasync.run.admit import MOST_ROUNDS, apart, died
from datasync.run.lease import HeldLease
from datasync.run.own import check_own, is_own
from datasync.run.receive import receive
from datasync.run.settle import Delivery, settle
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import JobDropped, JobPutBack, JobRefused, LetterKept, NotBuried, RunEnded

_AGAIN = timedelta(minutes=5)


async def bury(services: Services, registry: FlowRegistry, message: QueueMessage) -> None:
    """Send the job of a poison message again, or record that its run is dead. The message is complete then.

    If neither is possible, its body goes back to the poison queue, hidden for a while.

    Raises:
        ServiceUnavailable: the queue is away, too. The host delivers the message again.

    """
    try:
        await _bury_or_keep(services, registry, message)
    except Exception as error:  # noqa: BLE001 - a poison message must not be lost, and has no other poison queue
        emit(NotBuried(message_id=message.id, error=error))
        await services.poison.send_body(message.body, _AGAIN)


async def keep_letter(services: Services, message: QueueMessage, why: str) -> None:
    """Keep a message that is not a job, with its body. Raises ServiceUnavailable."""
    body = message.body.decode(errors="backslashreplace")
    await services.fleet.keep_letter(message.id, body, why, services.clock.now())


async def _bury_or_keep(services: Services, registry: FlowRegistry, message: QueueMessage) -> None:
    try:
        await _bury(services, registry, message)
    except JobInvalid as error:
        emit(JobRefused(error=error, attempt=message.dequeue_count))
        await keep_letter(services, message, str(error))
    except RequestRefused as error:  # now and later
        await keep_letter(services, message, str(error))
        emit(LetterKept(message_id=message.id, why=str(error)))


async def _bury(services: Services, registry: FlowRegistry, message: QueueMessage) -> None:
    job = receive(message)
    with services.spans.process(services.settings.poison_queue_name, job, message.id):
        await _bury_job(services, registry, job)


async def _bury_job(services: Services, registry: FlowRegistry, job: Job) -> None:
    record = await services.runs.record(job.tenant_id, job.run_id)
    check_own(record, job, _names(registry, job))
    if record and record.is_over_for(job):
        await _drop(services, job, record)
    elif job.rounds + 1 < MOST_ROUNDS:
        delay = apart(job, f"round {job.rounds}")
        await services.jobs.send(PlannedJob(job.copy(rounds=job.rounds + 1), services.clock.now() + delay))
        emit(JobPutBack(job=job, why="its message reached the poison queue", delay=delay))
    else:
        await _end(services, registry, job, record)


def _names(registry: FlowRegistry, job: Job) -> tuple[str, ...]:
    try:
        return registry.resolve(job.flow_name).names
    except FlowUnknown:
        return (job.flow_name,)


async def _end(services: Services, registry: FlowRegistry, job: Job, record: RunRecord | None) -> None:
    try:
        flow = registry.resolve(job.flow_name)
    except FlowUnknown:
        flow = None
    names, started = flow.names if flow else (job.flow_name,), services.clock.now()
    own = (record or RunRecord.begin(job, names[0], started)).is_present_for(job)
    is_alone = flow is not None and not flow.has_state
    free = own if is_alone else FlowState(tenant_id=job.tenant_id, flow_name=names[0])
    found = await acquire(services, free, names, job)
    if not isinstance(found, Taken):
        delay = (found.lease or Lease()).left(started)
        await services.poison.send(PlannedJob(job.copy(), started + delay))
        emit(JobPutBack(job=job, why="another attempt has the lease of the flow", delay=delay))
        return
    record = await services.runs.record(job.tenant_id, job.run_id)  # another message may have ended the run meanwhile
    if found.document.is_over_for(job) or (record and record.is_over_for(job)):
        await services.runs.release(found.document)
        await _drop(services, job, record)
        return
    own = record.is_present_for(job) if record and is_own(record, job, names) else own
    lease = HeldLease(services, found.document)
    delivery = Delivery(job=job, id=lease.nonce, started_utc=started, flow=flow, record=own, lease=lease)
    deliveries = MOST_ROUNDS * services.settings.max_attempts
    why = f"the process died, or nothing could be recorded, in each of {deliveries} deliveries"
    with lease.guarded():
        ended = await settle(services, delivery, died(why))
    emit(RunEnded(record=ended))
    services.spans.ended(ended)
    await services.jobs.send_all(ended.next)


async def _drop(services: Services, job: Job, record: RunRecord | None) -> None:
    if record:
        await services.jobs.send_all(record.next)
    emit(JobDropped(job=job, why=f"the run has ended already ({record and record.outcome})"))
