"""The command line: arguments, output and exit codes. Only this package imports click, which is not deployed.

Click passes the current time to the commands as `obj`. `common.py` has the exit codes.
"""

import asyncio
import sys
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import click

from datasync import cron
from datasync.cli import act, dead, documents
from datasync.cli.common import OperatingCommand, flows_option, load_flows, read_settings, say, settings_option, use
from datasync.cli.operate import COMMANDS
from datasync.cli.schedule import occurrences, table
from datasync.cli.tenants import TenantsReport
from datasync.cli.validate import Report
from datasync.cron import CronSchedule
from datasync.errors import CronInvalid, DataSyncError
from datasync.flow.registry import FlowRegistry
from datasync.health import ping
from datasync.model.times import EXPECTED, has_offset, read_utc, utc_text
from datasync.schedule import find_zone
from datasync.services import Services
from datasync.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Check schedules, tenant documents and services, look into a running app, and act on it."""


for _command in (*COMMANDS, *act.COMMANDS, *dead.COMMANDS, *documents.COMMANDS):
    cli.add_command(_command)


def _expression(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> CronSchedule:
    if len(texts) > 1:
        raise click.BadParameter(f'{len(texts)} arguments found, 1 expected; quote the expression: "0 0 * * * *"')
    try:
        return cron.parse(texts[0])
    except CronInvalid as error:
        raise click.BadParameter(str(error)) from None


def _zone(_: click.Context, __: click.Parameter, name: str) -> ZoneInfo:
    try:
        return find_zone(name)
    except ValueError as why:
        raise click.BadParameter(str(why)) from None


def _time(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Check that a text is an ISO 8601 time."""
    if text is None:
        return None
    try:
        read_utc(text)
    except ValueError:
        raise click.BadParameter(f"expected {EXPECTED}, got {text!r}") from None
    return text


@cli.command(short_help="List the next occurrences of a cron expression.")
@click.argument("schedule", metavar="CRON", nargs=-1, required=True, callback=_expression)
@click.option(
    "--tz", "zone", metavar="ZONE", default="UTC", callback=_zone, help="Time zone of the expression.  [default: UTC]"
)
@click.option("--from", "start", metavar="ISO", callback=_time, help="Time to start after.  [default: now]")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of occurrences.")
@click.pass_obj
def schedule(now: datetime, schedule: CronSchedule, zone: ZoneInfo, start: str | None, count: int) -> None:
    """List the next occurrences of a cron expression. It has six fields, seconds first, and must be in quotes.

    With --tz, the local time is listed too. Occurrences affected by a clock change have a note.
    """
    after = read_utc(start) if start else now
    since = f"after {utc_text(after)}"
    if start and not has_offset(start):
        since += " (--from has no offset, and is read as UTC)"
    found = [*islice(occurrences(schedule, after, zone), count)]
    if not found:
        say(f"cron {schedule.expression!r} never fires {since}: no date matches all of its fields", err=True)
        sys.exit(1)
    say(f"{schedule.expression} in {zone.key}, {since}")
    say("")
    for line in table(schedule, zone, found):
        say(line)
    if len(found) < count:
        say("no more occurrences: the calendar ends with year 9999")


@cli.command(short_help="Check tenant documents and flow files.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@flows_option("Package that contains the flow files.")
@click.pass_obj
def validate(now: datetime, files: tuple[str, ...], package: str) -> None:
    """Check tenant documents. A FILE holds one document or a JSON list of documents; - is standard input.

    Prints every problem and warning. Disabled entries and flow files are checked too. Warnings alone give exit code 0.
    """
    report = Report(load_flows(package), now)
    for line in report.flow_files():
        say(line)
    for file in files:
        try:
            with click.open_file(file, "rb") as stream:
                content = stream.read()
        except OSError as error:
            report.unread += 1
            say(f"{file}: cannot be read: {error.strerror or error}", err=True)
            continue
        for line in report.documents(file, content):
            say(line)
    say(report.summary())
    sys.exit(2 if report.unread else 1 if report.problems else 0)


@cli.command(cls=OperatingCommand, short_help="Check Cosmos DB, the queues and Key Vault.")
@settings_option
@click.option(
    "--tenants",
    is_flag=True,
    help="Also check the stored tenant documents, and list the secrets they lack in Key Vault.",
)
@flows_option("With --tenants: package that contains the flow files.")
@click.pass_obj
def check(now: datetime, local: dict[str, str] | None, tenants: bool, package: str) -> None:  # noqa: FBT001 - a flag
    """Send one request to each configured service: Cosmos DB, the queues, Key Vault.

    With --tenants, also check each tenant document as a tick does, and read each secret that a flow declares with
    @flow(secrets=...) for its enabled entries. Values are not printed.
    """
    use(local)
    registry = load_flows(package) if tenants else None
    sys.exit(asyncio.run(_check(read_settings(), registry, now)))


async def _check(settings: Settings, registry: FlowRegistry | None, now: datetime) -> int:
    """Print the state of each service, and of the tenants where a registry is given. Return the exit code."""
    services = Services(settings)
    try:
        if not await _check_services(services):
            if registry:
                say("the tenants were not checked: correct the services above first", err=True)
            return 1
        return 0 if registry is None or await _check_tenants(TenantsReport(services, registry, now)) else 1
    finally:
        await services.close()


async def _check_services(services: Services) -> bool:
    answers = await ping(services)
    is_well = all(answer == "ok" for answer in answers.values())
    if services.settings.key_vault_url is None:
        answers["Key Vault"] = "not configured (KEY_VAULT_URI is not set); only flows that read secrets need it"
    width = max(map(len, answers))
    for service, answer in answers.items():
        say(f"{service:<{width}}   {answer}")
    return is_well


async def _check_tenants(report: TenantsReport) -> bool:
    try:
        async for line in report.lines():
            say(line)
    except DataSyncError as error:
        say(f"the tenants were not checked to the end: {error}", err=True)
        return False
    say(report.summary())
    return not report.problems and not report.missing
