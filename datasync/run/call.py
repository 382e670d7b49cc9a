"""call: runs the flow under its timeout and its lease."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from msgspec.structs import replace

from datasync.errors import (
    Continue,
    CursorInvalid,
    DataSyncError,
    FlowFailed,
    FlowSignal,
    LeaseLost,
    RetryLater,
    SecretRefused,
    ServiceUnavailable,
)
from datasync.flow.context import FlowRun, Window
from datasync.flow.failures import failure_of
from datasync.flow.http import LONGEST_WAIT, HttpUsage, new_client
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow
from datasync.flow.secrets import TenantSecretClient
from datasync.model.failure import Failure
from datasync.model.run import Outcome, RunRecord, RunWindow
from datasync.model.state import LARGEST_CURSOR
from datasync.run.admit import Admitted
from datasync.run.ending import Ending
from datasync.run.execute import Execution, How, execute
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import FlowBlocked, RunStarted


async def call(services: Services, admitted: Admitted) -> Ending:
    """Run the flow. The ending holds no secret that the run read.

    Raises:
        LeaseLost: the attempt lost its lease, and nothing may be recorded of it.

    """
    await admitted.lease.check()  # the process may have stood still since it took the lease
    job, flow, tenant = admitted.job, admitted.flow, admitted.tenant
    subject, attempt = f"{tenant.id}/{flow.name}", admitted.record.attempt_count + 1
    cursor = admitted.state and admitted.state.cursor
    emit(RunStarted(subject=subject, run=job.run_id, attempt=attempt))
    redact, usage, window = Redaction(), HttpUsage(services.clock), _window(services, admitted)
    run = FlowRun(
        run_id=job.run_id,
        tenant=tenant,
        flow_name=flow.name,
        settings=admitted.settings,
        scheduled_utc=job.scheduled_utc,
        attempt=attempt,
        part=job.part,
        window=window,
        http=new_client(services.http_transport, usage, admitted.lease.check),
        log=RunLog(subject, {"run": job.run_id, "attempt": attempt}, redact),
        cursor=deepcopy(cursor),
        keep=partial(_keep, admitted),
        counts=Counter(),
    )
    kv = TenantSecretClient(tenant.id, services.vault, redact.add, _refused_at(admitted.record))
    function = partial(flow.function, tenant.id, kv, run) if flow.takes_run else partial(flow.function, tenant.id, kv)
    async with admitted.lease.kept():
        execution = await execute(
            function, subject=subject, timeout=flow.timeout, stop=admitted.lease.lost, watchdog=services.watchdog
        )
    for block in execution.blocks:
        if block.subject == subject:
            emit(
                FlowBlocked(subject=subject, seconds=block.seconds, place=block.place, run=job.run_id, attempt=attempt)
            )
    describe = partial(failure_of, redact=redact, function=flow.function, secrets=kv.reads)
    ending = _ending(execution, flow, run, describe, redact)
    if execution.error and (outage := _find(execution.error, ServiceUnavailable)):
        services.outages.note(outage, services.clock.now())
    await _close_provider(services, admitted, usage.closed_until)
    return replace(
        ending,
        window=None if admitted.state is None else RunWindow(window.start, window.end),
        cursor_before=cursor,
        counts=dict(run.counts),
        http=usage.totals(),
        secrets=dict(kv.reads),
        abandoned=execution.abandoned,
    )


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


async def _keep(admitted: Admitted, cursor: Any) -> None:
    check_cursor(cursor)
    if admitted.state is None:
        raise CursorInvalid(f'{admitted.flow.name}: a flow with overlap="allow" has no cursor')
    await admitted.lease.save_cursor(cursor)


def check_cursor(cursor: Any) -> None:
    """Check a cursor.

    Raises:
        CursorInvalid: it is not JSON, or has more than 16 KB.

    """
    try:
        size = len(json.dumps(cursor, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise CursorInvalid(
            f"run.cursor is not a JSON value ({error}): use texts, numbers, lists and dictionaries"
        ) from None
    if size > LARGEST_CURSOR:
        raise CursorInvalid(
            f"run.cursor has {size:,} bytes as JSON, and {LARGEST_CURSOR:,} are kept: keep a position, not the data"
        )


type _Describe = Callable[[BaseException], Failure]


def _ending(execution: Execution, flow: Flow, run: FlowRun, describe: _Describe, redact: Redaction) -> Ending:
    subject, error = f"{run.tenant.id}/{flow.name}", execution.error
    if execution.how is How.RETURNED:
        return _finished(Ending(Outcome.SUCCEEDED, window_end=run.window.end), run, describe)
    if execution.how is How.TIMED_OUT:
        return _failed(FlowFailed(_timed_out(execution, flow, subject)), describe)
    if execution.how is How.CANCELLED:
        why = DataSyncError(f"{subject} was stopped: the host stops, or another flow cancelled all tasks")
        return Ending(Outcome.INTERRUPTED, describe(why), raised=asyncio.CancelledError())
    if error is None:
        raise AssertionError("a flow that raised or was stopped has an error")
    if execution.how is How.STOPPED or isinstance(error, LeaseLost):
        raise error
    if signal := _signal(error):
        reason = replace(describe(signal), message=redact.line(str(signal)))  # without the name of the class
        return _signalled(signal, reason, run, describe)
    if outage := _find(error, ServiceUnavailable):
        return Ending(Outcome.DEFERRED, describe(outage), is_outage=True)
    ending = _failed(error, describe, redact.traceback(error))
    return replace(ending, is_permanent=_find(error, SecretRefused) is not None)


def _signalled(signal: FlowSignal, reason: Failure, run: FlowRun, describe: _Describe) -> Ending:
    if isinstance(signal, RetryLater):
        return Ending(Outcome.DEFERRED, reason, delay=signal.delay)
    if not isinstance(signal, Continue):
        return Ending(Outcome.GAVE_UP, reason)
    end = signal.window_end
    if end and end > run.window.end:
        return _failed(FlowFailed(f"Continue(window_end={end}): the run's window ends at {run.window.end}"), describe)
    return _finished(Ending(Outcome.CONTINUED, window_end=end), run, describe)


def _finished(ending: Ending, run: FlowRun, describe: _Describe) -> Ending:
    """Return an ending with the cursor that the flow has left, or a failure if that cannot be kept."""
    try:
        check_cursor(run.cursor)
    except CursorInvalid as error:
        return _failed(error, describe)
    return replace(ending, cursor=run.cursor)


def _failed(error: BaseException, describe: _Describe, traceback: str = "") -> Ending:
    failure = describe(error)
    return Ending(Outcome.FAILED, failure, traceback, raised=FlowFailed(failure.message))


def _timed_out(execution: Execution, flow: Flow, subject: str) -> str:
    blocked = [f"{each.subject} at {each.place} for {each.seconds:.0f} s" for each in execution.blocks]
    also = f". Meanwhile the event loop was blocked by {'; '.join(blocked)}" if blocked else ""
    ignored = " It ignores its cancellation, and still runs." if execution.abandoned else ""
    return (
        f"{subject} was cancelled after {flow.timeout}: do less in one run, or register the flow with a longer "
        f"timeout={also}.{ignored}"
    )


def _signal(error: BaseException) -> FlowSignal | None:
    """Return the signal in an error, if any. For a group of nothing but signals, return the strongest."""
    if not isinstance(error, ExceptionGroup):
        return error if isinstance(error, FlowSignal) else None
    signals = [signal for each in error.exceptions if (signal := _signal(each))]
    if len(signals) < len(error.exceptions):
        return None
    return max(signals, key=lambda signal: signal.delay if isinstance(signal, RetryLater) else timedelta.max)


def _find[E: BaseException](error: BaseException, kind: type[E]) -> E | None:
    """Return an error of a kind: the error itself, one that it was raised from, or one in a group."""
    if isinstance(error, kind):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = (_find(each, kind) for each in error.exceptions)
        return next((each for each in found if each), None)
    return _find(error.__cause__, kind) if error.__cause__ else None
