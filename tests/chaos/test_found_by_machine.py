"""Histories that the state machine has found, in their smallest form."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from datasync import FlowRegistry, FlowRun, TenantSecretClient
from datasync.errors import LeaseLost
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.state import REMEMBERED
from datasync.services import Services
from tests.documents import document, entry
from tests.faults import Killed, Wire, to
from tests.stages import FakeClock, deliver, registry_of, tick
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
AFTER_THE_LEASE = NOW + timedelta(minutes=5)


def message(run_id: str = "r-1", **fields: Any) -> QueueMessage:
    job = JobMessage(tenant_id="t", flow_name="flow", scheduled_utc=NOW, run_id=run_id, **fields)
    return QueueMessage(f"m-{run_id}", job.encode().encode(), 1, NOW)


def registry_noting(started: list[str]) -> FlowRegistry:
    """Return a registry with a flow that notes its runs."""
    registry = FlowRegistry()

    @registry.flow("flow")
    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        started.append(run.run_id)

    return registry


async def test_a_flow_does_not_start_under_a_lease_that_was_taken_over(
    world: World, wire: Wire, services: Services
) -> None:
    """A process that stood still right after it had taken the lease notices it before it calls the flow."""
    started = list[str]()
    registry = registry_noting(started)

    async def stand_still() -> None:
        other = Services(world.settings, FakeClock())
        await deliver(other, registry, message("r-2"), AFTER_THE_LEASE)
        await other.close()
        assert isinstance(services.clock, FakeClock)
        services.clock.time = AFTER_THE_LEASE

    await world.put(document("t", entry("flow")))
    await deliver(services, registry, message("r-0"), NOW)
    wire.after(to("PATCH", "/docs/state-flow"), stand_still)

    with pytest.raises(LeaseLost):
        await deliver(services, registry, message("r-1"), NOW)

    assert started == ["r-0", "r-2"]


async def test_a_run_that_was_skipped_stays_ended_when_its_lost_attempt_is_noticed(
    world: World, wire: Wire, services: Services
) -> None:
    """Its message is gone, so it must not count as interrupted. The lost attempt is recorded before the skip."""
    registry = registry_of("flow")
    await world.put(document("t", entry("flow")))
    await deliver(services, registry, message("r-0"), NOW)
    wire.kill_before(to("POST", "/docs"))
    with pytest.raises(Killed):
        await deliver(services, registry, message("r-1"), NOW)
    wire.heal()
    await world.put(document("t", entry("flow", enabled=False)))
    await deliver(services, registry, message("r-1"), AFTER_THE_LEASE)
    (skipped,) = [record for record in await world.records() if record["runId"] == "r-1"]
    assert [attempt["outcome"] for attempt in skipped["attempts"]] == ["interrupted", "skipped_disabled"]

    await world.put(document("t", entry("flow")))
    await deliver(services, registry, message("r-2"), AFTER_THE_LEASE)

    records = {record["runId"]: record for record in await world.records()}
    assert (records["r-1"]["outcome"], records["r-2"]["outcome"]) == ("skipped_disabled", "succeeded")


async def test_a_process_that_stood_still_before_its_lease_reads_the_record_again(
    world: World, wire: Wire, services: Services
) -> None:
    """Another process has made the run meanwhile, and so many others that the state has forgotten its end."""
    started = list[str]()
    registry = registry_noting(started)

    async def stand_still() -> None:
        other = Services(world.settings, FakeClock())
        for run_id in ["r-1", *(f"r-{n}" for n in range(2, REMEMBERED + 2))]:
            await deliver(other, registry, message(run_id), AFTER_THE_LEASE)
        await other.close()
        assert isinstance(services.clock, FakeClock)
        services.clock.time = AFTER_THE_LEASE

    await world.put(document("t", entry("flow")))
    wire.after(to("GET", "/docs/run-r-1"), stand_still)

    await deliver(services, registry, message("r-1"), NOW)

    assert started.count("r-1") == 1
    (state,) = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'FlowState'")]
    assert state["lease"] is None


async def test_a_tick_that_stood_still_does_not_serve_a_time_that_was_set_again(
    world: World, wire: Wire, services: Services
) -> None:
    """Each time that a person sets a past time, the flow runs, even if the tick before has not ended yet."""
    past = document("t", entry("weather"))

    async def stand_still() -> None:
        other = Services(world.settings, FakeClock())
        await tick(other, NOW)
        await other.close()
        served = await world.document("t")
        served["flows"][0]["nextRunUtc"] = past["flows"][0]["nextRunUtc"]
        await world.put(served)

    await world.put(past)
    wire.after(to("POST", "/messages"), stand_still)
    await tick(services, NOW)
    await tick(services, NOW)

    sent = [msgspec.json.decode(body, type=JobMessage) for body in await world.take()]
    assert len({job.run_id for job in sent}) == 2
