"""A copy of the repository with the documented flows in it, and the demo run on that copy."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from localdev.demo import World, open_world, seed
from localdev.errors import NodeMissing
from localdev.hosting import ROOT, host
from localdev.stack import Stack, stack
from localdev.web import serving
from tests.conftest import missing
from tests.docs.pages import blocks
from tests.documents import document, entry
from tests.waiting import wait_until

_NOT_COPIED = (".*", "node_modules", "__pycache__")
_STAMP = re.compile(r"^\[[^]]*\] ")
_RUNS = {  # the flows of the documents, by tenant
    "tenant-999": [entry("my-source→my-target")],
    "acme": [entry("mapped", settings={"minTotal": "100"}), entry("careful"), entry("lost")],
}


@dataclass(frozen=True)
class Copy:
    """A copy of the repository, with the documented flows and tests in their files."""

    folder: Path
    documented: tuple[str, ...] = ()
    """The files of the documents, relative to the folder."""

    def python(self, *arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run Python there, in a process of its own."""
        return subprocess.run(  # noqa: S603 - our own interpreter
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONUTF8": "1", **environ},
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Copy the repository, and write each documented file into the copy."""
    folder = tmp_path_factory.mktemp("docs") / "datasync"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*_NOT_COPIED))
    if (ROOT / "localdev" / "node_modules").is_dir():
        (folder / "localdev" / "node_modules").symlink_to(ROOT / "localdev" / "node_modules")
    files = {
        named[1]: block.text
        for block in blocks("python")
        if (named := re.match(r'"""((?:flows|tests)/\S+\.py)"""', block.text))
    }
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    shutil.copy(Path(__file__).parent / "documented_flows.py", folder / "tests" / "flows" / "test_documented_flows.py")
    return Copy(folder, tuple(files))


@dataclass
class Lived:
    """The app, after it has run the demo's tenants and the documented flows."""

    running: Stack
    world: World
    app: Copy
    lines: list[str] = field(default_factory=list)
    """The log, without the times."""

    def said(self, pattern: str) -> bool:
        """Tell whether a line of the log begins with a match of a pattern."""
        return any(re.match(pattern, line) for line in self.lines)


@pytest_asyncio.fixture(scope="session")
async def lived(copy: Copy, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Lived]:
    """Run one tick on the demo's tenants and some of our own, with a flow file that cannot be imported."""
    app = Copy(tmp_path_factory.mktemp("docs") / "app")
    shutil.copytree(copy.folder, app.folder, ignore=shutil.ignore_patterns("node_modules"))
    (app.folder / "flows" / "broken.py").write_text("import pandas\n", encoding="utf-8")
    settings = {
        "AZURE_FUNCTIONS_ENVIRONMENT": "Production",  # in Development the host looks every 2 s at most
        "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:00",
        "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
    }
    try:
        async with stack(settings=settings) as running, open_world(running) as world, serving("an API", _api()) as url:
            await seed(running, datetime.now(UTC))
            await _add_tenants(running, world, url)
            lived = Lived(running, world, app)
            await _run(lived)
            yield lived
    except NodeMissing as why:
        missing(why)


async def _run(lived: Lived) -> None:
    def keep(line: str) -> None:
        lived.lines.append(_STAMP.sub("", line))

    async with host(lived.running.environ, app=lived.app.folder, on_line=keep) as started:
        await started.invoke("orchestrator")
        await wait_until(lambda: lived.said("TICK tenants="), description="the tick has ended")
        await started.invoke("run_flow", json.dumps({"tenantId": "acme", "flowName": "lost"}))
        await wait_until(lambda: lived.said("FAIL acme/lost"), description="the unknown flow has failed")
        async with asyncio.timeout(60):
            while await lived.world.waiting():  # noqa: ASYNC110 - a queue has no event to wait for
                await asyncio.sleep(0.1)


async def _add_tenants(running: Stack, world: World, url: str) -> None:
    for tenant, entries in _RUNS.items():
        stored: dict[str, Any] = document(tenant, *entries)
        del stored["_etag"]
        await world.tenants.upsert_item(stored)
        for system in ("mysource", "mytarget"):
            running.vault.set_secret(f"tenants--{tenant}--{system}--api-base", url)
            running.vault.set_secret(f"tenants--{tenant}--{system}--api-token", "a-token")


def _api() -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response([{"id": 1, "name": "one"}], status=402 if "export" in request.path else 200)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application
