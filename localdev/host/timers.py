"""The timer trigger: NCRONTAB in UTC, one run at a time.

If occurrences pass during the previous run, or while the machine sleeps or is blocked, one run with `past_due` follows.
A failed run is not repeated before the next occurrence. The real host keeps the status of the schedule in a blob, finds
missed occurrences when it starts, and sets `past_due` only then. Here the status is in memory: occurrences that pass
while the host is stopped get no run.
Source: Azure/azure-webjobs-sdk-extensions, TimerListener.cs.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from localdev.host.app import Function, TimerTrigger
from localdev.host.execution import BY_HAND, Executor, Spawn
from localdev.host.worker import Datum

log = logging.getLogger(__name__)

LATE = timedelta(seconds=1)
"""An occurrence that is later than this is past due."""
NAP = timedelta(seconds=10)
_NEVER = "0001-01-01T00:00:00+00:00"


def utc_now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)


class TimerListener:
    """Runs one function on its schedule.

    `now` is the wall clock (aware). It is read at least once per `nap`, because the event loop's clock stops while the
    machine sleeps.
    """

    def __init__(
        self,
        function: Function,
        trigger: TimerTrigger,
        executor: Executor,
        *,
        now: Callable[[], datetime] = utc_now,
        nap: timedelta = NAP,
    ) -> None:
        self._function = function
        self._trigger = trigger
        self._executor = executor
        self._now = now
        self._nap = nap
        self._last: datetime | None = None
        self._next = trigger.schedule.next_after(now())

    async def run(self, stopping: asyncio.Event, spawn: Spawn) -> None:  # noqa: ARG002 - runs one at a time, in this task
        """Run the function on its schedule until `stopping` is set. A run that has started finishes first."""
        if self._next is None:
            log.warning("Function '%s' never runs: no day matches %s", self._function.name, self._trigger.schedule.text)
        else:
            log.info("The next run of '%s' is at %s", self._function.name, self._next.isoformat())
        if self._trigger.run_on_startup:
            await self._fire(why="RunOnStartup")
        while self._next is not None and not stopping.is_set():
            remaining = (self._next - self._now()).total_seconds()
            if remaining > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), min(remaining, self._nap.total_seconds()))
            else:
                await self._fire(why="IsPastDue" if timedelta(seconds=-remaining) > LATE else "")
        await stopping.wait()

    async def run_by_hand(self, text: str) -> None:  # noqa: ARG002 - a timer has no input
        """Run the function once now. Its schedule is not changed."""
        await self._invoke(reason=BY_HAND, details="", past_due=False)

    async def _fire(self, *, why: str) -> None:
        now = self._now()
        await self._invoke(
            reason=f"Timer fired at {now.isoformat()}",
            details=why and f"UnscheduledInvocationReason: {why}",
            past_due=why == "IsPastDue",
        )
        self._last = now
        self._next = self._trigger.schedule.next_after(now)

    async def _invoke(self, *, reason: str, details: str, past_due: bool) -> None:
        last = self._last.isoformat() if self._last else _NEVER
        info = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": {
                "Last": last,
                "Next": self._next.isoformat() if self._next else _NEVER,
                "LastUpdated": last,
            }
            if self._trigger.use_monitor
            else None,
            "IsPastDue": past_due,
        }
        await self._executor.run(self._function, Datum(json.dumps(info), "json"), {}, reason=reason, details=details)
