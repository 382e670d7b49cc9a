"""The spans of the app by the API of OpenTelemetry. Imported only where it is on.

The API makes no spans by itself: the platform, or the entry of the app, configures an SDK and an exporter.

Names and attributes: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ and
https://opentelemetry.io/docs/specs/semconv/faas/faas-spans/. Attributes that these do not have begin with `datasync.`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import override

from msgspec.structs import replace
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from datasync.errors import DataSyncError
from datasync.model.job import Job, JobMessage
from datasync.model.run import Outcome, RunRecord
from datasync.model.times import utc_text
from datasync.telemetry.spans import Spans

_FIELD = "traceparent"
_SYSTEM = "azure_queue_storage"  # the conventions have no name for it, and allow another one then
_LONGEST = 2000  # characters of the text of an error


class _Work:
    """The span of the present tick or message."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.has_failure = False
        """Whether the span says how it has failed."""

    def fail(self, kind: str, text: str) -> None:
        self.has_failure = True
        self.span.set_attribute("error.type", kind)
        self.span.set_status(Status(StatusCode.ERROR, text[:_LONGEST]))


_present: ContextVar[_Work | None] = ContextVar("_present", default=None)


class OpenTelemetrySpans(Spans):
    """Makes spans with the tracer that the process has configured."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("datasync")
        self._w3c = TraceContextTextMapPropagator()

    @override
    @contextmanager
    def tick(self, now: datetime, cron: str) -> Iterator[None]:
        attributes = {"faas.trigger": "timer", "faas.cron": cron, "faas.time": utc_text(now)}
        with self._working("tick", SpanKind.SERVER, attributes):
            yield

    @override
    def ticked(self, numbers: Mapping[str, int | None]) -> None:
        if work := _present.get():
            known = {f"datasync.tick.{name}": number for name, number in numbers.items() if number is not None}
            work.span.set_attributes(known)

    @override
    @contextmanager
    def send(self, queue: str, message: JobMessage) -> Iterator[JobMessage]:
        attributes = {
            **_messaging("send", queue),
            **_job(message.tenant_id, message.flow_name, message.run_id),
        }
        with self._working(f"send {queue}", SpanKind.PRODUCER, attributes):
            carrier: dict[str, str] = {}
            self._w3c.inject(carrier)
            yield replace(message, traceparent=carrier[_FIELD]) if carrier else message

    @override
    @contextmanager
    def process(self, queue: str, job: Job, message_id: str) -> Iterator[None]:
        invocation = contexts.get_current()
        sent = self._w3c.extract({_FIELD: job.traceparent}, invocation) if job.traceparent else invocation
        attributes = {
            **_messaging("process", queue),
            "messaging.message.id": message_id,
            "faas.trigger": "pubsub",
            **_job(job.tenant_id, job.flow_name, job.run_id),
            "datasync.trigger": str(job.trigger),
        }
        with self._working(f"process {queue}", SpanKind.CONSUMER, attributes, sent, _links(sent, invocation)):
            yield

    @override
    def ended(self, record: RunRecord) -> None:
        if (work := _present.get()) is None:
            return
        attempt = record.attempts[-1]
        work.span.set_attribute("datasync.outcome", str(attempt.outcome))
        work.span.set_attribute("datasync.attempt", record.attempt_count)
        if attempt.error and (attempt.outcome.is_failing or attempt.outcome is Outcome.INTERRUPTED):
            work.span.set_attribute("datasync.fingerprint", attempt.error.fingerprint)
            work.fail(attempt.error.kind, attempt.error.message)

    @contextmanager
    def _working(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str],
        context: Context | None = None,
        links: list[Link] | None = None,
    ) -> Iterator[None]:
        """Make a span. Of an exception it says the class, and the text only if the app wrote it: no secret is in it."""
        span = self._tracer.start_span(name, context, kind, attributes, links)
        work = _Work(span)
        token = _present.set(work)
        try:
            with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    yield
                except BaseException as error:
                    if not work.has_failure:
                        work.fail(type(error).__name__, str(error) if isinstance(error, DataSyncError) else "")
                    raise
        finally:
            _present.reset(token)


def _messaging(operation: str, queue: str) -> dict[str, str]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _job(tenant_id: str, flow: str, run: str | None) -> dict[str, str]:
    return {"datasync.tenant": tenant_id, "datasync.flow": flow, **({"datasync.run": run} if run else {})}


def _links(*spans: Context) -> list[Link]:
    """Return links to spans, one for each different one."""
    found = (trace.get_current_span(each).get_span_context() for each in spans)
    return [Link(each) for each in {each.span_id: each for each in found if each.is_valid}.values()]
