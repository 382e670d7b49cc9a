"""The command `simulate`."""

import csv
import io
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click
from msgspec.structs import replace

from datasync import cron
from datasync.cli.chart import Step, chart, rows
from datasync.cli.common import (
    Command,
    Exit,
    Offline,
    content_of,
    flows_option,
    load_flows,
    offline,
    opened,
    time_argument,
    zone_argument,
)
from datasync.cli.validate import parse
from datasync.errors import CronInvalid
from datasync.model.times import has_offset, read_utc
from datasync.operate.load import Conditions, Span, stored
from datasync.operate.load import simulate as simulated
from datasync.settings import MOST_LOOKAHEAD, MOST_SPREAD


def _crons(ctx: click.Context, _: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Read `FLOW=CRON`."""
    crons: dict[str, str] = {}
    for text in texts:
        flow, equals, expression = text.rpartition("=")
        if not equals:
            raise click.BadParameter(f'expected FLOW=CRON, such as "weather=0 */5 * * * *", got {text!r}')
        crons[flow] = _readable(expression, ctx.obj)
    return crons


def _timer(ctx: click.Context, _: click.Parameter, text: str | None) -> str | None:
    return None if text is None else _readable(text, ctx.obj)


def _readable(expression: str, now: datetime) -> str:
    try:
        if cron.parse(expression).next(now) is None:
            raise click.BadParameter(f"cron {expression!r} never fires: no date matches all of its fields")
    except CronInvalid as error:
        raise click.BadParameter(str(error)) from None
    return expression


def _seconds(_: click.Context, __: click.Parameter, number: int | None) -> timedelta | None:
    return None if number is None else timedelta(seconds=number)


@click.command(
    "simulate",
    cls=Command,
    example='simulate acme.json --from 2026-03-29 --tz Europe/Berlin --cron "weather=0 */5 * * * *"',
    wrong="a service is away",
    short_help="Show how many jobs start when, and what if.",
)
@click.argument("sources", metavar="[TENANT|FILE]...", nargs=-1)
@click.option("--from", "start", metavar="ISO", callback=time_argument, help="Start of the span.  [default: now]")
@click.option("--to", "end", metavar="ISO", callback=time_argument, help="End of the span.  [default: a day later]")
@click.option(
    "--tz",
    "zone",
    metavar="ZONE",
    default="UTC",
    callback=zone_argument,
    help="Time zone of the chart, and of --from and --to without an offset.  [default: UTC]",
)
@click.option("--by", "step", type=click.Choice(["hour", "minute"]), default="hour", help="Length of a bar.")
@click.option("--provider", metavar="NAME", help="Count only the flows of this provider.")
@click.option(
    "--schedule",
    metavar="CRON",
    callback=_timer,
    help="What if ORCHESTRATOR_SCHEDULE was this?",
)
@click.option(
    "--lookahead",
    metavar="SECONDS",
    type=click.IntRange(0, MOST_LOOKAHEAD),
    callback=_seconds,
    help="What if ORCHESTRATOR_LOOKAHEAD was this?",
)
@click.option(
    "--spread",
    metavar="SECONDS",
    type=click.IntRange(0, MOST_SPREAD),
    callback=_seconds,
    help="What if ORCHESTRATOR_SPREAD was this?",
)
@click.option(
    "--cron",
    "crons",
    metavar="FLOW=CRON",
    multiple=True,
    callback=_crons,
    help="What if all enabled entries of a flow had this cron? Can be repeated.",
)
@flows_option("Package that contains the flow files.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row for each hour or minute and provider, with commas.")
@offline
async def simulate(
    output: Offline,
    /,
    *,
    sources: tuple[str, ...],
    start: str | None,
    end: str | None,
    zone: ZoneInfo,
    step: Step,
    provider: str | None,
    package: str,
    as_csv: bool,
    **changes: Any,
) -> Exit:
    """Show how many jobs the ticks start in each hour or minute. Nothing is run.

    Without arguments, these are the jobs of all tenants. A FILE has tenant documents, as for validate: it ends with
    .json, or is - for standard input. Files need no services.

    The simulation starts with the documents as they are, with their nextRunUtc. With --from or a "what if", it leaves
    nextRunUtc out: it is as if the app had always run like that.
    """
    if output.as_json and as_csv:
        raise click.UsageError("--json and --csv are two forms of the answer: use one of them")
    files = [each for each in sources if each == "-" or each.endswith(".json")]
    if files and len(files) < len(sources):
        raise click.UsageError("name tenants or files, not both")
    registry = load_flows(package)
    documents = [document for file in files for document in _documents(file)]
    unchanged = Conditions()
    async with AsyncExitStack() as stack:
        if output.has_services or not files:
            services = await stack.enter_async_context(opened())
            unchanged = Conditions.of(services.settings)
            documents = documents if files else await stored(services, sources)
    conditions = replace(unchanged, **{name: value for name, value in changes.items() if value is not None})
    is_as_stored = start is None and conditions == unchanged
    begin = _instant(start, zone) if start else output.now
    span = Span.of(begin, _instant(end, zone) if end else _next_day(begin, zone), as_stored=is_as_stored)
    found = simulated(documents, registry, span, conditions, unchanged=unchanged, provider=provider)
    if as_csv:
        click.echo(_csv([("start", "provider", "jobs"), *rows(found, step)]), nl=False)
    else:
        output.answer(found, chart(found, zone, step))
    return Exit.FINE


def _documents(file: str) -> list[dict[str, Any]]:
    """Return the tenant documents of a file. Raises BadParameter."""
    try:
        read, _ = parse(content_of(file))
    except OSError as error:
        raise click.BadParameter(f"{file} cannot be read: {error.strerror or error}") from None
    except ValueError as why:
        raise click.BadParameter(f"{file}: {why}") from None
    documents = read if isinstance(read, list) else [read]
    if not all(isinstance(each, dict) for each in documents):
        raise click.BadParameter(f"{file} has something else than tenant documents, which are JSON objects")
    return documents


def _instant(text: str, zone: ZoneInfo) -> datetime:
    """Read an ISO 8601 time, which is in a time zone if it has no offset."""
    read = read_utc(text)
    return read if has_offset(text) else read.replace(tzinfo=zone).astimezone(UTC)


def _next_day(begin: datetime, zone: ZoneInfo) -> datetime:
    """Return the same time on the next day, which is 23 to 25 hours later."""
    local = begin.astimezone(zone).replace(second=0, microsecond=0)
    return (local + timedelta(days=1)).astimezone(UTC)


def _csv(lines: list[tuple[str, str, int] | tuple[str, str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


COMMANDS: tuple[click.Command, ...] = (simulate,)
"""The commands of this module. `main.py` registers them."""
