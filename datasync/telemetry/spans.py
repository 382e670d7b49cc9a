"""Spans: the ticks, messages and runs of the app for tracing. By default there are none.

| span                 | kind     | parent |
|----------------------|----------|--------|
| tick                 | server   | the host's invocation, if the host traces it |
| send flow-jobs       | producer | the tick or the run that sends the message |
| process flow-jobs    | consumer | the span that has sent the message. It links to that one, and to the invocation |

The message carries its context in `traceparent`, so that a tick and the runs that it starts are one trace.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime

from datasync.model.job import Job, JobMessage
from datasync.model.run import RunRecord


class Spans:
    """No spans: OpenTelemetry is off, and is not imported. `OpenTelemetrySpans` makes them."""

    def tick(self, now: datetime, cron: str) -> AbstractContextManager[None]:  # noqa: ARG002 - no span is made
        """Make a span of a tick that begins at `now` (aware), on the timer's schedule."""
        return nullcontext()

    def ticked(self, numbers: Mapping[str, int | None]) -> None:
        """Add the numbers of the present tick to its span."""

    def send(self, queue: str, message: JobMessage) -> AbstractContextManager[JobMessage]:  # noqa: ARG002 - as above
        """Make a span of sending a message. Its value is the message to send, which carries the context of the span."""
        return nullcontext(message)

    def process(self, queue: str, job: Job, message_id: str) -> AbstractContextManager[None]:  # noqa: ARG002 - as above
        """Make a span of working on the message of a job."""
        return nullcontext()

    def ended(self, record: RunRecord) -> None:
        """Add the end of the last attempt of a run to the span of its message."""
