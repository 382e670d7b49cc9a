"""A flow that blocks the event loop: its lease outlives the block, and the log names the place."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial

import httpx
import pytest
from azure.keyvault.secrets.aio import SecretClient
from msgspec.structs import replace

from datasync import FlowRegistry
from datasync.clock import Clock
from datasync.flow.watchdog import Block, Watchdog
from datasync.model.failure import Failure
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.lease import Lease
from datasync.run.lease import renew_in_thread
from datasync.run.pipeline import run_message
from datasync.services import Services
from tests.deliveries import NOW, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.stages import FakeClock, registry_of, run_job
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


async def test_an_attempt_that_dies_in_a_block_names_the_flow_that_blocked(world: World) -> None:
    """A block may last until the host ends the process, which then cannot log anything. Innocent runs die too."""
    services, registry, waits = Services(world.settings), FlowRegistry(), asyncio.Event()
    services.watchdog = Watchdog(Clock(), threshold=timedelta(seconds=0.2), every=timedelta(seconds=0.5))
    done, names = threading.Event(), ("innocent", "slow")

    @registry.flow("innocent")
    async def innocent(tenant_id: str, kv: SecretClient) -> None:
        waits.set()
        await asyncio.Event().wait()

    @registry.flow("slow")
    async def slow(tenant_id: str, kv: SecretClient) -> None:
        await waits.wait()
        assert done.wait(30), "nobody took over"

    def messages(delivery: int) -> list[QueueMessage]:
        now = services.clock.now()
        bodies = {name: message(delivery, id=name, flow_name=name, run_id=name, scheduled_utc=now) for name in names}
        return [replace(each, inserted=now) for each in bodies.values()]

    async def take_over() -> None:
        other = Services(world.settings, FakeClock(services.clock.now() + timedelta(minutes=5)))
        try:
            for name in names:

                async def is_told(name: str = name) -> bool:
                    state = await other.runs.state("t", [name])
                    return bool(state.lease and state.lease.blocked_by)

                await wait_until(is_told, description="the lease names the flow that blocks")
            for each in messages(2):
                await run_message(other, registry_of(*names), each)
        finally:
            await other.close()
            done.set()

    await world.put(document("t", entry("innocent"), entry("slow")))
    runs = (run_message(services, registry, each) for each in messages(1))
    try:
        await asyncio.gather(*runs, asyncio.to_thread(lambda: asyncio.run(take_over())), return_exceptions=True)
    finally:
        await services.close()

    attempts = [record["attempts"] for record in await world.records()]
    assert [[each["outcome"] for each in both] for both in attempts] == [["interrupted", "succeeded"]] * 2
    for first, _ in attempts:
        what, _, place = first["error"]["message"].partition(". Before that, the event loop was blocked by ")
        assert what.startswith("the process died")
        assert re.fullmatch(r"t/slow at tests/emulators/test_blocking\.py:\d+ \(done\.wait\) for \d+ s", place)
        assert first["error"]["fingerprint"] == "interrupted"


async def test_a_block_that_has_ended_is_not_the_reason_of_a_later_death(world: World, services: Services) -> None:
    """The lease names it until its next renewal by the event loop."""
    await world.put(document("t", entry("flow")))
    place = "flows/slow.py:11 (time.sleep)"
    told: list[str | None] = []

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        assert isinstance(services.clock, FakeClock)
        block = Block(subject="t/slow", place=place, started=NOW, seconds=30)
        await asyncio.to_thread(renew_in_thread, services, block)
        told.append((await lease(services)).blocked_by)
        services.clock.time += timedelta(minutes=1, seconds=1)

        async def is_forgotten() -> bool:
            return (await lease(services)).blocked_by is None

        await wait_until(is_forgotten, description="the event loop has renewed the lease")

    await run_job(services, registered(flow), message(), NOW)

    assert told == [f"t/slow at {place} for 30 s"]


async def test_a_lease_is_renewed_while_another_flow_blocks_the_end_of_a_run(
    world: World, wire: Wire, services: Services
) -> None:
    """The end of an innocent run is being recorded. Otherwise, it would be attempted again by another process."""
    await world.put(document("t", entry("flow")))
    ends: list[float] = []

    async def block() -> None:
        if ends:
            return
        assert isinstance(services.clock, FakeClock)
        services.clock.time += timedelta(minutes=2)
        block = Block(subject="t/slow", place="flows/slow.py:11", started=NOW, seconds=30)
        await asyncio.to_thread(renew_in_thread, services, block)  # as the watchdog does
        state = dict(await world.runs.read_item("state-flow", partition_key="t"))
        ends.append(state["lease"]["until"])

    wire.before_each(to("POST", "/docs", '"run-r-1"'), block)
    record = await run_job(services, registered(succeed), message(), NOW)

    assert ends == [(NOW + timedelta(minutes=5)).timestamp()]
    assert [attempt.outcome for attempt in record.attempts] == ["succeeded"]


@pytest.mark.parametrize("wrapped", ["", "cause", "group", "httpx"])
async def test_a_timeout_names_the_flow_that_blocked_the_event_loop_meanwhile(world: World, wrapped: str) -> None:
    """The innocent flow did nothing wrong. Its error has the same fingerprint as without a block."""
    alone = await error_beside(world, partial(times_out, wrapped=wrapped), blocks=False)
    beside = await error_beside(world, partial(times_out, wrapped=wrapped), blocks=True)

    what, _, told = beside.message.partition(". Meanwhile the event loop was blocked by ")
    assert what == alone.message.partition(". Meanwhile")[0]
    assert re.search(r"t/slow at tests/emulators/test_blocking\.py:\d+ \(time\.sleep\) for \d+ s", told)
    assert beside.fingerprint == alone.fingerprint


async def test_another_error_does_not_name_the_flow_that_blocked_the_event_loop(world: World) -> None:
    """The block is not its reason."""

    async def fails() -> None:
        with suppress(TimeoutError):
            await times_out()
        raise ValueError("wrong") from None

    error = await error_beside(world, fails, blocks=True)

    assert error.message == "ValueError: wrong"


async def error_beside(world: World, function: Callable[[], Awaitable[None]], *, blocks: bool) -> Failure:
    """Return the error of a run of t/innocent. While it waits, t/slow may block the event loop for 1.5 seconds."""
    services, registry, waits = Services(world.settings), FlowRegistry(), asyncio.Event()
    services.watchdog = Watchdog(Clock(), threshold=timedelta(seconds=1))

    @registry.flow("innocent")
    async def innocent(tenant_id: str, kv: SecretClient) -> None:
        waits.set()
        await function()

    @registry.flow("slow")
    async def slow(tenant_id: str, kv: SecretClient) -> None:
        await waits.wait()
        time.sleep(1.5 if blocks else 0)  # noqa: ASYNC251 - the misbehaviour

    await world.put(document("t", entry("innocent"), entry("slow")))
    now, runs = services.clock.now(), {name: f"{name}-{blocks}" for name in ("innocent", "slow")}
    jobs = [message(id=run, flow_name=name, run_id=run, scheduled_utc=now) for name, run in runs.items()]
    try:
        deliveries = (run_message(services, registry, replace(each, inserted=now)) for each in jobs)
        await asyncio.gather(*deliveries, return_exceptions=True)
        record = await services.runs.record("t", runs["innocent"])
    finally:
        await services.close()
    assert record
    assert record.attempts[0].error
    return record.attempts[0].error


async def times_out(wrapped: str = "") -> None:
    """Wait for nothing, for 0.3 seconds."""
    try:
        async with asyncio.timeout(0.3):
            await asyncio.Event().wait()
    except TimeoutError as error:
        match wrapped:
            case "cause":
                raise ValueError("no answer") from error
            case "group":
                raise ExceptionGroup("several", [ValueError("wrong"), error]) from None
            case "httpx":
                raise httpx.ConnectTimeout("no answer") from None
        raise


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
    return (await lease(services)).until or 0


async def lease(services: Services) -> Lease:
    """Return the lease of t/flow."""
    state = await services.runs.state("t", ["flow"])
    assert state.lease is not None
    return state.lease
