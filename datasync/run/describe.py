"""describe: turns the end of a flow into an ending, which holds no secret that the run read."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from heapq import nlargest
from itertools import islice

import httpx
from msgspec.structs import replace

from datasync.errors import (
    Continue,
    CursorInvalid,
    DataSyncError,
    FlowFailed,
    FlowSignal,
    RequestRefused,
    RetryLater,
    SecretRefused,
    ServiceUnavailable,
)
from datasync.flow.context import MOST_COUNTS, checked_count
from datasync.flow.ends import cursor_left, signal_in
from datasync.flow.failures import failure_of, from_flow, place_of
from datasync.flow.redact import LINE
from datasync.flow.registry import Flow
from datasync.model.decode import NAME_LIMIT
from datasync.model.failure import Failure
from datasync.model.run import Outcome, RunWindow
from datasync.run.ending import Ending
from datasync.run.execute import Execution, How
from datasync.run.prepare import Prepared

_NAMED = 5  # blocks of the event loop


async def describe(made: Prepared, execution: Execution) -> Ending:
    """Return the ending of an attempt whose flow has ended, unless it was stopped (STOPPED)."""
    given, run = made.given, made.run
    failure = partial(failure_of, redact=made.redact, function=given.flow.function, secrets=made.kv.reads)
    end = partial(_ending, execution, made, failure)
    try:
        ending = await asyncio.to_thread(end) if made.redact.is_slow else end()
    except Exception as error:  # noqa: BLE001 - an exception of the flow that cannot be described is a failure, too
        unclear = FlowFailed(f"{made.subject} ended in a way that cannot be described: {type(error).__name__}")
        ending = _failed(unclear, failure)
    failed = ending.outcome is Outcome.FAILED
    log, log_left_out = made.tail.kept()
    return replace(
        ending,
        place=place_of(execution.error or FlowFailed(), given.flow.function) if failed else None,
        window=None if given.state is None else RunWindow(run.window.start, run.window.end),
        cursor_before=given.state and given.state.cursor,
        counts=counts_of(made),
        http=made.usage.totals(),
        log=log,
        log_left_out=log_left_out,
        secrets=dict(made.kv.reads),
        abandoned=execution.abandoned,
    )


def counts_of(made: Prepared) -> dict[str, int]:
    """Return the counts of a run that a record can hold. Names that differ in a secret only become one."""
    counts = Counter[str]()
    for name, number in _valid(made.run.counts):
        counts[made.redact.line(name, NAME_LIMIT)] += number
    return dict(islice(counts.items(), MOST_COUNTS))


def _valid(counts: Mapping[str, object]) -> Iterator[tuple[str, int]]:
    """Yield the counts that a record can hold. A flow may also have written others, without `run.count`."""
    for name, number in counts.items():
        with suppress(TypeError, ValueError):
            yield name, checked_count(name, number)


type _Describe = Callable[[BaseException], Failure]


def _ending(execution: Execution, made: Prepared, describe: _Describe) -> Ending:
    subject, error = made.subject, execution.error
    if execution.how is How.RETURNED:
        return _finished(Ending(Outcome.SUCCEEDED, window_end=made.run.window.end), made, describe)
    if execution.how is How.TIMED_OUT:
        return _failed(FlowFailed(_timed_out(execution, made.given.flow, subject)), describe)
    if execution.how is How.CANCELLED:
        why = DataSyncError(f"{subject} was stopped: the host stops, or another flow cancelled all tasks")
        return Ending(Outcome.INTERRUPTED, describe(why), raised=asyncio.CancelledError())
    if error is None:
        raise AssertionError("a flow that raised has an error")
    if signal := signal_in(error):
        reason = made.redact.line(str(signal))  # without the name of the class
        return _signalled(signal, made, lambda each: replace(describe(each), message=reason))
    if outage := outage_in(error):
        return Ending(Outcome.DEFERRED, describe(outage), is_outage=True)
    if _find(error, TimeoutError) or _find(error, httpx.TimeoutException):
        describe = partial(_with_blocks, describe, made.redact.line(_blocked(execution), LINE // 2))
    ending = _failed(error, describe, made.redact.traceback(from_flow(error, made.given.flow.function)))
    return replace(ending, is_permanent=_find(error, SecretRefused) is not None)


def _signalled(signal: FlowSignal, made: Prepared, describe: _Describe) -> Ending:
    if isinstance(signal, RetryLater):
        return Ending(Outcome.DEFERRED, describe(signal), delay=signal.delay)
    if not isinstance(signal, Continue):
        return Ending(Outcome.GAVE_UP, describe(signal))
    return _finished(Ending(Outcome.CONTINUED, window_end=signal.window_end), made, describe)


def _finished(ending: Ending, made: Prepared, describe: _Describe) -> Ending:
    """Return an ending with the cursor that the flow has left, or a failure if its end cannot be kept."""
    part_end = ending.window_end if ending.outcome is Outcome.CONTINUED else None
    try:
        return replace(ending, cursor=cursor_left(made.run, part_end, has_state=made.given.state is not None))
    except (CursorInvalid, FlowFailed, TypeError, ValueError) as error:
        reason = made.redact.line(str(error))  # without the name of the class
        return _failed(error, lambda each: replace(describe(each), message=reason))


def _failed(error: BaseException, describe: _Describe, traceback: str = "") -> Ending:
    failure = describe(error)
    return Ending(Outcome.FAILED, failure, traceback, raised=FlowFailed(failure.message))


def _timed_out(execution: Execution, flow: Flow, subject: str) -> str:
    ignored = " Some of its code ignores the cancellation, and still runs." if execution.abandoned else ""
    return (
        f"{subject} was cancelled after {flow.timeout}: do less in one run, or register the flow with a longer "
        f"timeout={_blocked(execution)}.{ignored}"
    )


def _with_blocks(describe: _Describe, blocked: str, error: BaseException) -> Failure:
    failure = describe(error)
    return replace(failure, message=failure.message[: LINE - len(blocked)] + blocked)


def _blocked(execution: Execution) -> str:
    """Return the longest blocks of the event loop during an execution. Empty if there were none."""
    longest = nlargest(_NAMED, execution.blocks, key=lambda each: each.seconds)
    more = [f"{len(execution.blocks) - _NAMED} more times"] if len(execution.blocks) > _NAMED else []
    return f". Meanwhile the event loop was blocked by {'; '.join([*map(str, longest), *more])}" if longest else ""


def outage_in(error: BaseException) -> ServiceUnavailable | None:
    """Return the error of a service that is away, if that has ended an attempt."""
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
