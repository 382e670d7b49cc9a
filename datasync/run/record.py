"""record: stores the HTTP exchanges of an attempt that failed, where RECORD_FAILURES is on."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from datasync.run.ending import Ending
from datasync.run.prepare import Prepared
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import RecordingLost

if TYPE_CHECKING:
    from datasync.flow.recording import Recording
    from datasync.model.cassette import RecordedRun

LONGEST = timedelta(seconds=20)
"""The time to store a recording, of the minutes for which the lease is held after the end of a flow."""


def begin_recording(services: Services) -> "Recording | None":
    """Return a recording for an attempt that begins; None if failures are not recorded."""
    if not services.settings.record_failures:
        return None
    from datasync.flow.recording import Recording  # noqa: PLC0415 - off, it is not imported

    return Recording()


async def keep_recording(services: Services, made: Prepared, ending: Ending, recording: "Recording") -> str | None:
    """Store the recording of an attempt that failed.

    Returns:
        Its name; None if it could not be stored, which is logged, and changes nothing else.

    """
    run = made.run
    name = f"{made.started:%Y%m%dT%H%M%SZ}-{run.run_id}-{run.attempt}"
    try:
        async with asyncio.timeout(LONGEST.total_seconds()):
            content = await asyncio.to_thread(lambda: recording.cassette(facts(made, ending)).encode())
            return await services.recordings.put(f"{run.tenant.id}/{run.flow_name}", name, content)
    except Exception as error:  # noqa: BLE001 - the attempt has ended, and must be recorded
        why = TimeoutError(f"it took longer than {LONGEST}") if isinstance(error, TimeoutError) else error
        emit(RecordingLost(subject=made.subject, error=why, run=run.run_id, attempt=run.attempt))
        return None


def facts(made: Prepared, ending: Ending) -> "RecordedRun":
    """Return the facts about an attempt with which its recording can be replayed."""
    from datasync.model.cassette import RecordedRun, RecordedTenant, RecordedWindow  # noqa: PLC0415 - as above

    run, given = made.run, made.given
    return RecordedRun(
        run_id=run.run_id,
        flow_name=run.flow_name,
        tenant=RecordedTenant(run.tenant.id, run.tenant.name, run.tenant.timezone),
        scheduled_utc=run.scheduled_utc,
        started_utc=made.started,
        attempt=run.attempt,
        part=run.part,
        window=RecordedWindow(run.window.start, run.window.end),
        cursor=ending.cursor_before,
        counts=given.state.counts_of(run.run_id) if given.state else {},
        settings=given.entry.settings,
        outcome=str(ending.outcome),
        error=ending.error,
        place=ending.place,
    )
