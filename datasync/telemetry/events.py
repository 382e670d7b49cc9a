"""The events of the app, in the order of the data: tick, run, endings.

| word          | level   | event |
|---------------|---------|-------|
| TICK          | info    | a tick ended |
| INVALID       | error   | somebody must correct a document (each tick, while it lasts) |
| LATE          | error   | a flow has not succeeded in time (each tick, while it lasts) |
| WARNING       | warning | a document or a setting has a probable mistake (a document: once) |
| BROKEN        | error   | a flow file could not be loaded (at the start and each tick, while it lasts) |
| START         | info    | an attempt of a flow starts |
| DONE          | info    | an attempt succeeded |
| FAIL          | error   | an attempt failed, or a message is not a job |
| UNUSUAL       | warning | a count of a successful run is zero for the first time in long, or the run took long |
| CONTINUED     | info    | a part of a run ended, and the next part follows |
| DEFERRED, GAVE_UP, SKIPPED_…, INTERRUPTED | warning | an attempt ended otherwise |
| DUPLICATE     | info    | a message was dropped, since another one did its work or does it |
| WAITING       | warning | a message was put back on the queue |
| SUPERSEDED    | warning | an attempt has lost its lease, and writes nothing more |
| BLOCKED       | error   | a flow blocked the event loop, and so all flows of the process |
| UNHEALTHY     | error   | a monitor was told that ticks stay away, or that a flow has not succeeded in time |
| UNAVAILABLE   | error   | a run did not start or was not recorded, or a tick did not handle a tenant |
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from datasync.errors import JobInvalid, ServiceUnavailable, StateInvalid
from datasync.model.decode import NAME_LIMIT
from datasync.model.display import shown
from datasync.model.job import Job
from datasync.model.run import Outcome, RunRecord
from datasync.model.tenant import Problem
from datasync.model.times import utc_text
from datasync.model.usual import Unusual


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event."""

    level: ClassVar[int] = logging.INFO

    def sentence(self) -> str:
        """Return the event as a sentence, which starts with a word to search for."""
        raise NotImplementedError

    def attributes(self) -> dict[str, object]:
        """Return the fields after the sentence. None is left out."""
        return {}

    def details(self) -> str:
        """Return the text that follows on further lines, such as a traceback."""
        return ""

    def facts(self) -> dict[str, object]:
        """Return the event for a handler on this machine that shows it in its own way: JSON, with the type's name."""
        return {"event": type(self).__name__, "sentence": self.sentence()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TickEnded(Event):
    """A tick ended. The numbers are those of datasync.tick.tick.Tally."""

    tenants: int
    due: int
    enqueued: int
    advanced: int
    conflicts: int
    problems: int | None
    """None where they could not be read."""
    late: int | None
    """None where they could not be read."""
    broken: int
    failed: int
    seconds: float
    away: str = ""
    """Services that are away, and since when."""

    def sentence(self) -> str:
        """Return `TICK`."""
        return "TICK"

    def attributes(self) -> dict[str, object]:
        """Return the numbers."""
        unread = {name: "?" for name in ("problems", "late") if getattr(self, name) is None}
        away = f"[{self.away}]" if self.away else None
        return {**asdict(self), **unread, "seconds": round(self.seconds, 2), "away": away}

    def facts(self) -> dict[str, object]:
        """Return the numbers, too."""
        return {**Event.facts(self), **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TickFailed(Event):
    """A tick could not examine all documents."""

    level = logging.ERROR
    error: Exception

    def sentence(self) -> str:
        """State the error."""
        return f"UNAVAILABLE the tick could not examine all documents: {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the class of the error."""
        return {"error": type(self.error).__name__}


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFailed(Event):
    """A tick could not handle a tenant."""

    level = logging.ERROR
    tenant: str
    error: Exception

    def sentence(self) -> str:
        """Name the tenant and the error."""
        return f"UNAVAILABLE tenant {shown(repr(self.tenant))} could not be scheduled: {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the tenant and the class of the error."""
        return {"tenant": self.tenant, "error": type(self.error).__name__}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLate(Event):
    """A flow has not succeeded in time. It may not run at all."""

    level = logging.ERROR
    tenant: str
    flow: str
    since: str
    """The time by which it should have succeeded."""
    last_success: str | None

    def sentence(self) -> str:
        """Name the tenant and the flow."""
        return f"LATE {shown(self.tenant)}/{shown(self.flow)}"

    def attributes(self) -> dict[str, object]:
        """Return the time by which the flow should have succeeded, and that of its last success."""
        return {"since": self.since, "last_success": self.last_success or "never"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LateOmitted(Event):
    """There are more late flows than a tick logs."""

    level = logging.ERROR
    count: int

    def sentence(self) -> str:
        """State the number, and where to find them."""
        return f"LATE at least {self.count} more flows: python -m datasync flows --late lists all of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class LateUnknown(Event):
    """A tick could not look for late flows."""

    level = logging.ERROR
    error: Exception

    def sentence(self) -> str:
        """State the error."""
        return f"UNAVAILABLE the tick could not look for late flows: {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the class of the error."""
        return {"error": type(self.error).__name__}


@dataclass(frozen=True, slots=True, kw_only=True)
class WatermarkInvalid(Event):
    """The watermark cannot be read; the tick scans all documents and replaces it."""

    level = logging.WARNING
    error: StateInvalid

    def sentence(self) -> str:
        """Name the document and the field."""
        return f"{self.error}. All documents are examined, and the watermark is replaced"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMisplaced(Event):
    """A complete scan has found the state of a flow where no run finds it. It is ignored."""

    level = logging.ERROR
    error: StateInvalid

    def sentence(self) -> str:
        """Name the document and the field."""
        return f"INVALID {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MisplacedOmitted(Event):
    """There are more such states than a tick logs."""

    level = logging.ERROR
    count: int

    def sentence(self) -> str:
        """State the number."""
        return f"INVALID {self.count} more flow states that no run finds: delete the others first"


@dataclass(frozen=True, slots=True, kw_only=True)
class CooldownInvalid(Event):
    """The cool-down of a provider cannot be read, and is ignored."""

    level = logging.ERROR
    error: StateInvalid

    def sentence(self) -> str:
        """Name the document and the field."""
        return f"INVALID {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentInvalid(Event):
    """Somebody must correct a tenant document."""

    level = logging.ERROR
    problem: Problem

    def sentence(self) -> str:
        """Name the tenant, the flow, the field, and the expectation."""
        return f"INVALID {self.problem}"

    def attributes(self) -> dict[str, object]:
        """Return the tenant, the flow and the field."""
        return {"tenant": self.problem.tenant_id, "flow": self.problem.flow, "path": self.problem.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentDoubtful(DocumentInvalid):
    """A tenant document has a probable mistake."""

    level = logging.WARNING

    def sentence(self) -> str:
        """Name the tenant, the flow, the field, and the reason."""
        return f"WARNING {self.problem.place}: {self.problem.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDoubtful(Event):
    """An app setting is probably a mistake."""

    level = logging.WARNING
    why: str
    """The setting and the reason."""

    def sentence(self) -> str:
        """Name the setting and the reason."""
        return f"WARNING app setting {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatFailed(Event):
    """The monitor outside the app could not be told that a tick has ended."""

    level = logging.WARNING
    why: str
    """The reason, without the address."""

    def sentence(self) -> str:
        """Name the setting and the reason."""
        return f"WARNING the request to HEARTBEAT_URL failed: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhealthy(Event):
    """A monitor has asked for the health of the app, which is not well."""

    level = logging.ERROR
    problems: Sequence[str]
    """Sentences, as the monitor gets them."""

    def sentence(self) -> str:
        """State the problems."""
        return f"UNHEALTHY {' '.join(self.problems)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemsOmitted(Event):
    """There are more standing problems than a tick logs."""

    level = logging.ERROR
    count: int

    def sentence(self) -> str:
        """State the number, and where to find them."""
        return f"INVALID {self.count} more problems: query partition @fleet of the runs container for type = 'Problem'"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFileBroken(Event):
    """A flow file could not be loaded."""

    level = logging.ERROR
    module: str
    cause: str
    """The exception, in one line."""
    traceback: str

    def sentence(self) -> str:
        """Name the file and the exception."""
        return f"BROKEN flow file {shown(self.module)} could not be loaded: {self.cause}"

    def attributes(self) -> dict[str, object]:
        """Return the module."""
        return {"module": self.module}

    def details(self) -> str:
        """Return the traceback."""
        return self.traceback

    def facts(self) -> dict[str, object]:
        """Return the module, the exception and the traceback, too."""
        return {**Event.facts(self), **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """An attempt of a flow starts."""

    subject: str
    """`tenant/flow`."""
    run: str
    attempt: int
    queued: timedelta | None = None
    """How long the job was due before; None if that says nothing about the queue (`Job.queued`)."""

    def sentence(self) -> str:
        """Name the tenant and the flow."""
        return f"START {shown(self.subject, 2 * NAME_LIMIT)}"

    def attributes(self) -> dict[str, object]:
        """Return the time on the queue, the run id and the attempt."""
        queued = None if self.queued is None else f"{self.queued.total_seconds():.1f}s"
        return {"queued": queued, "run": self.run, "attempt": self.attempt}

    def facts(self) -> dict[str, object]:
        """Return the tenant and the flow, and the attempt, too."""
        return {**Event.facts(self), "subject": shown(self.subject, 2 * NAME_LIMIT), "attempt": self.attempt}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingLost(Event):
    """The recording of a failed attempt could not be stored."""

    level = logging.WARNING
    subject: str
    """`tenant/flow`."""
    error: Exception
    run: str
    attempt: int

    def sentence(self) -> str:
        """Name the flow and the error."""
        return f"UNRECORDED {shown(self.subject, 2 * NAME_LIMIT)}: the recording was not stored: {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the run id, the attempt and the class of the error."""
        return {"run": self.run, "attempt": self.attempt, "error": type(self.error).__name__}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowBlocked(Event):
    """A flow blocked the event loop.

    Emit it in the task of a run: on Azure, lines of another thread or of a callback have no invocation and are dropped.
    """

    level = logging.ERROR
    subject: str | None
    """`tenant/flow`. None if no run, or an unknown one, blocked the loop."""
    seconds: float
    place: str
    """`flows/slow.py:11 (time.sleep)`."""
    run: str
    """The run that reports the block."""
    attempt: int

    def sentence(self) -> str:
        """Name the flow, the time it took, and the place in its code."""
        subject = shown(self.subject, 2 * NAME_LIMIT) if self.subject else "code outside a run"
        return f"BLOCKED {subject} blocked every flow for {self.seconds:.1f} s at {self.place}"

    def attributes(self) -> dict[str, object]:
        """Return the run id and the attempt."""
        return {"run": self.run, "attempt": self.attempt}


_RESERVED = ("fingerprint", "late_since", "http", "retried", "waited", "run", "attempt")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """An attempt ended, and the record of its run says how."""

    record: RunRecord
    stale_utc: datetime | None = None
    """The time by which the flow should have succeeded, as the attempt has read it."""
    traceback: str = ""

    @property
    def level(self) -> int:  # type: ignore[override]
        """Error for a failure, warning for an ending that is neither failure nor success."""
        if self.record.attempts[-1].outcome.is_failure:
            return logging.ERROR
        return logging.INFO if self.record.outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED) else logging.WARNING

    def sentence(self) -> str:
        """Name the tenant, the flow, the outcome, the time it took, and the error."""
        record, attempt = self.record, self.record.attempts[-1]
        subject = f"{shown(record.tenant_id)}/{shown(record.flow_name)}"
        took = f"{(attempt.finished_utc - attempt.started_utc).total_seconds():.1f}s"
        if attempt.outcome is Outcome.SUCCEEDED:
            return f"DONE {subject} in {took}"
        why = f": {attempt.error.message}" if attempt.error else ""
        if attempt.outcome.is_failure:
            return f"FAIL {subject} after {took} ({attempt.outcome}){why}"
        return f"{attempt.outcome.upper()} {subject} after {took}{why}"

    def attributes(self) -> dict[str, object]:
        """Return the fingerprint, the counts, the HTTP requests, the run id and the attempt.

        Zeros of the requests are left out, and `late_since` unless the flow is late. A count that is named like an
        attribute of the app is shown as `count.http`.
        """
        record, attempt = self.record, self.record.attempts[-1]
        found = {
            "fingerprint": (attempt.outcome.is_failing and attempt.error and attempt.error.fingerprint) or None,
            "late_since": self._late_since(),
        }
        names = {"requests": "http", "retries": "retried"}
        http: dict[str, object] = {names[name]: int(n) for name, n in record.http.items() if n and name in names}
        if waited := record.http.get("waited"):
            http["waited"] = f"{waited:.1f}s"
        own = {**http, "run": record.run_id, "attempt": record.attempt_count}
        counts = {f"count.{name}" if name in _RESERVED else name: n for name, n in record.counts.items()}
        return {**found, **counts, **own}

    def _late_since(self) -> str | None:
        ended = self.record.attempts[-1]
        is_late = self.stale_utc and self.stale_utc < ended.finished_utc and ended.outcome is not Outcome.SUCCEEDED
        return utc_text(self.stale_utc) if self.stale_utc and is_late else None

    def details(self) -> str:
        """Return the traceback of a failure."""
        return self.traceback

    def facts(self) -> dict[str, object]:
        """Return the parts of the sentence, the attributes, and whether the attempt before failed in the same way."""
        *before, attempt = self.record.attempts
        prints = [each.error.fingerprint for each in (*before[-1:], attempt) if each.error]
        return {
            **Event.facts(self),
            "subject": f"{shown(self.record.tenant_id)}/{shown(self.record.flow_name)}",
            "run": self.record.run_id,
            "recorded": self.record.recording is not None,
            "outcome": str(attempt.outcome),
            "seconds": (attempt.finished_utc - attempt.started_utc).total_seconds(),
            "attempt": self.record.attempt_count,
            "counts": dict(self.record.counts),
            "http": dict(self.record.http),
            "error": attempt.error and attempt.error.message,
            "repeated": len(prints) > 1 and prints[0] == prints[1],
            "traceback": self.traceback,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUnusual(Event):
    """A successful run differs from those before it. Emitted for the first such run of a row."""

    level = logging.WARNING
    record: RunRecord
    unusual: Unusual

    def sentence(self) -> str:
        """Name the tenant, the flow, and the number with the usual one."""
        return f"UNUSUAL {shown(self.record.tenant_id)}/{shown(self.record.flow_name)}: {self.unusual}"

    def attributes(self) -> dict[str, object]:
        """Return the count, if it is one, and the run id."""
        return {"count": self.unusual.count, "run": self.record.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobEvent(Event):
    """Base of the events about a job."""

    job: Job

    @property
    def subject(self) -> str:
        """`tenant/flow`."""
        return f"{shown(self.job.tenant_id)}/{shown(self.job.flow_name)}"

    def attributes(self) -> dict[str, object]:
        """Return the run id and the delivery."""
        return {"run": self.job.run_id, "delivery": self.job.delivery}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDropped(_JobEvent):
    """A message is not needed: another one did its work, or does it."""

    why: str

    def sentence(self) -> str:
        """Name the tenant, the flow and the reason."""
        return f"DUPLICATE {self.subject} dropped: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStaysDead(_JobEvent):
    """A dead run could not be attempted again, and is still in the list of dead runs."""

    level = logging.WARNING
    why: str

    def sentence(self) -> str:
        """Name the tenant, the flow and the reason."""
        return f"REFUSED {self.subject} stays dead: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPutBack(_JobEvent):
    """A message was put back on the queue."""

    level = logging.WARNING
    why: str
    delay: timedelta

    def sentence(self) -> str:
        """Name the tenant, the flow, the time and the reason."""
        return f"WAITING {self.subject} for {self.delay.total_seconds():.0f}s: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSuperseded(_JobEvent):
    """An attempt has lost its lease. It writes nothing more."""

    level = logging.WARNING
    error: Exception

    def sentence(self) -> str:
        """Name the tenant, the flow and the reason."""
        return f"SUPERSEDED {self.subject}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRenamed(_JobEvent):
    """A run of another flow has ended under the run id of an attempt. The attempt is recorded under another id."""

    level = logging.WARNING
    renamed: str
    """The other id."""
    owner: str
    """The flow whose run has the id."""

    def sentence(self) -> str:
        """Name the tenant, the flow, the two ids and the other flow."""
        return (
            f"RENAMED {self.subject}: run {self.job.run_id} goes on as {self.renamed}, because a run of {self.owner} "
            "was posted under its runId"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingNotRecorded(_JobEvent):
    """An attempt ended, and its record could not be written yet."""

    level = logging.ERROR
    outcome: Outcome
    error: Exception
    traceback: str = ""

    def sentence(self) -> str:
        """Name the tenant, the flow, the outcome and the error."""
        return f"UNAVAILABLE {self.subject} ended ({self.outcome}), which could not be recorded: {self.error}"

    def details(self) -> str:
        """Return the traceback of a failure."""
        return self.traceback


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAway(_JobEvent):
    """A service refused or could not be reached, and the job waits for it."""

    level = logging.ERROR
    error: ServiceUnavailable
    since: datetime
    pause: timedelta

    def sentence(self) -> str:
        """Name the tenant, the flow, the time, the service and the error."""
        away = f"{self.error.service} is away since {utc_text(self.since)}"
        return f"UNAVAILABLE {self.subject} waits for {self.pause.total_seconds():.0f}s: {away}. {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotBuried(Event):
    """A message of the poison queue could not be handled, and goes back there."""

    level = logging.ERROR
    message_id: str
    error: Exception

    def sentence(self) -> str:
        """Name the message and the error."""
        return f"UNAVAILABLE message {shown(self.message_id)} stays in the poison queue: {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the class of the error."""
        return {"error": type(self.error).__name__}


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterKept(Event):
    """A message that no function can receive was kept as a dead letter."""

    level = logging.ERROR
    message_id: str
    why: str

    def sentence(self) -> str:
        """Name the message and the reason."""
        return f"FAIL message {shown(self.message_id)} is kept as a dead letter: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRefused(Event):
    """A message is not a job."""

    level = logging.ERROR
    error: JobInvalid
    attempt: int

    def sentence(self) -> str:
        """Name the message, the field, and the expectation."""
        return f"FAIL {self.error}"

    def attributes(self) -> dict[str, object]:
        """Return the delivery."""
        return {"attempt": self.attempt}
