"""The spans of OpenTelemetry, of ticks and runs with real services, as the SDK exports them."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from datasync import FlowRegistry, RetryLater
from datasync.errors import FlowFailed, ServiceUnavailable
from datasync.model.job import QueueMessage
from datasync.run.bury import bury
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, message
from tests.documents import document, entry
from tests.operating import Fleet
from tests.stages import FLOWS, FakeClock, deliver, tick
from tests.world import World

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="session")
def sdk() -> InMemorySpanExporter:
    """Configure the SDK, once in the process, as the platform does."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def exported(sdk: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    """Return the spans of this test."""
    yield sdk
    sdk.clear()


@pytest_asyncio.fixture
async def services(world: World, vault: KeyVault, exported: InMemorySpanExporter) -> AsyncGenerator[Services]:
    """Connect an app with tracing."""
    connected = Services(replace(world.settings, traces=True), FakeClock())
    yield connected
    await connected.close()


@pytest.fixture
def fleet(world: World, services: Services) -> Fleet:
    return Fleet(world, services)


def name(span: ReadableSpan) -> str:
    """Return the name of a span, without that of the queue of this test."""
    operation, _, queue = span.name.partition(" ")
    return f"{operation} poison" if queue.endswith("-poison") else operation


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def traces(exported: InMemorySpanExporter) -> set[int]:
    return {context.trace_id for span in exported.get_finished_spans() if (context := span.get_span_context())}


def spans(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the spans by their names. Each name is there once."""
    found = {name(span): span for span in exported.get_finished_spans()}
    assert len(found) == len(exported.get_finished_spans())
    return found


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def one_run(fleet: Fleet) -> None:
    """Run the flow whose message is on the queue."""
    (body,) = await fleet.world.take()
    await fleet.deliver(body)


class TestTrace:
    async def test_a_tick_and_its_run_are_one_trace(self, fleet: Fleet, exported: InMemorySpanExporter) -> None:
        """Each span is the child of the one that caused it. That of the run links to that of its message, too."""
        await fleet.add("acme", nextRunUtc="2025-08-23T11:00:00Z")
        await fleet.tick()
        await one_run(fleet)

        found = spans(exported)
        ticked, sent, run = found["tick"], found["send"], found["process"]
        assert len(traces(exported)) == 1
        assert [parent_of(each) for each in (ticked, sent, run)] == [None, id_of(ticked), id_of(sent)]
        assert [each.kind for each in (ticked, sent, run)] == [SpanKind.SERVER, SpanKind.PRODUCER, SpanKind.CONSUMER]
        assert [link.context.span_id for link in run.links] == [id_of(sent)]
        assert all(each.status.status_code is StatusCode.UNSET for each in (ticked, sent, run))

    async def test_the_attributes_are_those_of_the_conventions(
        self, fleet: Fleet, world: World, exported: InMemorySpanExporter
    ) -> None:
        """With the tenant, the flow and the run."""
        await fleet.add("acme", nextRunUtc="2025-08-23T11:00:00Z")
        await fleet.tick()
        (body,) = await world.take()
        await fleet.deliver(body)

        found, queue = spans(exported), world.settings.queue_name
        own = {"datasync.tenant": "acme", "datasync.flow": "weather", "datasync.run": json.loads(body)["runId"]}
        ticked = attributes(found["tick"])
        numbers = {each: ticked.pop(each) for each in [*ticked] if each.startswith("datasync.tick.")}
        assert ticked == {"faas.trigger": "timer", "faas.cron": "0 0 * * * *", "faas.time": "2025-08-23T12:00:00Z"}
        assert numbers["datasync.tick.enqueued"] == 1
        assert found["send"].name == f"send {queue}"
        assert attributes(found["send"]) == {
            "messaging.system": "azure_queue_storage",
            "messaging.destination.name": queue,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            **own,
        }
        assert found["process"].name == f"process {queue}"
        assert attributes(found["process"]) == {
            "messaging.system": "azure_queue_storage",
            "messaging.destination.name": queue,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.message.id": "m-1",
            "faas.trigger": "pubsub",
            **own,
            "datasync.trigger": "schedule",
            "datasync.outcome": "succeeded",
            "datasync.attempt": 1,
        }

    async def test_the_span_of_the_invocation_is_linked(self, fleet: Fleet, exported: InMemorySpanExporter) -> None:
        """The platform makes it the present span of the process. It belongs to another trace than the message."""
        await fleet.add("acme")
        with trace.get_tracer("host").start_as_current_span("invocation") as invocation:
            await fleet.deliver(message(tenant_id="acme", flow_name="weather", traceparent=SPAN).body.decode())

        run = spans(exported)["process"]
        assert parent_of(run) == 0x00F067AA0BA902B7
        assert [link.context.span_id for link in run.links] == [
            0x00F067AA0BA902B7,
            invocation.get_span_context().span_id,
        ]

    async def test_a_message_that_goes_on_with_a_run_stays_in_the_trace(
        self, world: World, services: Services, exported: InMemorySpanExporter
    ) -> None:
        """Here the flow asks to run again later."""
        registry = FlowRegistry()

        @registry.flow("flow")
        async def later(tenant_id: str, kv: SecretClient) -> None:
            raise RetryLater(timedelta(seconds=1))

        await world.put(document("t", entry("flow")))
        await deliver(services, registry, message(traceparent=SPAN), NOW)

        found = spans(exported)
        assert len(traces(exported)) == 1
        assert parent_of(found["send"]) == id_of(found["process"])
        assert attributes(found["process"])["datasync.outcome"] == "deferred"
        assert found["process"].status.status_code is StatusCode.UNSET

    async def test_a_message_of_the_poison_queue_stays_in_the_trace(
        self, fleet: Fleet, services: Services, exported: InMemorySpanExporter
    ) -> None:
        """When it is sent again, too."""
        await fleet.add("acme")
        poisoned = message(tenant_id="acme", flow_name="weather", traceparent=SPAN)
        await bury(services, fleet.registry, poisoned)

        found = spans(exported)
        assert parent_of(found["process poison"]) == 0x00F067AA0BA902B7
        assert parent_of(found["send"]) == id_of(found["process poison"])


class TestMessage:
    @pytest.mark.parametrize(
        "traceparent",
        [None, 5, {"a": [1]}, "", "x" * 60_000, SPAN.upper(), SPAN + "-x", f"00-{'0' * 32}-{'0' * 16}-01", "\ud800"],
        ids=["none", "number", "object", "empty", "long", "capitals", "rest", "zeros", "surrogate"],
    )
    async def test_a_message_without_a_span_begins_a_trace(
        self, fleet: Fleet, exported: InMemorySpanExporter, traceparent: Any
    ) -> None:
        """Or with a text that no span can have. The run is made, and nothing of the text is in a span."""
        await fleet.add("acme")
        job = {"tenantId": "acme", "flowName": "weather", "traceparent": traceparent}
        await fleet.deliver(json.dumps(job))

        run = spans(exported)["process"]
        assert (run.parent, run.links) == (None, ())
        assert attributes(run)["datasync.outcome"] == "succeeded"

    async def test_without_tracing_a_message_has_no_span(self, world: World, exported: InMemorySpanExporter) -> None:
        """And no span is made, although the process has an SDK."""
        await world.put(document("acme", entry()))
        services = Services(world.settings, FakeClock())
        try:
            await tick(services, NOW)
            (body,) = await world.take()
            await deliver(services, FLOWS, QueueMessage("m-1", body.encode(), 1, NOW), NOW)
        finally:
            await services.close()

        assert "traceparent" not in body
        assert exported.get_finished_spans() == ()


class TestFailure:
    async def test_a_failed_run_fails_its_span(
        self, world: World, services: Services, vault: KeyVault, exported: InMemorySpanExporter
    ) -> None:
        """With the error of its record, in which secrets are replaced. No span has a secret."""
        registry = FlowRegistry()

        @registry.flow("flow")
        async def leaks(tenant_id: str, kv: SecretClient) -> None:
            secret = await kv.get_secret("tenants--t--crm--key")
            raise ValueError(f"refused {secret.value}") from OSError(secret.value)

        vault.set_secret("tenants--t--crm--key", "a-long-secret")
        await world.put(document("t", entry("flow")))
        with pytest.raises(FlowFailed):
            await deliver(services, registry, message(), NOW)

        run = spans(exported)["process"]
        (record,) = await world.records()
        assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, record["error"]["message"])
        assert attributes(run)["error.type"] == "ValueError"
        assert attributes(run)["datasync.outcome"] == "failed"
        assert attributes(run)["datasync.fingerprint"] == record["error"]["fingerprint"]
        assert "a-long-secret" not in run.to_json()

    async def test_a_tick_that_fails_fails_its_span(
        self, fleet: Fleet, services: Services, exported: InMemorySpanExporter
    ) -> None:
        """As the message that could not be sent does."""
        missing = Services(replace(services.settings, queue_name="missing-queue"), FakeClock())
        await fleet.add("acme", nextRunUtc="2025-08-23T11:00:00Z")
        try:
            with pytest.raises(ServiceUnavailable, match="does not exist"):
                await tick(missing, NOW, fleet.registry)
        finally:
            await missing.close()

        found = spans(exported)
        for span in (found["tick"], found["send"]):
            assert span.status.status_code is StatusCode.ERROR
            assert "queue 'missing-queue' does not exist" in (span.status.description or "")
            assert attributes(span)["error.type"] == "ServiceUnavailable"
            assert span.events == ()
        assert attributes(found["tick"])["datasync.tick.failed"] == 1

    async def test_the_text_of_a_foreign_error_is_in_no_span(
        self, services: Services, exported: InMemorySpanExporter
    ) -> None:
        """Only its class: nobody has removed the secrets from it."""
        with pytest.raises(OSError, match="s3cret"), services.spans.tick(NOW, "0 0 * * * *"):
            raise OSError("s3cret")

        ticked = spans(exported)["tick"]
        assert (ticked.status.status_code, ticked.status.description) == (StatusCode.ERROR, "")
        assert attributes(ticked)["error.type"] == "OSError"
        assert "s3cret" not in ticked.to_json()
