"""The parts that the commands share: help, options, exit codes, output, and the services that a command works on."""

import asyncio
import getpass
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, override
from uuid import uuid4
from zoneinfo import ZoneInfo

import click
import msgspec

from datasync.cli.local_settings import local_settings, started_settings
from datasync.cli.validate import load
from datasync.errors import (
    ActionInvalid,
    ActionRefused,
    DataSyncError,
    Kind,
    ServiceUnavailable,
    ServiceUnreachable,
    SettingsInvalid,
)
from datasync.flow.registry import FlowRegistry
from datasync.model.display import shown
from datasync.model.times import EXPECTED, read_utc
from datasync.operate.action import COMMAND_LINE, Ask, typed
from datasync.operate.since import since
from datasync.schedule import find_zone
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
    """The tenant, entry, run or gate does not exist."""
    NOT_LET_IN = 4
    """A service refused the key or the identity."""
    CHANGED = 5
    """Something was changed meanwhile. Nothing was done, unless the error says that it may have been."""
    INTERRUPTED = 130
    """Ctrl-C, as a shell reports it."""


EXITS: Mapping[Kind, Exit] = {
    Kind.UNUSABLE: Exit.WRONG,
    Kind.NOT_FOUND: Exit.NOT_FOUND,
    Kind.INVALID: Exit.USAGE,
    Kind.REFUSED: Exit.WRONG,
    Kind.CHANGED: Exit.CHANGED,
    Kind.UNAVAILABLE: Exit.WRONG,
    Kind.NOT_LET_IN: Exit.NOT_LET_IN,
}
"""The exit code for an error."""


# --- help

MEANINGS: Mapping[Exit, str] = {
    Exit.FINE: "fine",
    Exit.WRONG: "something is wrong, or a service is away",
    Exit.USAGE: "wrong arguments",
    Exit.NOT_FOUND: "no such tenant, entry or run",
    Exit.NOT_LET_IN: "a service refused the key or the identity",
    Exit.CHANGED: "something was changed meanwhile: look again",
    Exit.INTERRUPTED: "interrupted",
}
"""The exit codes as the help names them."""


_CODES_OF_OPTIONS = {
    Exit.NOT_FOUND: {"tenant_id", "tenant_ids", "run_id", "document", "sources"},
    Exit.NOT_LET_IN: {"is_local"},
    Exit.CHANGED: {"action_id"},
}
"""Exit codes that only a command with one of these options has."""


class Command(click.Command):
    """A command whose help ends with an example and the exit codes."""

    def __init__(self, *args: Any, example: str, wrong: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._example = example
        self._wrong = wrong

    @override
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(ctx, formatter, self._example)
        options = {parameter.name for parameter in self.params}
        possible = {Exit.FINE, Exit.WRONG, Exit.USAGE, Exit.INTERRUPTED}
        possible |= {code for code, names in _CODES_OF_OPTIONS.items() if names & options}
        meanings = {**MEANINGS, Exit.WRONG: self._wrong}
        write_exit_codes(formatter, {code: each for code, each in meanings.items() if code in possible})


class Group(click.Group):
    """A group of commands, whose help has an example."""

    def __init__(self, *args: Any, example: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._example = example

    @override
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(ctx, formatter, self._example)


def write_examples(ctx: click.Context, formatter: click.HelpFormatter, *examples: str) -> None:
    """Write commands, without the name of the program, on a line each, which can be copied."""
    with formatter.section("Example" if len(examples) == 1 else "Examples"):
        for example in examples:
            formatter.write(f"{'':{formatter.current_indent}}{ctx.find_root().info_name} {example}\n")


def write_exit_codes(formatter: click.HelpFormatter, meanings: Mapping[Exit, str]) -> None:
    """Write the exit codes as one sentence."""
    formatter.write_paragraph()
    formatter.write_text(f"Exit codes: {'; '.join(f'{code:d} {meaning}' for code, meaning in meanings.items())}.")


# --- output

_LONGEST = 4000  # characters of a line
MODULE = "python -m datasync"
"""How the command line is called from the folder of the project."""


_COMMAND = re.compile(rf"{MODULE}((?: [a-z][a-z-]*)+)")
_CHOSEN = "datasync.chosen"
"""The key, in the context of a command, of the option that has chosen its services: `--local` or `--settings FILE`."""


def say(text: str, *, err: bool = False) -> None:
    """Print a text, in which names, ids and values of documents can neither start a line nor hide anything.

    Commands to run next begin like this one: `bin/datasync` runs in folders where `-m` finds nothing. They use the same
    services.
    """
    program = os.environ.get("DATASYNC_COMMAND", MODULE)
    commands = _COMMAND.sub(_on_chosen, text) if _chosen() else text
    click.echo(shown(commands.replace(f"{MODULE} ", f"{program} "), _LONGEST), err=err)


def _chosen() -> str:
    """Return the option that has chosen the services, as a shell reads it; empty without one."""
    context = click.get_current_context(silent=True)
    return str(context.meta.get(_CHOSEN, "")) if context else ""


def _on_chosen(match: re.Match[str]) -> str:
    """Return a command, and the words after it, with the option that has chosen the services, if it takes that one.

    The option follows the name of the command, since nothing tells where the command ends in a sentence.
    """
    command: click.Command | None = click.get_current_context().find_root().command
    name, words = [MODULE], match[1].split()
    while isinstance(command, click.Group) and words:
        name.append(words.pop(0))
        command = command.commands.get(name[-1])
    if command is None or all(parameter.name != "is_local" for parameter in command.params):
        return match[0]
    return " ".join([*name, _chosen(), *words])


def say_interrupted() -> None:
    """Say that Ctrl-C has ended the command. A terminal shows `^C` before it."""
    click.echo(f"{'\n' if sys.stderr.isatty() else ''}Interrupted", err=True)


@dataclass(frozen=True)
class Output:
    """The form of an answer. Everything that is not the answer is printed on standard error."""

    as_json: bool

    def answer(self, content: object, lines: Iterable[str]) -> None:
        """Print an answer on standard output: as JSON if the command was asked for it, else as lines."""
        if self.as_json:
            self.print_json(content)
            return
        for line in lines:
            say(line)

    def print_json(self, content: object, *, indent: int = 2) -> None:
        """Print a value on standard output as JSON; on one line with an indent of -1."""
        text = msgspec.json.format(msgspec.json.encode(content), indent=indent).decode()
        click.echo(_UNPRINTED.sub(_escape, text))

    def word(self, text: str) -> None:
        """Print a line of an answer in words. JSON has its content at the end."""
        if not self.as_json:
            say(text)

    def note(self, text: str) -> None:
        """Print a sentence beside the answer, on standard error."""
        say(text, err=True)

    def note_errors(self, errors: Iterable[str]) -> None:
        """Print errors beside the answer, a line each, on standard error."""
        for error in errors:
            self.note(f"Error: {error}")


_UNPRINTED = re.compile(r"[^\n\x20-\x7e]")


def _escape(match: re.Match[str]) -> str:
    r"""Return a character, or `\u202e` for one that no reader sees, which a terminal may obey."""
    character = match[0]
    if shown(character) == character:
        return character
    return re.sub("(....)", r"\\u\1", character.encode("utf-16-be", "surrogatepass").hex())


# --- options

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def load_flows(package: str) -> FlowRegistry:
    """Load a package of flow files. Raises BadParameter if there is none."""
    try:
        return load(package)
    except ValueError as why:
        raise click.BadParameter(str(why), param_hint="'--flows'") from None


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


def json_value(_: click.Context, __: click.Parameter, value: str) -> Any:
    """Read a JSON value. Raises BadParameter."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"expected JSON, such as 42 or '\"a text\"': {error}") from None


def zone_argument(_: click.Context, __: click.Parameter, name: str) -> ZoneInfo:
    """Return the time zone of an IANA name. Raises BadParameter."""
    try:
        return find_zone(name)
    except ValueError as why:
        raise click.BadParameter(str(why)) from None


def time_argument(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Check that a text is an ISO 8601 time. Raises BadParameter."""
    if text is None:
        return None
    try:
        read_utc(text)
    except ValueError:
        raise click.BadParameter(f"expected {EXPECTED}, got {text!r}") from None
    return text


def content_of(file: str) -> bytes:
    """Return the bytes of a file, or those of standard input. Raises OSError."""
    with click.open_file(file, "rb") as stream:
        content: bytes = stream.read()
    return content


def _settings_of(ctx: click.Context, _: click.Parameter, file: Path | None) -> dict[str, str] | None:
    if file is None:
        return None
    ctx.meta[_CHOSEN] = shlex.join(["--settings", str(file)])
    try:
        return local_settings(file)
    except SettingsInvalid as why:
        raise click.BadParameter(str(why)) from None


def _is_local(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - a flag
    if value:
        ctx.meta[_CHOSEN] = _LOCAL
    return value


_settings_option = click.option(
    "--settings",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_settings_of,
    help="Use the Values of this local.settings.json, as func does. Environment variables take precedence.",
)
_LOCAL = "--local"
_local_option = click.option(
    _LOCAL,
    "is_local",
    is_flag=True,
    callback=_is_local,
    help="Use the services that `make start` runs on this machine.",
)


# --- commands on the services of an app


@dataclass(frozen=True)
class Session(Output):
    """The services that a command works on, and the form of its answer."""

    services: Services
    now: datetime
    """The time at which the command was started (aware, UTC)."""


@dataclass(frozen=True)
class Offline(Output):
    """The form of the answer of a command that also works without services."""

    now: datetime
    """The time at which the command was started (aware, UTC)."""
    has_services: bool
    """Whether it was asked to use services, with `--settings` or `--local`."""


@asynccontextmanager
async def opened() -> AsyncGenerator[Services]:
    """Open the services that the environment names, and print the warnings about the settings.

    Raises:
        ClickException: a setting is missing or malformed.

    """
    services = Services(_read_settings())
    try:
        yield services
    finally:
        await services.close()


def offline[**P](
    function: Callable[Concatenate[Offline, P], Awaitable[Exit]],
) -> Callable[..., None]:
    """Make the function of a `Command` from a coroutine function that returns the exit code.

    The command gets the options `--settings`, `--local` and `--json`. It opens services itself, where it needs them. An
    error of DataSync becomes a line on standard error and an exit code.
    """

    @_settings_option
    @_local_option
    @json_option
    @wraps(function)
    def command(
        settings: dict[str, str] | None,
        is_local: bool,  # noqa: FBT001 - a flag
        as_json: bool,  # noqa: FBT001 - a flag
        *args: P.args,
        **options: P.kwargs,
    ) -> None:
        _use(settings or {}, is_local=is_local)
        output = Offline(as_json, click.get_current_context().obj, is_local or settings is not None)

        async def work() -> Exit:
            return await function(output, *args, **options)

        sys.exit(_run(work))

    return command


def operating[**P](
    function: Callable[Concatenate[Session, P], Awaitable[Exit]],
) -> Callable[..., None]:
    """Make the function of a `Command` that works on services, as `offline` does."""

    @offline
    @wraps(function)
    async def command(output: Offline, /, *args: P.args, **options: P.kwargs) -> Exit:
        async with opened() as services:
            return await function(Session(output.as_json, services, output.now), *args, **options)

    return command


def acting(function: Callable[..., Awaitable[Exit]]) -> Callable[..., None]:
    """Make the function of a `Command` that changes something, as `operating` does.

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
        UsageError: the input is not a terminal; the message names the flag to use.
        ActionRefused: another text was typed.
        KeyboardInterrupt: Ctrl-C was typed.

    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to confirm this on: use {flag}")
    # asyncio's handler would only note a first Ctrl-C, and the command would go on reading.
    of_asyncio = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.echo(f"{question}: ", err=True, nl=False)
        typed = sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, of_asyncio)
    if typed.strip() != expected:
        raise ActionRefused("it was not confirmed, and nothing was done")


async def _who(services: Services, name: str | None) -> str:
    """Return the operator's name: the identity in Azure, or the name that was typed, or the user of this machine."""
    if name is not None and not name.strip():
        raise ActionInvalid(f"--as {name!r} cannot name an operator")
    if principal := await services.principal():
        return f"{principal}, as {name}" if name else principal
    if name:
        return typed(name)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name
        user = "unknown"
    return typed(f"{user} on {socket.gethostname()}")


def _use(settings: Mapping[str, str], *, is_local: bool) -> None:
    """Run the program again if its environment lacks settings that it was asked to use."""
    if settings and is_local:
        raise click.UsageError("--settings and --local name different services: use one of them")
    lacking = {name: value for name, value in settings.items() if name not in os.environ}
    if is_local:
        try:
            started = started_settings()
        except SettingsInvalid as why:
            raise click.ClickException(str(why)) from None
        lacking = {name: value for name, value in started.items() if os.environ.get(name) != value}
    if lacking:
        _again({**os.environ, **lacking})


def _again(environ: Mapping[str, str]) -> NoReturn:
    """Start the program again in this environment: some libraries read it when they are imported."""
    arguments = [sys.executable, *sys.orig_argv[1:]]
    if sys.platform == "win32":  # exec returns to the shell at once there
        signal.signal(signal.SIGINT, lambda *_: None)  # the other process gets Ctrl-C too, and ends by itself
        sys.exit(subprocess.run(arguments, env=environ, check=False).returncode)  # noqa: S603 - our own program
    os.execve(sys.executable, arguments, environ)  # noqa: S606 - our own program


def _read_settings() -> Settings:
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


def _run(work: Callable[[], Coroutine[Any, Any, Exit]]) -> Exit:
    try:
        return asyncio.run(work())
    except DataSyncError as error:
        say(f"Error: {_why(error)}", err=True)
        return EXITS[error.kind]


def _why(error: DataSyncError) -> str:
    """Return the sentence of an error. On this machine, a service that does not answer needs no other settings."""
    if isinstance(error, ServiceUnreachable) and _chosen() == _LOCAL:
        return f"the {error.service.removeprefix('the ')} of `make start` does not answer. Run `make start` again"
    return str(error)
