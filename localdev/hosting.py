"""Runs an app in the local Functions host, as a child process."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from localdev.children import OWN_GROUP, stop
from localdev.errors import StartFailed

ROOT = Path(__file__).parent.parent
_TAIL = 30  # log lines in an error message
_STOP_SECONDS = 15  # more than the 10 s that the host gives running functions
_END_SECONDS = 5


@dataclass(frozen=True, slots=True)
class RunningHost:
    """An app that runs in the local Functions host."""

    url: str
    process: Process

    async def ended(self) -> None:
        """Wait until the host ends, which it does only when it cannot continue. Raises StartFailed then."""
        raise StartFailed(f"the local Functions host ended with exit code {await self.process.wait()}")

    async def invoke(self, function: str, text: str = "") -> None:
        """Run a function now: `POST /admin/functions/<name>`, as with Core Tools."""
        await invoke(self.url, function, text)


async def invoke(url: str, function: str, text: str = "") -> None:
    """Make the host at `url` run a function now. Raises aiohttp.ClientError."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/admin/functions/{function}", json={"input": text}) as response,
    ):
        response.raise_for_status()


@asynccontextmanager
async def host(
    environ: Mapping[str, str],
    *,
    app: Path = ROOT,
    port: int = 0,
    trace: bool = False,
    on_line: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[RunningHost]:
    """Run an app in the local Functions host. Port 0 means a free port.

    The host is a child process that ends with this one, also when this one is killed. At the end of the block, running
    functions have 10 s to finish. With `trace`, it logs the spans of the app. `on_line` gets each line that the host
    and the app write. Raises StartFailed, with the last of these lines.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "localdev.host", "--app", str(app), "--port", str(port), "--stdin-from-parent", *["--trace"] * trace),
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={
            **os.environ,
            **environ,
            "PYTHONUTF8": "1",
        },  # flow names contain arrows, which some code pages do not have
        **OWN_GROUP,
    )
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("the pipes were asked for")
    tail: deque[str] = deque(maxlen=_TAIL)

    async def read(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace").rstrip()
            tail.append(text)
            on_line(text)

    readers = [asyncio.create_task(read(process.stderr))]
    try:
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            on_line(text)
            if text.startswith("Host started:"):
                break
        else:
            await readers[0]
            raise StartFailed("\n  ".join(["The local Functions host did not start. Its last lines:", *tail]))
        readers.append(asyncio.create_task(read(process.stdout)))
        yield RunningHost(url=text.rpartition(" on ")[2], process=process)
    finally:
        process.stdin.write(b"stop\n")
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            await stop(process, _END_SECONDS)
        await asyncio.gather(*readers)
