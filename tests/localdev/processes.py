"""Runs Python programs in processes of their own, as a shell does."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from localdev.hosting import ROOT

# `python -m localdev`, with its data in the folder that the environment variable LOCAL names.
LOCALDEV = """
import os
from pathlib import Path
from datasync.cli import local_settings
from localdev.cli import main

main.LOCAL = Path(os.environ["LOCAL"])
local_settings.STARTED = main.LOCAL / "started.json"
main.main()
"""


def data_of(folder: Path) -> Path:
    """Return the folder of the data of the processes that have their temporary files in `folder`."""
    return folder.with_suffix(".local")


@dataclass(slots=True)
class Started:
    """A process in a process group of its own, as a shell starts it, and the text it has written so far."""

    process: Process
    output: list[str] = field(default_factory=list)

    def has_written(self, text: str) -> bool:
        return any(text in line for line in self.output)

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to the whole process group, as a terminal does at Ctrl-C."""
        os.killpg(self.process.pid, number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncGenerator[Started]:
    """Start Python with these arguments. At the end of the block it is killed, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "LOCAL": str(data_of(folder)), "PYTHONUNBUFFERED": "1"},
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout
    running = Started(process)

    async def read(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            running.output.append(line.decode().rstrip())

    reader = asyncio.create_task(read(process.stdout))
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reader


async def descendants(ancestor: int) -> dict[int, str]:
    """Return the commands of all descendants of a process, by process id."""
    listing = await asyncio.create_subprocess_exec("ps", "-A", "-o", "pid=,ppid=,stat=,command=", stdout=PIPE)
    text, _ = await listing.communicate()
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for line in text.decode().splitlines():
        pid, parent, state, command = line.split(maxsplit=3)
        if not state.startswith("Z"):
            parents[int(pid)], commands[int(pid)] = int(parent), command
    below = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: commands[pid] for pid in below - {ancestor}}


async def alive(pids: set[int]) -> set[int]:
    """Return the processes that still run."""
    return pids & (await descendants(0)).keys()
