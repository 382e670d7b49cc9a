"""One queue message: the data that a function gets, and the time while the host works on it.

The real host shuts down at an unexpected storage error; here it is logged (see the package's docstring).
"""

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import Awaitable
from datetime import UTC, timedelta
from typing import Any

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueMessage, StorageErrorCode
from azure.storage.queue.aio import QueueClient

from localdev.host.worker import Datum

log = logging.getLogger(__name__)


class Hidden:
    """A fetched message. It stays hidden during its `async with` block, and has the current pop receipt.

    `hiding` is the time for which it was hidden when it was fetched. It is renewed at half time. If the process is
    killed, the message is delivered again at the end of this time, with a higher dequeue count.
    """

    def __init__(self, queue: QueueClient, message: QueueMessage, hiding: timedelta) -> None:
        self.id = str(message.id)
        self._queue = queue
        self._hiding = hiding
        self._receipt = message.pop_receipt
        self._finished = asyncio.Event()

    async def __aenter__(self) -> None:
        self._renewals = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: a renewal that is on its way returns the receipt that the delete needs.
        self._finished.set()
        await self._renewals

    async def _renew(self) -> None:
        pause = self._hiding / 2
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), pause.total_seconds())
                return
            try:
                await self._hide(self._hiding)
            except AzureError as error:
                if _lost(error):
                    log.warning("Message %s was deleted, or is being processed elsewhere", self.id)
                    return
                log.warning("Message %s could not be kept hidden. The host tries again: %s", self.id, error.message)
                pause = self._hiding / 10
            else:
                log.debug("Message %s stays hidden for another %s", self.id, self._hiding)
                pause = self._hiding / 2

    async def _hide(self, duration: timedelta) -> None:
        seconds = int(duration.total_seconds())  # the service takes whole seconds only
        updated = await self._queue.update_message(self.id, self._receipt, visibility_timeout=seconds)
        self._receipt = updated.pop_receipt

    async def delete(self) -> None:
        """Delete the message."""
        await self._settle("deleted", self._queue.delete_message(self.id, self._receipt))

    async def release(self, delay: timedelta) -> None:
        """Make the message visible again after a delay, rounded down to whole seconds."""
        await self._settle("released", self._hide(delay))

    async def _settle(self, done: str, work: Awaitable[None]) -> None:
        try:
            await work
        except AzureError as error:
            if _lost(error):
                log.debug("Message %s was not %s: it was deleted, or is being processed elsewhere", self.id, done)
            else:
                log.error("Message %s could not be %s and will be delivered again: %s", self.id, done, error.message)  # noqa: TRY400


def _lost(error: AzureError) -> bool:
    code = getattr(error, "error_code", None)
    return isinstance(error, ResourceNotFoundError) or code == StorageErrorCode.POP_RECEIPT_MISMATCH


def decode(text: str, *, encoded: bool) -> bytes:
    """Return the body of a message from its text in the queue, which is base64 if `encoded`.

    White space between base64 characters is skipped, as in .NET.

    Raises:
        ValueError: the text should be base64, and is not.

    """
    return base64.b64decode("".join(text.split()), validate=True) if encoded else text.encode()


def datum(body: bytes, *, binary: bool) -> Datum:
    """Return the body for the worker: bytes if `binary`, else text.

    Raises:
        UnicodeDecodeError: the body should be text, and is not UTF-8.

    """
    return Datum(body, "bytes") if binary else Datum(body.decode(), "string")


def metadata(message: QueueMessage, body: bytes) -> dict[str, Datum]:
    """Return the trigger metadata: the message's properties, then each top-level key of a JSON body.

    The keys of the body overwrite the properties, compared without case: with `"id"` or `"dequeueCount"` in the body,
    the function no longer sees the message's own. Source: Azure/azure-functions-host, ApplyBindingData.
    """
    text = body.decode(errors="replace")
    texts = {"QueueTrigger": text, "Id": message.id, "PopReceipt": message.pop_receipt}
    times = {
        "InsertionTime": message.inserted_on,
        "ExpirationTime": message.expires_on,
        "NextVisibleTime": message.next_visible_on,
    }
    found = {name: Datum(value, "string") for name, value in texts.items() if value is not None}
    found |= {name: _json(at.astimezone(UTC).isoformat()) for name, at in times.items() if at is not None}
    found["DequeueCount"] = _json(message.dequeue_count or 0)
    names = {name.lower(): name for name in found}
    for key, value in _properties(text).items():
        name = names.setdefault(key.lower(), key)
        found[name] = _json(value) if isinstance(value, dict) else Datum(str(value), "string")
    return found


def _json(value: object) -> Datum:
    return Datum(json.dumps(value), "json")


def _properties(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if value is not None and not isinstance(value, list)}
