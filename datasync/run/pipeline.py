"""The stages of a run, in order: receive → admit → call → settle.

The worker may be killed at any await: the message is then delivered again, and the attempt is repeated.
"""

from msgspec.structs import replace

from datasync.errors import JobInvalid
from datasync.flow.registry import FlowRegistry
from datasync.model.job import QueueMessage
from datasync.model.run import RunRecord
from datasync.run.admit import Admitted, admit, wait_until_scheduled
from datasync.run.call import call
from datasync.run.receive import receive
from datasync.run.settle import Attempt, not_started, settle
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import JobRefused


async def run_message(services: Services, registry: FlowRegistry, message: QueueMessage) -> RunRecord:
    """Run the job in a message, and record how the attempt ended.

    Returns:
        The record, if the message is complete.

    Raises:
        JobInvalid: the body is not a job. Nothing is recorded; the poison queue keeps the message.
        FlowFailed: the attempt failed. The host delivers the message again, or moves it to the poison queue.
        FlowUnknown, TenantUnknown, TenantInvalid, StateInvalid: the job cannot run; the host acts as above.
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached; the host acts as above.

    """
    try:
        job = receive(message)
    except JobInvalid as error:
        emit(JobRefused(error=error, attempt=message.dequeue_count))
        raise
    await wait_until_scheduled(services, job)
    attempt = Attempt(job=job, names=(job.flow_name,), started_utc=services.clock.now(), key=job.delivery_key)
    try:
        flow = registry.resolve(job.flow_name)
        attempt = replace(attempt, names=flow.names)
        admission = await admit(services, flow, job)
        ending = await call(services, admission) if isinstance(admission, Admitted) else admission
    except Exception as error:  # noqa: BLE001 - settle records it, and raises it for the host
        ending = not_started(error)
    return await settle(services, attempt, ending)
