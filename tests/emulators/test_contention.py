"""Documents that others change all the time: few writes, with pauses, and an end."""

from datetime import timedelta
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from datasync.errors import ServiceUnavailable
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import tick
from tests.world import World

STATE = {"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "flow"}
OVER = {"until": (NOW - timedelta(minutes=5)).timestamp(), "nonce": "n-0"}


def is_batch(request: Request) -> bool:
    """Return whether a request is a transactional batch."""
    method, url, body = request
    return method == "POST" and "/colls/runs/docs" in url and "operationType" in body


class Contended:
    """A host, and somebody who changes the state of the flow before each batch."""

    def __init__(self, world: World, wire: Wire, services: Services) -> None:
        self.host = Deliveries(services, wire, registered(succeed))
        self._world = world
        self._wire = wire
        wire.before_each(is_batch, self._touch)

    async def _touch(self) -> None:
        await self._world.runs.upsert_item(dict(await self._world.runs.read_item("state-flow", partition_key="t")))

    @property
    def batches(self) -> int:
        return sum(map(is_batch, self._wire.requests))

    async def delivers(self) -> timedelta:
        """Deliver a message. Returns the time that it took."""
        self._wire.requests.clear()
        self.host.clock.time = NOW
        self.host.post()
        await self.host.next()
        return self.host.clock.now() - NOW


@pytest.mark.parametrize("lease", [None, OVER], ids=["at the end of a run", "at the takeover of a lease"])
async def test_a_state_that_others_change_all_the_time(
    world: World, wire: Wire, services: Services, lease: dict[str, Any] | None
) -> None:
    """It is tried 20 times in half a minute, and the message is put back."""
    await world.put(document("t", entry("flow")))
    await world.runs.upsert_item({**STATE, "lease": lease})
    contended = Contended(world, wire, services)
    took = await contended.delivers()

    assert contended.batches == 20
    assert timedelta(seconds=10) < took < timedelta(seconds=40)
    assert [job.run_id for job in contended.host.jobs] == ["r-1"]


async def test_a_state_that_others_change_while_a_job_waits(world: World, wire: Wire, services: Services) -> None:
    """Its provider may not be called. The message is put back with a growing delay."""
    await world.put(document("t", entry("flow")))
    await world.runs.upsert_item(STATE)
    await services.runs.close("t", "p", NOW + timedelta(days=1), NOW)
    contended = Contended(world, wire, services)
    contended.host.registry = registered(succeed, provider="p")
    contended.host.post()
    delays = []
    for _ in range(4):
        await contended.host.next()
        (waiting,) = contended.host.waiting
        delays.append((waiting.visible_at - contended.host.clock.now()).total_seconds())

    assert delays == [15, 30, 60, 120]


async def test_a_cursor_that_others_change_all_the_time(world: World, wire: Wire, services: Services) -> None:
    """The checkpoint is tried 20 times, and fails."""
    await world.put(document("t", entry("flow")))
    await world.runs.upsert_item(STATE)
    contended = Contended(world, wire, services)
    errors: list[Exception] = []
    took: list[timedelta] = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.cursor = 7
        try:
            await run.checkpoint()
        except Exception as error:
            errors.append(error)
            took.append(contended.host.clock.now() - NOW)
            raise

    contended.host.registry = registered(flow)
    await contended.delivers()

    assert "others changed it all the time" in str(errors[0])
    assert timedelta(seconds=10) < took[0] < timedelta(seconds=40)


async def test_a_state_with_the_name_of_another_flow_costs_few_writes(
    world: World, wire: Wire, services: Services
) -> None:
    """The run ends after five attempts, each of which writes its record alone."""
    await world.put(document("t", entry("flow")))
    await world.runs.upsert_item({**STATE, "flowName": "folw"})
    host = Deliveries(services, wire, registered(succeed))
    host.post()
    await host.all()

    writes = [request for request in wire.requests if request[0] != "GET" and "/colls/runs/docs" in request[1]]
    (record,) = await world.records()
    assert (record["outcome"], record["attemptCount"]) == ("dead", 5)
    assert len(writes) <= 5 * 4


async def test_a_tenant_that_others_save_without_the_notes_of_the_tick(
    world: World, wire: Wire, services: Services
) -> None:
    """It is planned 20 times in half a minute. Then the tick goes on, and the next one tries the tenant again."""
    due = document("t", entry("weather", nextRunUtc="2025-08-23T12:00:00Z"))
    await world.put(due, document("u", entry("weather", nextRunUtc="2025-08-23T12:00:00Z")))
    patches = 0

    async def save() -> None:
        if patches < 100:
            await world.put(due)

    async def save_before_every_second_patch() -> None:
        nonlocal patches
        patches += 1
        if patches % 2:
            await save()

    wire.before_each(to("PATCH", "/colls/tenants/docs/t"), save_before_every_second_patch)
    wire.before_each(to("GET", "/colls/tenants/docs/t"), save)
    with pytest.raises(ServiceUnavailable, match="tenant 't' was edited by others each of the 20 times"):
        await tick(services, NOW)

    assert patches == 40
    assert timedelta(seconds=10) < services.clock.now() - NOW < timedelta(seconds=60)
    assert [job for job in await world.take() if '"t"' in job] == []
    patches = 100
    assert (await tick(services, NOW + timedelta(minutes=1))).enqueued == 1
