"""Jobs: requests to run one flow of one tenant, in the message and in the app."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from datasync.model import times
from datasync.model.decode import Text

HEAD_START = timedelta(seconds=2)
"""How early a job that was planned ahead appears on the queue: as long as the host may take to look (host.json,
`maxPollingInterval`). The run waits for its instant."""


type _RunId = Annotated[str, Meta(pattern="^[0-9A-Za-z_.:-]{1,200}$")]


class JobMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of a queue message. `{tenantId, flowName}` alone is complete."""

    tenant_id: Text
    flow_name: Text
    scheduled_utc: Annotated[datetime | None, Meta(description=times.EXPECTED)] = None
    """The occurrence (aware, UTC); None in a message posted by hand."""
    run_id: Annotated[_RunId | None, Meta(description="up to 200 letters, digits, and any of _ . : -")] = None
    """The same in every message for the same decision; None in a message posted by hand."""
    rev: Annotated[str | None, Meta(description="a text")] = None
    """`Tenant.revision_of` the entry at the time of planning."""
    prior_attempts: Annotated[int, Meta(ge=0, le=1_000_000, description="a whole number")] = 0
    """Attempts made before this message was put on the queue (by RetryLater)."""

    def encode(self) -> str:
        """Return the message body: JSON, before the queue's base64."""
        return msgspec.json.encode(self).decode()


class PlannedJob(msgspec.Struct, frozen=True):
    """A message to put on the queue, and the instant at which it appears there (aware)."""

    message: JobMessage
    visible_at: datetime


class QueueMessage(msgspec.Struct, frozen=True):
    """A message as the queue trigger delivers it."""

    id: str
    body: bytes
    dequeue_count: int
    """1 at the first delivery."""
    inserted: datetime
    """When it was put on the queue (aware)."""


class Job(msgspec.Struct, frozen=True):
    """A job with all its fields, for one delivery."""

    tenant_id: str
    flow_name: str
    run_id: str
    scheduled_utc: datetime
    """The occurrence (aware, UTC)."""
    enqueued_utc: datetime
    """When the message was put on the queue (aware, UTC)."""
    attempt: int
    """1 at first. RetryLater does not reset it."""
    message_id: str
    delivery: int
    """1 at the first delivery of this message."""
    rev: str | None = None
    """`Tenant.revision_of` the entry at the time of planning; None in a message posted by hand."""

    @property
    def delivery_key(self) -> str:
        """Identifies this delivery: no other delivery of any message has the same key."""
        return f"{self.message_id}-{self.delivery}"

    @property
    def planned_ahead(self) -> bool:
        """Whether the occurrence was still in the future when the message was put on the queue."""
        return self.scheduled_utc > self.enqueued_utc

    def next_message(self) -> JobMessage:
        """Return the message that asks for the next attempt of the same run."""
        return JobMessage(
            tenant_id=self.tenant_id,
            flow_name=self.flow_name,
            scheduled_utc=self.scheduled_utc,
            run_id=self.run_id,
            rev=self.rev,
            prior_attempts=self.attempt,
        )


def run_id(*parts: str) -> str:
    """Hash the parts of a decision to run: the same decision, taken twice, gives the same id."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
