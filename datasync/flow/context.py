"""The third parameter of a flow: one attempt, with its window, cursor, settings, HTTP client and log."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from datasync.flow.log import RunLog
from datasync.model.decode import shorten
from datasync.model.tenant import Tenant

MOST_COUNTS = 100
"""The most names in `run.count()` of one attempt."""

_LONGEST_NAME = 100  # characters
_LARGEST_COUNT = 2**53  # Cosmos DB stores numbers as IEEE 754 doubles, which hold whole numbers exactly up to here


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
        """Keep `cursor` and the counts now, so that the next attempt goes on there.

        Raises:
            CursorInvalid: the cursor is not JSON, or has more than 16 KB.
            LeaseLost: this attempt no longer holds the lease of the flow. End the run.
            ServiceUnavailable: Cosmos DB refused or could not be reached.

        """
        await self.keep(self.cursor)

    def count(self, **numbers: int) -> None:
        """Add to the numbers in the run record: `run.count(orders=12, leads=3)`.

        Raises:
            TypeError: a number is not whole.
            ValueError: a sum is 2**53 or more, a name is too long, or the run has too many names.

        """
        for name, number in numbers.items():
            total = checked_count(name, self.counts[name] + checked_count(name, number))
            _check_number_of_names(len(self.counts) + (name not in self.counts))
            self.counts[name] = total


def check_counts(counts: Mapping[str, object]) -> None:
    """Check that a record can hold the counts of a run; raises as `FlowRun.count` does."""
    _check_number_of_names(len(counts))
    for name, number in counts.items():
        checked_count(name, number)


def _check_number_of_names(number: int) -> None:
    if number > MOST_COUNTS:
        raise ValueError(f"run.count: more than {MOST_COUNTS} names. Count the kinds of things, not each thing")


def checked_count(name: str, number: object) -> int:
    """Return a number that a record can hold under a name; raises as `FlowRun.count` does."""
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"run.count: the name {shorten(name)!r} has more than {_LONGEST_NAME} characters")
    if not isinstance(number, int):
        raise TypeError(f"run.count({name}={number!r}): expected a whole number")
    if abs(number) >= _LARGEST_COUNT:
        raise ValueError(f"run.count({name}=…): expected a whole number below 2**53, got {_about(number)}")
    return int(number)


def _about(number: int) -> str:
    """Describe a number that may have more digits than Python prints."""
    return f"{'-' if number < 0 else ''}2**{number.bit_length() - 1} or more"
