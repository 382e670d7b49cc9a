"""Counts the requests of a run to other servers."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import httpx

from datasync.clock import Clock
from datasync.flow.retry_after import closed_until


@dataclass(slots=True)
class HttpUsage:
    """Counts the HTTP requests of one attempt."""

    clock: Clock = field(default_factory=Clock)
    calls: int = 0
    """Requests that the flow made."""
    sent: int = 0
    """Requests that were sent, retries included."""
    waited: timedelta = timedelta()
    """Time spent between retries and waiting for a connection, added up over all requests, also over those that waited
    at the same time."""
    closed_until: datetime | None = None
    """The latest instant (aware) before which a server asked not to be called. It may be in the past."""

    def totals(self) -> dict[str, float]:
        """Return the numbers for the record: `requests` (retries included), `retries`, and `waited` in seconds."""
        return {
            "requests": self.sent,
            "retries": max(self.sent - self.calls, 0),
            "waited": round(self.waited.total_seconds(), 1),
        }

    def note(self, response: httpx.Response) -> None:
        """Note whether the server asks not to be called for a time."""
        until = closed_until(response, self.clock.now())
        if until:
            self.closed_until = max(until, self.closed_until or until)
