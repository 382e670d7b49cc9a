"""`make demo`: runs the whole pipeline once, from tenant documents to run records, and prints a report."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.storage.queue.aio import QueueClient
from rich.console import Console
from rich.markup import escape

from datasync.model.decode import decode
from datasync.model.run import RunRecord
from datasync.stores.fleet import StandingProblem
from localdev import seeds
from localdev.host.console import NOT_SEEN
from localdev.hosting import host
from localdev.results import cell, print_errors, print_problems, runs_table
from localdev.stack import Stack, stack

QUICK = {
    "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:01",
    "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.500",
}
"""Settings with which a run starts, and is attempted again, sooner than with those of host.json."""
_PATIENCE = timedelta(minutes=2)
_WORDS = (
    r"START|DONE|FAIL|TICK|INVALID|BROKEN|CONTINUED|DEFERRED|GAVE_UP|SKIPPED_\w+|INTERRUPTED|DUPLICATE|WAITING|"
    r"SUPERSEDED|BLOCKED|UNAVAILABLE"
)
_NOTABLE = re.compile(rf"^\[[^]]*\] (?=({_WORDS})\b)")
_RUN_ID = re.compile(r" run=\w+")


async def demo(console: Console) -> None:
    """Run the demo. Raises NodeMissing, StartFailed, or TimeoutError if the queue does not become empty in time."""
    started = time.perf_counter()
    ticked = asyncio.Event()
    unloaded: list[str] = []

    def say(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:5.1f} s[/]  {escape(text)}", soft_wrap=True)

    def log(line: str) -> None:
        if _NOTABLE.match(line):
            said = _RUN_ID.sub("", _NOTABLE.sub("", line))
            say(said)
            if said.startswith("TICK"):
                ticked.set()
            if said.startswith("BROKEN") and NOT_SEEN not in said:
                unloaded.append(said)
        elif "Executed 'Functions.orchestrator' (Failed" in line:
            ticked.set()  # no TICK line will come, and the report shows that nothing ran

    say("starting Azurite, a Cosmos DB server, a Key Vault and the demo APIs")
    async with stack(settings=QUICK) as running, open_world(running) as world:
        documents = await seed(running, datetime.now(UTC))
        say(f"stored {len(documents)} tenants; starting the Functions host on function_app.py")
        async with host(running.environ, on_line=log) as app, asyncio.timeout(_PATIENCE.total_seconds()):
            say("running the timer: POST /admin/functions/orchestrator")
            await app.invoke("orchestrator")
            await ticked.wait()
            say("a flow that fails has five attempts; waiting until the queue is empty")
            while await world.waiting():  # noqa: ASYNC110 - a queue has no event to wait for
                await asyncio.sleep(0.2)
            report = await world.report()
    _show(console, report)
    for said in unloaded:
        console.print(f"[red]•[/] {escape(said)}", soft_wrap=True)
    console.print(f"\nEverything is stopped. The demo took {time.perf_counter() - started:.0f} s.")
    console.print('Now try: python -m datasync new "my-source→my-target"', highlight=False, soft_wrap=True)


async def seed(running: Stack, now: datetime) -> list[dict[str, Any]]:
    """Store the demo's tenants and their secrets. Most of the tenants' flows are due at `now`."""
    for name, value in seeds.secrets(running.demo.url).items():
        running.vault.set_secret(name, value)
    documents = seeds.tenants(now, running.demo.url)
    async with open_world(running) as world:
        for document in documents:
            await world.tenants.upsert_item(document)
    return documents


@dataclass(frozen=True, slots=True)
class Report:
    """The result of the demo."""

    runs: list[RunRecord]
    """The record of each run, in the order of tenants and flows."""
    next_runs: dict[tuple[str, str], str | None]
    """`nextRunUtc` by tenant id and flow name."""
    off: list[str]
    """Disabled flows, as `tenant/flow`."""
    problems: list[str]
    poisoned: int


@dataclass(frozen=True, slots=True)
class World:
    """Clients of the containers and queues."""

    tenants: ContainerProxy
    runs: ContainerProxy
    jobs: QueueClient
    poison: QueueClient

    async def waiting(self) -> int:
        """Return the approximate number of jobs in the queue, hidden ones included."""
        return (await self.jobs.get_queue_properties()).approximate_message_count or 0

    async def report(self) -> Report:
        """Read the documents, records and queues."""
        found = self.runs.query_items("SELECT * FROM c WHERE c.type = 'Run'")
        records = [RunRecord.from_document(document) async for document in found]
        records.sort(key=lambda record: (record.tenant_id, record.flow_name, record.run_id))
        documents = [dict(document) async for document in self.tenants.query_items("SELECT * FROM c")]
        standing = self.runs.query_items("SELECT * FROM c WHERE c.type = 'Problem'")
        return Report(
            runs=records,
            next_runs={
                (document["tenantId"], entry["name"]): entry["nextRunUtc"]
                for document in documents
                for entry in document["flows"]
            },
            off=[
                f"{document['tenantId']}/{entry['name']}"
                for document in documents
                for entry in document["flows"]
                if not entry["enabled"]
            ],
            problems=sorted([str(decode(StandingProblem, dict(each)).problem) async for each in standing]),
            poisoned=(await self.poison.get_queue_properties()).approximate_message_count or 0,
        )


@asynccontextmanager
async def open_world(running: Stack) -> AsyncGenerator[World]:
    """Open the stack's containers and queues."""
    settings, storage = running.settings, running.storage.connection_string
    async with (
        CosmosClient.from_connection_string(running.database.connection_string) as cosmos,
        QueueClient.from_connection_string(storage, settings.queue_name) as jobs,
        QueueClient.from_connection_string(storage, f"{settings.queue_name}-poison") as poison,
    ):
        database = cosmos.get_database_client(settings.cosmos_database)
        yield World(
            tenants=database.get_container_client(settings.tenants_container),
            runs=database.get_container_client(settings.runs_container),
            jobs=jobs,
            poison=poison,
        )


def _show(console: Console, report: Report) -> None:
    console.print()
    console.print(runs_table(report.runs, report.next_runs))
    console.print(f"\n[bold]Disabled[/]\n• {', '.join(map(cell, report.off))}", "\n[bold]Problems[/]", sep="\n")
    print_problems(console, report.problems)
    print_errors(console, report.runs, is_started=False)
    if report.poisoned:
        console.print(f"[red]•[/] queue: {report.poisoned} messages in the poison queue")
