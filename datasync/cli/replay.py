"""The command that runs a flow again on the recorded answers of an attempt. `datasync/author/replay.py` does it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, override

import click

from datasync.author.playback import Step
from datasync.author.regression import write_test
from datasync.cli.common import (
    MODULE,
    Command,
    Exit,
    ended,
    flows_option,
    load_flows,
    local_option,
    say,
    settings_option,
    with_services,
)
from datasync.errors import RecordingInvalid
from datasync.flow.registry import Flow
from datasync.model.cassette import LARGEST, Cassette, RecordedRun, decode_cassette
from datasync.model.times import utc_text
from datasync.services import Services
from datasync.telemetry.emit import logger

if TYPE_CHECKING:
    from datasync.author.replay import Replayed

_DEFAULT = ""
"""The value of --pytest without a file."""


@click.command(
    "replay",
    cls=Command,
    example="replay 5f2b1c3d --settings local.settings.json",
    wrong="the flow ended differently, or a service is away",
    short_help="Run a flow again on the recorded answers of a run.",
)
@click.argument("source", metavar="RUN")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="The run's tenant. Without it, all tenants are searched.")
@click.option(
    "--pytest",
    "test",
    metavar="[FILE]",
    is_flag=False,
    flag_value=_DEFAULT,
    help="Write a test that fails as the run did, with the recording beside it.  [default: tests/flows/test_…]",
)
@flows_option("Package that contains the flow files.")
@settings_option
@local_option
def replay_command(
    *, source: str, tenant_id: str | None, test: str | None, package: str, settings: dict[str, str], is_local: bool
) -> None:
    """Run a flow of this folder again on the recorded answers of a run, and compare its end with the recorded one.

    RUN is the `run=` of a log line, or the file of a recording. Nothing is sent and nothing is written: the answers,
    the window, the settings and the cursor come from the recording, with stand-ins for secrets. Retries do not wait.

    The app records the attempts that fail, if its setting RECORD_FAILURES is true.
    """
    file = Path(source)
    if file.is_file():

        async def of_file() -> Exit:
            return await _replay(decode_cassette(_content(file), source), package, test)

        ended(of_file)

    async def of_run(services: Services) -> Exit:
        from datasync.author.replay import stored_recording  # noqa: PLC0415 - see below

        return await _replay(await stored_recording(services, source, tenant_id), package, test)

    with_services(settings, of_run, is_local=is_local)


def _content(file: Path) -> bytes:
    """Return the content of a file, up to the size at which it is refused."""
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST + 1)
    except OSError as error:
        raise RecordingInvalid(f"{file} cannot be read: {error.strerror}") from None


async def _replay(cassette: Cassette, package: str, test: str | None) -> Exit:
    flow = load_flows(package).resolve(cassette.datasync.flow_name)
    if test is not None:
        return _write(cassette, flow, test)
    from datasync.author.replay import replay  # noqa: PLC0415 - it needs respx: 50 ms that other commands do not

    _say_facts(cassette.datasync)
    handler = _Lines()
    logger.addHandler(handler)
    try:
        replayed = await replay(flow, cassette, _say_step)
    finally:
        logger.removeHandler(handler)
    _say_end(cassette.datasync, replayed)
    return Exit.WRONG if replayed.differences else Exit.FINE


def _say_facts(facts: RecordedRun) -> None:
    part = f" part {facts.part}" if facts.part > 1 else ""
    ended_as = f"{facts.outcome}: {facts.error.message}" if facts.error else str(facts.outcome)
    start = utc_text(facts.window.start) if facts.window.start else "the beginning"
    say(f"{facts.tenant.id}/{facts.flow_name} run={facts.run_id} attempt={facts.attempt}{part}, which {ended_as}")
    say(f"window: from {start} to {utc_text(facts.window.end)}; secrets: {len(facts.secrets)} stand-ins")


def _say_step(step: Step) -> None:
    sent = f" ({step.sent:,} bytes)" if step.sent else ""
    say(f"{step.number:>3}  {step.request}{sent} → {step.answer}")


class _Lines(logging.Handler):
    """Prints the lines that the flow logs, among its requests."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            say(f"     {record.levelname.lower()}  {line}")


def _say_end(facts: RecordedRun, replayed: "Replayed") -> None:
    for line in replayed.traceback.splitlines():
        say(line)
    for request in replayed.unused:
        say(f"recorded, and not made: {request}")
    if not replayed.differences:
        same = "the same error" if facts.error else "the same end"
        say(f"reproduced: {same}: {replayed.end}")
        return
    for difference in replayed.differences:
        say(f"different: {difference}")
    say(f"the flow: {replayed.end}")


def _write(cassette: Cassette, flow: Flow, test: str) -> Exit:
    written = write_test(cassette, flow, Path(test) if test else None)
    say(f"{written.test} fails as the run did, until the flow is corrected; its answers are in {written.cassette}")
    for note in written.notes:
        say(f"note: {note}")
    say(f"Run it: {MODULE.removesuffix('datasync')}pytest {written.test}")
    return Exit.FINE


COMMANDS: tuple[click.Command, ...] = (replay_command,)
"""The commands of this module. `main.py` registers them."""
