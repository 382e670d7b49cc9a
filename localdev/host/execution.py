"""Runs one invocation of a function, and logs it as the real host does."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Protocol

from localdev.host.app import Function
from localdev.host.worker import NOT_A_RETRY, Datum, Invoked, Retry, Worker

log = logging.getLogger(__name__)

BY_HAND = "This function was programmatically called via the host APIs."

type Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Starts a task that the host waits for when it stops. An error in the task stops the host."""


class Listener(Protocol):
    """The trigger of one function."""

    async def run(self, stopping: asyncio.Event, spawn: Spawn) -> None:
        """Listen until `stopping` is set. Invocations run in tasks of `spawn`."""

    async def run_by_hand(self, text: str, stopping: asyncio.Event) -> None:
        """Run the function now, with a text as its trigger's data. After `stopping` is set, nothing new starts."""


class Executor:
    """Runs functions on the worker, with the functionTimeout of host.json.

    At the timeout the invocation fails, and an `async` function is cancelled. The real host restarts the worker then,
    which also ends all other running functions.
    """

    def __init__(self, worker: Worker, timeout: timedelta | None) -> None:
        self._worker = worker
        self._timeout = timeout

    async def run(
        self,
        function: Function,
        data: Datum,
        metadata: Mapping[str, Datum],
        *,
        reason: str,
        details: str = "",
        retry: Retry = NOT_A_RETRY,
    ) -> Invoked:
        """Run a function with its trigger's data."""
        invocation_id = str(uuid.uuid4())
        log.info("Executing 'Functions.%s' (Reason='%s', Id=%s)", function.name, reason, invocation_id)
        if details:
            log.info("Trigger Details: %s", details)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout.total_seconds() if self._timeout else None):
                ended = await self._worker.invoke(
                    invocation_id, function.id, (function.parameter, data), metadata, retry
                )
        except TimeoutError:
            ended = Invoked(f"Timeout value of {self._timeout} was exceeded by function 'Functions.{function.name}'")
        milliseconds = round((time.perf_counter() - started) * 1000)
        outcome = f"({'Failed' if ended.error else 'Succeeded'}, Id={invocation_id}, Duration={milliseconds}ms)"
        if ended.error:
            text = ended.error.rstrip()
            log.error("Executed 'Functions.%s' %s\n%s", function.name, outcome, text, extra={"ended": invocation_id})
        else:
            log.info("Executed 'Functions.%s' %s", function.name, outcome)
        return ended
