"""call: runs the flow under its timeout and its lease."""

import asyncio
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from datasync.errors import CursorInvalid, LeaseLost, ServiceUnavailable
from datasync.flow.context import Window
from datasync.flow.ends import NO_CURSOR
from datasync.flow.http import LONGEST_WAIT
from datasync.flow.watchdog import DEBUGGER
from datasync.model.cursor import normalized
from datasync.model.run import Outcome, RunRecord
from datasync.model.state import Checkpoint
from datasync.run.admit import Admitted
from datasync.run.describe import counts_of, describe, outage_in
from datasync.run.ending import Ending
from datasync.run.execute import Execution, How, execute
from datasync.run.prepare import Given, Prepared, prepare
from datasync.run.record import begin_recording, keep_recording
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import FlowBlocked, RunStarted


async def call(services: Services, admitted: Admitted) -> Ending:
    """Run the flow. The ending holds no secret that the run read.

    Raises:
        LeaseLost: the attempt lost its lease, and nothing may be recorded of it.

    """
    lease = admitted.lease
    await lease.check()  # the process may have stood still since it took the lease
    given = Given(
        job=admitted.job,
        flow=admitted.flow,
        tenant=admitted.tenant,
        entry=admitted.entry,
        settings=admitted.settings,
        attempt=admitted.record.attempt_count + 1,
        state=admitted.state,
        window=admitted.window or _window(services, admitted),
        refused_at=_refused_at(admitted.record),
    )
    recording = begin_recording(services)
    made = prepare(services, given, services.claims.holder, before_unsafe=lease.check, recording=recording)
    made.run.keep = partial(_keep, admitted, made)
    async with aclosing(made.run.http), lease.kept():
        execution = await run_flow(services, made, lease.lost)
        lease.seal()
    await _close_provider(services, admitted, made.usage.closed_until)
    if execution.how is How.STOPPED or isinstance(execution.error, LeaseLost):
        if execution.abandoned:
            lease.keep_until(execution.abandoned, is_recorded=False)
        raise execution.error or LeaseLost(f"the lease of {made.subject} is over")
    if execution.error and (outage := outage_in(execution.error)):
        services.outages.note(outage, services.clock.now())
    ending = await describe(made, execution)
    if recording and ending.outcome is Outcome.FAILED:
        return replace(ending, recording=await keep_recording(services, made, ending, recording))
    return ending


async def run_flow(services: Services, made: Prepared, stop: asyncio.Future[BaseException]) -> Execution:
    """Run the flow until it ends, or until it must end. Its start and its blocks of the event loop are logged."""
    subject, run_id, attempt = made.subject, made.given.job.run_id, made.given.attempt
    queued = made.given.job.queued(services.clock.now())
    emit(RunStarted(subject=subject, run=run_id, attempt=attempt, queued=queued))
    execution = await execute(
        made.function,
        subject=subject,
        timeout=made.given.flow.timeout,
        stop=stop,
        watchdog=services.watchdog,
        log=made.run.log,
    )
    for block in execution.blocks:
        if block.place == DEBUGGER:
            continue
        if block.subject == subject or (block.subject is None and services.watchdog.claim(block)):
            seconds, place = block.seconds, block.place
            emit(FlowBlocked(subject=block.subject, seconds=seconds, place=place, run=run_id, attempt=attempt))
    return execution


async def _close_provider(services: Services, admitted: Admitted, until: datetime | None) -> None:
    """Keep the runs of a provider waiting that has asked not to be called for longer than a run waits by itself."""
    flow, now = admitted.flow, services.clock.now()
    if flow.provider is None or until is None or until - now <= LONGEST_WAIT:
        return
    try:
        await services.runs.close(flow.cooldown_partition(admitted.tenant.id), flow.provider, until, now)
    except ServiceUnavailable as error:  # the next run asks the provider, and hears the same
        services.outages.note(error, now)


def _refused_at(record: RunRecord) -> datetime | None:
    """Return when an API refused the credentials of an attempt last; None if none did.

    Since then, the run may have been deferred or interrupted, and be attempted in a process with older values.
    """
    refused = [each.finished_utc for each in record.attempts if each.error and each.error.credentials_refused]
    return refused[-1] if refused else None


def _window(services: Services, admitted: Admitted) -> Window:
    job, now = admitted.job, services.clock.now()
    start = admitted.state.window_end_utc if admitted.state else None
    # A message posted by hand may name a later time, and clocks may differ. A window that ended in the future would
    # skip the data in between.
    end = min(max(job.enqueued_utc, job.scheduled_utc), now)
    return Window(start=start, end=max(end, start or end))


async def _keep(admitted: Admitted, made: Prepared, cursor: Any) -> None:
    if admitted.state is None:
        raise CursorInvalid(NO_CURSOR)
    await admitted.lease.save_cursor(normalized(cursor), Checkpoint(made.run.run_id, counts_of(made)))
