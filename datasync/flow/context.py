"""The third parameter of a flow: one attempt, with its window, cursor, settings, HTTP client and log."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from datasync.flow.log import RunLog
from datasync.model.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Window:
    """The span of source data that a run covers."""

    start: datetime | None
    """End of the last successful run's window (aware, UTC); None in a flow's first run for a tenant."""
    end: datetime
    """The scheduled time, or the time at which the job was enqueued if that is later (aware, UTC). Never in the
    future."""


async def _keep_nothing(cursor: Any) -> None:
    """Do nothing: the run of a test has no state."""


@dataclass(slots=True, kw_only=True)
class FlowRun:
    """One attempt to run one flow of one tenant."""

    run_id: str
    """The same in every attempt: usable as an idempotency key."""
    tenant: Tenant
    flow_name: str
    settings: Any
    """The `settings` of the entry in the tenant's document: an instance of the type that the flow declares with
    `@flow(settings=…)`, or a `dict[str, Any]` where it declares none."""
    scheduled_utc: datetime
    """The occurrence (aware, UTC)."""
    attempt: int
    """1 at the first."""
    part: int = 1
    """1 at the first; Continue starts the next."""
    window: Window
    http: httpx.AsyncClient
    """A client for this run, with the retries and limits that docs/writing-a-flow.md describes."""
    log: RunLog
    """A logger that names the run and replaces the secrets it has read."""
    cursor: Any = None
    """The JSON value that was kept last, up to 16 KB; None at first. Assign another: it is kept if the run succeeds."""
    keep: Callable[[Any], Awaitable[None]] = _keep_nothing
    """Keeps a cursor now. Flows call `checkpoint`."""
    counts: Counter[str] = field(default_factory=Counter)

    async def checkpoint(self) -> None:
        """Keep `cursor` now, so that the next attempt goes on there.

        Raises:
            CursorInvalid: the cursor is not JSON, or has more than 16 KB.
            LeaseLost: this attempt no longer holds the lease of the flow. End the run.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        await self.keep(self.cursor)

    def count(self, **numbers: int) -> None:
        """Add to the numbers in the run record: `run.count(orders=12, leads=3)`.

        Raises:
            TypeError: a number is not whole, or is too large.

        """
        for name, number in numbers.items():
            self.counts[name] += checked_count(name, number)


def checked_count(name: str, number: object) -> int:
    """Return a number that a record can hold.

    Raises:
        TypeError: it is not whole, or lies beyond 2**53, where Cosmos DB does not store whole numbers exactly.

    """
    if not isinstance(number, int) or abs(number) > 2**53:
        raise TypeError(f"run.count({name}={number!r}): expected a whole number up to 2**53")
    return int(number)
