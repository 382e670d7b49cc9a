"""The job queue: what the tick asks to be run."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from datasync.errors import ServiceUnavailable
from datasync.model import Job
from datasync.schedule import PlannedJob

LEAD = timedelta(seconds=2)
"""How early a delayed job appears: as long as the host may take to look (maxPollingInterval in host.json)."""

_SECOND = timedelta(seconds=1)  # the queue knows no fractions
_SENDS_AT_ONCE = 64
_NEVER = -1  # seconds to live: a job waits as long as it takes


class JobQueue:
    """The queue that triggers `run_flow`. Its client encodes in base64, as the trigger expects."""

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue
        self._sends = asyncio.Semaphore(_SENDS_AT_ONCE)

    async def send_all(self, planned: Sequence[PlannedJob], planned_at: float) -> None:
        """Put jobs on the queue that were planned at a time of the event loop's clock, to appear LEAD before their own.

        Raises:
            ExceptionGroup: of what `send` raises; some may have been sent.

        """

        async def send(each: PlannedJob) -> None:
            async with self._sends:
                passed = timedelta(seconds=asyncio.get_running_loop().time() - planned_at)
                early = (each.delay - passed - LEAD) // _SECOND * _SECOND
                await self.send(each.job, max(early, timedelta()))

        async with asyncio.TaskGroup() as sending:
            for each in planned:
                sending.create_task(send(each))

    async def send(self, job: Job, delay: timedelta = timedelta()) -> None:
        """Put a job on the queue, hidden for `delay` (rounded up to whole seconds; at most 7 days).

        Raises:
            ServiceUnavailable: the queue is missing, refused, or could not be reached.

        """
        with self._explained():
            await self._queue.send_message(
                job.encode(), visibility_timeout=-(-delay // _SECOND) or None, time_to_live=_NEVER
            )

    async def ping(self) -> None:
        """Try the queue. Raises ServiceUnavailable as `send` does."""
        with self._explained():
            await self._queue.get_queue_properties()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the queue answers, when it does not do as it is asked, into a sentence."""
        try:
            yield
        except ResourceNotFoundError:
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} does not exist in {self._queue.url.partition('?')[0]}: create it "
                f"(az storage queue create --name {self._queue.queue_name}), or correct QUEUE_NAME"
            ) from None
        except HttpResponseError as error:
            status, why = error.status_code or type(error).__name__, str(error.message).partition("\n")[0].rstrip(".")
            remedy = (
                "Check the key in AzureWebJobsStorage, or give the app's identity the role Storage Queue Data "
                "Contributor"
                if error.status_code in (401, 403, None)
                else "Correct QUEUE_NAME"
                if error.status_code == HTTPStatus.BAD_REQUEST
                else "It will be tried again"
            )
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} refused the request ({status}): {why}. {remedy}"
            ) from None
        except AzureError as error:
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} could not be reached: {error}. Check AzureWebJobsStorage"
            ) from None
