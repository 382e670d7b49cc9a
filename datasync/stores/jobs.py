"""The job queue."""

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from http import HTTPStatus

import msgspec
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from datasync.errors import MessageTooLarge, ServiceUnavailable, ServiceUnreachable
from datasync.model.decode import shorten
from datasync.model.job import LONGEST_DELAY, JobMessage, PlannedJob, QueueMessage

TOO_LARGE = "a message of the queue has at most 64 KB in base64. Use shorter names"
"""Why a job cannot be sent: https://learn.microsoft.com/azure/storage/queues/scalability-targets"""

_SECOND = timedelta(seconds=1)  # the queue takes whole seconds
_SENDS_AT_ONCE = 64
_AT_ONCE = 32  # the most messages in one answer
_LOOK = 60  # seconds that messages are hidden while they are looked at
_NEVER = -1  # a job does not expire


class Queued(msgspec.Struct, frozen=True):
    """The content of a queue."""

    name: str
    length: int
    """The approximate number of messages, with those that are hidden or being run."""
    front: tuple[QueueMessage, ...]
    """Up to 32 visible messages."""


class JobQueue:
    """The queue that triggers `run_flow`. Its client encodes in base64, as the trigger expects."""

    def __init__(
        self,
        queue: QueueClient,
        now: Callable[[], datetime],
        sending: Callable[[JobMessage], AbstractContextManager[JobMessage]] = nullcontext,
    ) -> None:
        self._queue = queue
        self._now = now
        self._sending = sending  # around each message; its value is the message to send
        self._sends = asyncio.Semaphore(_SENDS_AT_ONCE)

    async def send_all(self, jobs: Iterable[PlannedJob]) -> None:
        """Put jobs on the queue. A job that is too large for a message does not keep the others from it.

        Raises:
            MessageTooLarge: some jobs are too large, which the error names; all others were sent.
            ServiceUnavailable: as `send` does; some jobs may have been sent.

        """
        too_large: list[JobMessage] = []

        async def send(job: PlannedJob) -> None:
            async with self._sends:
                try:
                    await self.send(job)
                except MessageTooLarge:
                    too_large.append(job.message)

        try:
            async with asyncio.TaskGroup() as sending:
                for job in jobs:
                    sending.create_task(send(job))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if too_large:
            raise self._too_large(too_large)

    async def send(self, job: PlannedJob) -> None:
        """Put a job on the queue, hidden until its instant (rounded up to whole seconds; at most 7 days ahead).

        Raises:
            MessageTooLarge: it is larger than a message may be.
            ServiceUnavailable: the queue is missing, refused the request, or could not be reached.

        """
        hidden = min(max(job.visible_at - self._now(), timedelta()), LONGEST_DELAY)
        with self._sending(job.message) as message, self._explained():
            try:
                await self._queue.send_message(
                    message.encode(), visibility_timeout=-(-hidden // _SECOND) or None, time_to_live=_NEVER
                )
            except HttpResponseError as error:
                if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    raise self._too_large([job.message]) from None
                raise

    async def send_body(self, body: bytes, delay: timedelta) -> None:
        """Put a message on the queue as it is, hidden for a time. Raises ServiceUnavailable as `send` does."""
        with self._explained():
            await self._queue.send_message(body, visibility_timeout=-(-delay // _SECOND) or None, time_to_live=_NEVER)

    async def undecodable(self) -> AsyncIterator[tuple[str, str]]:
        """Yield the id and the text of messages that are not texts in base64, which no function can receive.

        Each is deleted after the loop's body. Messages are looked at in groups of 32 from the front of the queue, up to
        the first group in which no message has to be yielded: the functions receive those in front of the others.
        Raises ServiceUnavailable as `send` does.
        """
        with self._explained():
            while await self._is_undecodable_in_front():
                found = False
                async for message in self._queue.receive_messages(
                    messages_per_page=_AT_ONCE, max_messages=_AT_ONCE, visibility_timeout=_LOOK
                ):
                    if _is_decodable(message.content):
                        # With the message itself, its text would be encoded in base64 once more.
                        await self._queue.update_message(message.id, message.pop_receipt, visibility_timeout=0)
                    else:
                        found = True
                        yield str(message.id), str(message.content)
                        await self._queue.delete_message(message)
                if not found:  # another process has received them meanwhile
                    return

    async def _is_undecodable_in_front(self) -> bool:
        try:
            seen = await self._queue.peek_messages(max_messages=_AT_ONCE)
        except ResourceNotFoundError:  # the host creates a poison queue when it moves the first message there
            return False
        return not all(_is_decodable(message.content) for message in seen)

    async def look(self) -> Queued:
        """Return the length of the queue and the messages at its front, which stay there.

        Raises ServiceUnavailable as `send` does.
        """
        with self._explained():
            properties = await self._queue.get_queue_properties()
            seen = await self._queue.peek_messages(max_messages=_AT_ONCE)
        messages = tuple(
            QueueMessage(
                id=str(message.id),
                body=_decoded(str(message.content)),
                dequeue_count=message.dequeue_count or 0,
                inserted=message.inserted_on or self._now(),
            )
            for message in seen
        )
        return Queued(
            name=str(self._queue.queue_name), length=properties.approximate_message_count or 0, front=messages
        )

    async def ping(self) -> None:
        """Try the queue. Raises ServiceUnavailable as `send` does."""
        with self._explained():
            await self._queue.get_queue_properties()

    def _too_large(self, jobs: Sequence[JobMessage]) -> MessageTooLarge:
        names = ", ".join(f"{shorten(job.tenant_id)}/{shorten(job.flow_name)}" for job in jobs)
        return MessageTooLarge(
            f"queue {self._queue.queue_name!r} refused the job of {names} (413): {TOO_LARGE}",
            (job.flow_name for job in jobs),
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the queue into a sentence."""
        name = self._queue.queue_name
        try:
            yield
        except ResourceNotFoundError:
            raise ServiceUnavailable(
                f"queue {name!r} does not exist in {self._queue.url.partition('?')[0]}: create it "
                f"(az storage queue create --name {name}), or correct QUEUE_NAME",
                "the queue",
            ) from None
        except HttpResponseError as error:
            status, why = error.status_code or type(error).__name__, str(error.message).partition("\n")[0].rstrip(".")
            raise ServiceUnavailable(
                f"queue {name!r} refused the request ({status}): {why}. {_remedy(error.status_code)}",
                "the queue",
                HTTPStatus.UNAUTHORIZED if isinstance(error, ClientAuthenticationError) else error.status_code,
            ) from None
        except AzureError as error:
            raise ServiceUnreachable(
                f"queue {name!r} could not be reached: {error}. Check AzureWebJobsStorage",
                "the queue",
            ) from None


def _decoded(text: str) -> bytes:
    """Return the body of a message; its text as it is where that is not base64."""
    try:
        return b64decode("".join(text.split()), validate=True)
    except ValueError:
        return text.encode(errors="backslashreplace")


def _is_decodable(text: str) -> bool:
    try:
        b64decode("".join(text.split()), validate=True).decode()
    except ValueError:
        return False
    return True


def _remedy(status: int | None) -> str:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, None):
        return (
            "Check the key in AzureWebJobsStorage, or give the app's identity the role Storage Queue Data Contributor"
        )
    if status == HTTPStatus.BAD_REQUEST:
        return "Correct QUEUE_NAME"
    return "It will be tried again"
