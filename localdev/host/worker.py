"""Runs the app on Microsoft's worker library, in a thread with an event loop of its own.

The event loop of the host (polls, renewals, deletes, signals) runs in the main thread. A function that blocks delays
other functions, as on Azure, but not the host. The invocation's own task sets the result, because a callback would run
only when the app's event loop is free again.

The real host can end a function that never returns, or that continues after its timeout: it restarts the worker
process. The local host cannot. If the real worker process dies (out of memory, or `os._exit` with another code than 0
in a function), the host lives on: the running invocations fail at once, their messages are visible again after
`visibilityTimeout`, and a new worker starts. Here the worker's death is the death of the host: the messages come back
after their hiding time. In both cases their dequeue count is higher.
Sources: Azure/azure-functions-host, WorkerProcess.cs (OnProcessExited), RpcFunctionInvocationDispatcher.cs
(WorkerError), GrpcWorkerChannel.cs (TryFailExecutions).
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import azure_functions_runtime
import azure_functions_runtime.native_invocation
from azure_functions_runtime.utils.executor import invocation_id_cv

from localdev.host.errors import HostError

_library: Any = azure_functions_runtime  # has no type information
LIBRARY_LOGGER = "azure.functions"

GRACE = timedelta(seconds=2)
"""The time that a cancelled function has to end."""


@dataclass(frozen=True, slots=True)
class Datum:
    """A value for a function. It has the attributes of the library's class of this name."""

    value: str | bytes | Mapping[str, Any]
    type: Literal["string", "bytes", "json", "http"]


@dataclass(frozen=True, slots=True)
class Invoked:
    """The end of an invocation."""

    error: str | None
    """The error with the traceback; None if the function succeeded."""
    value: Any = None
    """The library's datum of the returned value; None if the function has no `$return` binding."""

    @property
    def succeeded(self) -> bool:
        """Whether the function succeeded."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Retry:
    """The number of an invocation among the retries of its function, from 0, and their limit (-1: none)."""

    count: int
    max_count: int


NOT_A_RETRY = Retry(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryOptions:
    """A retry policy (`@app.retry`) as the library reports it. Which intervals are set depends on the strategy."""

    retry_strategy: str
    max_retry_count: int
    delay_interval: timedelta | None = None
    minimum_interval: timedelta | None = None
    maximum_interval: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFunction:
    """A function that the worker library has found."""

    name: str
    id: str
    bindings: tuple[str, ...]
    """Each a JSON object, as in a function.json."""
    retry_options: RetryOptions | None = None


class _BindingInfo(SimpleNamespace):
    # The values of BindingDirection and DataType of azure.functions.
    inout = 2
    out = 1
    undefined = 0


class _StatusResult(SimpleNamespace):
    Failure = 0
    Success = 1


# For the real host the library builds protobuf messages. Objects with the same attributes work too.
_PROTOS = SimpleNamespace(
    BindingInfo=_BindingInfo,
    FunctionMetadataResponse=SimpleNamespace,
    RpcException=SimpleNamespace,
    RpcFunctionMetadata=SimpleNamespace,
    RpcRetryOptions=RetryOptions,
    StatusResult=_StatusResult,
    WorkerInitResponse=SimpleNamespace,
    WorkerMetadata=SimpleNamespace,
)


_executing: set[str] = set()
"""Ids of the invocations that are executing now."""


def current_invocation() -> str | None:
    """Return the id of the invocation in which the caller runs, if it is executing.

    The library keeps the invocation's id in a context variable, which the invocation's tasks inherit. A task that
    outlives its invocation keeps the id, but that invocation is over.
    """
    current: str | None = invocation_id_cv.get()
    return current if current in _executing else None


class Worker:
    """Indexes one app, then runs its functions. One for each process: the library keeps its state in globals."""

    def __init__(self, on_death: Callable[[BaseException], object]) -> None:
        self._loop = asyncio.new_event_loop()
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Start the thread of the app."""
        _library.start_threadpool_executor()  # for functions that are not async
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except BaseException as death:  # noqa: BLE001 - the host must know of it, also of SystemExit
            self._on_death(death)
        else:
            self._on_death(RuntimeError("it was stopped"))

    def call[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine function on the app's event loop. Cancelling the future cancels the coroutine."""
        result: Future[T] = Future()

        async def run() -> None:
            try:
                result.set_result(await work())
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                if not result.cancelled():
                    result.set_exception(error)

        def ended(scheduled: Future[None]) -> None:
            # A function that cancels all tasks can cancel this one before its first step.
            if scheduled.cancelled() and not result.done():
                result.set_exception(asyncio.CancelledError())

        scheduled = asyncio.run_coroutine_threadsafe(run(), self._loop)
        scheduled.add_done_callback(ended)
        result.add_done_callback(lambda future: scheduled.cancel() if future.cancelled() else None)
        return result

    async def index(self, app: Path) -> list[IndexedFunction]:
        """Import the app's function_app.py and return its functions.

        Raises:
            HostError: the file is missing, or the library rejected the app; the message has the whole traceback.

        """
        script = os.environ.get("PYTHON_SCRIPT_FILE_NAME", "function_app.py")
        if not (app / script).exists():
            raise HostError(f"{app} has no {script}. Give --app the directory of a Python v2 function app")
        # Appended, as on Azure: the app cannot replace the libraries of the worker.
        sys.path.append(str(app))
        functions = await asyncio.wrap_future(self.call(lambda: _index(app)))
        _check_origin(app / script)
        return functions

    async def invoke(
        self,
        invocation_id: str,
        function_id: str,
        argument: tuple[str, Datum],
        metadata: Mapping[str, Datum],
        retry: Retry,
    ) -> Invoked:
        """Run a function. When cancelled, cancel it, and give it GRACE to end: it may write that it was interrupted."""
        ended: Future[None] = Future()

        async def work() -> Invoked:
            try:
                return await _invoke(invocation_id, function_id, argument, metadata, retry)
            finally:
                ended.set_result(None)

        try:
            return await asyncio.wrap_future(self.call(work))
        except asyncio.CancelledError:
            await asyncio.wait({asyncio.wrap_future(ended)}, timeout=GRACE.total_seconds())
            raise


def _check_origin(script: Path) -> None:
    imported = Path(sys.modules[script.stem].__file__ or "")
    if not imported.samefile(script):
        raise HostError(
            f"the app was imported from {imported}, not from {script.parent}. Remove that directory from PYTHONPATH"
        )


async def _index(app: Path) -> list[IndexedFunction]:
    init = SimpleNamespace(capabilities={}, function_app_directory=str(app))
    request = SimpleNamespace(
        request=SimpleNamespace(worker_init_request=init), properties={"host": "127.0.0.1", "protos": _PROTOS}
    )
    try:
        response = await _library.worker_init_request(request)
    except SystemExit:
        raise HostError(f"{traceback.format_exc()}the app ended the process while it was imported") from None
    if response.result.status != _StatusResult.Success:
        exception = response.result.exception
        raise HostError(f"{_from_app(exception.stack_trace, app)}the app was rejected: {exception.message}")
    metadata = await _library.functions_metadata_request(request)
    return [
        IndexedFunction(
            name=one.name,
            id=one.function_id,
            bindings=tuple(one.raw_bindings),
            retry_options=one.retry_options,
        )
        for one in metadata.function_metadata_results or ()
    ]


def _from_app(trace: str, app: Path) -> str:
    """Return the last traceback in a text, from function_app.py on. Before that, the library calls itself."""
    _, head, calls = trace.rpartition("Traceback (most recent call last):\n")
    at = calls.find(f'  File "{app / "function_app.py"}"')
    return head + calls[at:] if at >= 0 else trace


async def _invoke(
    invocation_id: str,
    function_id: str,
    argument: tuple[str, Datum],
    metadata: Mapping[str, Datum],
    retry: Retry,
) -> Invoked:
    _executing.add(invocation_id)
    try:
        ok, value, _, _, trace = await _library.native_invocation.invocation_request_native(
            invocation_id,
            function_id,
            [argument],
            dict(metadata),
            retry_count=retry.count,
            max_retry_count=retry.max_count,
        )
    except (SystemExit, KeyboardInterrupt):
        return Invoked(traceback.format_exc())
    finally:
        _executing.discard(invocation_id)
    return Invoked(None, value) if ok else Invoked(str(trace))


def quieten() -> None:
    """Drop the library's log records of failures and import errors, which the host logs itself.

    The library's warning about HTTP authorization is dropped too: it comes with every app without an HTTP trigger.
    """
    library = logging.getLogger(LIBRARY_LOGGER)
    library.setLevel(logging.WARNING)
    library.addFilter(lambda record: record.levelno < logging.ERROR)
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Auth level is not applied"))
