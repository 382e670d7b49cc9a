"""Apps that do not start: the whole error, a clear last line, exit code 1."""

import socket
from contextlib import closing

import pytest

from tests.localdev.host.running import App

TIMER = """
@app.timer_trigger(arg_name="timer", schedule="0 0 * * * *")
def tick(timer: func.TimerRequest) -> None: ...
"""


@pytest.mark.parametrize(
    ("functions", "traceback", "last"),
    [
        ("def broken(:", "def broken(:", "SyntaxError"),
        ("import nowhere", "import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        (TIMER + TIMER, "", "Function tick does not have a unique function name"),
        (TIMER.replace("func.TimerRequest", "func.TimerRequest | None"), "", "invalid non-type annotation"),
        ("sys.exit(3)", "sys.exit(3)", "the app ended the process while it was imported"),
        ("", "", "0 functions found: function_app.py defines none"),
        (
            TIMER.replace("0 0 *", "0 0 25"),
            "",
            "schedule '0 0 25 * * *' is not a valid NCRONTAB expression: hour field",
        ),
    ],
    ids=["syntax", "import", "duplicate", "annotation", "exit", "empty", "cron"],
)
async def test_an_app_that_cannot_be_indexed(bare_app: App, functions: str, traceback: str, last: str) -> None:
    """The traceback is shown whole, down to the line in function_app.py, and the last line says what it was."""
    bare_app.write(functions)
    lines = await bare_app.refused()
    assert traceback in "\n".join(lines)
    assert last in lines[-1]
    if traceback:
        assert any("function_app.py" in line and "line" in line for line in lines)


async def test_a_folder_that_is_no_app(bare_app: App) -> None:
    """The last line says what --app is for."""
    lines = await bare_app.refused()
    assert lines[-1].endswith("host.json is missing: --app must name a function app's directory, with its host.json")


async def test_a_module_of_the_same_name_elsewhere_is_not_taken_for_the_app(bare_app: App) -> None:
    """The app's directory comes last on sys.path, as on Azure, so another function_app could come before."""
    bare_app.write(TIMER)
    other = bare_app.folder / "other"
    other.mkdir()
    (other / "function_app.py").write_text("import azure.functions as func\napp = func.FunctionApp()")
    bare_app.environ["PYTHONPATH"] = str(other)
    assert f"the app was imported from {other}" in (await bare_app.refused())[-1]


async def test_a_taken_port_is_named(bare_app: App) -> None:
    """With the way out."""
    bare_app.write(TIMER)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        lines = await bare_app.refused(port=port)
    assert f"cannot listen on port {port}: something else already does" in lines[-1]


async def test_a_connection_string_that_is_none_is_not_shown(bare_app: App) -> None:
    """The message names the app setting only: the text may hold a key."""
    bare_app.write("""
@app.queue_trigger(arg_name="msg", queue_name="jobs", connection="Jobs")
def work(msg: func.QueueMessage) -> None: ...
""")
    bare_app.environ["Jobs"] = "AccountKey=hunter2"
    lines = await bare_app.refused()
    assert "app setting Jobs is not a storage connection string" in lines[-1]
    assert "hunter2" not in "\n".join(lines)
