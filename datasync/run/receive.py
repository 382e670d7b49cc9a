"""receive: turns a queue message into a complete job."""

import json
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from datasync.errors import JobInvalid
from datasync.model.decode import FieldError, decode, shorten
from datasync.model.job import Job, JobMessage, QueueMessage, Trigger, run_id
from datasync.model.times import in_utc

RESERVED_KEYS = frozenset(
    ("id", "dequeuecount", "insertiontime", "expirationtime", "nextvisibletime", "popreceipt", "queuetrigger")
)
"""Top-level keys (in lower case) with which a JSON body overwrites the trigger's own metadata in the Functions host."""


def receive(message: QueueMessage) -> Job:
    """Decode a message. A message that was posted by hand gets a run id, and the time at which it was posted.

    Raises:
        JobInvalid: the body is not a job; the error holds the body.

    """
    content = _parse(message)
    try:
        wire = decode(JobMessage, content)
    except FieldError as error:
        raise _invalid(message, str(error)) from None
    if wire.tenant_id.startswith("@"):
        raise _invalid(message, "tenantId: a tenant's id does not start with '@', which the app uses itself")
    _check_storable(message, wire.unknown)
    if reserved := sorted(RESERVED_KEYS & {key.lower() for key in content}):
        raise _invalid(message, f"the Functions host reserves the keys {', '.join(reserved)}; leave them out")
    try:
        scheduled = _instant("scheduledUtc", wire.scheduled_utc or message.inserted)
        enqueued = _instant("enqueuedUtc", wire.enqueued_utc or message.inserted)
    except FieldError as error:
        raise _invalid(message, str(error)) from None
    posted = Trigger.MESSAGE if wire.scheduled_utc is None or wire.run_id is None else Trigger.SCHEDULE
    complete = replace(
        wire,
        run_id=wire.run_id or run_id(wire.message_id or message.id),
        scheduled_utc=scheduled,
        enqueued_utc=enqueued,
        message_id=wire.message_id or message.id,
        trigger=Trigger.REDRIVE if wire.redrive else wire.trigger or posted,
    )
    return Job.of(complete, delivery=message.dequeue_count)


def _instant(field: str, time: datetime) -> datetime:
    try:
        return in_utc(time)
    except OverflowError as error:
        raise FieldError(field, why=str(error)) from None


def _parse(message: QueueMessage) -> Any:
    try:
        return json.loads(message.body)
    except (ValueError, RecursionError) as error:
        raise _invalid(message, f"not JSON in UTF-8: {error}") from None


def _check_storable(message: QueueMessage, unknown: dict[str, Any]) -> None:
    """Check that fields of a later version, or of a person, can be written to a document and a message."""
    try:
        json.dumps(unknown, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise _invalid(message, f"{', '.join(map(shorten, unknown))}: cannot be stored as JSON: {error}") from None


def _invalid(message: QueueMessage, why: str) -> JobInvalid:
    return JobInvalid(
        f"message {message.id} is not a job: {why}. Expected JSON such as "
        f'{{"tenantId": "tenant-123", "flowName": "weather"}}, received {shorten(repr(message.body))}'
    )
