"""Jobs and attempts for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from datasync.model.job import Job, Trigger
from datasync.model.run import Attempt, Outcome

NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)


def job(run_id: str = "r-1", **fields: Any) -> Job:
    """Return the job of an occurrence at noon, at the first delivery of its message."""
    complete: dict[str, Any] = {
        "tenant_id": "t",
        "flow_name": "weather",
        "scheduled_utc": NOON,
        "run_id": run_id,
        "trigger": Trigger.SCHEDULE,
        "enqueued_utc": NOON,
        "message_id": f"m-{run_id}",
        "delivery": 1,
    }
    return Job(**(complete | fields))


def attempt(outcome: Outcome, number: int = 1) -> Attempt:
    """Return an attempt that ended some seconds after noon."""
    return Attempt(
        id=f"attempt-{number}",
        outcome=outcome,
        started_utc=NOON,
        finished_utc=NOON + timedelta(seconds=number),
    )
