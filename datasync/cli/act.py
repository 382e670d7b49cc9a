"""The commands that act on a running app. `datasync/operate/` has the actions."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from datasync.cli import text
from datasync.cli.common import (
    Command,
    Exit,
    Group,
    Session,
    acting,
    flows_option,
    json_value,
    load_flows,
    operating,
)
from datasync.errors import ActionInvalid
from datasync.model.run import Outcome
from datasync.model.times import EXPECTED, read_utc, utc_text
from datasync.operate.action import Ask
from datasync.operate.edits import instant, set_next_run
from datasync.operate.edits import pause as pause_flows
from datasync.operate.edits import resume as resume_flows
from datasync.operate.enqueue import enqueue as enqueue_run
from datasync.operate.enqueue import follow, run_of
from datasync.operate.gates import gates as find_gates
from datasync.operate.gates import open_gate
from datasync.operate.memory import memory, set_cursor, set_window
from datasync.operate.runs import RunLine
from datasync.operate.why import command

_of_flows = flows_option("Package that contains the flow files: their names and aliases.")


def _instant(_: click.Context, __: click.Parameter, value: str) -> datetime | None:
    try:
        return instant(value)
    except ActionInvalid as why:
        raise click.BadParameter(str(why)) from None


def _time(_: click.Context, __: click.Parameter, value: str) -> datetime:
    try:
        return read_utc(value)
    except ValueError:
        raise click.BadParameter(f"expected {EXPECTED}, got {value!r}") from None


def _seen_option(metavar: str, read: Callable[[click.Context, click.Parameter, str], Any]) -> Callable[..., Any]:
    """Return the option for the value that the operator saw: a list with it, which is empty if it is not given."""

    def values(context: click.Context, parameter: click.Parameter, value: str | None) -> list[Any]:
        return [] if value is None else [read(context, parameter, value)]

    text = "The present value, as you saw it. If it is another one by now, nothing is done."
    return click.option("--seen", metavar=metavar, callback=values, help=text)


def _seen(name: str, seen: list[Any]) -> dict[str, Any] | None:
    """Return the field that the operator saw, times as texts; None without `--seen`."""
    values = [utc_text(each) if isinstance(each, datetime) else each for each in seen]
    return {name: values[0]} if values else None


@click.command(
    "enqueue",
    cls=Command,
    example="enqueue acme-cabinets weather --wait",
    wrong="it is not possible, the run did not succeed (--wait), or a service is away",
    short_help="Run a flow of a tenant now.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("flow_name", metavar="FLOW")
@click.option("--wait", is_flag=True, help="Wait for the end of the run.")
@_of_flows
@acting
async def enqueue(session: Session, ask: Ask, *, tenant_id: str, flow_name: str, wait: bool, package: str) -> Exit:
    """Put one run of a flow of a tenant on the queue. The schedule does not change.

    With --wait, Ctrl-C ends the waiting and not the run.
    """
    found = await enqueue_run(session.services, load_flows(package), ask, tenant_id=tenant_id, flow=flow_name)
    if not wait:
        session.answer(found, text.done(found))
        session.note(f"Follow it: {command('show', run_of(ask), '--tenant', tenant_id)}")
        return Exit.FINE
    session.note(found.message)
    try:
        last = await _followed(session, tenant_id, run_of(ask))
    except asyncio.CancelledError:
        session.note(f"The run goes on. Follow it: {command('show', run_of(ask), '--tenant', tenant_id)}")
        return Exit.INTERRUPTED
    session.answer(last, text.run_end(last))
    return Exit.FINE if last.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED) else Exit.WRONG


async def _followed(session: Session, tenant_id: str, run: str) -> RunLine:
    """Wait for the end of a run, and print the end of each attempt before the last."""
    last: RunLine | None = None
    async for line in follow(session.services, tenant_id, run):
        if last:
            for each in text.run_end(last):
                session.note(each)
        last = line
    if last is None:
        raise AssertionError("follow yields the end of the run")
    return last


@click.command(
    "pause",
    cls=Command,
    example='pause acme-cabinets weather --reason "token expired"',
    wrong="it is not possible, or a service is away",
    short_help="Disable a flow of a tenant, or all of its flows.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("flow_name", metavar="[FLOW]", required=False)
@click.option("--reason", metavar="TEXT", default="", help="Why. `why` and the document show it.")
@_of_flows
@acting
async def pause(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str | None, reason: str, package: str
) -> Exit:
    """Disable a flow of a tenant. Without a FLOW, disable all of its enabled flows.

    A run in progress continues. A run that waits on the queue is skipped.
    """
    found = await pause_flows(
        session.services, load_flows(package), ask, tenant_id=tenant_id, flow=flow_name, reason=reason
    )
    session.answer(found, text.done(found))
    return Exit.FINE


@click.command(
    "resume",
    cls=Command,
    example="resume acme-cabinets weather",
    wrong="it is not possible, or a service is away",
    short_help="Enable a flow of a tenant, or a paused tenant.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("flow_name", metavar="[FLOW]", required=False)
@_of_flows
@acting
async def resume(session: Session, ask: Ask, *, tenant_id: str, flow_name: str | None, package: str) -> Exit:
    """Enable a flow of a tenant. Without a FLOW, enable the flows that were paused with the whole tenant.

    If the time of a flow has passed, it runs once at the next tick. To leave that run out, set `next-run` to null.
    """
    found = await resume_flows(session.services, load_flows(package), ask, tenant_id=tenant_id, flow=flow_name)
    session.answer(found, text.done(found))
    return Exit.FINE


@click.command(
    "next-run",
    cls=Command,
    example="next-run acme-cabinets weather 2025-08-23T18:30:00-05:00",
    wrong="it is not possible, or a service is away",
    short_help="Set the next run of a flow of a tenant.",
)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("flow_name", metavar="FLOW")
@click.argument("at", metavar="ISO|null", callback=_instant)
@_seen_option("ISO|null", _instant)
@_of_flows
@acting
async def next_run(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str, at: datetime | None, seen: list[Any], package: str
) -> Exit:
    """Set the next run of a flow of a tenant. After it, the schedule continues.

    A time in the past runs at the next tick. null is the next time of the schedule, without a run for the past.
    """
    found = await set_next_run(
        session.services,
        load_flows(package),
        ask,
        tenant_id=tenant_id,
        flow=flow_name,
        at=at,
        seen=_seen("nextRunUtc", seen),
    )
    session.answer(found, text.done(found))
    return Exit.FINE


@click.group("gate", cls=Group, example="gate list", short_help="List the providers that are closed, and open them.")
def gate() -> None:
    """List the providers that have asked not to be called for a time, and let them be called again."""


@gate.command(
    "list",
    cls=Command,
    example="gate list",
    wrong="a service is away",
    short_help="List the providers that are closed.",
)
@operating
async def gate_list(session: Session) -> Exit:
    """List the providers that are closed, for a tenant or for all, with the commands that open them."""
    found = await find_gates(session.services, session.now)
    session.answer(found, text.gates(found))
    return Exit.FINE


@gate.command(
    "open",
    cls=Command,
    example="gate open homedepot acme-cabinets",
    wrong="it is not possible, or a service is away",
    short_help="Let a provider be called again now.",
)
@click.argument("provider", metavar="PROVIDER")
@click.argument("tenant_id", metavar="[TENANT]", required=False)
@_seen_option("ISO", _time)
@acting
async def gate_open(session: Session, ask: Ask, *, provider: str, tenant_id: str | None, seen: list[datetime]) -> Exit:
    """Let a provider be called again now. Without a TENANT, open the gate that holds for all tenants.

    New runs call it at once. Runs that wait already stay hidden on the queue until their time: `enqueue` does not wait.
    """
    until = seen[0] if seen else None
    found = await open_gate(session.services, ask, provider=provider, tenant_id=tenant_id, seen_until=until)
    session.answer(found, text.done(found))
    return Exit.FINE


@click.group(
    "cursor",
    cls=Group,
    example="cursor show acme-cabinets weather",
    short_help="Show, set or reset the cursor of a flow of a tenant.",
)
def cursor() -> None:
    """Show, set or reset the value that a flow keeps from run to run. It is changed only while no run is going on."""


@click.group(
    "window",
    cls=Group,
    example="window show acme-cabinets weather",
    short_help="Show, set or reset the start of the next window.",
)
def window() -> None:
    """Show, set or reset the time at which the next window starts. It is changed only while no run is going on."""


def _of_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments that name an entry, and the flows."""
    for option in (
        _of_flows,
        click.argument("flow_name", metavar="FLOW"),
        click.argument("tenant_id", metavar="TENANT"),
    ):
        function = option(function)
    return function


@cursor.command(
    "show",
    cls=Command,
    example="cursor show acme-cabinets weather",
    wrong="a service is away",
    short_help="Show the cursor, as JSON.",
)
@_of_entry
@operating
async def cursor_show(session: Session, tenant_id: str, flow_name: str, package: str) -> Exit:
    """Show the cursor of a flow of a tenant, as JSON; null if it has kept none."""
    found = await memory(session.services, load_flows(package), tenant_id, flow_name)
    session.answer(found, text.cursor(found))
    for line in text.cursor_commands(found):
        session.note(line)
    return Exit.FINE


@window.command(
    "show",
    cls=Command,
    example="window show acme-cabinets weather",
    wrong="a service is away",
    short_help="Show the start of the next window.",
)
@_of_entry
@operating
async def window_show(session: Session, tenant_id: str, flow_name: str, package: str) -> Exit:
    """Show the start of the next window of a flow of a tenant; - if no run has succeeded yet."""
    found = await memory(session.services, load_flows(package), tenant_id, flow_name)
    session.answer(found, text.window(found))
    for line in text.window_commands(found):
        session.note(line)
    return Exit.FINE


@cursor.command(
    "set",
    cls=Command,
    example="cursor set acme-cabinets weather 42",
    wrong="it is not possible, or a service is away",
    short_help="Set the cursor to a JSON value.",
)
@_of_entry
@click.argument("value", metavar="JSON", callback=json_value)
@_seen_option("JSON", json_value)
@acting
async def cursor_set(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str, value: Any, seen: list[Any], package: str
) -> Exit:
    """Set the cursor of a flow of a tenant to a JSON value."""
    registry, saw = load_flows(package), _seen("cursor", seen)
    found = await set_cursor(
        session.services, registry, ask, tenant_id=tenant_id, flow=flow_name, cursor=value, seen=saw
    )
    session.answer(found, text.done(found))
    return Exit.FINE


@cursor.command(
    "reset",
    cls=Command,
    example="cursor reset acme-cabinets weather",
    wrong="it is not possible, or a service is away",
    short_help="Forget the cursor.",
)
@_of_entry
@_seen_option("JSON", json_value)
@acting
async def cursor_reset(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str, seen: list[Any], package: str
) -> Exit:
    """Forget the cursor of a flow of a tenant: it starts from the beginning."""
    registry, saw = load_flows(package), _seen("cursor", seen)
    found = await set_cursor(
        session.services, registry, ask, tenant_id=tenant_id, flow=flow_name, cursor=None, seen=saw
    )
    session.answer(found, text.done(found))
    return Exit.FINE


@window.command(
    "set",
    cls=Command,
    example="window set acme-cabinets weather 2025-08-20T00:00:00Z",
    wrong="it is not possible, or a service is away",
    short_help="Set the start of the next window.",
)
@_of_entry
@click.argument("end", metavar="ISO", callback=_time)
@_seen_option("ISO|null", _instant)
@acting
async def window_set(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str, end: datetime, seen: list[Any], package: str
) -> Exit:
    """Set the start of the next window of a flow of a tenant: earlier to cover a time again, later to skip it."""
    registry, saw = load_flows(package), _seen("windowEndUtc", seen)
    found = await set_window(session.services, registry, ask, tenant_id=tenant_id, flow=flow_name, end=end, seen=saw)
    session.answer(found, text.done(found))
    return Exit.FINE


@window.command(
    "reset",
    cls=Command,
    example="window reset acme-cabinets weather",
    wrong="it is not possible, or a service is away",
    short_help="Forget the windows.",
)
@_of_entry
@_seen_option("ISO|null", _instant)
@acting
async def window_reset(
    session: Session, ask: Ask, *, tenant_id: str, flow_name: str, seen: list[Any], package: str
) -> Exit:
    """Forget the windows of a flow of a tenant: the next one has no start, as at the first run."""
    registry, saw = load_flows(package), _seen("windowEndUtc", seen)
    found = await set_window(session.services, registry, ask, tenant_id=tenant_id, flow=flow_name, end=None, seen=saw)
    session.answer(found, text.done(found))
    return Exit.FINE


COMMANDS: tuple[click.Command, ...] = (enqueue, pause, resume, next_run, gate)
MEMORY: tuple[click.Command, ...] = (cursor, window)
"""The commands of this module. `main.py` registers them."""
