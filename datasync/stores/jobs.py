"""The job queue: what the tick asks to be run."""

from datetime import timedelta

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from datasync.errors import ServiceUnavailable
from datasync.model import Job

_NEVER = -1  # seconds to live: a job waits as long as it takes


class JobQueue:
    """The queue that triggers `run_flow`. Its client encodes in base64, as the trigger expects."""

    def __init__(self, queue: QueueClient) -> None:
        self._queue = queue

    async def send(self, job: Job, delay: timedelta = timedelta()) -> None:
        """Put a job on the queue, hidden for `delay` (whole seconds, rounded up; at most 7 days).

        Raises:
            ServiceUnavailable: the queue is missing, refused, or could not be reached.

        """
        try:
            await self._queue.send_message(
                job.encode(), visibility_timeout=-(-delay // timedelta(seconds=1)) or None, time_to_live=_NEVER
            )
        except ResourceNotFoundError:
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} does not exist in {self._queue.url.partition('?')[0]}: create it "
                f"(az storage queue create --name {self._queue.queue_name}), or correct QUEUE_NAME"
            ) from None
        except HttpResponseError as error:
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} refused a job ({error.status_code}): "
                f"{str(error.message).partition(chr(10))[0]}. Check the key in AzureWebJobsStorage, or give the app's "
                "identity the role Storage Queue Data Contributor"
            ) from None
        except AzureError as error:
            raise ServiceUnavailable(
                f"queue {self._queue.queue_name!r} could not be reached: {error}. Check AzureWebJobsStorage"
            ) from None
