"""Flow states: the memory of one flow of one tenant, from run to run."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from datasync.errors import StateInvalid
from datasync.model import times
from datasync.model.cursor import LARGEST
from datasync.model.decode import FieldError, Text, decode, own_fields
from datasync.model.display import shown
from datasync.model.failure import Failure
from datasync.model.job import LONGEST_DELAY, Job, JobMessage
from datasync.model.lease import MARGIN, Lease
from datasync.model.run import Attempt, Outcome, RunRecord
from datasync.model.stored import Stored
from datasync.model.usual import Unusual, Usual, unusual

REMEMBERED = 24
"""Number of ended legs of runs, and of outcomes of attempts, that a state keeps."""

LAST_MESSAGE = 300
"""Characters of the last error's message that a state keeps. The record of its run has the whole message."""

LETTERS = {
    Outcome.SUCCEEDED: "s",
    Outcome.FAILED: "f",
    Outcome.DEAD: "x",
    Outcome.GAVE_UP: "g",
    Outcome.DEFERRED: "w",
    Outcome.CONTINUED: "c",
    Outcome.SKIPPED_DISABLED: "d",
    Outcome.SKIPPED_RESCHEDULED: "r",
    Outcome.SKIPPED_OVERLAP: "o",
    Outcome.INTERRUPTED: "i",
}
"""The letters of outcomes in `FlowState.outcomes`, which the state keeps short: each KB of a document costs."""

UNKNOWN_LETTER = "?"
"""The letter of an outcome of a later version."""

_LARGEST_CURSOR = 4 * LARGEST  # bytes of JSON: the database may write a number with more digits than Python

_FORMER = ("applied",)  # fields of earlier versions, which are not kept

_PREFIX = "state-"

type _Time = Annotated[datetime | None, Meta(description=times.EXPECTED)]
type _Count = Annotated[int, Meta(ge=0, description="a whole number")]


class Deferral(Stored, frozen=True, rename="camel"):
    """A run that waits on the queue, since its flow or a service has asked for that."""

    leg: Annotated[str, Meta(description="a text")]
    """The next leg of the run (`Job.leg`)."""
    run_id: Annotated[str, Meta(description="a text")]
    until_utc: Annotated[datetime, Meta(tz=True, description=times.EXPECTED)]
    """The time at which its message appears on the queue."""


class Checkpoint(Stored, frozen=True, rename="camel"):
    """The counts of a run that is not over, up to its last `run.checkpoint()`."""

    run_id: Annotated[str, Meta(description="a text")]
    counts: Annotated[dict[str, int], Meta(description="an object of whole numbers")]


class LastError(Failure, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The error of the last attempt that failed: without the answer's body, and with the start of the message."""

    run_id: Annotated[str, Meta(description="a text")]
    finished_utc: Annotated[datetime, Meta(tz=True, description=times.EXPECTED)]
    """End of the attempt."""

    @classmethod
    def of(cls, error: Failure, run_id: str, finished: datetime) -> Self:
        """Return the error of an attempt as a state keeps it."""
        return cls(
            message=shown(error.message, LAST_MESSAGE),
            kind=error.kind,
            fingerprint=error.fingerprint,
            status=error.status,
            host=error.host,
            run_id=run_id,
            finished_utc=finished,
        )


class FlowState(Stored, frozen=True, rename="camel", omit_defaults=True):
    """The memory of one flow of one tenant."""

    tenant_id: Text
    flow_name: Text
    token: _Count = 0
    """The fencing token of the last lease. It only grows."""
    lease: Annotated[Lease | None, Meta(description="a lease, or null")] = None
    """The attempt that is going on."""
    wanted: Annotated[JobMessage | None, Meta(description="a job message, or null")] = None
    """The run to send when the present one ends, since others were skipped because of it."""
    deferral: Annotated[Deferral | None, Meta(description="a deferral, or null")] = None
    """The run that was deferred last, until another one has succeeded."""
    cursor: Any = None
    """The JSON value that the flow has kept last."""
    checkpoint: Annotated[Checkpoint | None, Meta(description="a checkpoint, or null")] = None
    """Kept with the cursor: the next attempt of the run goes on counting there."""
    window_end_utc: _Time = None
    """End of the last successful run's window: the start of the next one."""
    last_run_utc: _Time = None
    last_outcome: Annotated[str | None, Meta(description="a text")] = None
    """An Outcome, perhaps one of a later version."""
    last_success_utc: _Time = None
    consecutive_failures: _Count = 0
    """Attempts in a row that failed, or in which the flow gave up."""
    failing_since_utc: _Time = None
    """Start of the first of these attempts; None also where an earlier version has recorded it."""
    last_error: Annotated[LastError | None, Meta(description="an error, or null")] = None
    """The error of the last of these attempts; None also where an earlier version has recorded it."""
    stale_utc: _Time = None
    """The time from which the flow is late, unless it succeeds before; None while no success is expected."""
    schedule_rev: Annotated[str | None, Meta(description="a text")] = None
    """`Expectation.rev` of the entry that `stale_utc` is derived from; None where no entry is enabled."""
    schedule_since_utc: _Time = None
    """The time of the tick that has noted another `schedule_rev` last."""
    outcomes: Annotated[str, Meta(description="a text")] = ""
    """The outcomes of the last attempts, oldest first: a letter of LETTERS for each."""
    usual: Annotated[Usual | None, Meta(description="an object, or null")] = None
    """The usual duration and counts of the last successful runs."""
    unusual: Annotated[tuple[Unusual, ...], Meta(description="a list of objects")] = ()
    """The unusual numbers of the last successful run."""
    ended: Annotated[tuple[str, ...], Meta(description="a list of texts")] = ()
    """The last legs of runs that ended (`Job.leg`), oldest first."""
    etag: str | None = None
    """None while nothing is stored."""

    @property
    def id(self) -> str:
        """The document's id within its tenant's partition."""
        return f"{_PREFIX}{self.flow_name}"

    def deferred(self, now: datetime) -> Deferral | None:
        """Return the deferral that lasts at an instant (aware).

        A time that lies further ahead than the queue hides a message was edited by hand, and does not count.
        """
        deferral = self.deferral
        is_pending = deferral is not None and now < deferral.until_utc <= now + LONGEST_DELAY + MARGIN
        return deferral if is_pending else None

    def is_over_for(self, job: Job) -> bool:
        """Return whether a job need not run, since its leg of the run has ended. The state knows the last ones."""
        return job.leg in self.ended

    @property
    def last_outcomes(self) -> tuple[str, ...]:
        """The outcomes of the last attempts, oldest first; `unknown` for one of a later version."""
        return tuple(_WORDS.get(letter, "unknown") for letter in self.outcomes)

    def counts_of(self, run_id: str) -> dict[str, int]:
        """Return the counts of a run up to its last checkpoint."""
        return self.checkpoint.counts if self.checkpoint and self.checkpoint.run_id == run_id else {}

    def after(
        self,
        attempt: Attempt,
        job: Job,
        window_end: datetime | None,
        cursor: Any,
        counts: Mapping[str, int] | None = None,
    ) -> Self:
        """Return the state after an attempt.

        Args:
            attempt: The attempt that ended.
            job: Its job.
            window_end: End of the window that is done, if the attempt succeeded or continues in another part.
            cursor: The value that the flow has kept, or the one before.
            counts: The counts of the attempt.

        """
        outcome = attempt.outcome
        state = replace(self.noting_outcome(outcome), last_run_utc=attempt.finished_utc, cursor=cursor)
        if outcome.is_final or outcome is Outcome.DEFERRED:
            state = state.noting_end(job.leg)
        if outcome.is_final and self.checkpoint and self.checkpoint.run_id == job.run_id:
            state = replace(state, checkpoint=None)
        if outcome in (Outcome.SUCCEEDED, Outcome.CONTINUED):
            ends = [end for end in (window_end, self.window_end_utc) if end]  # a window never moves back
            state = replace(state.without_failures(), window_end_utc=max(ends, default=None), deferral=None)
        if outcome is Outcome.SUCCEEDED:
            state = state.noting_success(attempt, counts or {})
        if outcome.is_failing:
            state = state.noting_failure(attempt, job.run_id)
        return state

    def noting_skip(self, leg: str, wanted: JobMessage | None) -> Self:
        """Return the state after a run was skipped because of another one."""
        outcomes = self._outcomes_with(Outcome.SKIPPED_OVERLAP)
        return replace(self.noting_end(leg), wanted=wanted or self.wanted, outcomes=outcomes)

    def noting_outcome(self, outcome: Outcome) -> Self:
        """Return the state with the outcome of another attempt."""
        return replace(self, last_outcome=outcome, outcomes=self._outcomes_with(outcome))

    def expecting(self, rev: str, stale_after: Callable[[float], datetime | None], started: datetime) -> Self:
        """Return the state after a success, with the time from which the flow is late.

        Args:
            rev: `Expectation.rev` of the entry as the run has read it.
            stale_after: Returns the time for the usual duration of a run, in seconds.
            started: Start of the attempt. A tick's note since then is newer than the entry of the run, and stays.

        """
        if self.schedule_rev != rev and self.schedule_since_utc and self.schedule_since_utc > started:
            return self
        return replace(self, schedule_rev=rev, stale_utc=stale_after(self.usual.seconds.mean if self.usual else 0))

    def noting_success(self, attempt: Attempt, counts: Mapping[str, int]) -> Self:
        """Return the state after an attempt that succeeded, with its seconds and counts compared and remembered."""
        seconds, at = (attempt.finished_utc - attempt.started_utc).total_seconds(), attempt.finished_utc
        return replace(
            self,
            last_success_utc=at,
            unusual=tuple(unusual(self.usual, self.unusual, seconds, counts, at)),
            usual=Usual.after(self.usual, seconds, counts),
        )

    def noting_failure(self, attempt: Attempt, run_id: str) -> Self:
        """Return the state after an attempt that failed, or in which the flow gave up."""
        return replace(
            self,
            consecutive_failures=self.consecutive_failures + 1,
            failing_since_utc=self.failing_since_utc if self.consecutive_failures else attempt.started_utc,
            last_error=attempt.error and LastError.of(attempt.error, run_id, attempt.finished_utc),
        )

    def without_failures(self) -> Self:
        """Return the state of a flow that is not failing."""
        return replace(self, consecutive_failures=0, failing_since_utc=None, last_error=None)

    def without_old_error(self) -> Self:
        """Return the state without an error from before the last success.

        An earlier version does not know the error, and so keeps it when a run succeeds.
        """
        error, success = self.last_error, self.last_success_utc
        is_old = error is not None and success is not None and error.finished_utc < success
        if self.consecutive_failures and not is_old:
            return self
        return replace(self, failing_since_utc=None, last_error=None)

    def noting_end(self, leg: str) -> Self:
        """Return the state after a leg of a run has ended."""
        is_own = self.deferral is not None and self.deferral.leg == leg
        return replace(self, ended=(*self.ended, leg)[-REMEMBERED:], deferral=None if is_own else self.deferral)

    def _outcomes_with(self, outcome: Outcome) -> str:
        return (self.outcomes + LETTERS.get(outcome, UNKNOWN_LETTER))[-REMEMBERED:]

    def document(self) -> dict[str, Any]:
        """Return the document to store."""
        content = self.content()
        content.pop("etag", None)
        return {**content, "id": self.id, "type": "FlowState"}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored state.

        Raises:
            StateInvalid: it was edited and cannot be read; the message names the document and the field.

        """
        try:
            _check_cursor(document.get("cursor"))
            state = decode(cls, own_fields(document, *_FORMER))
            _check_name(state, document)
        except FieldError as error:
            raise StateInvalid(
                f"flow state id={document.get('id')!r} of tenant {document.get('tenantId')!r}: {error}. Correct "
                "it, or delete the document: the flow then starts as if it had never run"
            ) from None
        return state.without_old_error()


class _Place(msgspec.Struct, frozen=True, rename="camel"):
    """The partition and the id of a stored state."""

    tenant_id: Text
    id: Annotated[str, Meta(pattern=f"^{_PREFIX}.", description=f"{_PREFIX} and the name of a flow")]


def place_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """Return the tenant and the flow whose runs find a stored state, whatever its other fields are.

    Raises:
        StateInvalid: no run finds it; the message names the document.

    """
    try:
        place = decode(_Place, document)
    except FieldError as error:
        raise StateInvalid(
            f"flow state id={document.get('id')!r} in partition {document.get('tenantId')!r}: {error}. No run finds "
            "it. Delete the document"
        ) from None
    return place.tenant_id, place.id.removeprefix(_PREFIX)


def _check_name(state: FlowState, document: Mapping[str, Any]) -> None:
    if document.get("id") != state.id:
        raise FieldError("flowName", f"the name in the id, {document.get('id')!r}", state.flow_name)


def _check_cursor(cursor: Any) -> None:
    try:
        size = len(json.dumps(cursor, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise FieldError("cursor", why="half of a surrogate pair, which cannot be kept") from None
    if size > _LARGEST_CURSOR:
        raise FieldError("cursor", why=f"expected at most {_LARGEST_CURSOR:,} bytes of JSON, got {size:,}")


_WORDS = {letter: str(outcome) for outcome, letter in LETTERS.items()}


type Leased = FlowState | RunRecord
"""A document with a lease: the state of a flow, or the record of a run whose flow allows overlapping runs."""
