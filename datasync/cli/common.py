"""The parts that the commands share: options, exit codes, output, and the services that a command works on."""

import asyncio
import getpass
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any, Concatenate, override
from uuid import uuid4

import click
import msgspec

from datasync.cli.local_settings import local_settings
from datasync.cli.validate import load
from datasync.errors import (
    ActionInvalid,
    ActionRefused,
    ChangedMeanwhile,
    DataSyncError,
    EntryUnknown,
    RunUnknown,
    ServiceUnavailable,
    SettingsInvalid,
    TenantUnknown,
)
from datasync.flow.registry import FlowRegistry
from datasync.model.display import shown
from datasync.operate.action import COMMAND_LINE, Ask
from datasync.operate.since import since
from datasync.services import Services
from datasync.settings import Settings


class Exit(IntEnum):
    """The exit codes of the commands."""

    FINE = 0
    WRONG = 1
    """Something is wrong, or a service is away."""
    USAGE = 2
    """The arguments cannot be used."""
    NOT_FOUND = 3
    """There is no such tenant, entry, run or gate."""
    NOT_LET_IN = 4
    """A service refused the key or the identity."""
    CHANGED = 5
    """Something was changed meanwhile, and nothing was done."""
    INTERRUPTED = 130
    """Ctrl-C, as a shell reports it."""


_LONGEST = 4000  # characters of a line


def say(text: str, *, err: bool = False) -> None:
    """Print a text, in which names, ids and values of documents can neither start a line nor hide anything."""
    click.echo(shown(text, _LONGEST), err=err)


def load_flows(package: str) -> FlowRegistry:
    """Load a package of flow files. Raises BadParameter if there is none."""
    try:
        return load(package)
    except ValueError as why:
        raise click.BadParameter(str(why), param_hint="'--flows'") from None


def _local_settings(_: click.Context, __: click.Parameter, file: Path | None) -> dict[str, str] | None:
    try:
        return local_settings(file) if file else None
    except SettingsInvalid as why:
        raise click.BadParameter(str(why)) from None


settings_option = click.option(
    "--settings",
    "local",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_local_settings,
    help="Use the Values of this local.settings.json, as func does. Environment variables take precedence.",
)


def flows_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that names the package of flow files."""
    return click.option("--flows", "package", metavar="MODULE", default="flows", show_default=True, help=help_text)


def since_argument(ctx: click.Context, _: click.Parameter, value: str | None) -> datetime | None:
    """Read a time span before now, or a time. Raises BadParameter."""
    if value is None:
        return None
    try:
        return since(value, ctx.obj or datetime.min.replace(tzinfo=UTC))
    except ValueError as why:
        raise click.BadParameter(str(why)) from None


class OperatingCommand(click.Command):
    """A command that works on the services of an app: it can run again in a process with the settings of a file."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = [*args]  # click uses up the list
        return super().parse_args(ctx, args)


_ARGUMENTS = "datasync.arguments"


@dataclass(frozen=True)
class Session:
    """The services that a command works on, and the form of its answer."""

    services: Services
    now: datetime
    """The time at which the command was started (aware, UTC)."""
    as_json: bool

    def answer(self, content: object, lines: Iterable[str]) -> None:
        """Print an answer on standard output: as JSON if the command was asked for it, else as lines."""
        if self.as_json:
            self.print_json(content)
            return
        for line in lines:
            say(line)

    def print_json(self, content: object) -> None:
        """Print a value on standard output as JSON."""
        text = msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
        click.echo(_UNPRINTED.sub(_escape, text))

    def note(self, text: str) -> None:
        """Print a sentence beside the answer, on standard error."""
        say(text, err=True)


_UNPRINTED = re.compile(r"[^\n\x20-\x7e]")


def _escape(match: re.Match[str]) -> str:
    r"""Return a character, or `\u202e` for one that no reader sees, which a terminal may obey."""
    character = match[0]
    if shown(character) == character:
        return character
    return re.sub("(....)", r"\\u\1", character.encode("utf-16-be", "surrogatepass").hex())


def operating[**P](
    function: Callable[Concatenate[Session, P], Awaitable[Exit]],
) -> Callable[..., None]:
    """Make the function of an `OperatingCommand` from a coroutine function that returns the exit code.

    The command gets the options `--settings` and `--json`. An error of DataSync becomes a line on standard error and an
    exit code.
    """

    @settings_option
    @click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    @wraps(function)
    def command(
        local: dict[str, str] | None,
        as_json: bool,  # noqa: FBT001 - a flag
        *args: P.args,
        **options: P.kwargs,
    ) -> None:
        use(local)
        settings = read_settings()
        now = click.get_current_context().obj

        async def work() -> Exit:
            services = Services(settings)
            try:
                return await function(Session(services, now, as_json), *args, **options)
            finally:
                await services.close()

        sys.exit(_run(work))

    return command


def acting(function: Callable[..., Awaitable[Exit]]) -> Callable[..., None]:
    """Make the function of an `OperatingCommand` that changes something, as `operating` does.

    The coroutine function has the session, the `Ask`, and the options. The command also gets the options `--as` and
    `--action-id`.
    """

    @click.option("--as", "name", metavar="NAME", help="Your name, for the audit.  [default: your user name]")
    @click.option(
        "--action-id",
        metavar="ID",
        help="Repeat the action with this id, which is done once.  [default: new]",
    )
    @operating
    @wraps(function)
    async def command(session: Session, /, *, name: str | None, action_id: str | None, **options: Any) -> Exit:
        who = await _who(session.services, name)
        ask = Ask(action_id=action_id or str(uuid4()), who=who, at=session.now, via=COMMAND_LINE)
        try:
            return await function(session, ask, **options)
        except (ServiceUnavailable, asyncio.CancelledError):
            session.note(f"It may have been done. To complete it, repeat the command with --action-id {ask.action_id}")
            raise

    return command


def confirmed(question: str, expected: str, flag: str) -> None:
    """Ask the operator to type a text on the terminal.

    Raises:
        UsageError: there is no terminal; the message names the flag to use.
        ActionRefused: another text was typed.

    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to confirm this on: use {flag}")
    if click.prompt(question, err=True, default="", show_default=False).strip() != expected:
        raise ActionRefused("it was not confirmed, and nothing was done")


async def _who(services: Services, name: str | None) -> str:
    """Return who acts: the identity in Azure, or the name that was typed, or the user of this machine."""
    if name is not None and not name.strip():
        raise ActionInvalid(f"--as {name!r} cannot name an operator")
    if principal := await services.principal():
        return f"{principal}, as {name}" if name else principal
    if name:
        return f"{name} (typed)"
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # there is no such user
        user = "unknown"
    return f"{user} on {socket.gethostname()}"


def use(local: dict[str, str] | None) -> None:
    """Run the present `OperatingCommand` in another process if the environment lacks settings of a file, and exit."""
    if local is not None and not local.keys() <= os.environ.keys():
        sys.exit(_in_process_with(local, click.get_current_context()))


def read_settings() -> Settings:
    """Return the settings of the environment, and print the warnings about them.

    Raises:
        ClickException: a setting is missing or malformed.

    """
    try:
        settings = Settings.from_environ(os.environ)
    except SettingsInvalid as error:
        raise click.ClickException(str(error)) from None
    for why in settings.warnings:
        say(f"warning: {why}", err=True)
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # errors are printed by the command, one line each
    return settings


def _in_process_with(local: dict[str, str], ctx: click.Context) -> int:
    """Run the same command with the settings of a file, in a new process, as func does.

    Some libraries read the environment when they are imported.
    """
    names: list[str] = []
    at: click.Context | None = ctx
    while at and at.parent:
        names.insert(0, at.info_name or "")
        at = at.parent
    again = [sys.executable, "-m", "datasync", *names, *ctx.meta[_ARGUMENTS]]
    return subprocess.run(again, env={**local, **os.environ}, check=False).returncode  # noqa: S603 - our own module


def _run(work: Callable[[], Coroutine[Any, Any, Exit]]) -> Exit:
    try:
        return asyncio.run(work())
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except DataSyncError as error:
        say(f"Error: {error}", err=True)
        return exit_of(error)


def exit_of(error: DataSyncError) -> Exit:
    """Return the exit code for an error."""
    if isinstance(error, TenantUnknown | RunUnknown | EntryUnknown):
        return Exit.NOT_FOUND
    if isinstance(error, ChangedMeanwhile):
        return Exit.CHANGED
    if isinstance(error, ActionInvalid):
        return Exit.USAGE
    is_refused = isinstance(error, ServiceUnavailable) and error.status in _REFUSALS
    return Exit.NOT_LET_IN if is_refused else Exit.WRONG


_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
