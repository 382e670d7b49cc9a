"""The job queue and the poison queue: how many messages, and which are at the front."""

import asyncio
from datetime import datetime

import msgspec

from datasync.model.job import JobMessage, QueueMessage
from datasync.services import Services
from datasync.stores.jobs import JobQueue


class WaitingMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A message at the front of a queue."""

    id: str
    inserted_utc: datetime
    deliveries: int
    """How often it was delivered so far."""
    tenant_id: str | None = None
    """None where the message is not a job."""
    flow_name: str | None = None
    run_id: str | None = None
    """None in a message that was posted by hand without one."""
    trigger: str | None = None


class QueueLook(msgspec.Struct, frozen=True, rename="camel"):
    """The messages of one queue."""

    name: str
    length: int
    """The approximate number of messages, with those that are hidden or being run."""
    front: tuple[WaitingMessage, ...]
    """Up to 32 visible messages."""


class Queues(msgspec.Struct, frozen=True, rename="camel"):
    """The two queues of an app."""

    jobs: QueueLook
    poison: QueueLook

    @property
    def is_well(self) -> bool:
        """Whether no message waits in the poison queue."""
        return not self.poison.length


async def queues(services: Services) -> Queues:
    """Look at both queues. Nothing is taken from them.

    Raises:
        ServiceUnavailable: a queue is missing, refused the request, or could not be reached.

    """
    jobs, poison = await asyncio.gather(look(services.jobs), look(services.poison))
    return Queues(jobs=jobs, poison=poison)


async def look(queue: JobQueue) -> QueueLook:
    """Look at one queue. Raises ServiceUnavailable as `queues` does."""
    found = await queue.look()
    return QueueLook(name=found.name, length=found.length, front=tuple(map(_waiting, found.front)))


def _waiting(message: QueueMessage) -> WaitingMessage:
    own = WaitingMessage(id=message.id, inserted_utc=message.inserted, deliveries=message.dequeue_count)
    try:
        job = msgspec.json.decode(message.body, type=JobMessage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return own
    return msgspec.structs.replace(
        own,
        tenant_id=job.tenant_id,
        flow_name=job.flow_name,
        run_id=job.run_id,
        trigger=None if job.trigger is None else str(job.trigger),
    )
