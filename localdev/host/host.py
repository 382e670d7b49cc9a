"""The host: starts the app, listens for its triggers, and lets running functions finish when it stops."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from localdev.host import admin, worker
from localdev.host.app import Function, HttpTrigger, QueueTrigger, TimerTrigger, functions_of
from localdev.host.config import HostConfig, LocalSettings
from localdev.host.connections import queue_service
from localdev.host.errors import HostError
from localdev.host.execution import Executor, Listener
from localdev.host.http import HttpListener, for_this_machine
from localdev.host.queues import QueueListener
from localdev.host.timers import TimerListener
from localdev.web import serving

log = logging.getLogger(__name__)

DEFAULT_PORT = 7071


class Host:
    """Runs one function app until it is stopped, or until one of its parts fails."""

    def __init__(self, app: Path, *, port: int | None, drain: timedelta) -> None:
        self._app = app.resolve()
        self._port = port
        self._drain = drain
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._death: BaseException | None = None

    def stop(self) -> None:
        """Stop listening, and let running functions finish, for a bounded time. A second call changes nothing."""
        self._stopping.set()

    def stop_now(self) -> None:
        """Stop listening, and cancel running functions."""
        self._hurry.set()
        self.stop()

    def interrupt(self) -> None:
        """Stop as `stop` does. A second call stops as `stop_now` does."""
        if self._stopping.is_set():
            self.stop_now()
        self.stop()

    async def run(self) -> None:
        """Start the app and serve it until `stop`.

        Raises:
            HostError: the app cannot start, a listener failed, or the app's event loop ended.
            PortTaken: the port is in use.

        """
        settings = LocalSettings.load(self._app / "local.settings.json")
        settings.apply(os.environ)
        config = HostConfig.load(self._app / "host.json", os.environ)
        logging.getLogger().setLevel(config.log_level)
        os.chdir(self._app)  # as Core Tools do: the app can open its files by relative paths
        loop = asyncio.get_running_loop()
        user = worker.Worker(lambda death: loop.call_soon_threadsafe(self._worker_died, death))
        user.start()
        if (functions := await self._indexed(user)) is None:
            return
        async with AsyncExitStack() as stack:
            executor = Executor(user, config.function_timeout)
            listeners = {
                one.name: listener for one in functions if (listener := await _listener(one, config, executor, stack))
            }
            http = HttpListener(functions, config.http, executor, self._spawn, self._stopping)
            application = web.Application(client_max_size=config.http.body_limit, middlewares=[for_this_machine])
            application.add_routes(
                [
                    *admin.routes(
                        functions,
                        lambda function, text: self._spawn(listeners[function.name].run_by_hand(text, self._stopping)),
                    ),
                    web.route("*", "/{path:.*}", http.answer),
                ]
            )
            url = await stack.enter_async_context(
                serving("The local Functions host", application, port=self._port_of(settings))
            )
            listening = [function for function in functions if not function.disabled]
            for function in listening:
                if function.name in listeners:
                    self._spawn(listeners[function.name].run(self._stopping, self._spawn))
            print(_ready(listening, url), flush=True)
            await self._stopping.wait()
            if not self._hurry.is_set():
                log.info("Stopping: running functions have %g s to finish", self._drain.total_seconds())
            await self._drained(config.queues.hiding)
        if self._death is not None:
            raise self._death

    async def _indexed(self, user: worker.Worker) -> list[Function] | None:
        """Return the app's functions, or None if the host was stopped first."""
        index = asyncio.create_task(user.index(self._app))
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((index, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not index.done():
            return None
        functions = functions_of(index.result(), os.environ)
        for function in functions:
            if function.disabled:
                log.warning("Function '%s' is disabled: only admin calls run it", function.name)
        return functions

    def _port_of(self, settings: LocalSettings) -> int:
        chosen = (self._port, settings.port, DEFAULT_PORT)
        return next(port for port in chosen if port is not None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task. An error in it stops the host."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()):
                self._die(error)

        task.add_done_callback(ended)
        return task

    def _die(self, death: BaseException) -> None:
        self._death = self._death or death
        self._stopping.set()

    def _worker_died(self, death: BaseException) -> None:
        self._die(HostError(f"the event loop that functions run on has ended: {death!r}"))
        self._hurry.set()  # no running function can finish

    async def _drained(self, hiding: timedelta) -> None:
        """Wait for running functions for a bounded time, then cancel the rest."""
        hurry = asyncio.create_task(self._hurry.wait())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain.total_seconds()):
                while self._tasks and not hurry.done():
                    await asyncio.wait({hurry, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if left := set(self._tasks):
            log.warning(
                "Cancelled the functions that were still running. Their messages stay hidden for up to %g s",
                hiding.total_seconds(),
            )
            for task in left:
                task.cancel()
            await asyncio.wait(left)


async def _listener(
    function: Function, config: HostConfig, executor: Executor, stack: AsyncExitStack
) -> Listener | None:
    """Return the listener of a function; None for HTTP functions, which have one for all."""
    match function.trigger:
        case QueueTrigger() as trigger:
            service = await queue_service(trigger.connection, stack)
            return QueueListener(function, trigger, service, config.queues, executor)
        case TimerTrigger() as trigger:
            return TimerListener(function, trigger, executor)
        case HttpTrigger():
            return None


def _ready(functions: Sequence[Function], url: str) -> str:
    """Return the line that reports the host as ready, with its functions and its address."""
    what = "1 function" if len(functions) == 1 else f"{len(functions)} functions"
    if names := ", ".join(f"{function.name} {function.kind}" for function in functions):
        what = f"{what} ({names})"
    return f"Host started: {what} on {url}"
