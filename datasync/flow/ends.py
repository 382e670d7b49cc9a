"""The end of a flow: the signal in its error, and the cursor that it leaves."""

from datetime import datetime, timedelta
from typing import Any

from datasync.errors import CursorInvalid, FlowFailed, FlowSignal, RetryLater
from datasync.flow.context import FlowRun, check_counts
from datasync.model.cursor import normalized

NO_CURSOR = 'run.cursor is not kept for a flow with overlap="allow": its runs would replace the cursors of each other'


def signal_in(error: BaseException) -> FlowSignal | None:
    """Return the signal in an error, if any. For a group of nothing but signals, return the strongest."""
    if not isinstance(error, ExceptionGroup):
        return error if isinstance(error, FlowSignal) else None
    signals = [signal for each in error.exceptions if (signal := signal_in(each))]
    if len(signals) < len(error.exceptions):
        return None
    return max(signals, key=lambda signal: signal.delay if isinstance(signal, RetryLater) else timedelta.max)


def cursor_left(run: FlowRun, part_end: datetime | None = None, *, has_state: bool) -> Any:
    """Return the cursor that a run leaves at its success, as it is kept.

    Args:
        run: The run of a flow that has returned, or has raised Continue.
        part_end: The end of the window's part that it names in Continue, if any.
        has_state: Whether the flow has a window and a cursor. With overlap="allow", it has none.

    Raises:
        CursorInvalid: the cursor cannot be kept.
        FlowFailed: the end of the part is not in the window.
        TypeError, ValueError: the counts cannot be stored.

    """
    check_counts(run.counts)
    if part_end:
        _check_part_end(part_end, run, has_state=has_state)
    if run.cursor is not None and not has_state:
        raise CursorInvalid(NO_CURSOR)
    return normalized(run.cursor)


def _check_part_end(end: datetime, run: FlowRun, *, has_state: bool) -> None:
    if not has_state:
        raise FlowFailed(f'Continue(window_end={end}): a flow with overlap="allow" has no window')
    start = run.window.start
    if end > run.window.end or (start and end < start):
        raise FlowFailed(f"Continue(window_end={end}): the run's window ends at {run.window.end} and starts at {start}")
