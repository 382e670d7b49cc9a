"""The commands of `python -m localdev`."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import aiohttp
import click
from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy
from azure.cosmos.exceptions import CosmosHttpResponseError
from rich.console import Console

from datasync.cli.local_settings import STARTED, local_settings, started_settings
from datasync.cli.validate import Report, load
from datasync.clients import CosmosAccount, Credential
from datasync.errors import DataSyncError, ServiceUnavailable, SettingsInvalid
from datasync.flow.registry import FlowRegistry
from datasync.settings import Settings
from localdev.cosmos import KEY, Database
from localdev.demo import QUICK, demo, seed
from localdev.errors import LocalPartError
from localdev.host.config import HIDING
from localdev.identity import issue_token
from localdev.interrupt import INTERRUPTED
from localdev.keyvault import AUDIENCE
from localdev.lines import Lines
from localdev.provision import provision
from localdev.reload import Served, serve, serve_with_reload
from localdev.stack import Ports, Stack, stack
from localdev.ticking import tick

PORTS = Ports(queue=10001, blob=10000, table=10002, cosmos=8081, vault=8443, identity=8444, demo=8080)
HOST_PORT = 7071
HOST_URL = f"http://127.0.0.1:{HOST_PORT}"


@click.group()
def cli() -> None:
    """Run the app on this machine, without an account."""


@cli.command("demo")
def demo_command() -> None:
    """Run the whole pipeline once, print a report, and stop everything."""
    run(demo(report_console()))


@cli.command()
@click.option("--trace", is_flag=True, help="Turn OpenTelemetry on, and print a line for each span.")
@click.option("--reload/--no-reload", default=True, help="Start the host again when a file of the app changes.")
@click.option("--verbose", is_flag=True, help="Print the lines of the host as they are.")
def start(*, trace: bool, reload: bool, verbose: bool) -> None:
    """Run everything on fixed ports until Ctrl-C."""
    run(until_interrupted(_start(trace=trace, reload=reload, verbose=verbose)))


@cli.command("tick")
@click.option("--wait", default=60, show_default=True, metavar="SECONDS", help="The longest time to wait for the runs.")
def tick_command(wait: int) -> None:
    """Make the app of `start` look for due flows now, and show their runs when they have ended.

    The exit code is 1 if a run failed for the last time, or has not ended.
    """
    run(_tick(timedelta(seconds=wait)))


@cli.command()
@click.argument("name")
@click.argument("value")
def secret(name: str, value: str) -> None:
    """Store a secret in the Key Vault of `start`."""
    run(_secret(name, value))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
def tenant(file: Path) -> None:
    """Store tenants in the Cosmos DB of `start`: the tenant document, or the list of documents, in a JSON file."""
    run(_tenant(file))


@cli.command("provision")
@click.argument("file", type=click.Path(path_type=Path))
def provision_command(file: Path) -> None:
    """Create the database, the containers and the queues that a local.settings.json names.

    Environment variables take precedence. This needs the key of the Cosmos DB account. What exists stays as it is.
    """
    try:
        settings = Settings.from_environ({**local_settings(file), **os.environ})
    except SettingsInvalid as error:
        raise click.ClickException(str(error)) from None
    run(_provision(settings))


async def _provision(settings: Settings) -> None:
    try:
        await provision(settings)
    except AzureError as error:
        raise click.ClickException(f"not everything was created: {str(error).partition(chr(10))[0]}") from None
    click.echo(
        f"Database {settings.cosmos_database} with {settings.tenants_container} and {settings.runs_container}, and the "
        f"queues {settings.queue_name} and {settings.queue_name}-poison are there."
    )


async def _start(*, trace: bool, reload: bool, verbose: bool) -> None:
    async with stack(PORTS, {**QUICK, HIDING: "5"}) as running:
        await seed(running, datetime.now(UTC))
        click.echo(
            f"Cosmos DB      {running.database.endpoint}  database {running.settings.cosmos_database}, containers "
            f"{running.settings.tenants_container} and {running.settings.runs_container}\n"
            f"               {running.database.connection_string}\n"
            "               python -m localdev tenant FILE stores a tenant\n"
            f"Storage        {running.storage.queue_endpoint}  queues {running.settings.queue_name} and "
            f"{running.settings.queue_name}-poison\n"
            f"Key Vault      {running.vault.uri}\n"
            "               python -m localdev secret NAME VALUE stores a secret\n"
            f"Demo APIs      {running.demo.url}\n"
            "The demo's tenants are stored. Most of their flows are due: `make tick` runs them.\n"
            "Ctrl-C stops everything."
        )
        # The host does not ask for the key, as with Core Tools.
        environ = {**running.environ, "DASHBOARD": "key"}
        lines = Lines(Console(highlight=False), verbose=verbose)
        served = Served(environ=environ, port=HOST_PORT, lines=lines, trace=trace)
        with _announced(running):
            await (serve_with_reload if reload else serve)(served, _tell_addresses)


def _tell_addresses(url: str) -> None:
    click.echo(f"Dashboard      {url}/api/ops\nCommand line   python -m datasync status --local")


@contextmanager
def _announced(running: Stack) -> Generator[None]:
    """Write the settings for `--local` of the command line, and remove them at the end."""
    settings = running.settings
    values = {
        **running.environ,
        "COSMOS_DATABASE": settings.cosmos_database,
        "COSMOS_TENANTS_CONTAINER": settings.tenants_container,
        "COSMOS_RUNS_CONTAINER": settings.runs_container,
        "QUEUE_NAME": settings.queue_name,
        "ORCHESTRATOR_SCHEDULE": settings.schedule,
    }
    STARTED.write_text(json.dumps({"IsEncrypted": False, "Values": values}, indent=2), encoding="utf-8")
    try:
        yield
    finally:
        STARTED.unlink(missing_ok=True)


async def _secret(name: str, value: str) -> None:
    token = issue_token(AUDIENCE, expires=int(time.time()) + 60)
    request = aiohttp.request(
        "PUT",
        f"https://127.0.0.1:{PORTS.vault}/secrets/{name}?api-version=7.5",
        json={"value": value},
        headers={"Authorization": f"Bearer {token}"},
        ssl=False,  # the vault of this machine has a temporary certificate
    )
    try:
        async with request as response:
            answer = await response.json()
    except aiohttp.ClientError as error:
        raise click.ClickException(
            f"the Key Vault on port {PORTS.vault} does not answer ({error}). Run `make start` first"
        ) from None
    if "error" in answer:
        raise click.ClickException(f"secret {name!r}: {answer['error']['message']}")
    click.echo(f"Stored. A flow that has just read {name} gets the new value within five minutes.")


async def _tenant(file: Path) -> None:
    documents = _valid_documents(file)
    database = Database(endpoint=f"http://127.0.0.1:{PORTS.cosmos}/", key=KEY)
    settings = Settings.from_environ(
        {
            **os.environ,
            "AzureWebJobsStorage": "UseDevelopmentStorage=true",
            "COSMOS_CONNECTION_STRING": database.connection_string,
        }
    )
    account = CosmosAccount(settings.cosmos, Credential())
    try:
        container = await account.container(settings.cosmos_database, settings.tenants_container)
        for document in documents:
            await _store(container, document)
    except ServiceUnavailable:
        raise click.ClickException(
            f"the Cosmos DB on port {PORTS.cosmos} does not answer. Run `make start` first"
        ) from None
    finally:
        await account.close()
    names = ", ".join(document["tenantId"] for document in documents)
    click.echo(f"Stored: {names}. `make tick` runs the flows that are due.")


async def _store(container: ContainerProxy, document: dict[str, Any]) -> None:
    try:
        await container.upsert_item(document)
    except CosmosHttpResponseError as error:
        reason = str(error.message).splitlines()[0]
        raise click.ClickException(
            f"tenant {document['tenantId']!r} is not stored: Cosmos DB answered {error.status_code}: {reason}"
        ) from None


def _valid_documents(file: Path) -> list[dict[str, Any]]:
    """Return the tenant documents of a file. Prints the problems and warnings of `python -m datasync validate`."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{file} cannot be read: {error.strerror}") from None
    try:
        report = Report(load("flows"), datetime.now(UTC))
    except ValueError as why:
        raise click.ClickException(str(why)) from None
    for line in report.documents(str(file), content):
        click.echo(line)
    if report.problems:
        raise click.ClickException("nothing is stored. Correct the file first")
    read = json.loads(content.decode("utf-8-sig"))
    documents: list[dict[str, Any]] = read if isinstance(read, list) else [read]
    if not documents:
        raise click.ClickException(f"{file} contains no tenant document: the list is empty")
    return documents


async def _tick(wait: timedelta) -> None:
    settings = Settings.from_environ({**os.environ, **started_settings()})
    try:
        registry = load("flows")
    except ValueError:  # the host cannot load the flows either, and `start` says so
        registry = FlowRegistry()
    if not await tick(HOST_URL, settings, registry, report_console(), wait):
        sys.exit(1)


def report_console() -> Console:
    """Return a console for tables. A pipe has no width, a terminal has its own."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


async def until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run a command that Ctrl-C ends. Its exit code is then 0, so that `make` reports no error."""
    try:
        await work
    except asyncio.CancelledError:
        click.echo("Stopped.")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command, and report its errors. SIGTERM stops it as Ctrl-C does.

    The first Ctrl-C stops the command's parts one after the other, and running functions may finish. The second one
    kills them. The exit code is 130, except after the first Ctrl-C of `until_interrupted`.
    """
    # The handler is set explicitly: a process that a shell starts in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        asyncio.run(work)
    except (LocalPartError, DataSyncError) as error:
        raise click.ClickException(str(error)) from None
    except TimeoutError:
        raise click.ClickException("the queue was not empty in time; the log lines above may show why") from None
    except KeyboardInterrupt:
        click.echo("Stopped.")
        sys.exit(INTERRUPTED)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # flow names contain arrows, which some code pages do not have
    cli()
