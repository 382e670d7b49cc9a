"""The end of `python -m localdev start`: running functions may finish, and all processes and files are removed."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from datasync.cli import local_settings
from datasync.cli.local_settings import started_settings
from datasync.errors import SettingsInvalid
from localdev.hosting import ROOT
from tests.localdev.host.running import App
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("node"),
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals to a process group"),
]

# `python -m localdev start` on free ports.
START = """
import os
from pathlib import Path
from localdev.cli import main as cli
from localdev.stack import Ports

cli.PORTS, cli.HOST_PORT = Ports(), 0
cli.STARTED = Path(os.environ["STARTED"])
cli.main()
"""

# One app in the host, started as `start` does it.
ONE_APP = """
import sys
from pathlib import Path
from localdev.cli import main as cli
from localdev.hosting import host

async def main():
    async with host({}, app=Path(sys.argv[1]), on_line=lambda line: print(line, flush=True)) as app:
        await app.invoke("work")
        await app.ended()

cli.run(cli.until_interrupted(main()))
"""

WAITING = """
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
async def work(timer: func.TimerRequest) -> None:
    seen(started=True)
    while not Path("go").exists():
        await asyncio.sleep(0.05)
    seen(finished=True)
"""


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the processes of a test create their temporary folders."""
    return tmp_path_factory.mktemp("temporary")


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


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def settings_of(folder: Path) -> Path:
    """Return the file of the settings for `--local`."""
    return folder.with_suffix(".json")


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncGenerator[Started]:
    """Start Python with these arguments. At the end of the block it is killed, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "STARTED": str(settings_of(folder)), "PYTHONUNBUFFERED": "1"},
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


@pytest.mark.parametrize("moment", ["starting", "running"])
async def test_a_kill_leaves_no_process_and_no_folder(
    temporary: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL, all child processes end, and the folder with the certificates and the key is removed.

    The command line finds the services with `--local` before, and not after.
    """
    monkeypatch.setattr(local_settings, "STARTED", settings_of(temporary))
    async with started(temporary, "-c", START, "start") as running:
        if moment == "starting":
            await wait_until(lambda: list(temporary.glob("*/server.key")), description="the certificates are written")
        else:
            await wait_until(lambda: running.has_written("Command line "), description="the app is running")
            assert started_settings()["COSMOS_CONNECTION_STRING"]
            assert len(await descendants(running.process.pid)) == 4, "Azurite, Cosmos DB, the host, the folder's owner"
        children = set(await descendants(running.process.pid))
        running.process.kill()
        await running.process.wait()
        assert children

        async def ended() -> bool:
            return not await alive(children) and not content(temporary)

        await wait_until(ended, description="no child process and no folder is left")
    with pytest.raises(SettingsInvalid, match="run `make start`"):
        started_settings()


async def test_a_kill_does_not_wait_for_running_functions(temporary: Path, bare_app: App) -> None:
    """After SIGKILL of its parent, the host ends at once, because the services of its functions end too."""
    bare_app.write(WAITING)
    async with started(temporary, "-c", ONE_APP, str(bare_app.folder)) as running:
        await wait_until(bare_app.seen, description="the function is running")
        children = set(await descendants(running.process.pid))
        running.process.kill()
        await running.process.wait()
        assert children

        async def ended() -> bool:
            return not await alive(children)

        await wait_until(ended, description="the host has ended", seconds=5)
    assert bare_app.seen() == [{"started": True}]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_an_interrupt_lets_running_functions_finish(
    temporary: Path, bare_app: App, number: signal.Signals
) -> None:
    """Ctrl-C is sent to a whole process group. A running function has time to finish, and the exit code is 0."""
    bare_app.write(WAITING)
    async with started(temporary, "-c", ONE_APP, str(bare_app.folder)) as running:
        await wait_until(bare_app.seen, description="the function is running")
        running.interrupt(number)
        await wait_until(lambda: running.has_written("Stopping: "), description="the host is stopping")
        bare_app.let_go()
        assert await running.exit_code() == 0
    assert bare_app.seen() == [{"started": True}, {"finished": True}]
    assert running.has_written("Executed 'Functions.work' (Succeeded")
    assert running.output[-1] == "Stopped."
    assert not running.has_written("Traceback")


async def test_a_second_interrupt_does_not_wait(temporary: Path, bare_app: App) -> None:
    """The second Ctrl-C ends a function that has not finished. The exit code is 130."""
    bare_app.write(WAITING)
    async with started(temporary, "-c", ONE_APP, str(bare_app.folder)) as running:
        await wait_until(bare_app.seen, description="the function is running")
        children = set(await descendants(running.process.pid))
        running.interrupt()
        await wait_until(lambda: running.has_written("Stopping: "), description="the host is stopping")
        running.interrupt()
        async with asyncio.timeout(5):
            assert await running.exit_code() == 130
        assert not await alive(children)
    assert bare_app.seen() == [{"started": True}]
    assert not running.has_written("Traceback")


@pytest.mark.parametrize("moment", ["aiohttp", "server.key", "Ctrl-C stops everything."])
async def test_an_interrupt_while_starting_shows_no_traceback(temporary: Path, moment: str) -> None:
    """Ctrl-C can come during the imports, the start of the emulators or the start of the host."""
    arguments = ["-X", "importtime", "-m", "localdev", "start"] if moment == "aiohttp" else ["-c", START, "start"]
    async with started(temporary, *arguments) as running:
        await wait_until(
            lambda: running.has_written(moment) or list(temporary.glob(f"*/{moment}")), description=f"{moment} exists"
        )
        children = set(await descendants(running.process.pid))
        running.interrupt()
        assert await running.exit_code() == (130 if moment == "aiohttp" else 0)
        assert not await alive(children)
    assert not content(temporary)
    assert not running.has_written("Traceback")
    assert not running.has_written("Error")


async def test_an_interrupted_demo_has_exit_code_130(temporary: Path) -> None:
    """The demo has not done its work: 130 is the exit code of a command that Ctrl-C ended."""
    async with started(temporary, "-m", "localdev", "demo") as running:
        await wait_until(lambda: running.has_written("starting Azurite"), description="the demo is starting")
        running.interrupt()
        assert await running.exit_code() == 130
    assert running.output[-1] == "Stopped."
    assert not content(temporary)
