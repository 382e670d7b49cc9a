"""The commands of `python -m localdev`."""

import json
import os
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from pathlib import Path
from urllib.parse import urlsplit

import click
from azure.core.exceptions import AzureError
from rich.console import Console

from datasync.cli import local_settings
from datasync.cli.validate import load
from datasync.errors import ServiceUnavailable, SettingsInvalid
from datasync.flow.registry import FlowRegistry
from datasync.settings import Settings
from localdev.cli.contents import secret, tenant
from localdev.cli.running import run, until_interrupted
from localdev.data import DataFolder, data_folder
from localdev.demo import QUICK, demo
from localdev.errors import DataDamaged
from localdev.files import replace_file
from localdev.host.config import HIDING
from localdev.lines import Lines
from localdev.ports import COUNT, FIRST, LAST, USUAL, Ports, check_free
from localdev.provision import provision
from localdev.reload import Served, serve, serve_with_reload
from localdev.seeding import follow_demo_apis, read_seed, store_demo, store_seed
from localdev.stack import Stack, stack
from localdev.ticking import tick

LOCAL = local_settings.STARTED.parent
SETTINGS = {**QUICK, "SECRET_CACHE_SECONDS": "0", HIDING: "5"}
"""A run that a change of the app interrupts is attempted again after seconds."""


@click.group()
def cli() -> None:
    """Run the app on this machine, without an account."""


@cli.command("demo")
def demo_command() -> None:
    """Run the whole pipeline once, print a report, and stop everything."""
    run(demo(_report_console()))


def _ports(_: click.Context, __: click.Parameter, value: str | None) -> Ports:
    if value is None:
        return USUAL
    if value == "free":
        return Ports()
    if not value.isdecimal() or not FIRST <= int(value) <= LAST - COUNT + 1:
        raise click.BadParameter(f"expected free, or a number from {FIRST} to {LAST - COUNT + 1}, got {value!r}")
    return Ports.following(int(value))


@cli.command()
@click.option("--fresh", is_flag=True, help="Remove the data of earlier starts.")
@click.option("--no-demo", is_flag=True, help="Do not store the tenants and secrets of the demo.")
@click.option(
    "--seed",
    "seed_folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Store the tenants of DIR/tenants/*.json and the secrets of DIR/secrets.env that are new or have changed.",
)
@click.option(
    "--ports",
    metavar="free|N",
    callback=_ports,
    help=f"Use free ports, or the {COUNT} ports from N on, so that several checkouts can run at once.",
)
@click.option("--trace", is_flag=True, help="Turn OpenTelemetry on, and print a line for each span.")
@click.option("--no-reload", is_flag=True, help="Do not start the host again when a file of the app changes.")
@click.option("--verbose", is_flag=True, help="Print the lines of the host as they are.")
def start(
    ports: Ports,
    seed_folder: Path | None,
    *,
    fresh: bool,
    no_demo: bool,
    trace: bool,
    no_reload: bool,
    verbose: bool,
) -> None:
    """Run everything until Ctrl-C. The data are kept in `.local/` for the next start."""
    lines = Lines(Console(highlight=False), verbose=verbose)
    app = RunApp(lines=lines, trace=trace, reload=not no_reload)
    run(until_interrupted(_start(ports, seed_folder, app, fresh=fresh, with_demo=not no_demo)))


@cli.command("tick")
@click.option("--wait", default=60, show_default=True, metavar="SECONDS", help="The longest time to wait for the runs.")
def tick_command(wait: int) -> None:
    """Make the app of `start` look for due flows now, and show their runs when they have ended.

    The exit code is 1 if a run failed for the last time, gave up, or has not ended.
    """
    run(_tick(timedelta(seconds=wait)))


@cli.command("provision")
@click.argument("file", type=click.Path(path_type=Path))
def provision_command(file: Path) -> None:
    """Create the database, the containers and the queues that a local.settings.json names.

    Environment variables take precedence. This needs the key of the Cosmos DB account. What exists stays as it is.
    """
    try:
        settings = Settings.from_environ({**local_settings.local_settings(file), **os.environ})
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


async def _start(ports: Ports, seed_folder: Path | None, app: "RunApp", *, fresh: bool, with_demo: bool) -> None:
    seed = read_seed(seed_folder, click.echo) if seed_folder else None

    async def run_on(data: DataFolder) -> None:
        data.check()
        async with stack(ports, SETTINGS, data=data) as running:
            data.complete()
            await follow_demo_apis(running, data)
            if with_demo:
                await store_demo(running, data, datetime.now(UTC))
            if seed:
                tenants, secrets = await store_seed(running, data, seed)
                click.echo(
                    f"{seed.folder}: stored {tenants} of {len(seed.tenants)} tenants and {secrets} of "
                    f"{len(seed.secrets)} secrets. The others have not changed."
                )
            await app.run(running, ports.host)

    with data_folder(LOCAL) as data:
        check_free(ports)
        if fresh and (left := data.wipe()):
            click.echo(f"{LOCAL.name}/ is wiped, except for {', '.join(left)}: other programs wrote that.")
        try:
            await run_on(data)
        except DataDamaged as why:
            aside = data.keep_aside(datetime.now(UTC))
            click.echo(
                f"The data in {LOCAL.name}/ cannot be used: {why}.\n"
                f"They are kept in {aside.name}/, and this start begins without data."
            )
            await run_on(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunApp:
    """The options of `start` for the host."""

    lines: Lines
    trace: bool
    reload: bool

    async def run(self, running: Stack, port: int) -> None:
        """Run the app in the host until Ctrl-C."""
        settings = running.settings
        click.echo(
            f"Storage        {running.storage.connection_string}\n"
            f"               queues {settings.queue_name} and {settings.poison_queue_name}\n"
            f"Cosmos DB      {running.database.connection_string}\n"
            f"               database {settings.cosmos_database}, containers {settings.tenants_container} and "
            f"{settings.runs_container}\n"
            f"Key Vault      {running.vault.uri}\n"
            f"Demo APIs      {running.demo.url}\n"
            f"Data           {LOCAL.name}/, kept for the next start\n"
            "Change them    python -m localdev tenant FILE, python -m localdev secret set NAME VALUE\n"
            "`make tick` runs the flows that are due. Ctrl-C stops everything."
        )
        # The host does not ask for the key, as with Core Tools.
        environ = {**running.environ, "DASHBOARD": "key"}
        served = Served(environ=environ, port=port, lines=self.lines, trace=self.trace)
        with ExitStack() as stack:

            def on_start(url: str) -> None:
                stack.enter_context(_announced(running, url))
                click.echo(f"Dashboard      {url}/api/ops\nCommand line   python -m datasync status --local")

            await (serve_with_reload if self.reload else serve)(served, on_start)


@contextmanager
def _announced(running: Stack, host_url: str) -> Generator[None]:
    """Write the settings for `--local` of the command line, and remove them at the end."""
    settings = running.settings
    values = {
        **running.environ,
        "COSMOS_DATABASE": settings.cosmos_database,
        "COSMOS_TENANTS_CONTAINER": settings.tenants_container,
        "COSMOS_RUNS_CONTAINER": settings.runs_container,
        "QUEUE_NAME": settings.queue_name,
        "ORCHESTRATOR_SCHEDULE": settings.schedule,
        local_settings.DEMO_APIS: running.demo.url,
    }
    content = {"IsEncrypted": False, "Values": values, "Host": {"LocalHttpPort": urlsplit(host_url).port}}
    file = LOCAL / local_settings.STARTED.name
    replace_file(file, json.dumps(content, indent=2).encode())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


async def _tick(wait: timedelta) -> None:
    settings = Settings.from_environ({**os.environ, **local_settings.started_settings()})
    port = json.loads(local_settings.STARTED.read_bytes())["Host"]["LocalHttpPort"]
    try:
        registry = load("flows")
    except ValueError:  # the host cannot load the flows either, and `start` says so
        registry = FlowRegistry()
    try:
        is_well = await tick(f"http://127.0.0.1:{port}", settings, registry, _report_console(), wait)
    except ServiceUnavailable:
        raise click.ClickException("the Cosmos DB of `make start` does not answer. Run `make start` again") from None
    if not is_well:
        sys.exit(1)


def _report_console() -> Console:
    """Return a console for tables. A pipe has no width, a terminal has its own."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


cli.add_command(tenant)
cli.add_command(secret)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # flow names contain arrows, which some code pages do not have
    cli()
