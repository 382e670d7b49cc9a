"""receive: turns a queue message into a complete job."""

import json
import re
from typing import Any

from msgspec.structs import replace

from datasync.errors import JobInvalid
from datasync.model.decode import FieldError, decode, shorten
from datasync.model.job import Job, JobMessage, QueueMessage, Trigger, run_id
from datasync.model.tenant import id_mistake

RESERVED_KEYS = frozenset(
    ("id", "dequeuecount", "insertiontime", "expirationtime", "nextvisibletime", "popreceipt", "queuetrigger")
)
"""Top-level keys (in lower case) with which a JSON body overwrites the trigger's own metadata in the Functions host."""

_LARGEST = 48 * 1024 - 512
"""Bytes of a job that can be sent again. A message has 64 KB in base64, and some are for the fields that change.
https://learn.microsoft.com/azure/storage/queues/scalability-targets"""


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
    if why := id_mistake(wire.tenant_id):
        raise _invalid(message, f"tenantId: {why}")
    _check_storable(message, wire.unknown)
    if reserved := sorted(RESERVED_KEYS & {key.lower() for key in content}):
        raise _invalid(message, f"the Functions host reserves the keys {', '.join(reserved)}; leave them out")
    posted = Trigger.MESSAGE if wire.scheduled_utc is None or wire.run_id is None else Trigger.SCHEDULE
    complete = replace(
        wire,
        run_id=wire.run_id or run_id(wire.message_id or message.id),
        scheduled_utc=wire.scheduled_utc or message.inserted,
        enqueued_utc=wire.enqueued_utc or message.inserted,
        message_id=wire.message_id or message.id,
        trigger=Trigger.REDRIVE if wire.redrive else wire.trigger or posted,
        traceparent=_traceparent(wire.traceparent),
    )
    _check_part(message, complete)
    _check_size(message, complete)
    return Job.of(complete, delivery=message.dequeue_count, is_copy=wire.message_id is not None)


def _parse(message: QueueMessage) -> Any:
    try:
        return json.loads(message.body)
    except (ValueError, RecursionError) as error:
        raise _invalid(message, f"not JSON in UTF-8: {error}") from None


def _traceparent(value: object) -> str | None:
    """Return the name of a span; None if the value is something else, which says nothing about the job."""
    return value if isinstance(value, str) and _TRACEPARENT.fullmatch(value) else None


_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def _check_storable(message: QueueMessage, fields: dict[str, Any]) -> None:
    """Check that fields of a later version, or of a person, can be written to a document and a message."""
    for name, value in fields.items():
        try:
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise _invalid(message, f"{shorten(name)}: cannot be stored as JSON: {error}") from None


def _check_part(message: QueueMessage, complete: JobMessage) -> None:
    """Check that a message posted by hand does not take the id of a part of another run.

    A run that the app has put back or deferred goes on: it began when such an id was accepted.
    """
    run, _, number = (complete.run_id or "").rpartition(".")
    has_begun = complete.message_id != message.id or complete.deferral > 0
    if complete.part == 1 and not has_begun and run and _PART.fullmatch(number):
        raise _invalid(
            message,
            f'runId: {complete.run_id!r} is the id of part {number} of run {run!r}: add "part": {number}, or choose an '
            "id that does not end in a dot and a number",
        )


_PART = re.compile("[2-9]|[1-9][0-9]+", re.ASCII)  # the first part has the id of the run


def _check_size(message: QueueMessage, complete: JobMessage) -> None:
    """Check that a job can be put back and deferred. All messages of its run give the same result."""
    lasting = replace(complete, message_id=None, deferral=0, outages=0, spread=0, rounds=0, traceparent=None)
    if (size := len(lasting.encode().encode())) > _LARGEST:
        raise _invalid(
            message,
            f"it has {size:,} bytes with the fields that the app adds, and at most {_LARGEST:,} can be put back on the "
            "queue. Leave out what is not needed",
        )


def _invalid(message: QueueMessage, why: str) -> JobInvalid:
    return JobInvalid(
        f"message {message.id} is not a job: {why}. Expected JSON such as "
        f'{{"tenantId": "tenant-123", "flowName": "weather"}}, received {shorten(repr(message.body))}'
    )
