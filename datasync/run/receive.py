"""receive: turns a queue message into a complete job."""

import json
from typing import Any

from datasync.errors import JobInvalid
from datasync.model.decode import FieldError, decode, shorten
from datasync.model.job import Job, JobMessage, QueueMessage, run_id
from datasync.model.times import in_utc

RESERVED_KEYS = frozenset(
    ("id", "dequeuecount", "insertiontime", "expirationtime", "nextvisibletime", "popreceipt", "queuetrigger")
)
"""Top-level keys (in lower case) with which a JSON body overwrites the trigger's own metadata in the Functions host."""


def receive(message: QueueMessage) -> Job:
    """Decode a message. A message that was posted by hand gets a run id and a scheduled time.

    Raises:
        JobInvalid: the body is not a job; the error holds the body.

    """
    content = _parse(message)
    try:
        wire = decode(JobMessage, content)
    except FieldError as error:
        raise _invalid(message, str(error)) from None
    if reserved := sorted(RESERVED_KEYS & {key.lower() for key in content}):
        raise _invalid(message, f"the Functions host reserves the keys {', '.join(reserved)}; leave them out")
    try:
        scheduled = in_utc(wire.scheduled_utc or message.inserted)
    except OverflowError as error:
        raise _invalid(message, f"scheduledUtc: {error}") from None
    return Job(
        tenant_id=wire.tenant_id,
        flow_name=wire.flow_name,
        run_id=wire.run_id or run_id(message.id),
        scheduled_utc=scheduled,
        enqueued_utc=in_utc(message.inserted),
        attempt=wire.prior_attempts + message.dequeue_count,
        message_id=message.id,
        delivery=message.dequeue_count,
        rev=wire.rev,
    )


def _parse(message: QueueMessage) -> Any:
    try:
        return json.loads(message.body)
    except (ValueError, RecursionError) as error:
        raise _invalid(message, f"not JSON in UTF-8: {error}") from None


def _invalid(message: QueueMessage, why: str) -> JobInvalid:
    return JobInvalid(
        f"message {message.id} is not a job: {why}. Expected JSON such as "
        f'{{"tenantId": "tenant-123", "flowName": "weather"}}, received {shorten(repr(message.body))}'
    )
