"""A campaign: many cases for one part of the code. It reports each crash once, with the shortest input it has seen.

A case that keeps the event loop for more than 50 ms is a finding, too. The CPU time of the thread counts, from
one place where the code lets others use the loop to the next. It is noisy: a case can be the first to import a module,
it can meet the garbage collector, and a core that is shared is slower. So a slow case is measured again, alone and with
empty caches, and its best time counts.
"""

import asyncio
import gc
import json
import re
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from random import Random
from time import monotonic, process_time, thread_time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SLOW = 0.05
"""Seconds of CPU. A case that keeps the event loop longer, each time it is measured, is a finding."""

_AGAIN = 3  # times that a slow case is measured again
_YARDSTICK = 0.006
"""Seconds of CPU for `_yardstick` on a core that does nothing else, where the limit was chosen (AMD EPYC). If it takes
longer at the time of a measurement, on a slower or a shared core, the limit is higher in proportion."""
_PULSE = 0.001  # seconds between two looks at the time, while an asynchronous case runs

_HANGING = 60  # seconds of CPU, or of waiting, after which a case counts as hanging
_MOST_HANGING = 3  # cases, after which a campaign ends
_BATCH = 1_000  # examples of Hypothesis, between two looks at the clock
_SHOWN = 1_500  # characters of an input
_ROOT = Path(__file__).parent.parent.parent


class Hangs(BaseException):
    """A case does not end."""


class Slow(Exception):
    """A case keeps the event loop for too long."""


@dataclass
class _Finding:
    what: str
    case: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.count} × {self.what}\n  {_short(self.case)}"


class Campaign:
    """Makes and checks cases until a number of them, or a time, is reached."""

    def __init__(self, name: str, chosen: int, scale: int, seconds: float | None) -> None:
        """Start a campaign.

        Args:
            name: The name of the test.
            chosen: The seed of the session.
            scale: Factor for the numbers of cases.
            seconds: The time to spend, instead of these numbers; None for the numbers.

        """
        self.name = name
        self._seed = f"{chosen} {name}"
        self._scale = scale
        self._end = None if seconds is None else monotonic() + seconds
        self._cases = 0
        self._slowest = 0.0
        self._started, self._spent = process_time(), 0.0
        self._hanging = 0
        self._findings: dict[str, _Finding] = {}
        self._first: float | None = None
        self._slow_once: list[tuple[float, float, str]] = []

    def run[T](self, cases: int, make: Callable[[Random], T], check: Callable[[T], object]) -> None:
        """Make and check cases. `check` raises nothing for a good one. Fails with the findings.

        A check that is a generator yields wherever the code lets others use the event loop.
        """
        for choices in self._choices(cases):
            case = make(choices)
            with self._watched(case), _ending_in_time():
                took = _longest_step(check, case)
                self._note_time(took, [_longest_step(check, case) for _ in _alone(took)], case)
        self._finish()

    async def run_async[T](
        self, cases: int, make: Callable[[Random], T], check: Callable[[T], Awaitable[None]]
    ) -> None:
        """Make and check cases, one after the other. Fails with the findings."""
        async with asyncio.TaskGroup() as tasks:
            pulse = _Pulse()
            beating = tasks.create_task(pulse.beat())
            for choices in self._choices(cases):
                case = make(choices)
                with self._watched(case):
                    took = await pulse.longest_step(check(case))
                    self._note_time(took, [await pulse.longest_step(check(case)) for _ in _alone(took)], case)
            beating.cancel()
        self._finish()

    def explore[T](self, examples: int, strategy: SearchStrategy[T], check: Callable[[T], object]) -> None:
        """Check examples of a strategy, which Hypothesis makes small. Fails with the findings."""

        def watched(case: T) -> None:
            self._cases += 1
            with _ending_in_time():
                took = _longest_step(check, case)
                again = [_longest_step(check, case) for _ in _alone(took)]
            try:
                self._note_time(took, again, case)
            except Slow as error:  # Hypothesis cannot make it small: the next time may be another
                self._note_finding(error, repr(case))

        for number in count():
            if number and (self._end is None or monotonic() >= self._end):
                break
            limits = settings(
                max_examples=_BATCH if self._end else examples * self._scale,
                database=None,
                deadline=None,
                suppress_health_check=[*HealthCheck],
            )
            try:
                seed(f"{self._seed} {number}")(limits(given(strategy)(watched)))()
            except (Exception, Hangs) as error:  # noqa: BLE001 - a finding
                self._note_finding(error, "\n".join(getattr(error, "__notes__", ())))
        self._finish()

    def summary(self) -> list[str]:
        """Return the numbers of the campaign, and the cases that were slow only the first time."""
        times = f"first case {1000 * (self._first or 0):.1f} ms, slowest {1000 * self._slowest:.1f} ms"
        numbers = f"{self._cases:,} cases, {len(self._findings)} findings, {times}"
        once = [
            f"  {1000 * took:.0f} ms, and {1000 * best:.0f} ms when it was measured again: {case}"
            for took, best, case in sorted(self._slow_once, reverse=True)[:5]
        ]
        return [f"{self.name}: {numbers}, {self._spent:.1f} s of CPU", *once]

    def _choices(self, cases: int) -> Iterator[Random]:
        """Yield a source of choices for each case."""
        for number in count():
            if self._hanging == _MOST_HANGING:
                return
            if (number >= cases * self._scale) if self._end is None else (monotonic() >= self._end):
                return
            yield Random(f"{self._seed} {number}")  # noqa: S311 - not for security

    @contextmanager
    def _watched(self, case: object) -> Iterator[None]:
        self._cases += 1
        try:
            yield
        except (Exception, Hangs) as error:  # noqa: BLE001 - a finding
            self._note_finding(error, repr(case))

    def _note_time(self, took: float, again: list[float], case: object) -> None:
        """Note the time of a case. Raises Slow if it was too long each time."""
        if self._first is None:
            self._first = took
        best = min([took, *again])
        self._slowest = max(self._slowest, best)
        if again:
            limit = SLOW * max(1, min(_longest_step(_yardstick) for _ in again) / _YARDSTICK)
            if best > limit:
                raise Slow(f"{1000 * best:.0f} ms of CPU in one piece; the limit is {1000 * limit:.0f} ms")
            self._slow_once.append((took, best, _short(repr(case))[:200]))

    def _note_finding(self, error: BaseException, case: str) -> None:
        self._hanging += isinstance(error, Hangs)
        what = f"{type(error).__name__} at {_place(error)}"
        found = self._findings.setdefault(what, _Finding(f"{what}: {_short(str(error))}", case, count=0))
        found.count += 1
        found.case = min(found.case, case, key=len)

    def _finish(self) -> None:
        self._spent = process_time() - self._started
        if self._findings:
            pytest.fail(
                "\n".join([f"--fuzz-seed={self._seed.split()[0]}", *map(str, self._findings.values())]), pytrace=False
            )


class _Pulse:
    """A task that looks at the time whenever the event loop is free."""

    def __init__(self) -> None:
        self._last = self._longest = 0.0

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(_PULSE)
            self._look()

    async def longest_step(self, case: Awaitable[None]) -> float:
        """Return the longest CPU time for which an asynchronous case kept the event loop. Raises Hangs."""
        self._last, self._longest = thread_time(), 0.0
        waiting = asyncio.timeout(_HANGING)
        try:
            async with waiting:
                await case
        except TimeoutError:
            if waiting.expired():
                raise Hangs from None
            raise
        self._look()
        return self._longest

    def _look(self) -> None:
        now = thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now


def _longest_step(check: Callable[..., object], *case: object) -> float:
    """Check a case, and return the CPU time of its longest step."""
    last = thread_time()
    steps = check(*case)
    longest = thread_time() - last
    for _ in chain(steps, [None]) if isinstance(steps, Generator) else ():
        now = thread_time()
        longest, last = max(longest, now - last), thread_time()
    return longest


def _alone(took: float) -> Iterator[None]:
    """Yield for each time that a case, which took a time, has to be measured again; with empty caches."""
    for _ in range(_AGAIN if took > SLOW else 0):
        for module in [each for name, each in sys.modules.items() if name.startswith("datasync.")]:
            for each in vars(module).values():
                if hasattr(each, "cache_clear") and each.cache_parameters()["maxsize"] is not None:
                    each.cache_clear()
        gc.collect()
        yield


def _yardstick() -> Generator[None]:
    """Do work that is like that of the app, in one step."""
    yield
    for _ in range(20):
        text = json.dumps([{"name": f"flow-{number}", "enabled": True} for number in range(200)])
        found = re.findall(r"flow-(\d+)", json.loads(text)[-1]["name"] + text)
        sorted({each: len(each) for each in found}.items())
    yield


@contextmanager
def _ending_in_time() -> Iterator[None]:
    """Raise Hangs in code that uses the CPU for too long, where the platform has such a timer."""
    if not hasattr(signal, "setitimer"):  # Windows: pytest's faulthandler_timeout ends the test
        yield
        return
    signal.signal(signal.SIGPROF, _hangs)
    signal.setitimer(signal.ITIMER_PROF, _HANGING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _hangs(*_: object) -> None:
    raise Hangs


def _place(error: BaseException) -> str:
    """Return the innermost line of the repository in a traceback: `datasync/cron.py:61`."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(name, line) for name, line in frames if name.startswith(str(_ROOT)) and ".venv" not in name]
    product = [(name, line) for name, line in own if not name.startswith(str(_ROOT / "tests"))]
    name, line = (product or own or [("?", 0)])[-1]
    return f"{name.removeprefix(f'{_ROOT}/')}:{line}"


def _short(text: str) -> str:
    text = ascii(text)[1:-1]
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
