"""The commands of `python -m localdev`."""

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any

import aiohttp
import click
from rich.console import Console

from datasync.errors import DataSyncError
from localdev.demo import QUICK_RETRIES, demo, seed
from localdev.errors import LocalPartError
from localdev.hosting import host, invoke
from localdev.identity import issue_token
from localdev.interrupt import INTERRUPTED
from localdev.keyvault import AUDIENCE
from localdev.stack import Ports, stack

PORTS = Ports(queue=10001, blob=10000, table=10002, cosmos=8081, vault=8443, identity=8444, demo=8080)
HOST_PORT = 7071
HOST_URL = f"http://127.0.0.1:{HOST_PORT}"


@click.group()
def cli() -> None:
    """Run the app on this machine, without an account."""


@cli.command("demo")
def demo_command() -> None:
    """Run the whole pipeline once, print a report, and stop everything."""
    # A pipe has no width. A terminal has its own.
    run(demo(Console(width=None if sys.stdout.isatty() else 160, highlight=False)))


@cli.command()
def start() -> None:
    """Run everything on fixed ports until Ctrl-C."""
    run(_start())


@cli.command()
def tick() -> None:
    """Make the app of `start` look for due flows now."""
    run(_tick())


@cli.command()
@click.argument("name")
@click.argument("value")
def secret(name: str, value: str) -> None:
    """Store a secret in the Key Vault of `start`."""
    run(_secret(name, value))


async def _start() -> None:
    async with stack(PORTS, QUICK_RETRIES) as running:
        await seed(running, datetime.now(UTC))
        click.echo(
            f"Cosmos DB      {running.database.endpoint}  database {running.settings.cosmos_database}, containers "
            f"{running.settings.tenants_container} and {running.settings.runs_container}\n"
            f"               {running.database.connection_string}\n"
            f"Storage        {running.storage.queue_endpoint}  queues {running.settings.queue_name} and "
            f"{running.settings.queue_name}-poison\n"
            f"Key Vault      {running.vault.uri}\n"
            "               python -m localdev secret NAME VALUE adds a secret\n"
            f"Demo APIs      {running.demo.url}\n"
            "The demo's tenants are stored. Most of their flows are due: `make tick` runs them.\n"
            "Ctrl-C stops everything."
        )
        async with host(running.environ, port=HOST_PORT, on_line=click.echo) as app:
            await app.ended()


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


async def _tick() -> None:
    try:
        await invoke(HOST_URL, "orchestrator")
    except aiohttp.ClientError as error:
        raise click.ClickException(
            f"the host at {HOST_URL} does not answer ({error}). Run `make start` first"
        ) from None
    click.echo("The timer function runs. The host's log shows its result.")


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command, and report its errors. SIGTERM stops it as Ctrl-C does.

    The first Ctrl-C stops the command's parts one after the other, and running functions may finish. The second one
    kills them.
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
