"""Run records: how each attempt ended."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It will be attempted again."""
    DEAD = "dead"
    """It failed for the last time; the job is in the poison queue."""
    GAVE_UP = "gave_up"
    """The flow raised GiveUp."""
    DEFERRED = "deferred"
    """The flow raised RetryLater."""
    SKIPPED_DISABLED = "skipped_disabled"
    """The tenant's document no longer has the entry, or the entry is disabled."""
    SKIPPED_RESCHEDULED = "skipped_rescheduled"
    """It was planned ahead, and the entry's schedule was changed before its time."""

    @property
    def is_failure(self) -> bool:
        """Whether the host has to deliver the message again, or move it to the poison queue."""
        return self in (Outcome.FAILED, Outcome.DEAD)


class RunRecord(msgspec.Struct, frozen=True, rename="camel"):
    """The record of one attempt that ended."""

    tenant_id: str
    flow_name: str
    run_id: str
    attempt: int
    """1 at the first."""
    outcome: Outcome
    scheduled_utc: datetime
    started_utc: datetime
    finished_utc: datetime
    error: str | None = None
    """One line, without the secrets that the run read."""
    counts: dict[str, int] = {}
    """The numbers that the flow reported with `run.count()`."""

    def document(self, retention: timedelta) -> dict[str, Any]:
        """Return the document to store, which expires after `retention`."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return {
            "id": f"run-{self.run_id}-{self.attempt}",
            "type": "Run",
            "ttl": int(retention.total_seconds()),
            **fields,
        }
