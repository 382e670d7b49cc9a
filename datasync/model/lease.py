"""Leases: the right of one attempt to run a flow of a tenant, for a limited time."""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from datasync.model import times
from datasync.model.job import JobMessage

DURATION = timedelta(minutes=3)
"""How long a lease lasts, unless it is renewed."""

MARGIN = timedelta(seconds=15)
"""How far the clocks of two processes may differ."""


class Lease(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A lease, as the state of its flow stores it. A lease without `until` does not count."""

    until: Annotated[float | None, Meta(description="a number of seconds since 1970")] = None
    """Its end, by the clock of its holder."""
    nonce: Annotated[str | None, Meta(description="a text")] = None
    """Identifies the attempt that holds it."""
    started_utc: Annotated[datetime | None, Meta(description=times.EXPECTED)] = None
    """Start of the attempt."""
    message: JobMessage | None = None
    """The message of the attempt, complete."""

    def is_live(self, now: datetime) -> bool:
        """Return whether the lease may still hold, by a clock that may be wrong by MARGIN."""
        return self.until is not None and now.timestamp() <= self.until + MARGIN.total_seconds()

    def left(self, now: datetime) -> timedelta:
        """Return the time after which the lease can be taken over.

        At most the time that a lease lasts: an end that was edited by hand may lie years ahead.
        """
        left = min((self.until or 0) - now.timestamp(), DURATION.total_seconds())
        return timedelta(seconds=left + 1) + MARGIN
