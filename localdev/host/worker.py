"""User code on Microsoft's worker library, on an event loop and a thread of its own.

The host's loop (polls, renewals, deletes, signals) runs in the main thread, so a function that blocks stalls other
functions, as on Azure, but never the host. Results are handed over by the invocation itself: a callback would wait
until the user's loop is free again.

Unlike the real host, which restarts the worker process, nothing here can end a function that blocks for ever or goes
on after its timeout.
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
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import azure_functions_runtime
import azure_functions_runtime.native_invocation
from azure_functions_runtime.utils.executor import invocation_id_cv

from localdev.host.errors import HostError

_library: Any = azure_functions_runtime  # it has no type information
LIBRARY_LOGGER = "azure.functions"


@dataclass(frozen=True, slots=True)
class Datum:
    """A value on its way to a function, in the form of the library's own class of this name."""

    value: str | bytes
    type: Literal["string", "bytes", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFunction:
    """A function as the worker library found it."""

    name: str
    id: str
    bindings: tuple[str, ...]
    """Each a JSON object, as in a function.json."""
    retried: bool
    """It has a retry policy (`@app.retry`)."""


class _BindingInfo(SimpleNamespace):
    # The values of azure.functions' own BindingDirection and DataType.
    inout = 2
    out = 1
    undefined = 0


class _StatusResult(SimpleNamespace):
    Failure = 0
    Success = 1


# The library builds protobuf messages for the real host; plain attributes do as well.
_PROTOS = SimpleNamespace(
    BindingInfo=_BindingInfo,
    FunctionMetadataResponse=SimpleNamespace,
    RpcException=SimpleNamespace,
    RpcFunctionMetadata=SimpleNamespace,
    RpcRetryOptions=SimpleNamespace,
    StatusResult=_StatusResult,
    WorkerInitResponse=SimpleNamespace,
    WorkerMetadata=SimpleNamespace,
)


_executing: set[str] = set()
"""Ids of the invocations that are executing now."""


def in_invocation() -> bool:
    """Return whether the caller runs in an invocation that is executing.

    The library keeps the invocation's id in a context variable, which the invocation's tasks inherit. A task that
    outlives its invocation keeps the id, but that invocation is over.
    """
    return invocation_id_cv.get() in _executing


class Worker:
    """Indexes one app, then runs its functions. One per process: the library keeps its state in globals."""

    def __init__(self, on_death: Callable[[BaseException], object]) -> None:
        self._loop = asyncio.new_event_loop()
        self._on_death = on_death
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Start the thread that user code runs on."""
        _library.start_threadpool_executor()  # where functions that are not async run
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except BaseException as death:  # noqa: BLE001 - SystemExit too: the host must hear of it
            self._on_death(death)
        else:
            self._on_death(RuntimeError("it was stopped"))

    def call[T](self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine function on the user's loop; cancelling the future cancels it there."""
        handed_over: Future[T] = Future()

        async def run() -> None:
            try:
                handed_over.set_result(await work())
            except BaseException as error:  # noqa: BLE001 - to be raised where the result is awaited
                if not handed_over.cancelled():
                    handed_over.set_exception(error)

        scheduled = asyncio.run_coroutine_threadsafe(run(), self._loop)
        handed_over.add_done_callback(lambda future: scheduled.cancel() if future.cancelled() else None)
        return handed_over

    async def index(self, app: Path) -> list[IndexedFunction]:
        """Import the app's function_app.py and return its functions.

        Raises:
            HostError: there is none, or the library rejected it; with the whole traceback.

        """
        script = os.environ.get("PYTHON_SCRIPT_FILE_NAME", "function_app.py")
        if not (app / script).exists():
            raise HostError(f"{app} has no {script}: --app must name a Python v2 function app's directory")
        # Appended, as on Azure: an app cannot replace the libraries it runs on.
        sys.path.append(str(app))
        functions = await asyncio.wrap_future(self.call(lambda: _index(app)))
        _check_origin(app / script)
        return functions

    def invoke(
        self, invocation_id: str, function_id: str, argument: tuple[str, Datum], metadata: Mapping[str, Datum]
    ) -> "asyncio.Future[str | None]":
        """Run a function; the result is None when it succeeded, else its error with the traceback."""
        return asyncio.wrap_future(self.call(lambda: _invoke(invocation_id, function_id, argument, metadata)))


def _check_origin(script: Path) -> None:
    imported = Path(sys.modules[script.stem].__file__ or "")
    if not imported.samefile(script):
        raise HostError(f"the app was imported from {imported}, not from {script.parent}: take that off PYTHONPATH")


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
        raise HostError(f"{exception.stack_trace}the app was rejected: {exception.message}")
    metadata = await _library.functions_metadata_request(request)
    return [
        IndexedFunction(
            name=one.name,
            id=one.function_id,
            bindings=tuple(one.raw_bindings),
            retried=one.retry_options is not None,
        )
        for one in metadata.function_metadata_results or ()
    ]


async def _invoke(
    invocation_id: str, function_id: str, argument: tuple[str, Datum], metadata: Mapping[str, Datum]
) -> str | None:
    _executing.add(invocation_id)
    try:
        ok, _, _, _, trace = await _library.native_invocation.invocation_request_native(
            invocation_id, function_id, [argument], dict(metadata)
        )
    except (SystemExit, KeyboardInterrupt):
        return traceback.format_exc()
    finally:
        _executing.discard(invocation_id)
    return None if ok else str(trace)


def quieten() -> None:
    """Keep the library from logging what the host logs itself: each failure, and import errors.

    Its warning about HTTP authorization, given whenever an app has no HTTP trigger, goes too.
    """
    library = logging.getLogger(LIBRARY_LOGGER)
    library.setLevel(logging.WARNING)
    library.addFilter(lambda record: record.levelno < logging.ERROR)
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith("Auth level is not applied"))
