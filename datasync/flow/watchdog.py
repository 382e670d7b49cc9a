"""watchdog: notices that a run blocks the event loop, and where in its code.

All runs of a process share one event loop. A run that does not await, for example in `time.sleep` or a long
computation, blocks the others, so their timeouts must not count that time.
"""

import ast
import asyncio
import linecache
import logging
import sys
import sysconfig
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NamedTuple, override

import msgspec

from datasync.clock import Clock

current_run: ContextVar[str] = ContextVar("current_run")
"""The subject, `tenant/flow`, of the run that a task belongs to."""

logger = logging.getLogger("datasync")

_ROOT = Path(__file__).parents[2]
_PACKAGE = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))
_KEPT = 1000  # more than fit into the longest run, since each takes two seconds
_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd_bundle")
"""The first names of the modules of debuggers: those of `breakpoint()` and of VS Code."""
_NOT_SEEN = "an unknown place: the process stood still, or a library held the interpreter lock"


DEBUGGER = "a debugger that waits"
"""The place of a block in which a debugger waits for a person. It has no subject, so no timeout counts it."""


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which the event loop stood still."""

    subject: str | None
    """`tenant/flow` of the run that blocked the loop. None if it was another task or a callback, or is not known."""
    place: str
    """`flows/slow.py:11 (time.sleep)`: the line in the flow's own code, and the function that it called."""
    started: datetime
    seconds: float
    """The duration. It can be too long by the interval of the beats, because the last beat before it is its start."""

    @override
    def __str__(self) -> str:
        """Return who blocked the loop, and where: `acme/slow at flows/slow.py:11 (time.sleep) for 8 s`."""
        return f"{self.subject or 'code outside a run'} at {self.place} for {self.seconds:.0f} s"


class Watchdog:
    """Watches one event loop from a thread.

    The thread posts a beat to the loop about four times a second. While the beats are not answered, it looks at the
    stack of the loop's thread. The run that is seen most often is the one that blocks.

    A call that holds the interpreter lock (a search with a bad regular expression, an extension module in C) stops the
    thread too. Such a block is noticed at its end, when the loop's thread is normally still in the same line, and
    `on_long_block` is not called before. A stop of the whole process (SIGSTOP, a frozen machine), in which it uses no
    CPU, has no subject and no place.

    The thread logs no events. On Azure, the worker sends a log line with the id of the invocation, which it takes from
    the current task or thread, and the host drops lines without one. Emit the blocks from the task of a run.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        threshold: timedelta = timedelta(seconds=2),
        on_long_block: Callable[[Block], None] | None = None,
        every: timedelta = timedelta(seconds=30),
    ) -> None:
        """Make a watchdog, which does nothing until it is started.

        Args:
            clock: Its monotonic time is the time of the moments below.
            threshold: Shorter blocks are not kept.
            on_long_block: Called in a thread of its own while a block lasts, one call at a time, with the block so
                far. It must not use the blocked loop. Its exceptions are logged.
            every: The duration of a block before the first call of `on_long_block`, and between two calls.

        """
        self.clock = clock
        self._threshold = threshold.total_seconds()
        self._interval = self._threshold / 8
        self.on_long_block = on_long_block
        self._every = every.total_seconds()
        self._lock = threading.Lock()
        self._blocks: deque[tuple[float, Block]] = deque(maxlen=_KEPT)  # with the moment of its start
        self._reported: deque[datetime] = deque(maxlen=_KEPT)
        self._alive = 0.0
        self._seen: Counter[_Sight] = Counter()
        self._calls = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread: threading.Thread | None = None
        self._hook: threading.Thread | None = None
        self._stopping = threading.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch a loop, in place of the one before. Call this in the thread of the loop; a repeated call is free."""
        if loop is self._loop and self._thread is not None and self._thread.is_alive():
            return
        self.stop()
        self._loop, self._loop_thread = loop, threading.get_ident()
        self._alive, self._calls = self.clock.monotonic(), 0
        self._seen.clear()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(loop,), name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Finished blocks are kept."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = self._loop = None

    def blocked_since(self, moment: float, *, except_by: str | None = None) -> timedelta:
        """Return how long the loop stood still after a moment of `clock.monotonic()`, including the block that lasts.

        The blocks of the subject `except_by` do not count.
        """
        with self._lock:
            now = self._now()
            spans = [
                (start, start + block.seconds)
                for start, block in self._blocks
                if except_by is None or block.subject != except_by
            ]
            if self._thread is not None and now - self._alive >= self._threshold:
                spans.append((self._alive, now))
        return timedelta(seconds=sum(max(end - max(start, moment), 0) for start, end in spans))

    def blocks_since(self, moment: float) -> list[Block]:
        """Return the blocks that ended after a moment of `clock.monotonic()`."""
        with self._lock:
            self._now()
            return [block for start, block in self._blocks if start + block.seconds > moment]

    def claim(self, block: Block) -> bool:
        """Return True to the first caller: a block that belongs to no run is reported once."""
        is_first = block.started not in self._reported
        self._reported.append(block.started)
        return is_first

    def _now(self) -> float:
        """Return the moment. In the loop's thread this is also a sign of life, and ends a block."""
        now = self.clock.monotonic()
        if threading.get_ident() == self._loop_thread and self._thread is not None:
            self._note_life(now)
        return now

    def _note_life(self, now: float) -> None:
        before, seen = self._alive, self._seen
        self._alive, self._calls, self._seen = now, 0, Counter()
        if now - before >= self._threshold:
            self._blocks.append((before, self._block(now - before, seen)))

    def _block(self, seconds: float, seen: "Counter[_Sight]") -> Block:
        subject, place = _most_frequent(seen)
        started = self.clock.now() - timedelta(seconds=seconds)
        return Block(subject=subject, place=place, started=started, seconds=seconds)

    def _beat(self) -> None:
        with self._lock:
            self._note_life(self.clock.monotonic())

    # --- in the thread of the watchdog

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        stopping = self._stopping
        while not loop.is_closed():
            before, used_before = self.clock.monotonic(), time.process_time()
            if stopping.wait(self._interval):
                return
            waited, used = self.clock.monotonic() - before, time.process_time() - used_before
            if not loop.is_running():  # nothing can block it
                self._beat()
                continue
            # If this thread waited too long, either the process stood still, or a call held the interpreter lock. That
            # uses more CPU than the moment before a stop, also beside other processes.
            if waited < self._threshold / 2 or used > 2 * self._interval + waited / 10:
                self._look(loop)  # before the beat, which gives the lock to the thread of the loop
            with suppress(RuntimeError):  # the loop was closed now
                loop.call_soon_threadsafe(self._beat)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        alive = self._alive
        silence = self.clock.monotonic() - alive
        if silence < 2 * self._interval:
            return
        sight = _sight(loop, self._loop_thread)
        with self._lock:
            if self._alive != alive:  # the block ended before the look
                return
            if sight:
                self._seen[sight] += 1
            due = int(silence / self._every) > self._calls
            self._calls += due
            block = self._block(silence, self._seen) if due else None
        if block and self.on_long_block is not None and (self._hook is None or not self._hook.is_alive()):
            # In a thread of its own, because a loop without beats looks blocked.
            call = partial(_call, self.on_long_block, block)
            self._hook = threading.Thread(target=call, name="long-block", daemon=True)
            self._hook.start()


def _call(hook: Callable[[Block], None], block: Block) -> None:
    try:
        hook(block)
    except Exception:
        logger.exception("the hook for long blocks of the event loop failed")


type _Position = tuple[int | None, int | None, int | None, int | None]
"""The first line of a call, its last line, the first column and the last one."""


class _Spot(NamedTuple):
    """A line that is being executed."""

    file: str
    line: int
    position: _Position
    called: str
    """The function that it calls, if that is known without its source."""


type _Sight = tuple[str | None, _Spot | None]
"""The subject of the run that has the loop's thread, and the spot. None for both if a debugger waits."""


def _most_frequent(seen: Counter[_Sight]) -> tuple[str | None, str]:
    """Return the subject that was seen most often, with its most frequent place.

    One look alone can be wrong: it can come after the end of the block, when another task runs.
    """
    if not seen:
        return None, _NOT_SEEN
    subjects: Counter[str | None] = Counter()
    for (subject, _), times in seen.items():
        subjects[subject] += times
    (blocking, _), *_ = subjects.most_common(1)
    spot = next(spot for (subject, spot), _ in seen.most_common() if subject == blocking)
    return blocking, _place(spot) if spot else DEBUGGER


def _sight(loop: asyncio.AbstractEventLoop, thread: int) -> _Sight | None:
    """Return what a loop's thread does: its innermost line outside libraries. None if the loop only waits for events.

    Nothing here takes long or gives the interpreter lock away, after which the thread could be elsewhere.
    """
    task = asyncio.current_task(loop)
    frames = [*_frames(sys._current_frames().get(thread))]  # noqa: SLF001 - the documented way to see another thread
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    if modules[:2] in ([], ["selectors", "asyncio.base_events"]):
        return None
    if any(module.partition(".")[0] in _DEBUGGERS for module in modules):
        return None, None
    own = next((frame for frame in frames if _is_own(Path(frame.f_code.co_filename))), frames[0])
    inner = frames[0].f_code.co_qualname if own is not frames[0] else ""
    spot = _Spot(own.f_code.co_filename, own.f_lineno or 0, _position(own), inner)
    return task.get_context().get(current_run) if task else None, spot


def _position(frame: FrameType) -> _Position:
    return next(islice(frame.f_code.co_positions(), max(frame.f_lasti, 0) // 2, None))


def _place(spot: _Spot) -> str:
    """Return the line of a spot, and the function that is called there: `flows/slow.py:11 (time.sleep)`."""
    file = Path(spot.file)
    shown = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file
    # A function in C, such as time.sleep, has no frame of its own. The source names it.
    called = _calls(spot.file).get(spot.position) or spot.called
    return f"{shown.as_posix()}:{spot.line}" + (f" ({called})" if called else "")


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_own(file: Path) -> bool:
    """Return whether a file is neither of Python, of a library nor of the framework, so most likely of a flow."""
    if not file.is_absolute():  # such as <frozen importlib._bootstrap>
        return False
    return "site-packages" not in file.parts and not file.is_relative_to(_STDLIB) and not file.is_relative_to(_PACKAGE)


@lru_cache(maxsize=32)
def _calls(file: str) -> dict[_Position, str]:
    """Return the calls in a file: their positions, and the names of the called functions."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    calls: dict[_Position, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function) | ast.Await(value=ast.Call(func=function)):
                last, end = node.end_lineno, node.end_col_offset
                calls[(node.lineno, last, node.col_offset, end)] = _dotted(function)
                if isinstance(function, ast.Attribute) and function.lineno != function.end_lineno:
                    # Python places the call of a method on another line at the name of the method.
                    column = (function.end_col_offset or 0) - len(function.attr.encode())
                    calls[(function.end_lineno, last, column, end)] = _dotted(function)
    return calls


def _dotted(function: ast.expr) -> str:
    """Return the name of a function without arguments and literals, which may hold a secret: `….get`."""
    match function:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return "…"
