"""settle: records and logs the ending of an attempt, and passes it on to the queue or to the host."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable, StateInvalid, TenantUnknown
from datasync.flow.redact import Redaction
from datasync.model.decode import fits_in_id
from datasync.model.job import Job, PlannedJob
from datasync.model.run import Outcome, RunRecord
from datasync.run.ending import Ending
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import EndingNotRecorded, RunEnded, ServiceAway


class Attempt(msgspec.Struct, frozen=True):
    """An attempt to settle."""

    job: Job
    names: Sequence[str]
    """The flow's name and aliases; only the name in the job where no flow has it."""
    started_utc: datetime
    key: str
    """Identifies this attempt in the flow's state, which applies it once."""


async def settle(services: Services, attempt: Attempt, ending: Ending) -> RunRecord:
    """Record the ending of an attempt, log it, and put a deferred job back on the queue.

    A kill in between loses nothing: the message is delivered again, and the attempt is repeated.

    Returns:
        The record, if the message is complete.

    Raises:
        The failure of the attempt, if it failed; ServiceUnavailable, if its ending could not be recorded.

    """
    record = _record(services, attempt, ending)
    try:
        if await _counts(services, attempt, ending):
            await services.runs.apply(record, ending.window_end, attempt.key, attempt.names)
        await services.runs.record(record)
    except Exception as error:  # noqa: BLE001 - the failure of the flow takes precedence over this one
        emit(EndingNotRecorded(record=record, error=error, traceback=ending.traceback))
        raise (ending.failure or error) from None
    _report(record, ending)
    if ending.failure:
        raise ending.failure from None
    if ending.delay is not None:
        visible_at = services.clock.now() + ending.delay
        try:
            await services.jobs.send(PlannedJob(message=attempt.job.next_message(), visible_at=visible_at))
        except ServiceUnavailable as error:
            unsent = replace(attempt, key=f"{attempt.key}-unsent")
            failed = not_started(error)
            return await settle(
                services, unsent, replace(ending, outcome=failed.outcome, error=failed.error, failure=error, delay=None)
            )
    return record


def not_started(error: Exception) -> Ending:
    """Return the ending of an attempt whose flow could not be called."""
    return Ending(Outcome.FAILED, Redaction().one_line(error), failure=error)


def _record(services: Services, attempt: Attempt, ending: Ending) -> RunRecord:
    job = attempt.job
    outcome = ending.outcome
    if outcome is Outcome.FAILED and job.delivery >= services.settings.max_attempts:
        outcome = Outcome.DEAD
    return RunRecord(
        tenant_id=job.tenant_id,
        flow_name=attempt.names[0],
        run_id=job.run_id,
        attempt=job.attempt,
        outcome=outcome,
        scheduled_utc=job.scheduled_utc,
        started_utc=attempt.started_utc,
        finished_utc=max(services.clock.now(), attempt.started_utc),
        error=ending.error,
        counts=ending.counts,
    )


async def _counts(services: Services, attempt: Attempt, ending: Ending) -> bool:
    """Return whether the state of the flow includes the attempt.

    It does if the flow started, and if a failure kept a flow of this tenant from starting. It does not if a service
    was unavailable, which says nothing about the flow.
    """
    if ending.window_end is not None or ending.failure is None:
        return ending.window_end is not None
    if isinstance(ending.failure, ServiceUnavailable | StateInvalid | TenantUnknown):
        return False
    if not fits_in_id(attempt.names[0]):  # no flow can have this name, and no state can be stored under it
        return False
    return await services.tenants.has_entry(attempt.job.tenant_id, (attempt.job.flow_name, *attempt.names))


def _report(record: RunRecord, ending: Ending) -> None:
    if isinstance(ending.failure, ServiceUnavailable) and ending.window_end is None:
        subject = f"{record.tenant_id}/{record.flow_name}"
        emit(ServiceAway(subject=subject, run=record.run_id, attempt=record.attempt, error=ending.failure))
        if record.outcome is not Outcome.DEAD:
            return
    emit(RunEnded(record=record, http=ending.http, traceback=ending.traceback))
