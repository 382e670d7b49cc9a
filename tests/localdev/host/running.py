"""Temporary function apps, and the host that runs them, as a process."""

import asyncio
import json
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.azurite import Storage

ROOT = Path(__file__).parents[3]

# The start of each app. A function notes facts with seen(), and the test reads them with App.seen().
HEADER = """
import asyncio, json, logging, os, sys, time
from pathlib import Path
import azure.functions as func

app = func.FunctionApp()

def seen(**facts):
    with open("seen", "a") as file:
        file.write(json.dumps(facts, default=str) + "\\n")
"""


@dataclass(frozen=True, slots=True)
class Queues:
    """The queue of a test, and its poison queue."""

    connection_string: str
    name: str
    jobs: QueueClient
    poison: QueueClient

    async def put(self, *bodies: str | bytes) -> None:
        """Send messages in the encoding of the trigger."""
        for body in bodies:
            await self.jobs.send_message(b64encode(body.encode() if isinstance(body, str) else body).decode())

    async def empty(self) -> bool:
        """Return whether the queue has no messages, hidden ones included."""
        return not (await self.jobs.get_queue_properties()).approximate_message_count

    async def poisoned(self) -> list[str | None]:
        """Return the raw texts in the poison queue."""
        try:
            return [message.content for message in await self.poison.peek_messages(32)]
        except ResourceNotFoundError:
            return []  # the host creates the queue at its first use


@asynccontextmanager
async def new_queues(storage: Storage) -> AsyncGenerator[Queues]:
    """Make a queue with a unique name in Azurite. The host creates its poison queue."""
    name = f"jobs-{uuid.uuid4().hex[:12]}"
    async with QueueServiceClient.from_connection_string(storage.connection_string) as service:
        jobs, poison = service.get_queue_client(name), service.get_queue_client(f"{name}-poison")
        await jobs.create_queue()
        yield Queues(storage.connection_string, name, jobs, poison)
        for queue in (jobs, poison):
            with suppress(ResourceNotFoundError):
                await queue.delete_queue()


@dataclass(slots=True)
class RunningHost:
    """The process of the host, and its output so far."""

    process: Process
    ready: str
    printed: list[str] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address in the ready line."""
        return self.ready.split()[-1]

    def has_logged(self, text: str, times: int = 1) -> bool:
        """Return whether at least this number of lines contain a text."""
        return sum(text in line for line in self.logged) >= times

    async def exit_code(self, *signals: signal.Signals) -> int:
        """Send signals, if any, and wait until the process has ended."""
        for one in signals:
            self.process.send_signal(one)
        async with asyncio.timeout(30):
            return await self.process.wait()


@dataclass(frozen=True, slots=True)
class App:
    """A function app in a temporary folder."""

    folder: Path
    environ: dict[str, str]

    @classmethod
    def with_storage(cls, folder: Path, storage: Storage, **environ: str) -> Self:
        """Return an app with a storage account. Its host polls fast."""
        interval = "AzureFunctionsJobHost__extensions__queues__maxPollingInterval"
        return cls(folder, {"AzureWebJobsStorage": storage.connection_string, interval: "00:00:00.100", **environ})

    def write(self, functions: str, *, host: dict[str, Any] | None = None, settings: Any = None) -> None:
        """Write function_app.py, host.json and, if given, local.settings.json."""
        (self.folder / "function_app.py").write_text(HEADER + functions)
        (self.folder / "host.json").write_text(json.dumps({"version": "2.0", **(host or {})}))
        if settings is not None:
            (self.folder / "local.settings.json").write_text(json.dumps(settings))

    def seen(self) -> list[dict[str, Any]]:
        """Return the facts that the functions have noted."""
        file = self.folder / "seen"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def let_go(self) -> None:
        """Create the file that the function waits for."""
        (self.folder / "go").touch()

    @asynccontextmanager
    async def running(self, *arguments: str, port: int | None = 0) -> AsyncGenerator[RunningHost]:
        """Run the host until the block ends."""
        async with self.starting(*arguments, port=port) as process:
            assert process.stdout
            assert process.stderr
            host = RunningHost(process, ready="")
            readers = [asyncio.create_task(_collect(process.stderr, host.logged))]
            try:
                async with asyncio.timeout(30):
                    host.ready = (await process.stdout.readline()).decode().strip()
                assert host.ready.startswith("Host started: "), "\n".join(host.logged)
                readers.append(asyncio.create_task(_collect(process.stdout, host.printed)))
                yield host
            finally:
                await _stop(process)
                await asyncio.gather(*readers)

    async def refused(self, *, port: int = 0) -> list[str]:
        """Run the host with an app that it refuses. Return the lines on standard error."""
        async with self.starting(port=port) as process, asyncio.timeout(30):
            assert process.stderr
            errors = await process.stderr.read()
            assert await process.wait() == 1
        return errors.decode().splitlines()

    @asynccontextmanager
    async def starting(self, *arguments: str, port: int | None = 0) -> AsyncGenerator[Process]:
        """Start the host, and end its process when the block ends."""
        if port is not None:
            arguments = ("--port", str(port), *arguments)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "localdev.host", "--app", str(self.folder), "--stdin-from-parent", *arguments),
            cwd=ROOT,
            env={**_outer_environ(), **self.environ},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            yield process
        finally:
            await _stop(process)


async def _stop(process: Process) -> None:
    assert process.stdin
    process.stdin.close()  # --stdin-from-parent
    try:
        async with asyncio.timeout(5):
            await process.wait()
    except TimeoutError:
        process.kill()
    await process.wait()


def _outer_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().startswith("AZURE")}


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    async for line in stream:
        lines.append(line.decode().rstrip())  # noqa: PERF401 - each line must be visible at once
