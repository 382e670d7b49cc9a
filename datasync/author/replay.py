"""replay: runs a flow of this checkout on the recorded answers of an attempt. It needs no service and sends nothing."""

import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from datasync.author.playback import NotAnswered, Playback, PlaybackEnded, Step
from datasync.errors import FlowSignal, RecordingUnknown, RunUnknown
from datasync.flow.context import Window
from datasync.flow.failures import failure_of, from_flow, place_of
from datasync.flow.redact import Redaction
from datasync.flow.registry import Flow, FlowFunction
from datasync.model.cassette import Cassette, RecordedRun, decode_cassette
from datasync.model.failure import Failure
from datasync.services import Services
from datasync.testing import FakeRuns


class Replayed(msgspec.Struct, frozen=True, rename="camel"):
    """The end of a replay."""

    end: str
    """How the flow ended: `succeeded`, or `KeyError: 'temperature' at flows/weather.py:31 in weather`."""
    differences: tuple[str, ...]
    """The differences between this end and that of the recorded attempt; none if it was reproduced."""
    traceback: str
    """Of the error of the flow, from the flow's file on; empty if there is none."""
    unused: tuple[str, ...]
    """The recorded requests that the flow did not make, such as `GET https://…`."""


async def stored_recording(services: Services, run_id: str, tenant_id: str | None) -> Cassette:
    """Return the newest recording of a run.

    Raises:
        RunUnknown: the run has no record.
        RecordingUnknown: the run has no recording, or it was deleted.
        RecordingInvalid: it cannot be read.
        ServiceUnavailable: Cosmos DB or the storage account refused or could not be reached.

    """
    records = [each for each in await services.overview.run(run_id) if tenant_id in (None, each.tenant_id)]
    if not records:
        raise RunUnknown(
            f"there is no record of run {run_id!r}, and no such file. List the runs: python -m datasync runs"
        )
    record = max(records, key=lambda each: each.finished_utc)
    if record.recording is None:
        raise RecordingUnknown(
            f"the run {run_id!r} ({record.outcome}) has no recording: attempts are recorded that fail while the app "
            "setting RECORD_FAILURES is true"
        )
    return decode_cassette(await services.recordings.get(record.recording), record.recording)


async def replay(flow: Flow, cassette: Cassette, on_step: Callable[[Step], None]) -> Replayed:
    """Run a flow on recorded answers. Retries do not wait.

    Args:
        flow: The flow, which may have changed since.
        cassette: The recording.
        on_step: Called for each request, before its answer.

    Raises:
        FlowSettingsInvalid: the recorded settings do not fit the flow.

    """
    facts, playback = cassette.datasync, Playback(cassette, on_step)
    error: BaseException | None = None
    async with FakeRuns(playback) as runs:
        run = runs(
            flow,
            settings=facts.settings,
            secrets=stand_ins(cassette),
            tenant=facts.tenant.id,
            timezone=facts.tenant.timezone,
            window=Window(start=facts.window.start, end=facts.window.end),
            cursor=facts.cursor,
            attempt=facts.attempt,
            part=facts.part,
        )
        run.run_id, run.scheduled_utc, run.counts = facts.run_id, facts.scheduled_utc, Counter(facts.counts)
        run.tenant = replace(run.tenant, name=facts.tenant.name)
        try:
            await run.call()
        except (Exception, PlaybackEnded, SystemExit) as raised:  # noqa: BLE001 - the code of the flow
            error = raised
    return Replayed(
        end=_end(error, flow.function),
        differences=tuple(_differences(facts, error, flow.function)),
        traceback=_printed(error, flow.function) if error and _ended(error) is None else "",
        unused=tuple(playback.unused),
    )


def stand_ins(cassette: Cassette) -> dict[str, str]:
    """Return the stand-ins with which the run is repeated, by the names of its secrets.

    The access tokens are among them only if the attempt had one from an earlier run, and did not begin with the request
    for one.
    """
    secrets, exchanges = dict(cassette.datasync.secrets), cassette.exchanges
    if exchanges and "grant_type=" in (exchanges[0].request.body or ""):
        return {name: stand_in for name, stand_in in secrets.items() if not name.endswith("--access-token")}
    return secrets


def _end(error: BaseException | None, function: FlowFunction) -> str:
    if error is None:
        return "succeeded"
    if ended := _ended(error):
        return str(ended)
    text = Redaction().one_line(error)
    place = _line(error, function)
    return f"{text} at {place}" if place else text


def _differences(facts: RecordedRun, error: BaseException | None, function: FlowFunction) -> list[str]:
    was = facts.error
    ended = _ended(error) if error else None
    if ended:
        is_timeout = was is not None and was.kind == "FlowFailed" and isinstance(ended, NotAnswered)
        return [] if is_timeout else [str(ended)]
    if error is None:
        return [f"it succeeded, and the attempt failed: {was.message}"] if was else []
    if isinstance(error, FlowSignal):
        return [f"it raised {type(error).__name__}, and the attempt {facts.outcome}"]
    failure = failure_of(error, Redaction(), function)
    if was is None:
        return [f"it failed, and the attempt {facts.outcome}: {failure.message}"]
    return [
        f"{what}: {now or 'none'} instead of {before or 'none'}"
        for what, now, before in _compared(failure, was, place_of(error, function), facts.place)
        if now != before
    ]


def _compared(now: Failure, was: Failure, place: str, recorded_place: str | None) -> list[tuple[str, object, object]]:
    """Return the parts of which a fingerprint is made, without the host: in the recording, it may be a stand-in."""
    return [
        ("class", now.kind, was.kind),
        ("status", now.status, was.status),
        ("function", place, recorded_place or place),
    ]


def _ended(error: BaseException) -> PlaybackEnded | None:
    """Return the end of the recording in an error, or in a group."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _ended(each))), None)
    return error if isinstance(error, PlaybackEnded) else None


def _printed(error: BaseException, function: FlowFunction) -> str:
    return "".join(traceback.format_exception(from_flow(error, function))).rstrip()


def _line(error: BaseException, function: FlowFunction) -> str | None:
    """Return the innermost place in the folder of the flow's file: `flows/weather.py:31 in weather`."""
    folder = Path(inspect.unwrap(function).__code__.co_filename).parent
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    for frame, line in reversed(frames):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(folder):
            return f"{file.relative_to(folder.parent)}:{line} in {frame.f_code.co_name}"
    return None
