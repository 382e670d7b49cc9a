"""The queue trigger, as the Storage Queues extension 5.x listens and settles.

Sources: Azure/azure-sdk-for-net, sdk/storage/Microsoft.Azure.WebJobs.Extensions.Storage.Queues (QueueListener,
QueueProcessor), and …/azure-functions/functions-bindings-storage-queue-trigger.
"""

import asyncio
import base64
import contextlib
import json
import logging
import random
from collections.abc import Awaitable, Mapping
from datetime import UTC, timedelta
from typing import Any

from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.host.app import Function, QueueTrigger
from localdev.host.config import QueueOptions
from localdev.host.errors import HostError
from localdev.host.execution import BY_HAND, Executor, Spawn
from localdev.host.worker import Datum

log = logging.getLogger(__name__)

VISIBILITY = timedelta(minutes=10)
"""How long a message is hidden while it is worked on; renewed at half time. Not `visibilityTimeout`."""
POISON_TTL = timedelta(days=7)
POISON_SUFFIX = "-poison"

# What the service says when it is the service's fault, or passes by itself.
_TRANSIENT_STATUS = {408, 409, 429}


class Backoff:
    """How long to wait while a queue is empty: 0.1, 0.2, 0.3, 0.5, 0.9 … s ± 20 % up to a cap."""

    MINIMUM = 0.1

    def __init__(self, cap: timedelta) -> None:
        self._cap = cap.total_seconds()
        self._misses = 0

    def reset(self) -> None:
        """Start over: there was a message."""
        self._misses = 0

    def next(self) -> float:
        """Return the seconds to wait now."""
        delay = self.MINIMUM
        if self._misses:
            jitter = random.uniform(0.8, 1.2)  # noqa: S311 - spreads polls, guards nothing
            delay += self.MINIMUM * 2 ** (self._misses - 1) * jitter
        if delay < self._cap:
            self._misses += 1
        return min(delay, self._cap)


class QueueListener:
    """Polls one function's queue, one request at a time, and runs the function for every message.

    At a stop no more is fetched, and running functions are waited for. What is cancelled after that stays hidden until
    its 10 minutes are over, as when Azure takes an instance away: a run that was cut off should look the same here.
    """

    def __init__(
        self,
        function: Function,
        trigger: QueueTrigger,
        service: QueueServiceClient,
        options: QueueOptions,
        executor: Executor,
        *,
        visibility: timedelta = VISIBILITY,
    ) -> None:
        self._function = function
        self._trigger = trigger
        self._options = options
        self._executor = executor
        self._visibility = visibility
        self._queue = service.get_queue_client(trigger.queue)
        # A poison queue has none of its own: what fails there stays hidden, and comes back.
        self._poison = (
            None
            if trigger.queue.endswith(POISON_SUFFIX)
            else service.get_queue_client(f"{trigger.queue}{POISON_SUFFIX}")
        )
        self._told: str | None = None

    async def run(self, stopping: asyncio.Event, spawn: Spawn) -> None:
        """Listen until `stopping`; each message runs as a task of its own, which `spawn` starts and watches.

        Raises:
            HostError: the service refuses access, or refuses in another way that waiting does not cure.

        """
        backoff = Backoff(self._options.max_polling_interval)
        running: set[asyncio.Task[None]] = set()
        stop = asyncio.ensure_future(stopping.wait())
        while not stopping.is_set():
            messages = await self._fetch()
            for message in messages:
                task = spawn(self._process(message))
                running.add(task)
                task.add_done_callback(running.discard)
            if messages:
                backoff.reset()
                while len(running) > self._options.new_batch_threshold and not stopping.is_set():
                    await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.wait({stop}, timeout=backoff.next())
        stop.cancel()

    async def run_by_hand(self, text: str) -> None:
        """Run the function with a text for a message's body; the queue is not touched, and nothing is repeated."""
        message = QueueMessage(content=text)
        message.dequeue_count = 0
        body = text.encode()
        await self._executor.run(
            self._function, datum(body, binary=self._trigger.binary), metadata(message, body), reason=BY_HAND
        )

    async def _fetch(self) -> list[QueueMessage]:
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size, visibility_timeout=int(self._visibility.total_seconds())
        ).by_page()
        try:
            messages = [message async for message in await anext(pages)]
        except StopAsyncIteration:
            messages = []
        except ResourceNotFoundError:
            self._tell_once(
                logging.WARNING,
                f"Queue '{self._trigger.queue}' does not exist, and the trigger never creates it; "
                f"function '{self._function.name}' waits for it",
            )
            return []
        except (ServiceRequestError, ServiceResponseError) as error:
            self._tell_once(logging.ERROR, f"Queue '{self._trigger.queue}' cannot be reached: {error.message}")
            return []
        except HttpResponseError as error:
            status = error.status_code or 0
            what = f"Queue '{self._trigger.queue}': the storage account answers {status} {_code(error)}"
            if status < 500 and status not in _TRANSIENT_STATUS:  # noqa: PLR2004 - HTTP's server errors
                raise HostError(f"{what}; check the connection of function '{self._function.name}'") from error
            self._tell_once(logging.ERROR, what)
            return []
        self._told = None
        return messages

    def _tell_once(self, level: int, what: str) -> None:
        if what != self._told:
            log.log(level, "%s", what)
            self._told = what

    async def _process(self, message: QueueMessage) -> None:
        raw = message.content or ""
        hidden = _Hidden(self._queue, message, self._visibility)
        try:
            body = decode(raw, base64=self._options.base64)
        except ValueError:
            log.warning("Message %s is not valid base64, which the trigger expects (messageEncoding)", message.id)
            await self._to_poison(hidden, raw)
            return
        if (message.dequeue_count or 0) > self._options.max_dequeue_count:
            await self._to_poison(hidden, raw)  # its earlier attempts ended without a word: the process was killed
            return
        async with hidden:
            succeeded = await self._execute(message, body)
        if succeeded:
            await hidden.delete()
        elif (message.dequeue_count or 0) >= self._options.max_dequeue_count:
            log.warning("Message has reached MaxDequeueCount of %s.", self._options.max_dequeue_count)
            await self._to_poison(hidden, raw)
        elif self._poison is not None:
            await hidden.release(self._options.visibility_timeout)

    async def _execute(self, message: QueueMessage, body: bytes) -> bool:
        details = f"MessageId: {message.id}, DequeueCount: {message.dequeue_count}, InsertedOn: {message.inserted_on}"
        try:
            data = datum(body, binary=self._trigger.binary)
        except UnicodeDecodeError as error:
            log.error("Function '%s' cannot take message %s: not UTF-8: %s", self._function.name, message.id, error)  # noqa: TRY400
            return False
        return await self._executor.run(
            self._function,
            data,
            metadata(message, body),
            reason=f"New queue message detected on '{self._trigger.queue}'.",
            details=details,
        )

    async def _to_poison(self, hidden: "_Hidden", raw: str) -> None:
        if self._poison is None:
            return
        name = f"{self._trigger.queue}{POISON_SUFFIX}"
        log.warning("Moving message to queue '%s'.", name)
        seconds = int(POISON_TTL.total_seconds())
        try:
            try:
                await self._poison.send_message(raw, time_to_live=seconds)
            except ResourceNotFoundError:
                with contextlib.suppress(ResourceExistsError):
                    await self._poison.create_queue()
                await self._poison.send_message(raw, time_to_live=seconds)
        except AzureError as error:
            log.error("Message %s could not be moved to '%s': %s", hidden.id, name, error.message)  # noqa: TRY400
            return
        await hidden.delete()


class _Hidden:
    """A fetched message: keeps it hidden while its block runs, and knows its current pop receipt."""

    def __init__(self, queue: QueueClient, message: QueueMessage, visibility: timedelta) -> None:
        self.id = message.id
        self._queue = queue
        self._receipt = message.pop_receipt
        self._seconds = visibility.total_seconds()
        self._finished = asyncio.Event()
        self._renewals: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._renewals = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        # Not cancelled: a renewal on its way brings the receipt that the delete needs.
        self._finished.set()
        if self._renewals:
            await self._renewals

    async def _renew(self) -> None:
        interval = self._seconds / 2
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), interval)
                return
            try:
                await self._update(int(self._seconds))
                log.debug("Message %s stays hidden for another %d s", self.id, self._seconds)
                interval = self._seconds / 2
            except AzureError as error:
                if _lost(error):
                    log.warning("Message %s was taken by somebody else, or deleted, while it was worked on", self.id)
                    return
                log.warning("Message %s could not be kept hidden, trying again: %s", self.id, error.message)
                interval = self._seconds / 10

    async def _update(self, seconds: int) -> None:
        updated = await self._queue.update_message(str(self.id), self._receipt, visibility_timeout=seconds)
        self._receipt = updated.pop_receipt

    async def delete(self) -> None:
        """Delete the message: it is done with. That it is not ours any more is no error."""
        await self._settle("deleted", self._queue.delete_message(str(self.id), self._receipt))

    async def release(self, delay: timedelta) -> None:
        """Make the message visible again after a delay, in whole seconds: the service knows no fractions."""
        await self._settle("released", self._update(int(delay.total_seconds())))

    async def _settle(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except AzureError as error:
            if _lost(error):
                log.debug("Message %s was not %s: it is not ours any more", self.id, what)
            else:
                log.error("Message %s could not be %s and will come back: %s", self.id, what, error.message)  # noqa: TRY400


def _code(error: AzureError) -> str:
    return str(getattr(error, "error_code", None) or "").removeprefix("StorageErrorCode.")


def _lost(error: AzureError) -> bool:
    return isinstance(error, ResourceNotFoundError) or "popreceipt" in _code(error).replace("_", "").lower()


def decode(raw: str, *, base64: bool) -> bytes:
    """Return a message's body from its text in the queue.

    Raises:
        ValueError: base64 was expected, and the text is none. White space in it is none, as in .NET.

    """
    if not base64:
        return raw.encode()
    return _b64decode("".join(raw.split()))


def _b64decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def datum(body: bytes, *, binary: bool) -> Datum:
    """Return what the worker is given: bytes if it asked for them, else text (raises UnicodeDecodeError)."""
    return Datum(body, "bytes") if binary else Datum(body.decode(), "string")


def metadata(message: QueueMessage, body: bytes) -> dict[str, Datum]:
    """Return the trigger metadata: the message's properties, then every top-level key of a JSON body.

    The keys of the body overwrite the properties, whatever their case: a body with `"id"` or `"dequeueCount"` changes
    what the function sees as the message's own (Azure/azure-functions-host, ApplyBindingData).
    """
    text = body.decode(errors="replace")
    times = {
        "InsertionTime": message.inserted_on,
        "ExpirationTime": message.expires_on,
        "NextVisibleTime": message.next_visible_on,
    }
    found = {
        "QueueTrigger": Datum(text, "string"),
        "DequeueCount": Datum(json.dumps(message.dequeue_count), "json"),
        **{name: Datum(json.dumps(at.astimezone(UTC).isoformat()), "json") for name, at in times.items() if at},
        **{
            name: Datum(value, "string")
            for name, value in (("Id", message.id), ("PopReceipt", message.pop_receipt))
            if value
        },
    }
    names = {name.lower(): name for name in found}
    for key, value in _json_keys(text).items():
        if value is None or isinstance(value, list):
            continue
        name = names.setdefault(key.lower(), key)
        if isinstance(value, dict):
            found[name] = Datum(json.dumps(value), "json")
        else:
            found[name] = Datum(value if isinstance(value, str) else str(value), "string")
    return found


def _json_keys(text: str) -> Mapping[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
