"""A campaign: many cases for one part of the code. It reports each crash once, with the shortest input it has seen."""

import asyncio
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from time import monotonic, process_time

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SLOW = 0.05
"""Seconds of CPU. A case that takes longer is listed in the summary."""

_HANGING = 60  # seconds of CPU, or of waiting, after which a case counts as hanging
_MOST_HANGING = 3  # cases, after which a campaign ends
_BATCH = 1_000  # examples of Hypothesis, between two looks at the clock
_SHOWN = 1_500  # characters of an input
_ROOT = Path(__file__).parent.parent.parent


class Hangs(BaseException):
    """A case does not end."""


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
        self._slow: list[tuple[float, str]] = []

    def run[T](self, cases: int, make: Callable[[Random], T], check: Callable[[T], object]) -> None:
        """Make and check cases. `check` raises nothing for a good one. Fails with what was found."""
        for choices in self._choices(cases):
            case = make(choices)
            with self._watched(case, partial(check, case)), _ending_in_time():
                check(case)
        self._finish()

    async def run_async[T](
        self, cases: int, make: Callable[[Random], T], check: Callable[[T], Awaitable[None]]
    ) -> None:
        """Make and check cases, one after the other. Fails with what was found."""
        for choices in self._choices(cases):
            case = make(choices)
            with self._watched(case):
                waiting = asyncio.timeout(_HANGING)
                try:
                    async with waiting:
                        await check(case)
                except TimeoutError:
                    if waiting.expired():
                        raise Hangs from None
                    raise
        self._finish()

    def explore[T](self, examples: int, strategy: SearchStrategy[T], check: Callable[[T], object]) -> None:
        """Check examples of a strategy, which Hypothesis makes small. Fails with what was found."""

        def watched(case: T) -> None:
            self._cases += 1
            started = process_time()
            with _ending_in_time():
                check(case)
            self._note_time(process_time() - started, case)

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
            except (Exception, Hangs) as error:  # noqa: BLE001 - what was found
                self._note_finding(error, "\n".join(getattr(error, "__notes__", ())))
        self._finish()

    def summary(self) -> list[str]:
        """Return the numbers of the campaign, and the slow cases."""
        numbers = f"{self._cases:,} cases, {len(self._findings)} findings, slowest {1000 * self._slowest:.1f} ms"
        slow = [f"  {1000 * took:.0f} ms: {case}" for took, case in sorted(self._slow, reverse=True)]
        return [f"{self.name}: {numbers}, {self._spent:.1f} s of CPU", *slow]

    def _choices(self, cases: int) -> Iterator[Random]:
        """Yield a source of choices for each case."""
        for number in count():
            if self._hanging == _MOST_HANGING:
                return
            if (number >= cases * self._scale) if self._end is None else (monotonic() >= self._end):
                return
            yield Random(f"{self._seed} {number}")  # noqa: S311 - not for security

    @contextmanager
    def _watched(self, case: object, again: Callable[[], object] | None = None) -> Iterator[None]:
        self._cases += 1
        started = process_time()
        try:
            yield
        except (Exception, Hangs) as error:  # noqa: BLE001 - what was found
            self._note_finding(error, repr(case))
            return
        took = process_time() - started
        if took > SLOW and again:  # another process, or the garbage collector, may have interfered
            started = process_time()
            again()
            took = min(took, process_time() - started)
        self._note_time(took, case)

    def _note_time(self, took: float, case: object) -> None:
        self._slowest = max(self._slowest, took)
        if took > SLOW:
            self._slow = sorted([*self._slow, (took, _short(repr(case)))], reverse=True)[:5]

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
