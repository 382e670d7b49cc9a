"""record: stores the HTTP exchanges of an attempt that failed, where RECORD_FAILURES is on."""

import asyncio
from datetime import timedelta

from datasync.errors import FlowFailed
from datasync.flow.failures import place_of
from datasync.model.cassette import Cassette, RecordedRun, RecordedTenant, RecordedWindow
from datasync.run.ending import Ending
from datasync.run.execute import Execution
from datasync.run.prepare import Prepared
from datasync.services import Services
from datasync.telemetry.emit import emit
from datasync.telemetry.events import RecordingLost

LONGEST = timedelta(seconds=20)
"""The time to store a recording, of the minutes for which the lease is held after the end of a flow."""


async def keep_recording(services: Services, made: Prepared, ending: Ending, execution: Execution) -> str | None:
    """Store the recording of an attempt that failed.

    Returns:
        Its name; None if it could not be stored, which is logged, and changes nothing else.

    """
    run = made.run
    folder, name = f"{run.tenant.id}/{run.flow_name}", f"{made.started:%Y%m%dT%H%M%SZ}-{run.run_id}-{run.attempt}"
    try:
        async with asyncio.timeout(LONGEST.total_seconds()):
            content = await asyncio.to_thread(lambda: cassette_of(made, ending, execution).encode())
            return await services.recordings.put(folder, name, content)
    except Exception as error:  # noqa: BLE001 - the attempt has ended, and must be recorded
        why = TimeoutError(f"it took longer than {LONGEST}") if isinstance(error, TimeoutError) else error
        emit(RecordingLost(subject=made.subject, error=why, run=run.run_id, attempt=run.attempt))
        return None


def cassette_of(made: Prepared, ending: Ending, execution: Execution) -> Cassette:
    """Return the recording of an attempt that was prepared with one. Takes seconds if it is long: use a thread.

    Raises:
        TenantInvalid: the entry of the flow cannot be read.

    """
    if made.recording is None:
        raise AssertionError("the attempt was prepared with a recording")
    run, state, flow = made.run, made.given.state, made.given.flow
    entry = run.tenant.entry(flow.names)
    facts = RecordedRun(
        run_id=run.run_id,
        flow_name=run.flow_name,
        tenant=RecordedTenant(run.tenant.id, run.tenant.name, run.tenant.timezone),
        scheduled_utc=run.scheduled_utc,
        started_utc=made.started,
        attempt=run.attempt,
        part=run.part,
        window=RecordedWindow(run.window.start, run.window.end),
        cursor=ending.cursor_before,
        counts=state.counts_of(run.run_id) if state else {},
        settings=entry.settings if entry else {},
        outcome=str(ending.outcome),
        error=ending.error,
        place=place_of(execution.error or FlowFailed(), flow.function) if ending.error else None,
    )
    return made.recording.cassette(facts)
