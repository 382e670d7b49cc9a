"""Runs an app in the local Functions host, as a child process."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from localdev.children import OWN_GROUP, stop
from localdev.errors import StartFailed

ROOT = Path(__file__).parent.parent
_TAIL = 30  # log lines in an error message
STOP_SECONDS = 15.0  # more than the 10 s that the host gives running functions
_END_SECONDS = 5
_LONGEST_LINE = 1 << 24  # bytes
READY = "Host started:"


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
    child = await HostProcess.spawn(environ, app=app, port=port, options=["--trace"] * trace, on_line=on_line)
    try:
        url = await child.started()
        yield RunningHost(url=url, process=child.process)
    finally:
        await child.end()


class HostProcess:
    """A child process with the host, also one that stands by or that has not started yet."""

    def __init__(self, process: Process, on_line: Callable[[str], None], *, standby: bool) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("the pipes were asked for")
        self.process = process
        self._input, self._output = process.stdin, process.stdout
        self._on_line = on_line
        self._stands_by = standby
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._readers = [asyncio.create_task(self._read(process.stderr))]

    @classmethod
    async def spawn(
        cls,
        environ: Mapping[str, str],
        *,
        app: Path,
        port: int,
        on_line: Callable[[str], None],
        options: Sequence[str] = (),
        standby: bool = False,
    ) -> Self:
        """Start the process. `options` are further options of `python -m localdev.host`.

        With `standby`, it imports the libraries of the app and waits for `go`.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "localdev.host", "--app", str(app), "--port", str(port), "--stdin-from-parent"),
            *options,
            *["--standby"] * standby,
            cwd=ROOT,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LONGEST_LINE,
            env={
                **os.environ,
                **environ,
                "PYTHONUTF8": "1",
            },  # flow names contain arrows, which some code pages do not have
            **OWN_GROUP,
        )
        return cls(process, on_line, standby=standby)

    def go(self) -> None:
        """Start the host of a process that stands by."""
        self._stands_by = False
        self._input.write(b"go\n")

    async def started(self) -> str:
        """Wait until the host has started, and return its URL. Raises StartFailed, with the last lines of the host."""
        async for line in self._output:
            text = line.decode(errors="replace").rstrip()
            self._on_line(text)
            if text.startswith(READY):
                self._readers.append(asyncio.create_task(self._read(self._output)))
                return text.rpartition(" on ")[2]
        await self._readers[0]
        raise StartFailed("\n  ".join(["The local Functions host did not start. Its last lines:", *self._tail]))

    async def end(self, grace: float = STOP_SECONDS) -> None:
        """Stop the host. Running functions are cancelled after `grace` seconds."""
        if self.process.returncode is None:
            if self._stands_by:
                self.process.kill()
            else:
                self._input.write(b"stop\n")
        try:
            async with asyncio.timeout(grace):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            await stop(self.process, _END_SECONDS)
        await asyncio.gather(*self._readers)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            self._on_line(text)
