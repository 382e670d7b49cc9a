"""The queue trigger: polls, runs and completes messages like the Storage Queues extension 5.x.

A failed message is visible again after `visibilityTimeout`, and moves to the poison queue at `maxDequeueCount`. A
retry policy (`@app.retry`) is not for queue triggers. Microsoft withdrew it for them in 2022, and the WebJobs SDK warns
of it (Azure/azure-webjobs-sdk, FunctionIndexer.cs, CheckRetrySupport).

A trigger on a poison queue (`…-poison`) differs, because a poison queue has no poison queue of its own. A failed
message stays hidden until its hiding time (10 minutes) is over: `visibilityTimeout` does not apply. `maxDequeueCount`
does not apply either: the function gets the message again until it succeeds, or until the message expires. (Before
extension 5.3.8, a message with a higher count was skipped.) A message that is not base64 never reaches the function,
and stays in the queue until it expires.

Sources: Azure/azure-sdk-for-net, sdk/storage, QueueListener.cs, QueueProcessor.cs, QueueListenerFactory.cs
(CreatePoisonQueueReference), QueueServiceClientProvider.cs (messages that cannot be decoded) and
Microsoft.Azure.WebJobs.Extensions.Storage.Queues/CHANGELOG.md (5.3.8);
…/azure-functions/functions-bindings-storage-queue-trigger and …/functions-bindings-error-pages.
"""

import asyncio
import contextlib
import logging
from datetime import timedelta

from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient, QueueServiceClient

from localdev.host.app import Function, QueueTrigger
from localdev.host.backoff import Backoff
from localdev.host.config import QueueOptions
from localdev.host.errors import HostError
from localdev.host.execution import BY_HAND, Executor, Spawn
from localdev.host.messages import Hidden, datum, decode, metadata

log = logging.getLogger(__name__)

POISON_SUFFIX = "-poison"
LONGEST_QUEUE_NAME = 63
POISON_TTL = timedelta(days=7)

MIN_POLLING = timedelta(milliseconds=100)
"""The first pause after a poll that found no message."""

# Temporary, like the statuses from 500: the queue does not exist (yet), timeout, the queue is being deleted, too many
# requests.
_PASSING = {404, 408, 409, 429}


class QueueListener:
    """Polls the queue of one function, one request at a time, and runs the function for each message.

    When the host stops, no more messages are fetched, and running functions may finish. If a function is cancelled, its
    message stays hidden until its hiding time (10 minutes) is over, as when Azure removes an instance.
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
        self._poison = _poison_queue(service, trigger.queue)
        self._trouble = ""

    async def run(self, stopping: asyncio.Event, spawn: Spawn) -> None:
        """Listen until `stopping` is set. Each message is processed in a task of its own.

        Raises:
            HostError: the storage account refuses a request, and the reason is not temporary.

        """
        backoff = Backoff(MIN_POLLING, self._options.max_polling_interval)
        running: set[asyncio.Task[None]] = set()
        stop = asyncio.ensure_future(stopping.wait())
        while not stop.done():
            messages = await self._fetch()
            for message in messages:
                task = spawn(self._process(message))
                running.add(task)
                task.add_done_callback(running.discard)
            if not messages:
                await asyncio.wait({stop}, timeout=backoff.next().total_seconds())
                continue
            backoff.reset()
            while len(running) > self._options.new_batch_threshold and not stop.done():
                await asyncio.wait({*running, stop}, return_when=asyncio.FIRST_COMPLETED)

    async def run_by_hand(self, text: str, stopping: asyncio.Event) -> None:  # noqa: ARG002 - a single run
        """Run the function once, with a text as the message's body. The queue is not changed."""
        body = text.encode()
        data = datum(body, binary=self._trigger.binary)
        await self._executor.run(self._function, data, metadata(QueueMessage(), body), reason=BY_HAND)

    async def _fetch(self) -> list[QueueMessage]:
        """Return the next messages: an empty list if there are none, or after a temporary error."""
        pages = self._queue.receive_messages(
            messages_per_page=self._options.batch_size,
            visibility_timeout=int(self._options.hiding.total_seconds()),
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
        hidden = Hidden(self._queue, message, self._options.hiding)
        try:
            body = decode(text, encoded=self._options.base64)
        except ValueError:
            log.warning("Message %s is not valid base64, and messageEncoding is base64", hidden.id)
            await self._move_to_poison(hidden, text)
            return
        if self._poison and attempts > self._options.max_dequeue_count:  # the process was killed in each attempt
            await self._move_to_poison(hidden, text)
            return
        async with hidden:
            succeeded = await self._execute(message, body)
        if succeeded:
            await hidden.delete()
        elif self._poison is None:
            log.warning("Message %s stays hidden, because its queue has no poison queue", hidden.id)
        elif attempts >= self._options.max_dequeue_count:
            log.warning("Message has reached MaxDequeueCount of %s.", self._options.max_dequeue_count)
            await self._move_to_poison(hidden, text)
        else:
            await hidden.release(self._options.visibility_timeout)

    async def _execute(self, message: QueueMessage, body: bytes) -> bool:
        try:
            data = datum(body, binary=self._trigger.binary)
        except UnicodeDecodeError as error:
            log.error("Function '%s' cannot take message %s: %s", self._function.name, message.id, error)  # noqa: TRY400
            return False
        about = {"MessageId": message.id, "DequeueCount": message.dequeue_count, "InsertedOn": message.inserted_on}
        ended = await self._executor.run(
            self._function,
            data,
            metadata(message, body),
            reason=f"New queue message detected on '{self._trigger.queue}'.",
            details=", ".join(f"{name}: {value}" for name, value in about.items()),
        )
        return ended.succeeded

    async def _move_to_poison(self, hidden: Hidden, text: str) -> None:
        if self._poison is None:
            return
        log.warning("Moving message to queue '%s'.", self._poison.queue_name)
        try:
            await _send_to_poison(self._poison, text)
        except AzureError as error:
            log.error("Message %s could not be moved and will be delivered again: %s", hidden.id, error.message)  # noqa: TRY400
        else:
            await hidden.delete()


def _poison_queue(service: QueueServiceClient, queue: str) -> QueueClient | None:
    """Return the poison queue of a queue, or None: a poison queue has none, and a long name leaves no place for it."""
    name = f"{queue}{POISON_SUFFIX}"
    if queue.endswith(POISON_SUFFIX) or len(name) > LONGEST_QUEUE_NAME:
        return None
    return service.get_queue_client(name)


async def _send_to_poison(poison: QueueClient, text: str) -> None:
    seconds = int(POISON_TTL.total_seconds())
    try:
        await poison.send_message(text, time_to_live=seconds)
    except ResourceNotFoundError:
        with contextlib.suppress(ResourceExistsError):
            await poison.create_queue()
        await poison.send_message(text, time_to_live=seconds)
