"""The clock: a pause ends in time, also in a machine that is suspended, and if its time is corrected."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import override

import pytest

from datasync.clock import Clock

MINUTE = timedelta(minutes=1)


class Machine(Clock):
    """A clock whose time makes a jump while the code sleeps. Sleeping takes no real time."""

    def __init__(self, jump: timedelta, after: timedelta) -> None:
        self.slept = timedelta()
        self._start = datetime(2025, 8, 23, 12, tzinfo=UTC)
        self._jump = jump
        self._after = after

    @override
    def now(self) -> datetime:
        return self._start + self.slept + (self._jump if self.slept >= self._after else timedelta())

    @override
    def monotonic(self) -> float:
        return self.slept.total_seconds()

    async def wait(self, seconds: float) -> None:
        self.slept += timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("jump", "after", "slept"),
    [
        (timedelta(), timedelta(), MINUTE),
        (timedelta(hours=1), timedelta(seconds=10), timedelta(seconds=10)),
        (timedelta(hours=1), timedelta(seconds=11), timedelta(seconds=15)),
        (timedelta(seconds=20), timedelta(seconds=10), MINUTE - timedelta(seconds=20)),
        (timedelta(hours=-1), timedelta(seconds=10), MINUTE),
    ],
    ids=["no jump", "suspended", "suspended during a sleep", "suspended for a short time", "set back"],
)
async def test_a_pause_ends_by_the_clock_that_comes_first(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta, after: timedelta, slept: timedelta
) -> None:
    """The clock for time spans stands still while a machine is suspended. That is noticed within 5 seconds."""
    machine = Machine(jump, after)
    monkeypatch.setattr(asyncio, "sleep", machine.wait)

    await machine.pause(MINUTE)

    assert machine.slept == slept


async def test_a_pause_of_no_time_ends_at_once() -> None:
    """The same applies to one that ended in the past."""
    await Clock().pause(timedelta())
    await Clock().pause(-MINUTE)
