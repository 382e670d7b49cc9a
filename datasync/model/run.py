"""Run records: one for each run, with its attempts."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from datasync.model.decode import FieldError, decode, own_fields
from datasync.model.failure import Failure
from datasync.model.job import Job, PlannedJob, Trigger
from datasync.model.lease import Lease
from datasync.model.stored import LenientEnum, Stored
from datasync.model.usual import Unusual

MOST_ATTEMPTS = 20
"""Attempts that a record lists: the last ones. It counts all of them."""


class Outcome(LenientEnum):
    """How an attempt ended, and with the last attempt the run. A run with an outcome of a later version is over."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It will be attempted again."""
    DEAD = "dead"
    """It failed for the last time, or in a way that does not change by itself."""
    GAVE_UP = "gave_up"
    """The flow raised GiveUp."""
    DEFERRED = "deferred"
    """The flow raised RetryLater, or the vault was away. It will be attempted again."""
    CONTINUED = "continued"
    """The flow raised Continue. The next part is a run of its own."""
    SKIPPED_DISABLED = "skipped_disabled"
    """The tenant's document no longer has the entry, or the entry is disabled."""
    SKIPPED_RESCHEDULED = "skipped_rescheduled"
    """It was planned ahead, and the entry's schedule was changed before its time."""
    SKIPPED_OVERLAP = "skipped_overlap"
    """Another run of the same flow and tenant was going on."""
    INTERRUPTED = "interrupted"
    """The process died, was stopped, or stood still until the lease was over. It will be attempted again."""

    @property
    def is_failure(self) -> bool:
        """Whether the flow, or the preparation of its run, failed."""
        return self in (Outcome.FAILED, Outcome.DEAD)

    @property
    def is_failing(self) -> bool:
        """Whether somebody should look into it: the flow failed, or gave up."""
        return self.is_failure or self is Outcome.GAVE_UP

    @property
    def is_final(self) -> bool:
        """Whether the run is over."""
        return self not in (Outcome.FAILED, Outcome.DEFERRED, Outcome.INTERRUPTED)


ENTRY_SKIPS = (Outcome.SKIPPED_DISABLED, Outcome.SKIPPED_RESCHEDULED)
"""Outcomes of a run that was skipped because of its entry. Another message of it may find the entry changed back."""


class Attempt(Stored, frozen=True, rename="camel", omit_defaults=True):
    """One attempt of a run."""

    id: str
    """Identifies the attempt: the nonce of its lease."""
    outcome: Outcome
    started_utc: datetime
    finished_utc: datetime
    """For an interrupted attempt: the time at which the interruption was noticed."""
    token: int = 0
    """The fencing token of its lease; 0 where it ended before it had one."""
    error: Failure | None = None
    secrets: dict[str, datetime] = msgspec.field(default_factory=dict)
    """The names of the secrets that it had read, and when each was read from the vault."""


class RunWindow(Stored, frozen=True):
    """The window of source data that a run was given (aware, UTC)."""

    start: datetime | None
    end: datetime


class LogLine(Stored, frozen=True):
    """A line that a flow has logged, without secrets."""

    level: str
    """`info`, `warning`, …"""
    seconds: float
    """Since the start of the attempt."""
    text: str


class RunRecord(Stored, frozen=True, rename="camel", omit_defaults=True):
    """The record of one run: all attempts of one decision."""

    tenant_id: str
    flow_name: str
    run_id: str
    scheduled_utc: datetime
    started_utc: datetime
    """Start of the first attempt."""
    finished_utc: datetime
    """End of the last attempt."""
    outcome: Outcome | None = None
    """Of the last attempt, and of the run if it is final; None before the end of the first attempt."""
    trigger: Trigger = Trigger.SCHEDULE
    rev: str | None = None
    redrive: int = 0
    part: int = 1
    attempt_count: int = 0
    attempts: tuple[Attempt, ...] = ()
    """The last MOST_ATTEMPTS, oldest first."""
    failures: int = 0
    """Failed attempts since the run was started (again)."""
    interruptions: int = 0
    """Interrupted attempts in a row: since one ended otherwise, or the run was started again."""
    deferrals: int = 0
    """The message with this number is the present one: older messages of the run are dropped."""
    retry_laters: int = 0
    """Deferrals that the flow asked for."""
    deferred_since_utc: datetime | None = None
    """When the run was deferred first."""
    error: Failure | None = None
    """The error of the last attempt."""
    counts: dict[str, int] = msgspec.field(default_factory=dict)
    """The numbers that the flow reported with `run.count()` in the last attempt."""
    unusual: tuple[Unusual, ...] = ()
    """The counts, and the duration, that differ from the usual ones, since the last attempt."""
    http: dict[str, float] = msgspec.field(default_factory=dict)
    """HTTP requests of the last attempt: requests, retries, and the seconds waited for retries and connections."""
    log: tuple[LogLine, ...] = ()
    """The last lines that the flow has logged in the last attempt, oldest first."""
    log_left_out: int = 0
    """The lines before them, which are not kept."""
    window: RunWindow | None = None
    cursor_before: Any = None
    cursor_after: Any = None
    """The cursor before and after the last attempt, where it has up to 1 KB."""
    recording: str | None = None
    """The name of the newest recording of the run's HTTP exchanges, where failures are recorded."""
    message_id: str | None = None
    """The message whose delivery made the last attempt."""
    next: tuple[PlannedJob, ...] = ()
    """Messages to send once the record is written. If the process dies before that, the message of the last attempt is
    delivered again, and they are sent then."""
    purged_utc: datetime | None = None
    """When an operator has taken the dead run off the list."""
    lease: Lease | None = None
    """Only in a run whose flow allows overlapping runs."""
    token: int = 0
    etag: str | None = None
    """None while nothing is stored."""

    @property
    def id(self) -> str:
        """The document's id within its tenant's partition."""
        return record_id(self.run_id)

    @classmethod
    def begin(cls, job: Job, flow_name: str, now: datetime) -> Self:
        """Return the record of a run without an attempt."""
        return cls(
            tenant_id=job.tenant_id,
            flow_name=flow_name,
            run_id=job.run_id,
            scheduled_utc=job.scheduled_utc,
            started_utc=now,
            finished_utc=now,
            trigger=job.trigger,
            rev=job.rev,
            redrive=job.redrive,
            part=job.part,
        )

    def is_over_for(self, job: Job) -> bool:
        """Return whether a job need not run: the run has ended, or the job's message is older than the present one.

        A record ends only messages whose redrive is not greater than its own. A run that was skipped because of its
        entry has not run, so another message of it may still find the entry changed back.
        """
        if job.redrive != self.redrive:
            return job.redrive < self.redrive
        if job.deferral < self.deferrals:
            return True
        has_ended = self.outcome is not None and self.outcome.is_final
        return has_ended and self.outcome not in ENTRY_SKIPS

    def is_present_for(self, job: Job) -> Self:
        """Return the record as a job continues it: a redrive starts the counting again."""
        if job.redrive <= self.redrive:
            return self
        return replace(
            self,
            redrive=job.redrive,
            trigger=job.trigger,
            outcome=None,
            failures=0,
            interruptions=0,
            deferrals=0,
            retry_laters=0,
            deferred_since_utc=None,
            purged_utc=None,
        )

    def has(self, attempt_id: str) -> bool:
        """Return whether the record lists an attempt."""
        return any(attempt.id == attempt_id for attempt in self.attempts)

    def after(self, attempt: Attempt, **changes: Any) -> Self:
        """Return the record after an attempt, with its counts brought up to date, and further fields changed.

        An attempt that is found interrupted after the run has ended does not change the end of the run.
        """
        asked = attempt.outcome is Outcome.DEFERRED
        is_interrupted = attempt.outcome is Outcome.INTERRUPTED
        is_late = is_interrupted and self.outcome is not None and self.outcome.is_final
        return replace(
            self,
            outcome=self.outcome if is_late else attempt.outcome,
            started_utc=self.started_utc if self.attempt_count else attempt.started_utc,
            finished_utc=self.finished_utc if is_late else attempt.finished_utc,
            attempt_count=self.attempt_count + 1,
            attempts=(*self.attempts, attempt)[-MOST_ATTEMPTS:],
            failures=self.failures + attempt.outcome.is_failure,
            interruptions=self.interruptions + 1 if is_interrupted else 0,
            deferrals=self.deferrals + asked,
            error=self.error if is_late else attempt.error,
            lease=None,
            **changes,
        )

    def document(self, retention: timedelta) -> dict[str, Any]:
        """Return the document to store, which expires after `retention`."""
        content = self.content()
        content.pop("etag", None)
        return {**content, "id": self.id, "type": "Run", "ttl": int(retention.total_seconds())}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored record, also one of an earlier version, which has the fields of its only attempt.

        Raises:
            FieldError: it was edited and cannot be read.

        """
        content = own_fields(document)
        if "attempt" in content:
            content["attemptCount"] = content.pop("attempt")
        error = Failure.read(content.pop("error", None))
        record = decode(cls, content)
        if "attempt" not in document and document.get("id") != record.id:
            raise FieldError("runId", f"the id in {document.get('id')!r}", record.run_id)
        return replace(record, error=error)


def record_id(run_id: str) -> str:
    """Return the id of the record of a run, within its tenant's partition."""
    return f"run-{run_id}"
