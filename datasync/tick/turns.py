"""Turns: the tenants of a tick share a few places, and a tenant with much to do waits for its turn again and again."""

import asyncio
from datetime import timedelta
from types import TracebackType
from typing import Self

from datasync.clock import Clock

REQUESTS = 50
"""The requests of a tenant in one turn. A tenant with more to do goes to the end of the line."""

_SLICE = 0.005  # seconds that a tenant may keep the event loop, which runs of flows use as well


class Turn:
    """A tenant's turn: a place for which it has waited in line."""

    def __init__(self, places: asyncio.Semaphore, clock: Clock) -> None:
        self._places = places  # the turns that wait for a semaphore get it in the order in which they came
        self._clock = clock
        self._has_place = False
        self._spent = 0
        self._since = 0.0

    async def __aenter__(self) -> Self:
        await self._wait_in_line()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._leave()

    async def spend(self, requests: int) -> None:
        """Count requests before they are made, and go to the end of the line first if this turn has had its share."""
        if self._spent >= REQUESTS:
            self._leave()
            await self._wait_in_line()
        self._spent += requests

    async def pause(self) -> None:
        """Let others use the event loop, if this tenant has used it for a while."""
        if self._clock.monotonic() - self._since > _SLICE:
            await self._clock.sleep(timedelta())
            self._since = self._clock.monotonic()

    async def _wait_in_line(self) -> None:
        await self._places.acquire()
        self._has_place, self._spent, self._since = True, 0, self._clock.monotonic()

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.release()
