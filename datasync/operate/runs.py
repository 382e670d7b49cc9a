"""Records of runs: the last ones, and one with all its attempts."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

import msgspec

from datasync.errors import RunUnknown
from datasync.flow.registry import FlowRegistry
from datasync.model.failure import Failure
from datasync.model.run import Attempt, LogLine, Outcome, RunRecord, RunWindow
from datasync.operate.flows import UnusualLine
from datasync.services import Services
from datasync.stores.overview import RunFilter

FAILED = (Outcome.FAILED, Outcome.DEAD, Outcome.GAVE_UP)
"""The outcomes of a run that somebody should look into."""


_OVERLAP = 10  # seconds that are read again: `_ts` has whole seconds, and each replica its own clock
_PAUSE = timedelta(seconds=3)


class ErrorLine(msgspec.Struct, frozen=True, rename="camel"):
    """The error of an attempt."""

    message: str
    kind: str = msgspec.field(name="class")
    fingerprint: str
    """The same for the same error in all tenants; empty in a record of version 0.1."""
    status: int | None
    """The HTTP status of the answer."""
    host: str | None
    body: str | None
    """The first 300 characters of the answer."""

    @classmethod
    def of(cls, error: Failure | None) -> Self | None:
        """Return the error of a record."""
        if error is None:
            return None
        return cls(
            message=error.message,
            kind=error.kind,
            fingerprint=error.fingerprint,
            status=error.status,
            host=error.host,
            body=error.body,
        )


class RunLine(msgspec.Struct, frozen=True, rename="camel"):
    """A run, with its last attempt."""

    tenant_id: str
    flow_name: str
    run_id: str
    outcome: str | None
    """None while its first attempt is going on."""
    trigger: str
    scheduled_utc: datetime
    started_utc: datetime
    """Start of the first attempt."""
    finished_utc: datetime
    """End of the last attempt."""
    attempts: int
    counts: dict[str, int]
    unusual: tuple[UnusualLine, ...]
    """The numbers that differ from the usual ones, if the run before did not have them, too."""
    error: ErrorLine | None

    @classmethod
    def of(cls, record: RunRecord) -> Self:
        """Return the line of a record."""
        return cls(
            tenant_id=record.tenant_id,
            flow_name=record.flow_name,
            run_id=record.run_id,
            outcome=record.outcome and str(record.outcome),
            trigger=str(record.trigger),
            scheduled_utc=record.scheduled_utc,
            started_utc=record.started_utc,
            finished_utc=record.finished_utc,
            attempts=record.attempt_count,
            counts=record.counts,
            unusual=UnusualLine.all(record.unusual),
            error=ErrorLine.of(record.error),
        )


class Runs(msgspec.Struct, frozen=True, rename="camel"):
    """The last runs, the newest first."""

    runs: tuple[RunLine, ...]
    has_more: bool
    """Whether older ones were left out."""
    unreadable: tuple[str, ...]
    """Sentences about records that were edited and cannot be read."""


class AttemptLine(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt of a run."""

    outcome: str
    started_utc: datetime
    finished_utc: datetime
    error: ErrorLine | None
    secrets: dict[str, datetime]
    """The names of the secrets that it had read, and when each was read from the vault."""

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return the line of an attempt."""
        return cls(
            outcome=str(attempt.outcome),
            started_utc=attempt.started_utc,
            finished_utc=attempt.finished_utc,
            error=ErrorLine.of(attempt.error),
            secrets=attempt.secrets,
        )


class LoggedLine(msgspec.Struct, frozen=True, rename="camel"):
    """A line that a flow has logged, without secrets."""

    level: str
    """`info`, `warning`, …"""
    seconds: float
    """Since the start of the attempt."""
    text: str
    """Up to 200 characters."""

    @classmethod
    def of(cls, line: LogLine) -> Self:
        """Return the line of a record."""
        return cls(level=line.level, seconds=line.seconds, text=line.text)


class RunDetail(msgspec.Struct, frozen=True, rename="camel"):
    """A run with its attempts."""

    run: RunLine
    attempts: tuple[AttemptLine, ...]
    """The last 20, oldest first."""
    part: int
    redrive: int
    """How often it was sent again after it had died."""
    http: dict[str, float]
    """HTTP requests of the last attempt: requests, retries, and seconds waited."""
    purged_utc: datetime | None
    """When an operator has taken the dead run off the list."""
    window: RunWindow | None
    cursor_before: Any
    cursor_after: Any
    log: tuple[LoggedLine, ...]
    """The last lines that the flow has logged in the last attempt, up to 20, oldest first."""
    log_left_out: int
    """The lines before them, which are not kept."""
    recording: str | None
    """The name of the newest recording of its HTTP exchanges, where failures are recorded."""


async def runs(
    services: Services,
    registry: FlowRegistry | None,
    *,
    tenant_id: str | None,
    flow: str | None,
    outcomes: Sequence[str],
    since: datetime | None,
    most: int,
) -> Runs:
    """Return the last runs by their start, up to `most`.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases; None to look for the flow under this name alone.
        tenant_id: Only the runs of this tenant.
        flow: Only the runs of this flow.
        outcomes: Only runs whose last attempt had one of these outcomes; empty for all.
        since: Only runs that started at this instant (aware) or later.
        most: The number of runs.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    names = () if flow is None else registry.names_of(flow) if registry else (flow,)
    wanted = RunFilter(tenant_id=tenant_id, names=names, outcomes=outcomes, since=since)
    found = await services.overview.records(wanted, most + 1)
    return Runs(
        runs=tuple(map(RunLine.of, found.records[:most])),
        has_more=len(found.records) + len(found.unreadable) > most,
        unreadable=tuple(found.unreadable),
    )


async def follow_runs(
    services: Services,
    registry: FlowRegistry | None,
    *,
    tenant_id: str | None,
    flow: str | None,
    outcomes: Sequence[str],
    pause: timedelta = _PAUSE,
) -> AsyncIterator[RunLine]:
    """Return the runs that end from now on, each as soon as that is seen. The iteration does not end.

    Args:
        services: The services of the app.
        registry: The flows, for their aliases; None to look for the flow under this name alone.
        tenant_id: Only the runs of this tenant.
        flow: Only the runs of this flow.
        outcomes: Only runs that end with one of these outcomes; empty for all.
        pause: The time between two looks.

    Raises:
        ServiceUnavailable: Cosmos DB refused or could not be reached; also later, while runs are followed.

    """
    names = () if flow is None else registry.names_of(flow) if registry else (flow,)
    wanted = RunFilter(tenant_id=tenant_id, names=names, outcomes=outcomes)
    newest = await services.overview.newest()
    before = {end: ts async for ts, record in services.overview.written(wanted, newest) if (end := _end_of(record))}
    return _ended(services, wanted, newest, before, pause)


type _End = tuple[str, str, int, int]
"""The tenant and the id of a run, how often it was sent again, and the number of attempts."""


def _end_of(record: RunRecord) -> _End | None:
    """Return the key of the end of a run; None if it goes on, or if only its record was purged."""
    if record.outcome is None or not record.outcome.is_final or record.purged_utc:
        return None
    return record.tenant_id, record.run_id, record.redrive, record.attempt_count


async def _ended(
    services: Services, wanted: RunFilter, start: int, seen: dict[_End, int], pause: timedelta
) -> AsyncIterator[RunLine]:
    newest = start
    while True:
        async for ts, record in services.overview.written(wanted, max(start, newest - _OVERLAP)):
            newest, end = max(newest, ts), _end_of(record)
            if end and end not in seen:
                yield RunLine.of(record)
            if end:
                seen[end] = ts
        seen = {end: ts for end, ts in seen.items() if ts >= newest - _OVERLAP}
        await services.clock.sleep(pause)


async def run(services: Services, run_id: str, tenant_id: str | None) -> RunDetail:
    """Return a run with its attempts. Without a tenant, the record is looked for in all of them.

    Raises:
        RunUnknown: the record does not exist.
        StateInvalid: the record was edited and cannot be read.
        ServiceUnavailable: Cosmos DB refused or could not be reached.

    """
    if tenant_id is not None:
        found = await services.runs.record(tenant_id, run_id)
    else:
        records = await services.overview.run(run_id)
        found = max(records, key=lambda each: each.finished_utc, default=None)
    if found is None:
        of_tenant = "" if tenant_id is None else f" of tenant {tenant_id!r}"
        raise RunUnknown(
            f"there is no record of run {run_id!r}{of_tenant}: its first attempt has not ended, the record has "
            "expired, or the id is another. List the runs: python -m datasync runs"
        )
    return RunDetail(
        run=RunLine.of(found),
        attempts=tuple(map(AttemptLine.of, found.attempts)),
        part=found.part,
        redrive=found.redrive,
        http=found.http,
        purged_utc=found.purged_utc,
        window=found.window,
        cursor_before=found.cursor_before,
        cursor_after=found.cursor_after,
        log=tuple(map(LoggedLine.of, found.log)),
        log_left_out=found.log_left_out,
        recording=found.recording,
    )
