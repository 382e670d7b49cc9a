"""The command that runs a flow again on the recorded answers of an attempt. `datasync/author/replay.py` does it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, override

import click

from datasync.author.playback import Step
from datasync.author.regression import write_test
from datasync.cli.common import MODULE, Command, Exit, Offline, flows_option, load_flows, offline, opened
from datasync.errors import RecordingInvalid, RecordingUnknown
from datasync.flow.registry import Flow
from datasync.model.cassette import LARGEST, Cassette, RecordedRun, decode_cassette
from datasync.model.times import utc_text
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
@offline
async def replay_command(
    output: Offline, *, source: str, tenant_id: str | None, test: str | None, package: str
) -> Exit:
    """Run a flow of this folder again on the recorded answers of a run, and compare its end with the recorded one.

    RUN is the `run=` of a log line, or the file of a recording. Nothing is sent and nothing is written: the answers,
    the window, the settings and the cursor come from the recording, with stand-ins for secrets. Retries do not wait.

    The app records the attempts that fail, if its setting RECORD_FAILURES is true.
    """
    cassette = await _cassette(source, tenant_id)
    flow = load_flows(package).resolve(cassette.datasync.flow_name)
    if test is not None:
        return _write(output, cassette, flow, test)
    return await _replay(output, cassette, flow)


async def _cassette(source: str, tenant_id: str | None) -> Cassette:
    content = _content(Path(source))
    if content is not None:
        return decode_cassette(content, source)
    from datasync.author.replay import stored_recording  # noqa: PLC0415 - see below

    async with opened() as services:
        return await stored_recording(services, source, tenant_id)


def _content(file: Path) -> bytes | None:
    """Return the content of a file, up to the size at which it is refused; None if it is a run."""
    if not file.is_file():
        if file.suffix in (".yaml", ".yml", ".json"):
            raise RecordingUnknown(f"there is no file {str(file)!r}")
        return None
    try:
        with file.open("rb") as opened_file:
            return opened_file.read(LARGEST + 1)
    except OSError as error:
        raise RecordingInvalid(f"{file} cannot be read: {error.strerror}") from None


async def _replay(output: Offline, cassette: Cassette, flow: Flow) -> Exit:
    from datasync.author.replay import replay  # noqa: PLC0415 - it needs respx: 50 ms that other commands do not

    facts, handler = cassette.datasync, _Lines(output)
    for line in _facts(facts):
        output.word(line)
    logger.addHandler(handler)
    try:
        replayed = await replay(flow, cassette, lambda step: output.word(_shown(step)))
    finally:
        logger.removeHandler(handler)
    output.answer(replayed, _end(facts, replayed))
    return Exit.WRONG if replayed.differences else Exit.FINE


def _facts(facts: RecordedRun) -> Iterator[str]:
    part = f" part {facts.part}" if facts.part > 1 else ""
    ended_as = f"{facts.outcome}: {facts.error.message}" if facts.error else str(facts.outcome)
    start = utc_text(facts.window.start) if facts.window.start else "the beginning"
    yield f"{facts.tenant.id}/{facts.flow_name} run={facts.run_id} attempt={facts.attempt}{part}, which {ended_as}"
    yield f"window: from {start} to {utc_text(facts.window.end)}; secrets: {len(facts.secrets)} stand-ins"


def _shown(step: Step) -> str:
    sent = f" ({step.sent:,} bytes)" if step.sent else ""
    return f"{step.number:>3}  {step.request}{sent} → {step.answer}"


class _Lines(logging.Handler):
    """Prints the lines that the flow logs, among its requests."""

    def __init__(self, output: Offline) -> None:
        super().__init__()
        self._output = output

    @override
    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().splitlines():
            self._output.word(f"     {record.levelname.lower()}  {line}")


def _end(facts: RecordedRun, replayed: "Replayed") -> Iterator[str]:
    yield from replayed.traceback.splitlines()
    yield from (f"recorded, and not made: {request}" for request in replayed.unused)
    if not replayed.differences:
        yield f"reproduced: {'the same error' if facts.error else 'the same end'}: {replayed.end}"
        return
    yield from (f"different: {difference}" for difference in replayed.differences)
    yield f"the flow: {replayed.end}"


def _write(output: Offline, cassette: Cassette, flow: Flow, test: str) -> Exit:
    written = write_test(cassette, flow, Path(test) if test else None)
    lines = [
        f"{written.test} fails as the run did, until the flow is corrected; its answers are in {written.cassette}",
        *(f"note: {note}" for note in written.notes),
        f"Run it: {MODULE.removesuffix('datasync')}pytest {written.test}",
    ]
    output.answer(written, lines)
    return Exit.FINE


COMMANDS: tuple[click.Command, ...] = (replay_command,)
"""The commands of this module. `main.py` registers them."""
