"""Leases: the right of one attempt to run a flow of a tenant, for a limited time."""

from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from datasync.model import times
from datasync.model.job import Job, JobMessage
from datasync.model.stored import Stored

DURATION = timedelta(minutes=3)
"""How long a lease lasts, unless it is renewed."""

MARGIN = timedelta(seconds=15)
"""How far the clocks of two processes may differ."""

BLOCKED_LIMIT = 500
"""The most characters that a lease keeps of the block of an event loop."""


class Lease(Stored, frozen=True, rename="camel", omit_defaults=True):
    """A lease, as the state of its flow stores it. A lease without `until` does not count."""

    until: Annotated[float | None, Meta(description="a number of seconds since 1970")] = None
    """Its end, by the clock of its holder."""
    nonce: Annotated[str | None, Meta(description="a text")] = None
    """Identifies the attempt that holds it."""
    started_utc: Annotated[datetime | None, Meta(description=times.EXPECTED)] = None
    """Start of the attempt."""
    message: JobMessage | None = None
    """The message of the attempt, complete."""
    blocked_by: Annotated[str | None, Meta(description="a text")] = None
    """`acme/slow at flows/slow.py:11 (time.sleep) for 30 s`: what blocked the event loop at the last renewal. None if
    nothing did, and the loop renewed the lease."""

    def is_live(self, now: datetime) -> bool:
        """Return whether the lease may still hold, by a clock that may be wrong by MARGIN.

        An end that lies further ahead than a lease lasts was edited by hand, and does not count.
        """
        margin = MARGIN.total_seconds()
        longest = DURATION.total_seconds() + margin
        return self.until is not None and -margin <= self.until - now.timestamp() <= longest

    def holder(self, tenant_id: str) -> Job | None:
        """Return the job of the attempt that holds the lease; None if the lease was edited by hand."""
        if self.message is None or self.message.tenant_id != tenant_id:
            return None
        try:
            return Job.of(self.message)
        except ValueError:
            return None

    def left(self, now: datetime) -> timedelta:
        """Return the time after which a live lease can be taken over."""
        return timedelta(seconds=(self.until or 0) - now.timestamp() + 1) + MARGIN
