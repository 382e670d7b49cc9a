"""The commands that look into a running app. `datasync/operate/` has the answers, `text.py` their lines."""

from datetime import datetime

import click
from click.core import ParameterSource

from datasync.cli import text
from datasync.cli.common import Command, Exit, Session, flows_option, load_flows, operating, since_argument
from datasync.flow.registry import FlowRegistry
from datasync.model.run import Outcome
from datasync.model.times import EXPECTED, read_utc
from datasync.operate.audit import audit as find_audit
from datasync.operate.flows import flows as find_flows
from datasync.operate.incidents import incidents as find_incidents
from datasync.operate.queue import queues
from datasync.operate.runs import FAILED, follow_runs
from datasync.operate.runs import run as find_run
from datasync.operate.runs import runs as find_runs
from datasync.operate.status import status as find_status
from datasync.operate.ticks import ticks as find_ticks
from datasync.operate.why import Cause
from datasync.operate.why import why as find_why
from datasync.operate.why_at import why_at as find_why_at

_of_flows = flows_option("Package that contains the flow files: their names, aliases and providers.")


def _time(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else read_utc(value)
    except ValueError:
        raise click.BadParameter(f"expected {EXPECTED}, got {value!r}") from None


@click.command(
    "status",
    cls=Command,
    example="status",
    wrong="something is wrong, or a service is away",
    short_help="Show what is wrong in the fleet, in numbers.",
)
@_of_flows
@operating
async def status(session: Session, package: str) -> Exit:
    """Show the last ticks, the queues, and how many flows are failing, late, or need a correction.

    Where something is wrong, the line names the command to run next.
    """
    found = await find_status(session.services, load_flows(package), session.now)
    session.answer(found, text.status(found))
    session.note_errors(found.unavailable)
    return Exit.FINE if found.is_well else Exit.WRONG


@click.command(
    "flows",
    cls=Command,
    example="flows --failing --late",
    wrong="a listed flow is failing, late, unusual, or has a problem, or a service is away",
    short_help="List the flows of all tenants.",
)
@click.option("--failing", is_flag=True, help="Flows whose last attempts failed.")
@click.option("--late", is_flag=True, help="Flows that have not succeeded, or have not been enqueued, in time.")
@click.option(
    "--unusual", is_flag=True, help="Flows whose last successful run counted zero, or took long, unlike usual."
)
@click.option("--problems", is_flag=True, help="Entries and documents that have to be corrected.")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Flows of this tenant.")
@click.option("--flow", "flow_name", metavar="FLOW", help="Entries of this flow.")
@_of_flows
@operating
async def flows(
    session: Session,
    *,
    failing: bool,
    late: bool,
    unusual: bool,
    problems: bool,
    tenant_id: str | None,
    flow_name: str | None,
    package: str,
) -> Exit:
    """List the flows of all tenants, with their last and next runs.

    --failing, --late, --unusual and --problems together list the flows to which any of them applies.
    """
    registry = load_flows(package)
    found = await find_flows(session.services, registry, session.now, tenant_id=tenant_id, flow=flow_name)
    if failing or late or unusual or problems:
        found = [
            line
            for line in found
            if (failing and line.is_failing)
            or (late and line.late_since_utc is not None)
            or (unusual and line.is_unusual)
            or (problems and line.problem is not None)
        ]
    session.answer(found, text.flows(found))
    return Exit.WRONG if any(line.is_wrong for line in found) else Exit.FINE


@click.command(
    "incidents",
    cls=Command,
    example="incidents --since 7d",
    wrong="there is an incident, or a service is away",
    short_help="List failures, by their error.",
)
@click.option(
    "--since", metavar="SPAN", default="24h", show_default=True, callback=since_argument, help="Dead runs since then."
)
@_of_flows
@operating
async def incidents(session: Session, since: datetime, package: str) -> Exit:
    """List the errors of the flows that are failing now, and of the runs that have died.

    Each line is one error, with the number of tenants that have it: failures with the same fingerprint.
    """
    found = await find_incidents(session.services, load_flows(package), session.now, since)
    session.answer(found, text.incidents(found))
    if found.has_more:
        session.note(f"Only the dead runs since {text.time(found.since_utc)} are counted: `dead list` counts all")
    session.note_errors(found.unreadable)
    return Exit.WRONG if found.incidents else Exit.FINE


@click.command(
    "runs",
    cls=Command,
    example="runs acme-cabinets weather --failed --since 24h",
    wrong="a service is away",
    short_help="List the last runs.",
)
@click.argument("tenant_id", metavar="[TENANT", required=False)
@click.argument("flow_name", metavar="[FLOW]]", required=False)
@click.option("--failed", is_flag=True, help="Runs that failed, died, or in which the flow gave up.")
@click.option(
    "--since", metavar="SPAN", callback=since_argument, help="Runs that started since: 30m, 24h, 7d, or a time."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Number of runs.")
@click.option("--follow", is_flag=True, help="Print runs as they end, from now on, until Ctrl-C.")
@_of_flows
@operating
async def runs(
    session: Session,
    *,
    tenant_id: str | None,
    flow_name: str | None,
    failed: bool,
    since: datetime | None,
    limit: int,
    follow: bool,
    package: str,
) -> Exit:
    """List the runs that started last, of all tenants, or of a TENANT and a FLOW. The newest is the first.

    With --follow, print each run of these when it ends. With --json, each is one line then.
    """
    registry = load_flows(package) if flow_name else None
    if follow:
        source = click.get_current_context().get_parameter_source("limit")
        if since or source is not ParameterSource.DEFAULT:
            raise click.UsageError("--follow prints the runs that end from now on: leave out --since and --limit")
        await _follow(session, registry, tenant_id, flow_name, FAILED if failed else ())
        return Exit.FINE
    found = await find_runs(
        session.services,
        registry,
        tenant_id=tenant_id,
        flow=flow_name,
        outcomes=FAILED if failed else (),
        since=since,
        most=limit,
    )
    session.answer(found, text.runs(found))
    if found.has_more:
        session.note(f"Only the last {limit} runs are listed: --limit lists more")
    session.note_errors(found.unreadable)
    return Exit.FINE


async def _follow(
    session: Session,
    registry: FlowRegistry | None,
    tenant_id: str | None,
    flow_name: str | None,
    outcomes: tuple[Outcome, ...],
) -> None:
    found = await follow_runs(session.services, registry, tenant_id=tenant_id, flow=flow_name, outcomes=outcomes)
    session.note("Runs are printed as they end, until Ctrl-C")
    async for each in found:
        if session.as_json:
            session.print_json(each, indent=-1)
        for line in text.ended(each):
            session.word(line)


@click.command(
    "show",
    cls=Command,
    example="show 90d4 --tenant gulf-garages",
    wrong="a service is away",
    short_help="Show a run with its attempts.",
)
@click.argument("run_id", metavar="RUN")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Its tenant. Without it, all tenants are searched.")
@operating
async def show(session: Session, run_id: str, tenant_id: str | None) -> Exit:
    """Show a run with its attempts and their errors. RUN is the `run=` of a log line."""
    found = await find_run(session.services, run_id, tenant_id)
    session.answer(found, text.run(found))
    return Exit.FINE


@click.command(
    "why",
    cls=Command,
    example="why acme-cabinets weather --at 2025-08-23T01:00:00Z",
    wrong="somebody has to do something, or a service is away",
    short_help="Explain why a flow of a tenant does not run.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("flow_name", metavar="FLOW")
@click.option("--at", metavar="TIME", callback=_time, help="Explain this time instead: 2025-08-23T01:00:00Z.")
@_of_flows
@operating
async def why(session: Session, tenant_id: str, flow_name: str, at: datetime | None, package: str) -> Exit:
    """Explain why a flow of a tenant does not run now, what was ruled out, and the command to run next.

    With --at, explain what happened to the last occurrence of its schedule until a time, or what is planned for it.
    """
    flows, now = load_flows(package), session.now
    if at:
        found = await find_why_at(session.services, flows, tenant_id, flow_name, at=at, now=now)
    else:
        found = await find_why(session.services, flows, tenant_id, flow_name, now)
    session.answer(found, text.why(found))
    if found.answer.cause in (Cause.NO_TENANT, Cause.NO_ENTRY):
        return Exit.NOT_FOUND
    return Exit.WRONG if found.is_wrong else Exit.FINE


@click.command(
    "queue",
    cls=Command,
    example="queue",
    wrong="a message waits in the poison queue, or a service is away",
    short_help="Show the job queue and the poison queue.",
)
@operating
async def queue(session: Session) -> Exit:
    """Show the length of the job queue and of the poison queue, and the messages at the front.

    Nothing is taken from the queues.
    """
    found = await queues(session.services)
    session.answer(found, text.queues(found, session.now))
    return Exit.FINE if found.is_well else Exit.WRONG


@click.command(
    "ticks",
    cls=Command,
    example="ticks --limit 100",
    wrong="the last tick failed or was killed, ticks are missing, or a service is away",
    short_help="List the last ticks.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=24, show_default=True, help="Number of ticks.")
@operating
async def ticks(session: Session, limit: int) -> Exit:
    """List the last ticks, with what each has found. The newest is the first."""
    found = await find_ticks(session.services, session.now, limit)
    session.answer(found, text.ticks(found, session.now))
    return Exit.FINE if found.is_well else Exit.WRONG


@click.command(
    "audit",
    cls=Command,
    example="audit --tenant acme-cabinets --since 7d",
    wrong="a service is away",
    short_help="List what operators have done.",
)
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Actions on this tenant.")
@click.option("--since", metavar="SPAN", callback=since_argument, help="Actions since then: 30m, 24h, 7d, or a time.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Number of actions.")
@operating
async def audit(session: Session, tenant_id: str | None, since: datetime | None, limit: int) -> Exit:
    """List what operators have done with this command line and the dashboard. The newest action is the first.

    Edits of documents in other ways are not listed.
    """
    found = await find_audit(session.services, tenant_id=tenant_id, since=since, most=limit)
    session.answer(found, text.audit(found))
    if found.has_more:
        session.note(f"Only the last {limit} actions are listed: --limit lists more")
    session.note_errors(found.unreadable)
    return Exit.FINE


COMMANDS: tuple[click.Command, ...] = (status, incidents, why, flows, runs, show, ticks, queue, audit)
"""The commands of this module. `main.py` registers them."""
