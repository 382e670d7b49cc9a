"""Apps that the host does not start. It prints the whole error and a clear last line, and exits with code 1."""

import asyncio
import os
import socket
from contextlib import closing

import pytest
import pytest_asyncio

from tests.localdev.host.running import App

TIMER = """
@app.timer_trigger(arg_name="timer", schedule="0 0 * * * *")
def tick(timer: func.TimerRequest) -> None: ...
"""

# The functions of each app, the part of them that the traceback shows, and the last line.
REFUSED = {
    "syntax": ("def broken(:", "def broken(:", "SyntaxError"),
    "import": ("import nowhere", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    "duplicate": (TIMER + TIMER, "", "Function tick does not have a unique function name"),
    "annotation": (TIMER.replace("func.TimerRequest", "func.TimerRequest | None"), "", "invalid non-type annotation"),
    "exit": ("sys.exit(3)", "sys.exit(3)", "the app ended the process while it was imported"),
    "empty": ("", "", "0 functions found in function_app.py"),
    "cron": (TIMER.replace("0 0 *", "0 0 25"), "", "schedule '0 0 25 * * *' is not a valid NCRONTAB expression: hour"),
}


@pytest_asyncio.fixture(scope="module")
async def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run a host for each app of REFUSED, all at the same time. Return the lines on standard error."""

    async def run(functions: str) -> list[str]:
        app = App(tmp_path_factory.mktemp("refused"), {})
        app.write(functions)
        return await app.refused()

    lines = await asyncio.gather(*[run(functions) for functions, _, _ in REFUSED.values()])
    return dict(zip(REFUSED, lines, strict=True))


@pytest.mark.parametrize("mistake", REFUSED)
async def test_an_app_with_a_mistake_is_refused(refused: dict[str, list[str]], mistake: str) -> None:
    """The traceback is shown from function_app.py on. The last line names the mistake."""
    lines = refused[mistake]
    _, traceback, last = REFUSED[mistake]
    assert traceback in "\n".join(lines)
    assert last in lines[-1]
    if traceback:
        assert any("function_app.py" in line and "line" in line for line in lines)


async def test_a_folder_without_an_app_is_refused(bare_app: App) -> None:
    """The last line explains --app."""
    lines = await bare_app.refused()
    assert lines[-1].endswith("host.json is missing. Give --app the directory of a function app with a host.json")


async def test_another_module_named_function_app_is_an_error(bare_app: App) -> None:
    """The app's directory is the last one on sys.path, as on Azure. Another directory may have a function_app too."""
    bare_app.write(TIMER)
    other = bare_app.folder / "other"
    other.mkdir()
    (other / "function_app.py").write_text("import azure.functions as func\napp = func.FunctionApp()")
    bare_app.environ["PYTHONPATH"] = str(other)
    assert f"the app was imported from {other}" in (await bare_app.refused())[-1]


async def test_a_port_in_use_is_reported(bare_app: App) -> None:
    """The message names the port and the cause."""
    bare_app.write(TIMER)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        lines = await bare_app.refused(port=port)
    assert f"cannot listen on port {port}: it is used by pid {os.getpid()}, " in "\n".join(lines)


async def test_an_invalid_connection_string_is_not_shown(bare_app: App) -> None:
    """The message has the name of the app setting only, as the text can contain a key."""
    bare_app.write("""
@app.queue_trigger(arg_name="msg", queue_name="jobs", connection="Jobs")
def work(msg: func.QueueMessage) -> None: ...
""")
    bare_app.environ["Jobs"] = "AccountKey=hunter2"
    lines = await bare_app.refused()
    assert "app setting Jobs is not a storage connection string" in lines[-1]
    assert "hunter2" not in "\n".join(lines)
