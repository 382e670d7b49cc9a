"""call: runs the flow under its timeout."""

import asyncio
from collections import Counter
from datetime import timedelta

from msgspec.structs import replace

from datasync.errors import FlowFailed, FlowSignal, GiveUp, RetryLater
from datasync.flow.context import FlowRun, Window
from datasync.flow.http import HttpUsage, new_client
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow
from datasync.flow.secrets import TenantSecretClient
from datasync.model.run import Outcome
from datasync.run.admit import Admitted
from datasync.run.ending import Ending
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import RunStarted


async def call(services: Services, admitted: Admitted) -> Ending:
    """Run the flow. The ending holds no secret that the run read.

    A cancellation from outside is raised: the worker stops, and the message is delivered again.
    """
    job, flow, tenant = admitted.job, admitted.flow, admitted.tenant
    subject = f"{tenant.id}/{flow.name}"
    emit(RunStarted(subject=subject, run=job.run_id, attempt=job.attempt))
    redact, usage, window = Redaction(), HttpUsage(services.clock), _window(services, admitted)
    run = FlowRun(
        run_id=job.run_id,
        tenant=tenant,
        flow_name=flow.name,
        settings=flow.decode_settings(tenant.id, admitted.entry),
        scheduled_utc=job.scheduled_utc,
        attempt=job.attempt,
        window=window,
        http=new_client(services.http_transport, usage),
        log=RunLog(subject, {"run": job.run_id, "attempt": job.attempt}, redact),
        counts=Counter(),
    )
    kv = TenantSecretClient(tenant.id, services.vault, redact.add)
    ending = await _run_flow(flow, kv, run, redact)
    return replace(ending, window_end=window.end, counts=dict(run.counts), http=usage.attributes())


def _window(services: Services, admitted: Admitted) -> Window:
    job, start = admitted.job, admitted.state.window_end_utc
    # A message posted by hand may name a later time; a window that ended there would skip the data in between.
    end = max(job.enqueued_utc, min(job.scheduled_utc, services.clock.now()))
    return Window(start=start, end=max(end, start or end))


async def _run_flow(flow: Flow, kv: TenantSecretClient, run: FlowRun, redact: Redaction) -> Ending:
    bound = asyncio.timeout(flow.timeout.total_seconds())
    try:
        async with bound:
            await (flow.function(run.tenant.id, kv, run) if flow.takes_run else flow.function(run.tenant.id, kv))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _comes_from_outside(error):
            raise
        match _signal(error):
            case RetryLater() as signal:
                return Ending(Outcome.DEFERRED, redact.line(str(signal)), delay=signal.delay)
            case GiveUp() as signal:
                return Ending(Outcome.GAVE_UP, redact.line(str(signal)))
        if not bound.expired():
            return _failed(redact.one_line(error), redact.traceback(error))
    if bound.expired():  # a flow may have caught the cancellation
        return _failed(
            f"{run.tenant.id}/{flow.name} was cancelled after {flow.timeout}: do less in one run, or register the flow "
            "with a longer timeout="
        )
    return Ending(Outcome.SUCCEEDED)


def _failed(reason: str, traceback: str = "") -> Ending:
    return Ending(Outcome.FAILED, reason, traceback, failure=FlowFailed(reason))


def _signal(error: BaseException) -> FlowSignal | None:
    """Return the signal in an error, if any. For a group of nothing but signals, return the strongest."""
    if not isinstance(error, ExceptionGroup):
        return error if isinstance(error, FlowSignal) else None
    signals = [signal for each in error.exceptions if (signal := _signal(each))]
    if len(signals) < len(error.exceptions):
        return None
    return max(signals, key=lambda signal: signal.delay if isinstance(signal, RetryLater) else timedelta.max)


def _comes_from_outside(error: BaseException) -> bool:
    """Return whether an error is a cancellation of the invocation, and not the flow's own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
