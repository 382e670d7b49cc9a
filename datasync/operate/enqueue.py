"""A run that an operator asks for now, beside the schedule."""

from collections.abc import AsyncIterator
from datetime import timedelta

from datasync.errors import ActionRefused, EntryUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.audit import Audit, Verb
from datasync.model.display import shown
from datasync.model.job import JobMessage, PlannedJob, Trigger, run_id
from datasync.model.tenant import FlowEntry
from datasync.operate.action import Action, Ask, Change, Done, perform
from datasync.operate.runs import RunLine
from datasync.services import Services

_LOOK = timedelta(seconds=1)


async def enqueue(services: Services, registry: FlowRegistry, ask: Ask, *, tenant_id: str, flow: str) -> Done:
    """Put a job on the queue for one run, now. The schedule does not change.

    The id of the run follows from the id of the action (`run_of`), so a repeat gives no second run.

    Raises:
        TenantUnknown, EntryUnknown: the document or the entry does not exist.
        TenantInvalid: the document or the entry cannot be used.
        ActionRefused: the entry is disabled.
        ServiceUnavailable: Cosmos DB or the queue refused or could not be reached.

    """
    run = run_of(ask)

    async def decide() -> Change:
        entry = await runnable_entry(services, registry, tenant_id, flow)
        return Change(
            f"{shown(tenant_id)}/{shown(flow)}: run {run} is enqueued",
            after={"runId": run},
            basis={"flowName": entry.name},
        )

    async def make(intent: Audit, _: bool) -> Change:  # noqa: FBT001 - the signature of `perform`
        at = ask.at
        message = JobMessage(
            tenant_id=tenant_id,
            flow_name=intent.basis["flowName"],
            scheduled_utc=at,
            run_id=run,
            trigger=Trigger.MANUAL,
            enqueued_utc=at,
        )
        await services.jobs.send(PlannedJob(message=message, visible_at=at))
        return Change(intent.message, intent.before, intent.after)

    return await perform(services, ask, Action(Verb.ENQUEUE, tenant_id, flow), decide, make)


async def runnable_entry(services: Services, registry: FlowRegistry, tenant_id: str, flow: str) -> FlowEntry:
    """Return the enabled entry of a flow. Raises as `enqueue` does."""
    tenant = await services.tenants.get(tenant_id)
    entry = tenant.entry((flow, *registry.names_of(flow)))
    if entry is None:
        raise EntryUnknown(f"tenant {shown(tenant_id)!r} has no entry for {shown(flow)!r}")
    if not entry.enabled:
        why = f" ({shown(entry.pause_reason)})" if entry.pause_reason else ""
        raise ActionRefused(
            f"{shown(tenant_id)}/{shown(flow)} is disabled{why}, and its run would be skipped: resume it first"
        )
    return entry


def run_of(ask: Ask) -> str:
    """Return the id of the run that an action asks for."""
    return run_id("action", ask.action_id)


async def follow(services: Services, tenant_id: str, run: str) -> AsyncIterator[RunLine]:
    """Yield the run each time one of its attempts has ended. The last one is the end of the run.

    Raises:
        StateInvalid: its record was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached. The run is not affected.

    """
    seen = 0
    while True:
        record = await services.runs.record(tenant_id, run)
        if record and record.attempt_count > seen:
            seen = record.attempt_count
            yield RunLine.of(record)
            if record.outcome and record.outcome.is_final:
                return
        await services.clock.sleep(_LOOK)
