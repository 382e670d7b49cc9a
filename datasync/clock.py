"""The clock of the process. Other modules receive the time, or this clock."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

_LONGEST_SLEEP = 5  # seconds


class Clock:
    """Returns the time, measures time spans, and sleeps."""

    def now(self) -> datetime:
        """Return the present instant (aware, UTC)."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that only grow, for time spans. Corrections of the time do not change them."""
        return time.monotonic()

    async def sleep(self, duration: timedelta) -> None:
        """Wait; a duration of zero or less does not wait."""
        await asyncio.sleep(max(duration.total_seconds(), 0))

    async def pause(self, duration: timedelta) -> None:
        """Wait as `sleep` does, in a task that nobody waits for: a test's clock does not move because of it.

        The time in which the machine was suspended counts. It is noticed at most five seconds after that.
        """
        end, moment = self.now() + duration, self.monotonic() + duration.total_seconds()
        # The first of the two: monotonic time stands still in a suspended machine, and the time may be set back.
        while (left := min((end - self.now()).total_seconds(), moment - self.monotonic())) > 0:  # noqa: ASYNC110 - time makes no event
            await asyncio.sleep(min(left, _LONGEST_SLEEP))
