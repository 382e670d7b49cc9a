"""A clock for tests, which never waits."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import override

from datasync.clock import Clock


class FakeClock(Clock):
    """A clock that changes only when code sleeps or a test sets it."""

    def __init__(self, now: datetime = datetime(2025, 8, 23, 12, tzinfo=UTC)) -> None:
        self._changed = asyncio.Event()
        self.time = now

    @property
    def time(self) -> datetime:
        """The present instant (aware, UTC). A test sets it."""
        return self._time

    @time.setter
    def time(self, time: datetime) -> None:
        self._time = time
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @override
    def now(self) -> datetime:
        return self.time

    @override
    async def sleep(self, duration: timedelta) -> None:
        self.time += max(duration, timedelta())
        await asyncio.sleep(0)

    @override
    async def pause(self, duration: timedelta) -> None:
        end = self.time + duration
        while self.time < end:
            await self._changed.wait()
