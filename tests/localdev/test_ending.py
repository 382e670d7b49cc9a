"""The end of `python -m localdev start`: running functions may finish, and all processes and files are removed."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from datasync.cli import local_settings
from datasync.cli.local_settings import started_settings
from datasync.errors import SettingsInvalid
from tests.localdev.host.running import App
from tests.localdev.processes import LOCALDEV, alive, data_of, descendants, started
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.usefixtures("node"),
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals to a process group"),
]

START = ("start", "--ports", "free")

# One app in the host, started as `start` does it.
ONE_APP = """
import sys
from pathlib import Path
from localdev.cli import running as cli
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


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.parametrize("moment", ["starting", "running"])
async def test_a_kill_leaves_no_process_and_no_folder(
    temporary: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL, all child processes end, and the folder with the certificates and the key is removed.

    The command line finds the services with `--local` before, and not after.
    """
    monkeypatch.setattr(local_settings, "STARTED", data_of(temporary) / "started.json")
    async with started(temporary, "-c", LOCALDEV, *START) as running:
        if moment == "starting":
            await wait_until(lambda: list(temporary.glob("*/server.key")), description="the certificates are written")
        else:
            await wait_until(lambda: running.has_written("Command line "), description="the app is running")
            assert started_settings()["COSMOS_CONNECTION_STRING"]

            async def is_complete() -> bool:
                return len(await descendants(running.process.pid)) == 5

            await wait_until(is_complete, description="Azurite, Cosmos DB, two hosts and the folder's owner run")
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
    arguments = ["-X", "importtime", "-m", "localdev", "start"] if moment == "aiohttp" else ["-c", LOCALDEV, *START]
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
