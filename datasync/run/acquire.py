"""acquire: takes the lease of a flow for an attempt, or takes it over from one that has lost it."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from datasync.errors import ServiceUnavailable
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.job import Job
from datasync.model.lease import BLOCKED_LIMIT, DURATION, Lease
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.state import FlowState, Leased
from datasync.run.own import is_own
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import RunEnded
from datasync.tries import MOST, tries

INTERRUPTED = Failure(
    kind="Interrupted",
    message="the process died, stood still, or could not reach Cosmos DB until the lease of the attempt was over",
    fingerprint="interrupted",
)
"""The error of an attempt that had lost its lease."""


class Taken(msgspec.Struct, frozen=True):
    """A lease that was taken."""

    document: Leased
    interrupted: RunRecord | None
    """The record of the run whose attempt had lost the lease before, with that attempt as interrupted."""


async def acquire(services: Services, free: Leased, names: Sequence[str], job: Job) -> Taken | Leased:
    """Take the lease for an attempt, at the present time.

    Args:
        services: The services of the process.
        free: The document that holds the lease, as it is before its first use.
        names: The names of the flow.
        job: The job of the attempt.

    Returns:
        The lease; or the document with the live lease of another attempt.

    Raises:
        StateInvalid: a document was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached, or others were faster in every try.

    """
    nonce = uuid4().hex
    try:
        return await _acquire(services, free, names, job, nonce)
    except ServiceUnavailable as error:
        error.unstarted = nonce
        raise


async def _acquire(services: Services, free: Leased, names: Sequence[str], job: Job, nonce: str) -> Taken | Leased:
    runs = services.runs
    async for _ in tries(services.clock.sleep):  # with one nonce, to recognize a lease whose answer was lost
        now = services.clock.now()
        lease = Lease(
            until=(now + DURATION).timestamp(),
            nonce=nonce,
            started_utc=now,
            message=job.copy(),
        )
        if taken := await runs.take(free, lease):
            return Taken(document=taken, interrupted=None)
        found = await find(services, free, names)
        now = services.clock.now()  # this process may have stood still, and the holder may have renewed its lease since
        is_unstarted = found.lease is not None and found.lease.nonce in job.unstarted
        if found.lease and found.lease.is_live(now) and not is_unstarted:
            return found
        if found.lease and found.lease.until is not None:
            take_over = _replace(services, found, lease) if is_unstarted else _take_over(services, found, lease, now)
            if won := await take_over:
                if won.interrupted:
                    emit(RunEnded(record=won.interrupted))
                return won
        elif found.etag is None:
            created = replace(found, lease=lease, token=found.token + 1)
            if etags := await runs.save(created):
                return Taken(document=replace(created, etag=etags[0]), interrupted=None)
    raise ServiceUnavailable(
        f"the lease of {job.tenant_id}/{shown(names[0])} was changed by others in each of {MOST} tries. "
        "It will be tried again"
    )


async def find(services: Services, free: Leased, names: Sequence[str]) -> Leased:
    """Return the document that holds a lease, as it is stored now. Raises as `acquire` does."""
    if isinstance(free, FlowState):
        return await services.runs.state(free.tenant_id, names)
    return await services.runs.record(free.tenant_id, free.run_id) or free


async def _take_over(services: Services, found: Leased, lease: Lease, now: datetime) -> Taken | None:
    """Replace a lease that is over, and record the attempt that held it; None if somebody else was faster."""
    lost, token = found.lease or Lease(), found.token + 1
    job = lost.holder(found.tenant_id)
    if job is None or lost.nonce is None or (isinstance(found, RunRecord) and found.has(lost.nonce)):
        return await _replace(services, found, lease)
    attempt = Attempt(
        id=lost.nonce,
        outcome=Outcome.INTERRUPTED,
        started_utc=lost.started_utc or now,
        finished_utc=now,
        token=found.token,
        error=_interrupted(lost),
    )
    if isinstance(found, RunRecord):
        own = replace(_lost(found, job, attempt), lease=lease, token=token)
        etags = await services.runs.save(own)
        own = replace(own, etag=etags[0]) if etags else own
        return Taken(document=own, interrupted=own) if etags else None
    record = await services.runs.record(found.tenant_id, job.run_id) or RunRecord.begin(job, found.flow_name, now)
    is_recorded = record.has(lost.nonce)  # it ended, and what it left behind kept the lease
    if is_recorded or not is_own(record, job, (found.flow_name,)):  # its message is refused when it comes back
        return await _replace(services, found, lease)
    record = _lost(record, job, attempt)
    state = replace(found.noting_outcome(Outcome.INTERRUPTED), lease=lease, token=token, last_run_utc=now)
    if not (etags := await services.runs.save(state, record)):
        return None
    return Taken(document=replace(state, etag=etags[0]), interrupted=replace(record, etag=etags[1]))


def _interrupted(lost: Lease) -> Failure:
    if not lost.blocked_by:
        return INTERRUPTED
    block = shown(lost.blocked_by, BLOCKED_LIMIT)  # somebody may have edited it
    return replace(INTERRUPTED, message=f"{INTERRUPTED.message}. Before that, the event loop was blocked by {block}")


def _lost(record: RunRecord, job: Job, attempt: Attempt) -> RunRecord:
    """Return a record with an interrupted attempt. No message attempts a run by hand again, so it is over."""
    after = record.is_present_for(job).after(attempt)
    return replace(after, outcome=Outcome.GAVE_UP) if job.is_by_hand and after.outcome is attempt.outcome else after


async def _replace(services: Services, found: Leased, lease: Lease) -> Taken | None:
    """Replace a lease without an attempt to record."""
    taken = replace(found, lease=lease, token=found.token + 1)
    etags = await services.runs.save(taken)
    return Taken(document=replace(taken, etag=etags[0]), interrupted=None) if etags else None
