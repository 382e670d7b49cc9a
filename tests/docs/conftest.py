"""A copy of the repository with the documented flows in it, and the demo run on that copy."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from datasync import FlowRegistry
from datasync.author.new import LONGEST, new_flow
from datasync.model.job import JobMessage
from datasync.model.lease import Lease
from datasync.model.state import FlowState
from localdev.demo import World, open_world, seed
from localdev.errors import NodeMissing
from localdev.hosting import ROOT, RunningHost, host
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
    "acme": [
        entry("mapped", settings={"minTotal": "100"}, tz="America/Chicago"),
        entry("careful"),
        entry("history", settings={"firstDays": 15}),
        entry("orders"),
        entry("lost"),
    ],
}
_NEW = (
    "billing→crm",
    "Müller & Söhne -> 2nd CRM",
    "2 fast",
    "import",
    """the "big" $source→it's {x}""",
    f"{'x' * (LONGEST - 5)}→y",
)
"""Names of flows that `python -m datasync new` writes. Their files are checked with those of the documents."""
_LEFT = 3
"""Messages that wait for longer than a test: of a flow that is unknown, a provider that is closed, and the run that
closed it."""


@dataclass(frozen=True)
class Copy:
    """A copy of the repository, with the documented flows and tests in their files."""

    folder: Path
    documented: tuple[str, ...] = ()
    """The files of the documents, and those of new flows, relative to the folder."""

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
    shutil.copytree(Path(__file__).parent / "cassettes", folder / "tests" / "flows" / "cassettes", dirs_exist_ok=True)
    for file in ("documented_flows.py", "documented_recipes.py"):
        shutil.copy(Path(__file__).parent / file, folder / "tests" / "flows" / f"test_{file}")
    made = [new_flow(folder, FlowRegistry(), name, f"new-{n}", datetime.now(UTC)) for n, name in enumerate(_NEW)]
    return Copy(folder, (*files, *(path.as_posix() for each in made for path in (each.flow, each.test))))


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

    async def wait_for(self, pattern: str) -> None:
        """Wait until a line of the log begins with a match of a pattern."""
        await wait_until(lambda: self.said(pattern), description=f"the log has a line {pattern}")

    @asynccontextmanager
    async def hosted(self) -> AsyncGenerator[RunningHost]:
        """Run the app, and keep the lines that it logs."""

        def keep(line: str) -> None:
            self.lines.append(_STAMP.sub("", line))

        async with host(self.running.environ, app=self.app.folder, on_line=keep) as started:
            yield started


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
        "KEY_VAULT_URL": "https://acme.vault.azure.net/",  # a misspelt setting
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
    async with lived.hosted() as started:

        async def run(tenant: str, flow: str, until: str, **fields: str) -> None:
            await started.invoke("run_flow", json.dumps({"tenantId": tenant, "flowName": flow, **fields}))
            await lived.wait_for(until)

        await started.invoke("orchestrator")
        for line in ("TICK tenants=", "DONE tenant-999/", "DEFERRED acme/orders", "DONE acme/history"):
            await lived.wait_for(line)
        await run("acme", "lost", "WAITING acme/lost")
        await run("acme", "orders", "WAITING acme/orders")
        await run("tenant-999", "my-source→my-target", "DONE tenant-999/.* run=twice", runId="twice")
        await run("tenant-999", "my-source→my-target", "DUPLICATE tenant-999/", runId="twice")
        await started.invoke("run_flow", "not a job")
        await lived.wait_for("FAIL message")
        async with asyncio.timeout(60):
            while await lived.world.waiting() > _LEFT:  # noqa: ASYNC110 - a queue has no event to wait for
                await asyncio.sleep(0.1)


async def _add_tenants(running: Stack, world: World, url: str) -> None:
    now = datetime.now(UTC)
    job = JobMessage(tenant_id="acme", flow_name="feed", scheduled_utc=now, run_id="in-progress", enqueued_utc=now)
    lease = Lease(until=(now + timedelta(hours=1)).timestamp(), nonce="n", started_utc=now, message=job)
    in_progress = FlowState(tenant_id="acme", flow_name="feed", token=1, lease=lease, cursor=41, last_run_utc=now)
    await world.runs.upsert_item(in_progress.document())
    for tenant, entries in _RUNS.items():
        stored: dict[str, Any] = document(tenant, *entries)
        del stored["_etag"]
        await world.tenants.upsert_item(stored)
        for system in ("mysource", "mytarget"):
            running.vault.set_secret(f"tenants--{tenant}--{system}--api-base", url)
            running.vault.set_secret(f"tenants--{tenant}--{system}--api-token", "a-token")


def _api() -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/orders":
            return web.json_response({}, status=429, headers={"Retry-After": "3600"})
        return web.json_response([{"id": 1, "name": "one"}], status=402 if "export" in request.path else 200)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application
