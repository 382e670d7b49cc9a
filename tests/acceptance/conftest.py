"""Fixtures that run a copy of the app in the local Functions host, with real services."""

import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from localdev.hosting import ROOT, RunningHost, host
from tests.world import World

FLOWS = """
from datasync import GiveUp
from flows.registry import flow

@flow("succeeds")
async def succeeds(tenant_id, kv, run):
    run.count(items=1)

@flow("fails")
async def fails(tenant_id, kv):
    raise ConnectionError("the source closed the connection")
"""


@dataclass
class App:
    """A copy of the app, to which a test can add flow files."""

    folder: Path
    log: list[str] = field(default_factory=list)
    """Log lines of the host and the app."""

    def add_flow_file(self, name: str, source: str) -> None:
        (self.folder / "flows" / name).write_text(source)

    def has_logged(self, text: str) -> bool:
        return any(text in line for line in self.log)


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Return a copy of the app with a flow that succeeds and one that fails."""
    for name in ("dashboard", "datasync", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("function_app.py", "host.json"):
        shutil.copy(ROOT / name, tmp_path)
    made = App(tmp_path)
    made.add_flow_file("for_tests.py", FLOWS)
    return made


type Start = Callable[..., AbstractAsyncContextManager[RunningHost]]


@pytest.fixture
def start(app: App, world: World) -> Start:
    """Return a function that starts the app in the local host. Failed messages are delivered again at once."""

    @asynccontextmanager
    async def started(**settings: str) -> AsyncGenerator[RunningHost]:
        environ = {
            **world.environ,
            "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:00",
            "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
            **settings,
        }
        async with host(environ, app=app.folder, on_line=app.log.append) as running:
            yield running

    return started
