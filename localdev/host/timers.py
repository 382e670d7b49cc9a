"""The timer trigger: NCRONTAB in UTC, one run at a time, with the retries of `@app.retry`.

If occurrences pass during the previous run and its retries, or while the machine sleeps or is blocked, one run follows
at once. `past_due` is false: the real host sets it only for an occurrence that it missed while it was stopped. It finds
these in a blob with the status of the schedule. Here the status is in memory: occurrences that pass while the host is
stopped get no run.

A failed run is repeated by the host's process after the delay of the retry policy, with the same data and as a new
invocation, up to `max_retry_count` times. Runs of admin calls are repeated in the same way. The next occurrence is
computed from the time when the first attempt started, after the last one has ended. When the host stops, it does not
wait for the next retry, and the occurrence counts as done. Without a policy, a failed run is not repeated before the
next occurrence. The function's context has the number of the retry, but here not the error of the previous attempt.
Sources: Azure/azure-webjobs-sdk-extensions, TimerListener.cs (InvokeJobFunction); Azure/azure-webjobs-sdk,
FunctionExecutorExtensions.cs (the loop) and ExponentialBackoffRetryAttribute.cs.
"""

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from localdev.host.app import Function, TimerTrigger
from localdev.host.backoff import Backoff
from localdev.host.execution import BY_HAND, Executor, Spawn
from localdev.host.worker import Datum, Retry

log = logging.getLogger(__name__)

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
            await self._fire(stopping, details="UnscheduledInvocationReason: RunOnStartup")
        while self._next is not None and not stopping.is_set():
            remaining = (self._next - self._now()).total_seconds()
            if remaining > 0:
                await _pause(min(remaining, self._nap.total_seconds()), stopping)
            else:
                await self._fire(stopping)
        await stopping.wait()

    async def run_by_hand(self, text: str, stopping: asyncio.Event) -> None:  # noqa: ARG002 - a timer has no input
        """Run the function now, with its retries. Its schedule is not changed."""
        await self._run(stopping, reason=BY_HAND)

    async def _fire(self, stopping: asyncio.Event, *, details: str = "") -> None:
        now = self._now()
        await self._run(stopping, reason=f"Timer fired at {now.isoformat()}", details=details)
        self._last = now
        self._next = self._trigger.schedule.next_after(now)

    async def _run(self, stopping: asyncio.Event, *, reason: str, details: str = "") -> None:
        """Run the function until it succeeds, its retries are used up, or `stopping` is set."""
        retries = self._trigger.retries
        backoff = Backoff(retries.minimum, retries.maximum)
        data = self._data()
        for count in itertools.count():
            retry = Retry(count, retries.max_count)
            ended = await self._executor.run(self._function, data, {}, reason=reason, details=details, retry=retry)
            if ended.succeeded:
                return
            if count == retries.max_count:
                if count:
                    log.error("Function execution failed after '%d' retries.", count)
                return
            delay = backoff.next()
            log.debug(
                "Waiting for `%s` before retrying function execution. Next attempt: '%d'. Max retry count: '%d'.",
                delay,
                count + 1,
                retries.max_count,
            )
            await _pause(delay.total_seconds(), stopping)
            if stopping.is_set():
                log.warning("Invocation cancelled - exiting retry loop.")
                return

    def _data(self) -> Datum:
        last = self._last.isoformat() if self._last else _NEVER
        status = {"Last": last, "Next": self._next.isoformat() if self._next else _NEVER, "LastUpdated": last}
        info = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": status if self._trigger.use_monitor else None,
            "IsPastDue": False,
        }
        return Datum(json.dumps(info), "json")


async def _pause(seconds: float, stopping: asyncio.Event) -> None:
    """Wait, but not after `stopping` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
