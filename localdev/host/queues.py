"""The queue trigger: polls, runs and completes messages like the Storage Queues extension 5.x.

Sources: Azure/azure-sdk-for-net, sdk/storage, QueueListener.cs and QueueProcessor.cs;
…/azure-functions/functions-bindings-storage-queue-trigger.
"""

import asyncio
import contextlib
import logging
import random
from datetime import timedelta

from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueServiceClient

from localdev.host.app import Function, QueueTrigger
from localdev.host.config import QueueOptions
from localdev.host.errors import HostError
from localdev.host.execution import BY_HAND, Executor, Spawn
from localdev.host.messages import VISIBILITY, Hidden, datum, decode, metadata

log = logging.getLogger(__name__)

POISON_SUFFIX = "-poison"
POISON_TTL = timedelta(days=7)

# Temporary, like the statuses from 500: the queue does not exist (yet), timeout, the queue is being deleted, too many
# requests.
_PASSING = {404, 408, 409, 429}


class Backoff:
    """The waiting times while a queue is empty: 0.1, 0.2, 0.3, 0.5, 0.9 … s ± 20 %, up to a cap."""

    def __init__(self, cap: timedelta) -> None:
        self._cap = cap.total_seconds()
        self._misses = 0

    def reset(self) -> None:
        """Start from the shortest time, after a message was found."""
        self._misses = 0

    def next(self) -> float:
        """Return the seconds to wait now."""
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - not for security
        delay = 0.1 + (0.1 * 2 ** (self._misses - 1) * jitter if self._misses else 0)
        if delay >= self._cap:
            return self._cap
        self._misses += 1
        return delay


class QueueListener:
    """Polls the queue of one function, one request at a time, and runs the function for each message.

    When the host stops, no more messages are fetched, and running functions may finish. If a function is cancelled, its
    message stays hidden until its 10 minutes are over, as when Azure removes an instance.
    """

    def __init__(
        self,
        function: Function,
        trigger: QueueTrigger,
        service: QueueServiceClient,
        options: QueueOptions,
        executor: Executor,
    ) -> None:
        self._function = function
        self._trigger = trigger
        self._options = options
        self._executor = executor
        self._queue = service.get_queue_client(trigger.queue)
        self._poison = service.get_queue_client(f"{trigger.queue}{POISON_SUFFIX}")
        # There is no poison queue of a poison queue: a failed message stays hidden for its 10 minutes.
        self._is_poison = trigger.queue.endswith(POISON_SUFFIX)
        self._trouble = ""

    async def run(self, stopping: asyncio.Event, spawn: Spawn) -> None:
        """Listen until `stopping` is set. Each message is processed in a task of its own.

        Raises:
            HostError: the storage account refuses a request, and the reason is not temporary.

        """
        backoff = Backoff(self._options.max_polling_interval)
        running: set[asyncio.Task[None]] = set()
        stop = asyncio.ensure_future(stopping.wait())
        while not stop.done():
            messages = await self._fetch()
            for message in messages:
                task = spawn(self._process(message))
                running.add(task)
                task.add_done_callback(running.discard)
            if not messages:
                await asyncio.wait({stop}, timeout=backoff.next())
                continue
            backoff.reset()
            while len(running) > self._options.new_batch_threshold and not stop.done():
                await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)

    async def run_by_hand(self, text: str) -> None:
        """Run the function once, with a text as the message's body. The queue is not changed."""
        body = text.encode()
        data = datum(body, binary=self._trigger.binary)
        await self._executor.run(self._function, data, metadata(QueueMessage(), body), reason=BY_HAND)

    async def _fetch(self) -> list[QueueMessage]:
        """Return the next messages: an empty list if there are none, or after a temporary error."""
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size,
            visibility_timeout=int(VISIBILITY.total_seconds()),
            retry_total=0,  # the next poll is the retry
        ).by_page()
        trouble = ""
        messages: list[QueueMessage] = []
        try:
            async for page in pages:
                messages = [message async for message in page]
                break
        except AzureError as error:
            trouble = self._trouble_of(error)
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("Queue '%s' %s", self._trigger.queue, trouble or "can be read now")
        return messages

    def _trouble_of(self, error: AzureError) -> str:
        """Return a message about a temporary error. Raises HostError if the error is not temporary."""
        if isinstance(error, ResourceNotFoundError):
            return f"does not exist, and a trigger does not create its queue. '{self._function.name}' waits for it"
        if isinstance(error, ServiceRequestError | ServiceResponseError):
            return f"cannot be reached: {error.message}"
        # The full message quotes the signed text.
        status = getattr(error, "status_code", None)
        reason = f"{status} {getattr(error, 'error_code', '')}" if status else error.message.rstrip(".")
        if status and (status in _PASSING or status >= 500):  # noqa: PLR2004 - server errors of HTTP
            return f"cannot be read: {reason}"
        raise HostError(
            f"queue {self._trigger.queue!r} of function {self._function.name!r} cannot be read: {reason}. "
            f"Check the app setting {self._trigger.connection.setting}"
        )

    async def _process(self, message: QueueMessage) -> None:
        text = message.content or ""
        attempts = message.dequeue_count or 0
        hidden = Hidden(self._queue, message)
        try:
            body = decode(text, encoded=self._options.base64)
        except ValueError:
            log.warning("Message %s is not valid base64, and messageEncoding is base64", hidden.id)
            await self._move_to_poison(hidden, text)
            return
        if attempts > self._options.max_dequeue_count:  # the process was killed in each attempt
            await self._move_to_poison(hidden, text)
            return
        async with hidden:
            succeeded = await self._execute(message, body)
        if succeeded:
            await hidden.delete()
        elif attempts >= self._options.max_dequeue_count:
            log.warning("Message has reached MaxDequeueCount of %s.", self._options.max_dequeue_count)
            await self._move_to_poison(hidden, text)
        elif not self._is_poison:
            await hidden.release(self._options.visibility_timeout)

    async def _execute(self, message: QueueMessage, body: bytes) -> bool:
        try:
            data = datum(body, binary=self._trigger.binary)
        except UnicodeDecodeError as error:
            log.error("Function '%s' cannot take message %s: %s", self._function.name, message.id, error)  # noqa: TRY400
            return False
        about = {"MessageId": message.id, "DequeueCount": message.dequeue_count, "InsertedOn": message.inserted_on}
        return await self._executor.run(
            self._function,
            data,
            metadata(message, body),
            reason=f"New queue message detected on '{self._trigger.queue}'.",
            details=", ".join(f"{name}: {value}" for name, value in about.items()),
        )

    async def _move_to_poison(self, hidden: Hidden, text: str) -> None:
        if self._is_poison:
            return
        log.warning("Moving message to queue '%s'.", self._poison.queue_name)
        try:
            await self._send_to_poison(text)
        except AzureError as error:
            log.error("Message %s could not be moved and will be delivered again: %s", hidden.id, error.message)  # noqa: TRY400
        else:
            await hidden.delete()

    async def _send_to_poison(self, text: str) -> None:
        seconds = int(POISON_TTL.total_seconds())
        try:
            await self._poison.send_message(text, time_to_live=seconds)
        except ResourceNotFoundError:
            with contextlib.suppress(ResourceExistsError):
                await self._poison.create_queue()
            await self._poison.send_message(text, time_to_live=seconds)
