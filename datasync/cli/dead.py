"""`dead`: the dead runs, which can be attempted again or purged."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import click

from datasync.cli import text
from datasync.cli.common import (
    Command,
    Exit,
    Group,
    Session,
    acting,
    confirmed,
    flows_option,
    load_flows,
    operating,
    since_argument,
)
from datasync.flow.registry import FlowRegistry
from datasync.operate.action import Ask, is_known
from datasync.operate.dead import DeadFilter
from datasync.operate.dead import dead as find_dead
from datasync.operate.dead import purge as purge_runs
from datasync.operate.dead import retry as retry_runs
from datasync.operate.runs import run as find_run
from datasync.operate.since import span

_OPTIONS = (
    click.option("--fingerprint", metavar="F", help="Runs with this error. `incidents` shows the fingerprint."),
    click.option("--tenant", "tenant_id", metavar="TENANT", help="Runs of this tenant."),
    click.option("--flow", "flow", metavar="FLOW", help="Runs of this flow."),
    click.option(
        "--since", metavar="SPAN", callback=since_argument, help="Runs that started since: 30m, 24h, 7d, or a time."
    ),
    flows_option("Package that contains the flow files: their names and aliases."),
)
_yes = click.option("--yes", "count", metavar="COUNT", type=click.IntRange(0), help="Do not ask: this many runs.")


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose dead runs."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def _span(_: click.Context, __: click.Parameter, value: str) -> timedelta:
    found = span(value)
    if found is None:
        raise click.BadParameter(f"expected a time span such as 10m or 2h, got {value!r}")
    return found


@click.group("dead", cls=Group, example="dead list", short_help="List dead runs, attempt them again, or purge them.")
def dead() -> None:
    """List the runs that failed for the last time, or in which the flow gave up; attempt them again, or purge them."""


@dead.command(
    "list",
    cls=Command,
    example="dead list --since 7d",
    wrong="there is a dead run, or a service is away",
    short_help="List dead runs.",
)
@_filtered
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Number of runs.")
@operating
async def list_(session: Session, /, *, package: str, limit: int, **options: Any) -> Exit:
    """List the dead runs, the newest first, and count them. Purged ones are left out."""
    found = await find_dead(session.services, load_flows(package), DeadFilter(**options), limit)
    session.answer(found, text.dead(found))
    session.note_errors(found.unreadable)
    return Exit.WRONG if found.count else Exit.FINE


@dead.command(
    "show",
    cls=Command,
    example="dead show 90d4 --tenant gulf-garages",
    wrong="a service is away",
    short_help="Show a dead run with its attempts.",
)
@click.argument("run_id", metavar="RUN")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Its tenant. Without it, all tenants are searched.")
@operating
async def show(session: Session, run_id: str, tenant_id: str | None) -> Exit:
    """Show a run with its attempts and their errors, as the command `show` does."""
    found = await find_run(session.services, run_id, tenant_id)
    session.answer(found, text.run(found))
    return Exit.FINE


@dead.command(
    "retry",
    cls=Command,
    example="dead retry --fingerprint ac78c4c51bf563de --spread 1h",
    wrong="it is not possible, or a service is away",
    short_help="Attempt dead runs again.",
)
@_filtered
@click.option(
    "--spread", metavar="SPAN", default="10m", show_default=True, callback=_span, help="The time over which they start."
)
@_yes
@acting
async def retry(
    session: Session, ask: Ask, *, package: str, spread: timedelta, count: int | None, **options: Any
) -> Exit:
    """Attempt all dead runs that match again, each with its own id and five attempts.

    Runs whose flow is disabled or removed are left out, and stay dead. The number of runs has to be typed at a
    terminal, or given with --yes. If it is another one by then, nothing is done.
    """
    registry, wanted = load_flows(package), DeadFilter(**options)
    count = await _confirmed(session, ask, registry, wanted, count=count, doing="attempt again")
    found = await retry_runs(session.services, registry, ask, wanted, count=count, spread=spread)
    session.answer(found, text.done(found))
    return Exit.FINE


@dead.command(
    "purge",
    cls=Command,
    example="dead purge --tenant gulf-garages",
    wrong="it is not possible, or a service is away",
    short_help="Take dead runs off the list.",
)
@_filtered
@_yes
@acting
async def purge(session: Session, ask: Ask, *, package: str, count: int | None, **options: Any) -> Exit:
    """Take all dead runs that match off the list, for good. Their records stay until they expire.

    The number of runs has to be typed at a terminal, or given with --yes. If it is another one by then, nothing is
    done.
    """
    registry, wanted = load_flows(package), DeadFilter(**options)
    count = await _confirmed(session, ask, registry, wanted, count=count, doing="purge")
    found = await purge_runs(session.services, registry, ask, wanted, count=count)
    session.answer(found, text.done(found))
    return Exit.FINE


async def _confirmed(
    session: Session, ask: Ask, registry: FlowRegistry, wanted: DeadFilter, *, count: int | None, doing: str
) -> int:
    """Return the number of runs that the operator has given or typed. A repeat of an action has been confirmed."""
    if count is not None or await is_known(session.services, ask):
        return count or 0
    found = await find_dead(session.services, registry, wanted, 10)
    for line in text.dead(found):
        session.note(line)
    if found.count:
        confirmed(f"To {doing} all of them, type their number", str(found.count), f"--yes {found.count}")
    return found.count


COMMANDS: tuple[click.Command, ...] = (dead,)
"""The commands of this module. `main.py` registers them."""
