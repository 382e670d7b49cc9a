"""What one run may touch: the third parameter of a flow."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from datasync.log import RunLog
from datasync.model import Tenant


@dataclass(frozen=True, slots=True)
class Window:
    """The span of source data a run is asked to cover."""

    start: datetime | None
    """Where the last successful run's window ended (aware, UTC); None in a flow's first run for a tenant."""
    end: datetime
    """The scheduled time, or when the job was put on the queue if that was later (aware, UTC)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """One attempt to run one flow of one tenant."""

    run_id: str
    """The same in every attempt: fit for an idempotency key."""
    tenant: Tenant
    flow_name: str
    settings: dict[str, Any]
    """The flow entry's `settings` in the tenant document: free-form, per tenant."""
    scheduled_utc: datetime
    """The occurrence this run stands for (aware, UTC)."""
    attempt: int
    """1 at the first."""
    window: Window
    http: httpx.AsyncClient
    """A client of this run's own, on shared connections; retries as datasync.http says."""
    log: RunLog
    """A logger that names the run, and takes out the secrets it has read."""
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, **numbers: int) -> None:
        """Add to the numbers that stand in the run record: `run.count(orders=12, leads=3)`.

        Raises:
            TypeError: one is not a whole number.

        """
        for name, number in numbers.items():
            if not isinstance(number, int):
                raise TypeError(f"run.count({name}={number!r}): expected a whole number")
        self.counts.update(numbers)
