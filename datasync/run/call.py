"""call: runs the flow under its timeout and its lease."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from copy import deepcopy
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import Any

from msgspec.structs import replace

from datasync.errors import (
    Continue,
    CursorInvalid,
    DataSyncError,
    FlowFailed,
    FlowSignal,
    LeaseLost,
    RequestRefused,
    RetryLater,
    SecretRefused,
    ServiceUnavailable,
)
from datasync.flow.context import MOST_COUNTS, FlowRun, Window, check_counts, checked_count
from datasync.flow.failures import failure_of
from datasync.flow.http import LONGEST_WAIT, new_client
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow
from datasync.flow.secrets import TenantSecretClient
from datasync.flow.tail import Tail
from datasync.flow.usage import HttpUsage
from datasync.model.cursor import normalized
from datasync.model.decode import NAME_LIMIT
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.run import Outcome, RunRecord, RunWindow
from datasync.model.state import Checkpoint
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
    subject, attempt = f"{shown(tenant.id)}/{flow.name}", admitted.record.attempt_count + 1
    cursor = admitted.state and admitted.state.cursor
    queued = job.queued(services.clock.now())
    emit(RunStarted(subject=subject, run=job.run_id, attempt=attempt, queued=queued))
    redact, usage, window = Redaction(), HttpUsage(services.clock), _window(services, admitted)
    tail = Tail(services.clock)
    http = new_client(services.http_transport, usage, admitted.lease.check)
    run = FlowRun(
        run_id=job.run_id,
        tenant=tenant,
        flow_name=flow.name,
        settings=admitted.settings,
        scheduled_utc=job.scheduled_utc,
        attempt=attempt,
        part=job.part,
        window=window,
        http=http,
        log=RunLog(subject, {"run": job.run_id, "attempt": attempt}, redact, tail),
        cursor=deepcopy(cursor),
        counts=Counter(admitted.state.counts_of(job.run_id) if admitted.state else {}),
    )
    run.keep = partial(_keep, admitted, run, redact)
    kv = TenantSecretClient(tenant.id, services.vault, redact.add, _refused_at(admitted.record), services.claims.holder)
    function = partial(flow.function, tenant.id, kv, run) if flow.takes_run else partial(flow.function, tenant.id, kv)
    async with aclosing(http), admitted.lease.kept():
        execution = await execute(
            function,
            subject=subject,
            timeout=flow.timeout,
            stop=admitted.lease.lost,
            watchdog=services.watchdog,
            log=run.log,
        )
        admitted.lease.seal()
    for block in execution.blocks:
        if block.subject == subject or (block.subject is None and services.watchdog.claim(block)):
            seconds, place = block.seconds, block.place
            emit(FlowBlocked(subject=block.subject, seconds=seconds, place=place, run=job.run_id, attempt=attempt))
    await _close_provider(services, admitted, usage.closed_until)
    if execution.how is How.STOPPED or isinstance(execution.error, LeaseLost):
        raise execution.error or LeaseLost(f"the lease of {subject} is over")
    describe = partial(failure_of, redact=redact, function=flow.function, secrets=kv.reads)
    end = partial(_ending, execution, admitted, run, describe, redact)
    try:
        ending = await asyncio.to_thread(end) if redact.is_slow else end()
    except Exception as error:  # noqa: BLE001 - an exception of the flow that cannot be described is a failure, too
        unclear = FlowFailed(f"{subject} ended in a way that cannot be described: {type(error).__name__}")
        ending = _failed(unclear, describe)
    if execution.error and (outage := _outage(execution.error)):
        services.outages.note(outage, services.clock.now())
    log, log_left_out = tail.kept()
    return replace(
        ending,
        window=None if admitted.state is None else RunWindow(window.start, window.end),
        cursor_before=cursor,
        counts=_counts(run, redact),
        http=usage.totals(),
        log=log,
        log_left_out=log_left_out,
        secrets=dict(kv.reads),
        abandoned=execution.abandoned,
    )


def _counts(run: FlowRun, redact: Redaction) -> dict[str, int]:
    """Return the counts of a run that a record can hold. Names that differ in a secret only become one."""
    counts = Counter[str]()
    for name, number in _valid(run.counts):
        counts[redact.line(name, NAME_LIMIT)] += number
    return dict(islice(counts.items(), MOST_COUNTS))


def _valid(counts: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Yield the counts that a record can hold. A flow may also have written others, without `run.count`."""
    for name, number in counts.items():
        with suppress(TypeError, ValueError):
            yield name, checked_count(name, number)


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


async def _keep(admitted: Admitted, run: FlowRun, redact: Redaction, cursor: Any) -> None:
    if admitted.state is None:
        raise CursorInvalid(_NO_CURSOR)
    await admitted.lease.save_cursor(normalized(cursor), Checkpoint(run.run_id, _counts(run, redact)))


_NO_CURSOR = 'run.cursor is not kept for a flow with overlap="allow": its runs would replace the cursors of each other'


type _Describe = Callable[[BaseException], Failure]


def _ending(execution: Execution, admitted: Admitted, run: FlowRun, describe: _Describe, redact: Redaction) -> Ending:
    subject, error = f"{shown(run.tenant.id)}/{run.flow_name}", execution.error
    if execution.how is How.RETURNED:
        return _finished(Ending(Outcome.SUCCEEDED, window_end=run.window.end), admitted, run, describe, redact)
    if execution.how is How.TIMED_OUT:
        return _failed(FlowFailed(_timed_out(execution, admitted.flow, subject)), describe)
    if execution.how is How.CANCELLED:
        why = DataSyncError(f"{subject} was stopped: the host stops, or another flow cancelled all tasks")
        return Ending(Outcome.INTERRUPTED, describe(why), raised=asyncio.CancelledError())
    if error is None:
        raise AssertionError("a flow that raised has an error")
    if signal := _signal(error):
        reason = redact.line(str(signal))  # without the name of the class
        return _signalled(signal, admitted, run, lambda each: replace(describe(each), message=reason), redact)
    if outage := _outage(error):
        return Ending(Outcome.DEFERRED, describe(outage), is_outage=True)
    ending = _failed(error, describe, redact.traceback(_from_flow(error, admitted.flow)))
    return replace(ending, is_permanent=_find(error, SecretRefused) is not None)


def _from_flow(error: BaseException, flow: Flow) -> BaseException:
    """Return the error with a traceback that starts in the flow's file, if it passes there."""
    file, calls = inspect.unwrap(flow.function).__code__.co_filename, error.__traceback__
    while calls and calls.tb_frame.f_code.co_filename != file:
        calls = calls.tb_next
    return error.with_traceback(calls) if calls else error


def _signalled(signal: FlowSignal, admitted: Admitted, run: FlowRun, describe: _Describe, redact: Redaction) -> Ending:
    if isinstance(signal, RetryLater):
        return Ending(Outcome.DEFERRED, describe(signal), delay=signal.delay)
    if not isinstance(signal, Continue):
        return Ending(Outcome.GAVE_UP, describe(signal))
    return _finished(Ending(Outcome.CONTINUED, window_end=signal.window_end), admitted, run, describe, redact)


def _finished(ending: Ending, admitted: Admitted, run: FlowRun, describe: _Describe, redact: Redaction) -> Ending:
    """Return an ending with the cursor that the flow has left, or a failure if its end cannot be kept."""
    try:
        check_counts(run.counts)
        if ending.outcome is Outcome.CONTINUED and ending.window_end:
            _check_window_end(ending.window_end, admitted, run)
        if admitted.state is None and run.cursor is not None:
            raise CursorInvalid(_NO_CURSOR)  # noqa: TRY301 - all of these checks end the run in the same way
        return replace(ending, cursor=normalized(run.cursor))
    except (CursorInvalid, FlowFailed, TypeError, ValueError) as error:
        reason = redact.line(str(error))  # without the name of the class
        return _failed(error, lambda each: replace(describe(each), message=reason))


def _check_window_end(end: datetime, admitted: Admitted, run: FlowRun) -> None:
    if admitted.state is None:
        raise FlowFailed(f'Continue(window_end={end}): a flow with overlap="allow" has no window')
    start = run.window.start
    if end > run.window.end or (start and end < start):
        raise FlowFailed(f"Continue(window_end={end}): the run's window ends at {run.window.end} and starts at {start}")


def _failed(error: BaseException, describe: _Describe, traceback: str = "") -> Ending:
    failure = describe(error)
    return Ending(Outcome.FAILED, failure, traceback, raised=FlowFailed(failure.message))


def _timed_out(execution: Execution, flow: Flow, subject: str) -> str:
    blocked = [
        f"{each.subject or 'code outside a run'} at {each.place} for {each.seconds:.0f} s" for each in execution.blocks
    ]
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


def _outage(error: BaseException) -> ServiceUnavailable | None:
    found = _find(error, ServiceUnavailable)
    return None if isinstance(found, RequestRefused) else found


def _find[E: BaseException](error: BaseException, kind: type[E]) -> E | None:
    """Return an error of a kind: the error itself, one that it was raised from, or one in a group."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if isinstance(each, kind):
            return each
        if id(each) not in seen:
            seen.add(id(each))
            pending += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
            pending += [each.__cause__] if each.__cause__ else []
    return None
