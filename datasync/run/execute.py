"""execute: runs a flow in a task of its own, and ends it.

The invocation waits for that task. So a cancellation of the invocation comes from outside (the host, or another flow
that cancels every task), and a cancellation of the flow's task comes from the flow itself.

Some code ends the process in spite of this module: `os._exit`, `loop.stop`, a lack of memory, and SystemExit in a
callback (`loop.call_soon`) or in a task that is made without the loop's task factory (`asyncio.Task(…)`). The lease of
the run expires then, and the message is delivered again.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, override

import msgspec

from datasync.flow.log import RunLog
from datasync.flow.watchdog import Block, Watchdog, current_run

GRACE = timedelta(seconds=10)
"""The time that a cancelled flow has to end, and after that the tasks and threads that it left behind."""

_SHARED = ("aiohttp.", "azure.", "datasync.flow.secrets")
"""Modules whose tasks serve several runs: a name lookup, a vault read. The end of one run must not cancel them."""


class How(StrEnum):
    """How a flow ended."""

    RETURNED = "returned"
    RAISED = "raised"
    TIMED_OUT = "timed_out"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The end of a flow."""

    how: How
    error: BaseException | None = None
    """The exception of the flow (RAISED), or the result of `stop` (STOPPED)."""
    abandoned: tuple[asyncio.Future[Any], ...] = ()
    """Tasks and calls in threads that still run: they ignored the cancellation for the time of the grace.

    Do not cancel them: the future of a call would be done, and its thread would go on.
    """
    blocks: tuple[Block, ...] = ()
    """The blocks of the event loop during the execution, also those of other runs."""


async def execute(
    function: Callable[[], Awaitable[object]],
    *,
    subject: str,
    timeout: timedelta,  # noqa: ASYNC109 - the time in which other runs blocked the loop does not count
    stop: asyncio.Future[BaseException],
    watchdog: Watchdog,
    log: RunLog,
    grace: timedelta = GRACE,
) -> Execution:
    """Run a flow until it ends, or until it must end. Nothing that the flow raises is raised here.

    The tasks that the flow left behind are cancelled at its end, and so are its calls in threads of the loop's default
    executor (`asyncio.to_thread`) that have not begun. Nothing can end the others, and other threads are not known. The
    reports of asyncio about a task of the run, at any time, go to `log`, which removes the secrets. Of exceptions whose
    run is not known, those of futures and threads, the texts are left out.

    RETURNED: the flow returned.
    RAISED: it raised an exception. This includes SystemExit and KeyboardInterrupt, in any of its tasks, and a
        CancelledError, if the flow cancelled itself.
    TIMED_OUT: it was cancelled after `timeout` and the time in which other runs blocked the event loop.
    STOPPED: it was cancelled because `stop` got a result. Nothing else may cancel or fail that future.
    CANCELLED: it was cancelled because the calling task was. The caller can await, and must then raise CancelledError.
    """
    loop = asyncio.get_running_loop()
    watchdog.start(loop)
    _install_factories(loop)
    _install_exception_handler(loop)
    _install_thread_hook()
    started = watchdog.clock.monotonic()
    run = _Run(loop, function, subject, log)
    how, error = await _wait_for_end(run, stop, _Deadline(watchdog, timeout, subject))
    await _cancel([run.flow], _Deadline(watchdog, grace, subject))
    left_behind = _Deadline(watchdog, grace, subject)
    await _cancel(run.children, left_behind)
    await _wait(run.in_threads(), left_behind)
    if how is How.RETURNED and run.exit.done():  # in a task that it left behind
        how, error = How.RAISED, run.exit.result()
    return Execution(
        how=how,
        error=error,
        abandoned=(*(task for task in (run.flow, *run.children) if not task.done()), *run.in_threads()),
        blocks=tuple(watchdog.blocks_since(started)),
    )


class _Run:
    """The tasks of a run, and its calls in threads."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[object]], subject: str, log: RunLog
    ) -> None:
        async def flow() -> None:
            await function()

        self.log = log
        self.children: set[asyncio.Task[Any]] = set()
        """The tasks that the flow and its tasks created, as long as they run."""
        self.calls: set[Future[Any]] = set()
        """The calls in threads, as long as they run. The threads remove them: each operation of a set is atomic."""
        self.exit: asyncio.Future[BaseException] = loop.create_future()
        """The first SystemExit or KeyboardInterrupt in a task of the run."""
        context = copy_context()
        context.run(current_run.set, subject)
        context.run(_current.set, self)
        self.flow: asyncio.Task[None] = loop.create_task(_Contained(flow(), self), name=subject, context=context)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self.children.add(task)
        task.add_done_callback(self.children.discard)

    def adopt_call(self, call: Future[Any]) -> None:
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)

    def in_threads(self) -> list[asyncio.Future[Any]]:
        """Return the calls that still run in threads. Those that have not begun are cancelled."""
        # A future of asyncio that the flow has cancelled says nothing: the call may go on.
        running = [asyncio.wrap_future(call) for call in [*self.calls] if not (call.cancel() or call.done())]
        for call in running:
            call.add_done_callback(_read)
        return running


_current: ContextVar[_Run] = ContextVar("_current")


class _Deadline:
    """The end of a duration. The time in which other runs block the event loop does not count."""

    def __init__(self, watchdog: Watchdog, duration: timedelta, subject: str) -> None:
        self._watchdog = watchdog
        self._duration = duration
        self._subject = subject
        self._started = watchdog.clock.monotonic()

    def left(self) -> float:
        """Return the seconds that are left. Zero or less if none are."""
        blocked = self._watchdog.blocked_since(self._started, except_by=self._subject)
        return (self._duration + blocked).total_seconds() - (self._watchdog.clock.monotonic() - self._started)


async def _wait_for_end(
    run: _Run, stop: asyncio.Future[BaseException], deadline: _Deadline
) -> tuple[How, BaseException | None]:
    """Wait until the flow has ended or must end."""
    try:
        while (left := deadline.left()) > 0:
            reasons = (run.flow, run.exit, stop)
            done, _ = await asyncio.wait(reasons, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if done:
                break
    except asyncio.CancelledError:
        _uncancel()
        if not run.flow.done() or run.flow.cancelled():
            return How.CANCELLED, None
    if run.exit.done():
        return How.RAISED, run.exit.result()
    if run.flow.cancelled():
        return How.RAISED, asyncio.CancelledError("the flow cancelled itself")
    if run.flow.done():
        error = run.flow.exception()
        return How.RETURNED if error is None else How.RAISED, error
    if stop.done():
        return How.STOPPED, stop.result()
    return How.TIMED_OUT, None


async def _cancel(tasks: Iterable[asyncio.Task[Any]], deadline: _Deadline) -> None:
    """Cancel tasks, and wait for their end until the deadline."""
    tasks = [task for task in tasks if not task.done()]
    for task in tasks:
        task.cancel()
    await _wait(tasks, deadline)
    for task in tasks:
        if task.done():
            _read(task)


async def _wait(futures: Iterable[asyncio.Future[Any]], deadline: _Deadline) -> None:
    """Wait for the end of futures until the deadline. A cancellation from outside does not shorten that."""
    futures = [*futures]
    while (pending := [each for each in futures if not each.done()]) and (left := deadline.left()) > 0:
        try:
            await asyncio.wait(pending, timeout=left)
        except asyncio.CancelledError:
            _uncancel()


def _read(future: asyncio.Future[Any]) -> None:
    """Read the exception of a future that is done: asyncio reports one that nobody reads."""
    if not future.cancelled():
        future.exception()


def _uncancel() -> None:
    """Take back the cancellations of the current task, which has caught them."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


# --- SystemExit and KeyboardInterrupt in tasks


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine of a run. SystemExit and KeyboardInterrupt end the run, and cancel the task.

    asyncio raises these two through `run_forever`, which would end the worker with all of its runs.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], run: _Run) -> None:
        self._coroutine = coroutine
        self._run = run

    @override
    def send(self, value: Any, /) -> Any:
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            self._exit(error)

    @override
    def throw(self, kind: Any, value: BaseException | object = None, traceback: TracebackType | None = None, /) -> Any:
        try:
            return self._coroutine.throw(kind)
        except (SystemExit, KeyboardInterrupt) as error:
            self._exit(error)

    def _exit(self, error: BaseException) -> None:
        if not self._run.exit.done():
            self._run.exit.set_result(error)
        raise asyncio.CancelledError(f"{type(error).__name__} in a task of the run") from None

    @override
    def close(self) -> None:
        self._coroutine.close()

    @override
    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        # The name and the frame of the coroutine, for `repr` and the stack of the task.
        return getattr(self._coroutine, name)


class _TaskFactory:
    """Makes the tasks of a loop by the factory before it, and contains those that are created in a run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._before: Callable[..., Any] = loop.get_task_factory() or _new_task

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], /, **options: Any
    ) -> asyncio.Task[Any]:
        """Create a task. The options depend on the version of Python: `context`, `name`, `eager_start`."""
        run = None if _is_shared(coroutine) else _current.get(None)
        task: asyncio.Task[Any] = self._before(loop, _Contained(coroutine, run) if run else coroutine, **options)
        if run:
            run.adopt(task)
        return task


class _Threads(ThreadPoolExecutor):
    """The threads of a loop. The runs know their calls."""

    @override
    def submit[**P, T](self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        call = super().submit(function, *args, **kwargs)
        run = _current.get(None)
        if run and function not in (socket.getaddrinfo, socket.getnameinfo):  # aiohttp shares them between runs
            run.adopt_call(call)
        return call


def _install_factories(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop make tasks and calls in threads that their runs know."""
    if not isinstance(loop.get_task_factory(), _TaskFactory):
        loop.set_task_factory(_TaskFactory(loop))
        # A default executor that was used before is not shut down: its calls go on.
        loop.set_default_executor(_Threads(thread_name_prefix="asyncio"))


class _ExceptionHandler:
    """Reports the exceptions that nobody has read. Those of a run go to its log, which removes the secrets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._before = loop.get_exception_handler()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        run = _current.get(None)  # asyncio calls a handler in the context of the task that it reports
        if run:
            run.log.error("%s", context.get("message"), exc_info=context.get("exception") or False)
            return
        if error := context.get("exception"):  # of a future, say, which has no context
            message, _, _ = str(context.get("message")).partition("(")  # without the arguments of a callback
            context = {"message": message, "exception": _without_text(error)}
        if self._before:
            self._before(loop, context)
        else:
            loop.default_exception_handler(context)


class _ThreadHook:
    """Reports the exceptions that end threads, without their texts. A thread does not know the run that started it."""

    def __init__(self) -> None:
        self._before = threading.excepthook

    def __call__(self, ended: threading.ExceptHookArgs, /) -> None:
        error = ended.exc_value
        if error is not None and not isinstance(error, SystemExit):
            safe = _without_text(error)
            ended = threading.ExceptHookArgs((type(safe), safe, safe.__traceback__, ended.thread))
        self._before(ended)


class UnknownRunError(Exception):
    """An exception in code that belongs to no known run. It has the class and the traceback of the other one."""


def _without_text(error: BaseException) -> UnknownRunError:
    name = type(error).__name__
    text = f"{name}. Its text is left out: it may have secrets of a run, and the run is not known"
    return UnknownRunError(text).with_traceback(error.__traceback__)


def _install_thread_hook() -> None:
    if not isinstance(threading.excepthook, _ThreadHook):
        threading.excepthook = _ThreadHook()


def _install_exception_handler(loop: asyncio.AbstractEventLoop) -> None:
    if not isinstance(loop.get_exception_handler(), _ExceptionHandler):
        loop.set_exception_handler(_ExceptionHandler(loop))


def _new_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **options)


def _is_shared(coroutine: Coroutine[Any, Any, Any]) -> bool:
    frame = getattr(coroutine, "cr_frame", None)
    return frame is not None and frame.f_globals.get("__name__", "").startswith(_SHARED)
