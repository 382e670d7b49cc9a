"""The commands that check a deployment: schedules, tenant documents and flow files, the services."""

import sys
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import click

from datasync import cron
from datasync.cli.common import (
    EXITS,
    Command,
    Exit,
    Offline,
    Output,
    Session,
    content_of,
    flows_option,
    json_option,
    load_flows,
    offline,
    opened,
    operating,
    say,
    time_argument,
    zone_argument,
)
from datasync.cli.meaning import meanings_of
from datasync.cli.schedule import Occurrences, occurrences, table
from datasync.cli.tenants import TenantsReport, with_missing
from datasync.cli.validate import Report
from datasync.cron import CronSchedule
from datasync.errors import CronInvalid, DataSyncError, Kind
from datasync.health import ping
from datasync.model.times import has_offset, read_utc, utc_text
from datasync.operate.load import Conditions


def _expression(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> CronSchedule:
    if len(texts) > 1:
        raise click.BadParameter(f'{len(texts)} arguments found, 1 expected; quote the expression: "0 0 * * * *"')
    try:
        return cron.parse(texts[0])
    except CronInvalid as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    "schedule",
    cls=Command,
    example='schedule "0 30 2 * * *" --tz America/Chicago',
    wrong="the expression never fires",
    short_help="List the next occurrences of a cron expression.",
)
@click.argument("schedule", metavar="CRON", nargs=-1, required=True, callback=_expression)
@click.option(
    "--tz",
    "zone",
    metavar="ZONE",
    default="UTC",
    callback=zone_argument,
    help="Time zone of the expression.  [default: UTC]",
)
@click.option("--from", "start", metavar="ISO", callback=time_argument, help="Time to start after.  [default: now]")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of occurrences.")
@json_option
@click.pass_obj
def schedule(
    now: datetime, *, schedule: CronSchedule, zone: ZoneInfo, start: str | None, count: int, as_json: bool
) -> None:
    """List the next occurrences of a cron expression. It has six fields, seconds first, and must be in quotes.

    With --tz, the local time is listed too. Occurrences affected by a clock change have a note.
    """
    output = Output(as_json)
    after = read_utc(start) if start else now
    since = f"after {utc_text(after)}"
    if start and not has_offset(start):
        since += " (--from has no offset, and is read as UTC)"
    found = [*islice(occurrences(schedule, after, zone), count)]
    if as_json:
        output.print_json(Occurrences.of(schedule, zone, after, found))
    if not found:
        output.note(f"cron {schedule.expression!r} never fires {since}: no date matches all of its fields")
        sys.exit(Exit.WRONG)
    output.word(f"{schedule.expression} in {zone.key}, {since}")
    output.word("")
    for line in table(schedule, zone, found):
        output.word(line)
    if len(found) < count:
        output.word("no more occurrences: the calendar ends with year 9999")


@click.command(
    "validate",
    cls=Command,
    example="validate acme-cabinets.json",
    wrong="a document or a flow file has a problem (warnings alone are fine)",
    short_help="Check tenant documents and flow files.",
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@flows_option("Package that contains the flow files.")
@offline
async def validate(output: Offline, /, *, files: tuple[str, ...], package: str) -> Exit:
    """Check tenant documents. A FILE holds one document or a JSON list of documents; - is standard input.

    Prints every problem and warning, and then the meaning of each enabled entry: when it runs, and how many secrets it
    needs. Disabled entries and flow files are checked too. A file that cannot be read is a wrong argument: the others
    are checked.

    With --settings or --local, the schedule of the timer is that of the app, and the vault is asked for the secrets.
    """
    registry = load_flows(package)
    report = Report(registry, output.now)
    for each in report.flow_files():
        output.word(str(each))
    for file in files:
        try:
            content = content_of(file)
        except OSError as error:
            report.unread += 1
            say(f"{file}: cannot be read: {error.strerror or error}", err=True)
            continue
        for each in report.documents(file, content):
            output.word(str(each))
    code = Exit.USAGE if report.unread else Exit.WRONG if report.problems else Exit.FINE
    if not output.has_services:
        meanings = [*meanings_of(report.tenants, registry, output.now, Conditions())]
    else:
        async with opened() as services:
            meanings = [*meanings_of(report.tenants, registry, output.now, Conditions.of(services.settings))]
            try:
                meanings = await with_missing(meanings, services.vault)
            except DataSyncError as error:
                output.note(f"the secrets were not checked: {error}")
                code = code or EXITS[error.kind]
    output.answer(report.result(meanings), [report.summary(), *(each.line(output.now) for each in meanings)])
    return code


@click.command(
    "check",
    cls=Command,
    example="check --tenants --settings local.settings.json",
    wrong="a service does not answer, or a tenant has a problem or lacks a secret",
    short_help="Check Cosmos DB, the queues and Key Vault.",
)
@click.option(
    "--tenants",
    "has_tenants",
    is_flag=True,
    help="Also check the stored tenant documents, and list the secrets they lack in Key Vault.",
)
@flows_option("With --tenants: package that contains the flow files.")
@operating
async def check(session: Session, *, has_tenants: bool, package: str) -> Exit:
    """Send one request to each configured service: Cosmos DB, the queues, Key Vault.

    With --tenants, also check each tenant document as a tick does, and read each secret that a flow declares with
    @flow(secrets=...) for its enabled entries. Values are not printed.
    """
    report = TenantsReport(session.services, load_flows(package), session.now) if has_tenants else None
    found = await ping(session.services)
    answers = {service: each.text for service, each in found.items()}
    is_well = all(each.is_well for each in found.values())
    code = Exit.NOT_LET_IN if any(each.is_refused for each in found.values()) else Exit.WRONG
    for line in _services(answers, has_vault=session.services.settings.key_vault_url is not None):
        session.word(line)
    if report and not is_well:
        session.note("the tenants were not checked: correct the services above first")
    elif report:
        code = await _check_tenants(session, report)
        is_well = code is Exit.FINE
    if session.as_json:
        session.print_json({"services": answers, "tenants": report and report.result()})
    return Exit.FINE if is_well else code


def _services(answers: dict[str, str], *, has_vault: bool) -> list[str]:
    unused = (
        {}
        if has_vault
        else {"Key Vault": "not configured (KEY_VAULT_URI is not set); only flows that read secrets need it"}
    )
    width = max(map(len, [*answers, *unused]))
    return [f"{service:<{width}}   {answer}" for service, answer in (answers | unused).items()]


async def _check_tenants(session: Session, report: TenantsReport) -> Exit:
    try:
        async for each in report.findings():
            session.word(str(each))
    except DataSyncError as error:
        session.note(f"the tenants were not checked to the end: {error}")
        return Exit.NOT_LET_IN if error.kind is Kind.NOT_LET_IN else Exit.WRONG
    session.word(report.summary())
    return Exit.WRONG if report.problems or report.missing else Exit.FINE


COMMANDS: tuple[click.Command, ...] = (validate, schedule, check)
"""The commands of this module. `main.py` registers them."""
