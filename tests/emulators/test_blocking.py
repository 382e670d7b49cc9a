"""A flow that blocks the event loop: its lease outlives the block, and the log names the place."""

import asyncio
import logging
import threading
from datetime import timedelta

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry
from datasync.clock import Clock
from datasync.flow.watchdog import Watchdog
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.state import FlowState
from datasync.run.pipeline import run_message
from datasync.services import Services
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World


async def test_a_lease_is_renewed_while_a_flow_blocks_the_event_loop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The watchdog's thread renews it, with connections of its own. Another process still finds it live."""
    services, registry = Services(world.settings), FlowRegistry()
    services.watchdog = Watchdog(Clock(), threshold=timedelta(seconds=0.2), every=timedelta(seconds=0.5))
    blocking, renewed = threading.Event(), threading.Event()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        blocking.set()
        assert renewed.wait(30), "nobody renewed the lease"

    def watch_the_lease() -> None:
        assert blocking.wait(30)
        asyncio.run(wait_for_a_renewal(world))
        renewed.set()

    registry.flow("flow")(flow)
    await world.put(document("t", entry("flow")))
    body = JobMessage(tenant_id="t", flow_name="flow").encode().encode()
    message = QueueMessage("m-1", body, 1, services.clock.now())
    try:
        record, _ = await asyncio.gather(run_message(services, registry, message), asyncio.to_thread(watch_the_lease))
    finally:
        await services.close()

    assert record is not None
    assert [attempt.outcome for attempt in record.attempts] == ["succeeded"]
    (line,) = [each.getMessage() for each in caplog.records if each.getMessage().startswith("BLOCKED")]
    assert "BLOCKED t/flow blocked every flow for " in line
    assert "tests/emulators/test_blocking.py:" in line
    assert "(renewed.wait)" in line
    assert [each.levelno for each in caplog.records if "BLOCKED" in each.getMessage()] == [logging.ERROR]


async def wait_for_a_renewal(world: World) -> None:
    services = Services(world.settings)
    try:
        first = await until(services)

        async def is_renewed() -> bool:
            return await until(services) > first

        await wait_until(is_renewed, description="the lease is renewed")
    finally:
        await services.close()


async def until(services: Services) -> float:
    state: FlowState = await services.runs.state("t", ["flow"])
    assert state.lease is not None
    return state.lease.until or 0
