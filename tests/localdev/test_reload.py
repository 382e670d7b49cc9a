"""The host of `make start`: it is started again when a file of the app changes, with a real host."""

import asyncio
import io
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from rich.console import Console

from localdev.azurite import Storage
from localdev.errors import StartFailed
from localdev.host.standby import import_libraries
from localdev.hosting import invoke
from localdev.lines import Lines
from localdev.reload import Served, serve, serve_with_reload
from tests.localdev.host.running import App, Queues, new_queues
from tests.waiting import wait_until

FUNCTIONS = """
import flows.values

@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
def work(timer: func.TimerRequest) -> None:
    seen(value=flows.values.VALUE)
"""

WAITING = """
import flows.values

@app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="AzureWebJobsStorage")
async def work(msg: func.QueueMessage) -> None:
    seen(delivery=msg.dequeue_count, value=flows.values.VALUE)
    if msg.dequeue_count == 1:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            seen(cancelled=True)
            raise
"""


class Running:
    """An app that `start` runs."""

    def __init__(self, app: App, output: io.StringIO) -> None:
        self.app = app
        self._output = output
        self.urls: list[str] = []

    @property
    def lines(self) -> list[str]:
        """The lines so far, without the times."""
        return [line[11:] for line in self._output.getvalue().splitlines()]

    def write(self, name: str, text: str) -> None:
        """Change a file of the app."""
        (self.app.folder / name).write_text(text)

    async def has_said(self, text: str, times: int = 1) -> None:
        """Wait until this number of lines contain a text."""
        await wait_until(lambda: sum(text in line for line in self.lines) >= times, description=f"{text!r} is said")


@asynccontextmanager
async def reloading(app: App, port: int) -> AsyncGenerator[Running]:
    """Run an app, and start it again when its files change."""
    output = io.StringIO()
    running = Running(app, output)
    lines = Lines(Console(file=output, width=80, highlight=False))
    served = Served(environ=app.environ, port=port, lines=lines, app=app.folder)
    task = asyncio.create_task(serve_with_reload(served, running.urls.append))
    try:
        await wait_until(lambda: running.urls or task.done(), description="the host has started")
        yield running
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def app(bare_app: App) -> App:
    """Make an app with a package `flows`."""
    (bare_app.folder / "flows").mkdir()
    (bare_app.folder / "flows/values.py").write_text("VALUE = 1\n")
    bare_app.write(FUNCTIONS)
    return bare_app


@pytest_asyncio.fixture
async def queues(storage: Storage) -> AsyncGenerator[Queues]:
    """Make a queue for one test."""
    async with new_queues(storage) as made:
        yield made


async def test_a_change_starts_the_host_again(app: App, unused_tcp_port: int) -> None:
    """The new process has the new code, also if the file has the same size and time. A broken app is corrected."""
    async with reloading(app, unused_tcp_port) as running:
        (url,) = running.urls

        async def value() -> int:
            """Run the function, and return the value that it sees."""
            before = len(app.seen())
            await invoke(url, "work")
            await wait_until(lambda: len(app.seen()) > before, description="the function has run")
            return int(app.seen()[-1]["value"])

        assert await value() == 1
        running.write("flows/values.py", "VALUE = 2\n")
        await running.has_said("Host started again")
        assert "Reloading: flows/values.py changed" in running.lines
        assert await value() == 2

        whole = (app.folder / "function_app.py").read_text()
        running.write("function_app.py", "x = (\n")
        await running.has_said("The host does not start")
        assert any("SyntaxError: '(' was never closed" in line for line in running.lines)
        running.write("function_app.py", whole)
        await running.has_said("Host started again", times=2)
        assert await value() == 2

        running.write("function_app.py", whole + "import os\nos._exit(3)\n")
        await running.has_said("The host does not start", times=2)
        running.write("function_app.py", whole.replace("seen(value", "os._exit(4)\n    seen(value"))
        await running.has_said("Host started again", times=3)
        with suppress(OSError):
            await invoke(url, "work")
        await running.has_said("The host ended with exit code 4. The next change starts it again")
        running.write("function_app.py", whole)
        await running.has_said("Host started again", times=4)
        assert await value() == 2
    assert running.urls == [url]


async def test_a_run_that_a_change_interrupts_comes_back(
    app: App, queues: Queues, storage: Storage, unused_tcp_port: int
) -> None:
    """The function has a moment to note its interruption. Its message comes back when its hiding time is over."""
    app = App.with_storage(app.folder, storage, QUEUE=queues.name, LOCALDEV_MESSAGE_HIDING="2")
    app.write(WAITING)
    await queues.put("one")
    async with reloading(app, unused_tcp_port) as running:
        await wait_until(app.seen, description="the function is running")
        running.write("flows/values.py", "VALUE = 2\n")
        await wait_until(queues.empty, description="the function has run again")
    assert app.seen() == [{"delivery": 1, "value": 1}, {"cancelled": True}, {"delivery": 2, "value": 2}]


async def test_without_reload_a_host_that_does_not_start_is_an_error(app: App) -> None:
    """The reason is in the lines before."""
    (app.folder / "function_app.py").write_text("x = (\n")
    output = io.StringIO()
    served = Served(environ={}, port=0, lines=Lines(Console(file=output, width=80, highlight=False)), app=app.folder)

    with pytest.raises(StartFailed, match="did not start: the lines above"):
        await serve(served, lambda _: None)
    assert "SyntaxError: '(' was never closed" in output.getvalue()


def test_libraries_are_imported_without_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all own files that the app reaches are found. Files and libraries that fail are left to the start."""
    libraries = tmp_path / "libraries"
    app = tmp_path / "app"
    (app / "own").mkdir(parents=True)
    libraries.mkdir()
    (libraries / "a_library.py").write_text("")
    (libraries / "a_broken_library.py").write_text("raise RuntimeError\n")
    (app / "function_app.py").write_text("import own.part\nimport a_missing_library\nimport a_broken_library\n")
    (app / "own/part.py").write_text("from . import broken\nfrom a_library import x\n")
    (app / "own/broken.py").write_text("x = (\n")
    monkeypatch.syspath_prepend(libraries)
    before = {*sys.modules}

    import_libraries(app)

    assert {*sys.modules} - before == {"a_library"}
