"""Flow states: the memory of one flow of one tenant, from run to run."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from datasync.errors import StateInvalid
from datasync.model import times
from datasync.model.decode import FieldError, Text, decode
from datasync.model.run import Outcome, RunRecord
from datasync.model.times import in_utc

REMEMBERED = 24
"""Number of applied deliveries that a state keeps."""

type _Time = Annotated[datetime | None, Meta(description=times.EXPECTED)]


class FlowState(msgspec.Struct, frozen=True, rename="camel"):
    """The memory of one flow of one tenant."""

    tenant_id: Text
    flow_name: Text
    window_end_utc: _Time = None
    """End of the last successful run's window: the start of the next one."""
    last_run_utc: _Time = None
    last_outcome: Annotated[Outcome | None, Meta(description=f"an outcome ({', '.join(Outcome)})")] = None
    last_success_utc: _Time = None
    consecutive_failures: Annotated[int, Meta(ge=0, description="a whole number")] = 0
    applied: Annotated[tuple[str, ...], Meta(description="a list of texts")] = ()
    """Keys of the last deliveries that this state includes, oldest first."""
    etag: str | None = None
    """None while nothing is stored."""

    @property
    def id(self) -> str:
        """The document's id within its tenant's partition."""
        return f"state-{self.flow_name}"

    def after(self, attempt: RunRecord, window_end: datetime | None, delivery: str) -> Self:
        """Return the state after an attempt. Applying a delivery a second time changes nothing.

        Only success moves the window, and never back.

        Args:
            attempt: The record of the attempt.
            window_end: End of its window; None for an attempt that ended before the flow started.
            delivery: Key of the delivery that made the attempt. Two messages of one run may make attempts of the same
                number, and both count.

        """
        if delivery in self.applied:
            return self
        state = replace(
            self,
            last_run_utc=attempt.finished_utc,
            last_outcome=attempt.outcome,
            applied=(*self.applied, delivery)[-REMEMBERED:],
        )
        if attempt.outcome is Outcome.SUCCEEDED:
            ends = [end for end in (window_end, self.window_end_utc) if end]
            return replace(
                state,
                window_end_utc=max(ends, default=None),
                last_success_utc=attempt.finished_utc,
                consecutive_failures=0,
            )
        if attempt.outcome.is_failure:
            return replace(state, consecutive_failures=self.consecutive_failures + 1)
        return state

    def document(self) -> dict[str, Any]:
        """Return the document to store."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        del fields["etag"]
        return {"id": self.id, "type": "FlowState", **fields}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read a stored state.

        Raises:
            StateInvalid: it was edited and cannot be read; the message names the document and the field.

        """
        try:
            state = decode(cls, {**document, "etag": document.get("_etag")})
            return replace(state, window_end_utc=state.window_end_utc and in_utc(state.window_end_utc))
        except (FieldError, OverflowError) as error:
            raise StateInvalid(
                f"flow state id={document.get('id')!r} of tenant {document.get('tenantId')!r}: {error}. Correct "
                "it, or delete the document: the flow then starts as if it had never run"
            ) from None
