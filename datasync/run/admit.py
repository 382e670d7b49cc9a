"""admit: gates decide, in order, whether a job still has to run."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import msgspec

from datasync.flow.registry import Flow
from datasync.model.job import HEAD_START, Job
from datasync.model.run import Outcome
from datasync.model.state import FlowState
from datasync.model.tenant import FlowEntry, Tenant
from datasync.run.ending import Ending
from datasync.services import Services

_LONGEST_HEAD_START = 2 * HEAD_START + timedelta(seconds=1)  # the queue counts whole seconds, by a clock of its own


class Candidate(msgspec.Struct, frozen=True):
    """A job, with everything that the gates look at."""

    job: Job
    flow: Flow
    tenant: Tenant
    entry: FlowEntry | None
    """The tenant's entry for the flow; None where it has none."""


class Admitted(msgspec.Struct, frozen=True):
    """A job that runs."""

    job: Job
    flow: Flow
    tenant: Tenant
    entry: FlowEntry
    state: FlowState


type Gate = Callable[[Candidate], Ending | None]
"""Returns None to let a job pass, or the ending of its attempt."""


def is_present(candidate: Candidate) -> Ending | None:
    """Skip a job whose entry was removed."""
    if candidate.entry:
        return None
    return Ending(Outcome.SKIPPED_DISABLED, "the tenant's document has no such flow")


def is_enabled(candidate: Candidate) -> Ending | None:
    """Skip a job whose entry was disabled."""
    if candidate.entry and candidate.entry.enabled:
        return None
    return Ending(Outcome.SKIPPED_DISABLED, "the flow is disabled: enabled is false in the tenant's document")


def is_scheduled(candidate: Candidate) -> Ending | None:
    """Skip a job that was planned ahead by a schedule that has changed since."""
    job, entry = candidate.job, candidate.entry
    if not job.planned_ahead or job.rev is None or (entry and job.rev == candidate.tenant.revision_of(entry)):
        return None
    return Ending(Outcome.SKIPPED_RESCHEDULED, "the flow's cron or timezone was changed after this run was planned")


GATES: tuple[Gate, ...] = (is_present, is_enabled, is_scheduled)


async def wait_until_scheduled(services: Services, job: Job) -> None:
    """Wait for the scheduled time of a job that was planned ahead, which appears a little early."""
    early = job.scheduled_utc - services.clock.now()
    if timedelta() < early <= _LONGEST_HEAD_START:
        await services.clock.sleep(early)


async def admit(services: Services, flow: Flow, job: Job) -> Admitted | Ending:
    """Read the tenant and the state side by side, and pass the gates.

    Raises:
        TenantUnknown, TenantInvalid, StateInvalid: the job cannot run.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    tenant, state = await asyncio.gather(
        services.tenants.get(job.tenant_id), services.runs.state(job.tenant_id, flow.names), return_exceptions=True
    )
    if isinstance(tenant, BaseException):
        raise tenant
    entry = tenant.entry((job.flow_name, *flow.names))
    candidate = Candidate(job=job, flow=flow, tenant=tenant, entry=entry)
    for gate in GATES:
        if ending := gate(candidate):
            return ending
    if isinstance(state, BaseException):  # raised after the gates, since a skipped job needs no state
        raise state
    if entry is None:
        raise AssertionError("is_present lets no job without an entry pass")
    return Admitted(job=job, flow=flow, tenant=tenant, entry=entry, state=state)
