"""Prints each finished span of the app as one line: `--trace`. On Azure, the exporter of the app sends them."""

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import override

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, StatusCode, format_span_id, format_trace_id

from datasync.model.display import shown

log = logging.getLogger(__name__)


class LineExporter(SpanExporter):
    """Logs each span."""

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            log.info("%s", line(span))
        return SpanExportResult.SUCCESS


def configure(environ: MutableMapping[str, str] = os.environ) -> None:
    """Turn OpenTelemetry on, for the worker and for the app, and print the spans of this process."""
    environ["PYTHON_ENABLE_OPENTELEMETRY"] = "true"
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(LineExporter()))
    trace.set_tracer_provider(provider)


def line(span: ReadableSpan) -> str:
    """Return `SPAN process flow-jobs 0.412s acme/weather trace=… span=… parent=…`. A failed one ends with its error."""
    return " ".join(_parts(span, span.attributes or {}))


def _parts(span: ReadableSpan, attributes: Mapping[str, object]) -> Iterator[str]:
    yield f"SPAN {shown(span.name)} {((span.end_time or 0) - (span.start_time or 0)) / 1e9:.3f}s"
    if tenant := attributes.get("datasync.tenant"):
        yield f"{shown(str(tenant))}/{shown(str(attributes.get('datasync.flow')))}"
    context: SpanContext | None = span.get_span_context()
    if context:
        yield f"trace={format_trace_id(context.trace_id)} span={format_span_id(context.span_id)}"
    yield f"parent={format_span_id(span.parent.span_id) if span.parent else '-'}"
    if span.status.status_code is StatusCode.ERROR:
        yield f"error={shown(str(attributes.get('error.type') or '-'))}"
