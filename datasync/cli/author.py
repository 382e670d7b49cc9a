"""The commands for the author of a flow. `datasync/author/` has the use cases."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click
from msgspec import UNSET

from datasync.author.attempt import Wish
from datasync.author.run import STOPPED
from datasync.author.run import run as run_here
from datasync.author.stopped import one_of_each
from datasync.author.trial import Trial, trial
from datasync.cli import text
from datasync.cli.common import (
    Command,
    Exit,
    Session,
    acting,
    flows_option,
    json_value,
    load_flows,
    operating,
    say_interrupted,
    since_argument,
)
from datasync.cli.validate import count
from datasync.errors import LeaseLost
from datasync.model.display import shown
from datasync.model.run import Outcome
from datasync.operate.action import Ask
from datasync.operate.runs import RunLine
from datasync.operate.why import command
from datasync.run.execute import GRACE
from datasync.telemetry.emit import configure, logger

_MOST_SHOWN = 20  # stopped requests
_MOST_CHANGES = 60  # lines of a diff
_MOST_EXAMPLES = 3  # answers


def _object(context: click.Context, parameter: click.Parameter, value: str | None) -> Mapping[str, Any]:
    if value is None:
        return {}
    found = json_value(context, parameter, value)
    if not isinstance(found, dict):
        raise click.BadParameter(f'expected a JSON object, such as \'{{"leadSource": "X"}}\', got {value!r}')
    return found


def _cursor(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return UNSET if value is None else json_value(context, parameter, value)


def _of_a_wish(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that name a run."""
    for option in (
        flows_option("Package that contains the flow files."),
        click.option(
            "--with",
            "flow_settings",
            metavar="JSON",
            callback=_object,
            help="Settings for this run, as an object. They replace the fields of the entry's settings.",
        ),
        click.option("--until", metavar="WHEN", callback=since_argument, help="The end of the window.  [default: now]"),
        click.option(
            "--since",
            metavar="WHEN",
            callback=since_argument,
            help="The start of the window: 30m, 24h or 7d ago, or an ISO time.  [default: the end of the last one]",
        ),
        click.option("--tenant", "tenant_id", metavar="TENANT", required=True, help="The tenant."),
        click.argument("flow_name", metavar="FLOW"),
    ):
        function = option(function)
    return function


@click.command(
    "run",
    cls=Command,
    example="run weather --tenant acme-cabinets --local",
    wrong="it is not possible, the run did not succeed, or a service is away",
    short_help="Run a flow for a tenant once, in this process.",
)
@_of_a_wish
@acting
async def run(
    session: Session,
    ask: Ask,
    *,
    tenant_id: str,
    flow_name: str,
    package: str,
    flow_settings: Mapping[str, Any],
    **options: Any,
) -> Exit:
    """Run a flow for a tenant once, now, in this process: a real run, with its record, window and cursor.

    It has one attempt. breakpoint() works, and the time in which a debugger waits does not count. The end of a window
    that you give with --since is kept only if it leaves no gap after the last window.
    """
    registry = load_flows(package)
    wish = Wish(tenant_id=tenant_id, flow=flow_name, settings=flow_settings, **options)
    with _log_lines(), _told_to_stop():
        try:
            made = await run_here(session.services, registry, ask, wish)
        except LeaseLost as error:
            session.note(f"Error: {error}. Nothing was recorded: another run has taken its place")
            return Exit.WRONG
    record = made.record
    session.answer(RunLine.of(record), ())
    if record.error and record.error.kind == STOPPED:
        say_interrupted()
        session.note(f"The flow was stopped, the run ended as {record.outcome}, and its lease is released")
    elif record.outcome is Outcome.SUCCEEDED and not made.keeps_window:
        session.note("The next window starts where it did: the given one leaves a gap after the last one")
    session.note(f"The record: {command('show', record.run_id, '--tenant', tenant_id)}")
    if record.error and record.error.kind == STOPPED:
        return Exit.INTERRUPTED
    return Exit.FINE if record.outcome is Outcome.SUCCEEDED else Exit.WRONG


@click.command(
    "try",
    cls=Command,
    example="try weather --tenant acme-cabinets --local",
    wrong="it is not possible, the flow did not succeed, or a service is away",
    short_help="Run a flow for a tenant, and stop its requests that change data.",
)
@_of_a_wish
@click.option("--cursor", metavar="JSON", callback=_cursor, help="The cursor at the start.  [default: the kept one]")
@click.option(
    "--save",
    "saves",
    is_flag=True,
    help="Write the HTTP exchanges to tests/flows/cassettes/, and made-up answers to the file with the answers.",
)
@click.option(
    "--unguarded",
    is_flag=True,
    help="Call also a flow that does not take run. Its requests cannot be stopped: it may change data.",
)
@operating
async def try_(
    session: Session,
    /,
    *,
    tenant_id: str,
    flow_name: str,
    package: str,
    flow_settings: Mapping[str, Any],
    cursor: Any,
    saves: bool,
    unguarded: bool,
    **options: Any,
) -> Exit:
    """Run a flow for a tenant, keep no record, window or cursor, and stop the requests of run.http that change data.

    GET, HEAD and OPTIONS are sent, and a POST with extensions=READ. All other requests of run.http are stopped, and
    listed. They get the answers in tests/flows/FILE.answers.json, where FILE is the name of the flow's file, or
    made-up ones.
    """
    registry = load_flows(package)
    wish = Wish(tenant_id=tenant_id, flow=flow_name, settings=flow_settings, **options)
    with _log_lines(), _told_to_stop():
        found = await trial(
            session.services, registry, wish, session.now, cursor=cursor, saves=saves, unguarded=unguarded
        )
    session.answer(_content(found), _lines(found))
    if found.ending.outcome is Outcome.INTERRUPTED:
        say_interrupted()
        return Exit.INTERRUPTED
    return Exit.FINE if found.ending.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED) else Exit.WRONG


def _content(found: Trial) -> Mapping[str, Any]:
    """Return the result of a `try` as JSON."""
    ending = found.ending
    return {
        "tenantId": found.tenant_id,
        "flowName": found.flow_name,
        "outcome": ending.outcome,
        "error": ending.error,
        "traceback": ending.traceback,
        "window": ending.window,
        "windowEnd": ending.window_end,
        "cursorBefore": ending.cursor_before,
        "cursorAfter": ending.cursor,
        "checkpoints": found.kept,
        "counts": ending.counts,
        "http": ending.http,
        "guarded": found.is_guarded,
        "stopped": found.stopped,
        "leftOut": found.left_out,
        "changes": found.changes,
        "answers": str(found.answers),
        "notes": found.notes,
        "saved": [str(file) for file in found.saved],
    }


def _lines(found: Trial) -> Iterator[str]:
    """Yield the result of a `try`: how it ended, the requests that were stopped, and what is different now."""
    yield from _ending(found)
    yield from _stopped(found)
    yield from _changes(found)
    yield from _about_answers(found)
    for note in found.notes:
        yield f"Note: {note}"
    for file in found.saved:
        yield f"Saved: {file}. It has data of the tenant: look at it before you commit it"
    yield (
        "No record, window or cursor was kept, and run.http has sent no request that changes data"
        if found.is_guarded
        else "No record, window or cursor was kept. The flow does not take run: none of its requests was stopped"
    )


def _ending(found: Trial) -> Iterator[str]:
    ending, subject = found.ending, f"{found.tenant_id}/{found.flow_name}"
    numbers = {
        **ending.counts,
        "http": int(ending.http.get("requests", 0)),
        "stopped": len(found.stopped) + found.left_out,
    }
    after = " ".join(f"{name}={number}" for name, number in numbers.items())
    word = "DONE" if ending.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED) else "FAIL"
    if not ending.outcome.is_failure and word == "FAIL":
        word = ending.outcome.upper()
    yield f"{word} {subject} ({_meaning(found)}) {after}"
    yield from ending.traceback.splitlines()
    if ending.window:
        yield f"window: {text.time(ending.window.start)} to {text.time(ending.window.end)}"
    if found.kept or ending.cursor != ending.cursor_before:
        yield f"cursor: {_short(ending.cursor_before)} → {_short(ending.cursor)} ({len(found.kept)} checkpoints)"


def _meaning(found: Trial) -> str:
    """Say what the app would do after a run that ends like this."""
    ending = found.ending
    why = ending.error.message if ending.error else ""
    match ending.outcome:
        case Outcome.SUCCEEDED:
            return "the window and the cursor would be kept"
        case Outcome.CONTINUED:
            end = f" from {text.time(ending.window_end)} on" if ending.window_end else ""
            return f"Continue: the next part would follow{end}"
        case Outcome.DEFERRED:
            return (
                f"the run would be attempted again{f' after {text.age(ending.delay)}' if ending.delay else ''}: {why}"
            )
        case Outcome.GAVE_UP:
            return f"the run would end, and the next one would come as scheduled: {why}"
    return why


def _stopped(found: Trial) -> Iterator[str]:
    for each in found.stopped[:_MOST_SHOWN]:
        items = "" if each.items is None else f", {count(each.items, 'item')}"
        yield f"stopped: {each.method} {each.url}{items}, answered {each.status} ({each.source})"
        if each.sample:
            yield f"  {each.sample}"
    if len(found.stopped) > _MOST_SHOWN:
        yield f"stopped: {len(found.stopped) - _MOST_SHOWN} more. --json lists them"
    if found.left_out:
        yield f"stopped: {found.left_out} more, which are too many to be kept, compared and saved"


def _changes(found: Trial) -> Iterator[str]:
    if found.changes is None:
        return
    if not found.changes:
        yield "The stopped requests are those of the last try"
        return
    yield "The stopped requests differ from those of the last try:"
    for line in found.changes[:_MOST_CHANGES]:
        yield f"  {line}"
    if len(found.changes) > _MOST_CHANGES:
        yield f"  … {len(found.changes) - _MOST_CHANGES} more lines. --json has all of them"


def _about_answers(found: Trial) -> Iterator[str]:
    """Say which answers were made up: first, if the flow has failed, perhaps since it needs a real one."""
    invented = one_of_each(found.stopped)
    if not invented:
        return
    if found.ending.outcome is Outcome.FAILED:
        last = found.stopped[-1]
        yield (
            f"The flow failed after an answer that was made up, that to {last.method} {last.url}: perhaps it needs the "
            "real one"
            if last.is_made_up
            else "The flow failed, and some of the answers were made up: perhaps it needs the real ones"
        )
    yield f"To give real answers, put a list of them into {found.answers}, such as"
    example = [{"method": each.method, "url": each.pattern, "status": each.status, "json": {}} for each in invented]
    yield f"  {json.dumps(example[:_MOST_EXAMPLES])}"


def _short(cursor: Any) -> str:
    return shown(json.dumps(cursor, ensure_ascii=False))


@contextmanager
def _log_lines() -> Generator[None]:
    """Print the lines of the app and of the flow on standard error while a flow runs."""
    configure()
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _told_to_stop() -> Generator[None]:
    """Say what Ctrl-C does. asyncio cancels the flow at its next await, and only a second one ends code that blocks."""

    def stop(number: int, frame: FrameType | None) -> None:
        click.echo(f"Stopping: the flow has {GRACE.seconds} s. If it blocks, press Ctrl-C again", err=True)
        signal.signal(signal.SIGINT, of_asyncio)
        if callable(of_asyncio):
            of_asyncio(number, frame)

    of_asyncio = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # in another thread than the main one, which gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, of_asyncio)


COMMANDS: tuple[click.Command, ...] = (try_, run)
"""The commands of this module. `main.py` registers them."""
