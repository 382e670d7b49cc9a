"""Tasks and threads that a flow leaves behind, and that go on: its lease lasts until they or the process end."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from datetime import timedelta
from functools import partial

import pytest
import pytest_asyncio
from azure.core.exceptions import ServiceRequestError
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun
from datasync.errors import Continue, LeaseLost
from datasync.run.execute import execute
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered
from tests.documents import document, entry
from tests.faults import Wire, to
from tests.stages import deliver
from tests.waiting import wait_until
from tests.world import World


class Zombie:
    """A flow whose run `r-1` leaves a task behind, which ends when a test says so."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.over = asyncio.Event()
        self.continues = False
        self.refusal: Exception | None = None

    async def flow(self, _tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        self.runs.append(run.run_id)
        if run.run_id == "r-1":
            self.task = asyncio.ensure_future(self._stay(run))
            await asyncio.sleep(0)
            if self.continues:
                raise Continue
            run.cursor = "of the flow"

    async def _stay(self, run: FlowRun) -> None:
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                continue
        run.cursor = "of the task"
        try:
            await run.checkpoint()
        except LeaseLost as error:
            self.refusal = error


@pytest_asyncio.fixture
async def zombie(services: Services, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Zombie]:
    """Return a flow that leaves a task behind. A cancelled flow has 50 ms to end."""
    monkeypatch.setattr("datasync.run.call.execute", partial(execute, grace=timedelta(milliseconds=50)))
    of_others, made = asyncio.all_tasks(), Zombie()
    yield made
    made.over.set()
    if left := asyncio.all_tasks() - of_others - {asyncio.current_task()}:
        await asyncio.wait(left, timeout=10)  # those that release the lease


async def lease_end(world: World) -> float:
    """Return the end of the lease, in seconds since 1970; 0 if there is none."""
    state = dict(await world.runs.read_item("state-flow", partition_key="t"))
    return float((state.get("lease") or {}).get("until", 0))


@pytest.mark.parametrize("overlap", ["once", "skip"])
@pytest.mark.parametrize("trigger", ["schedule", "message"])
async def test_the_next_run_waits_until_the_process_has_died(
    world: World, wire: Wire, services: Services, zombie: Zombie, *, overlap: str, trigger: str
) -> None:
    """Nothing but its own message would start it after that."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(zombie.flow, overlap=overlap))
    host.post()
    await host.next()
    host.post(run_id="r-2", trigger=trigger, enqueued_utc=NOW)
    await host.next()
    assert zombie.runs == ["r-1"]
    wire.killed = True
    zombie.over.set()
    await zombie.task
    wire.heal()
    await host.all()

    assert zombie.runs == ["r-1", "r-2"]
    assert {record["runId"]: record["outcome"] for record in await world.records()} == {
        "r-1": "succeeded",
        "r-2": "succeeded",
    }


async def test_of_many_scheduled_runs_one_waits(world: World, wire: Wire, services: Services, zombie: Zombie) -> None:
    """The others are skipped, and one more run follows them."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(zombie.flow))
    host.post()
    await host.next()
    for number in (2, 3, 4):
        host.post(run_id=f"r-{number}", trigger="schedule", enqueued_utc=NOW)
        host.waiting.insert(0, host.waiting.pop())
        await host.next()
    assert [job.run_id for job in host.jobs] == ["r-2"]
    zombie.over.set()
    await wait_until(lambda: lease_is_free(world), description="the lease is released")
    await host.all()

    outcomes = {record["runId"]: record["outcome"] for record in await world.records()}
    assert (outcomes.pop("r-3"), outcomes.pop("r-4")) == ("skipped_overlap", "skipped_overlap")
    assert [*outcomes.values()] == ["succeeded"] * 3, "r-1, r-2, and the run that follows those skipped"


async def lease_is_free(world: World) -> bool:
    return not await lease_end(world)


async def test_the_next_part_waits_until_the_process_has_died(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """The run goes on in its next part."""
    zombie.continues = True
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(zombie.flow, overlap="skip"))
    host.post()
    await host.next()
    await host.next()
    wire.killed = True
    zombie.over.set()
    await zombie.task
    wire.heal()
    await host.all()

    assert zombie.runs == ["r-1", "r-1.2"]
    assert (await world.runs.read_item("run-r-1.2", partition_key="t"))["outcome"] == "succeeded"


async def test_a_flow_that_cancels_all_tasks_does_not_end_the_lease(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """The next run would overlap with the task that still runs."""
    registry, of_others = FlowRegistry(), asyncio.all_tasks()

    async def culprit(tenant_id: str, kv: SecretClient) -> None:
        for task in asyncio.all_tasks() - of_others:
            task.cancel()
        await asyncio.sleep(0)

    registry.flow("flow")(zombie.flow)
    registry.flow("culprit")(culprit)
    await world.put(document("t", entry("flow"), entry("culprit")))
    host = Deliveries(services, wire, registry)
    host.post()
    await host.next()
    before = await lease_end(world)
    attempt = asyncio.ensure_future(deliver(services, registry, message(id="c", run_id="c", flow_name="culprit"), NOW))
    with pytest.raises(asyncio.CancelledError):
        await attempt

    async def is_renewed() -> bool:
        host.clock.time += timedelta(seconds=20)
        return await lease_end(world) > before

    await wait_until(is_renewed, description="the lease is renewed")
    host.post(run_id="r-2")
    await host.next()
    assert zombie.runs == ["r-1"]


async def test_a_task_cannot_keep_a_cursor_after_its_flow_has_returned(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """The cursor of the flow stays."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(zombie.flow))
    host.post()
    await host.next()
    zombie.over.set()
    await zombie.task

    assert "has returned: the cursor is not kept" in str(zombie.refusal)
    assert (await services.runs.state("t", ["flow"])).cursor == "of the flow"


async def test_the_lease_is_kept_if_the_end_of_the_attempt_cannot_be_recorded(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """The attempt is repeated after the outage, when the task has ended."""
    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(zombie.flow))
    wire.refuse_all(to("POST", "/docs", '"run-r-1"'))
    host.post()
    await host.next()
    wire.heal()
    before = await lease_end(world)

    async def is_renewed() -> bool:
        host.clock.time += timedelta(seconds=20)
        return await lease_end(world) > before

    await wait_until(is_renewed, description="the lease is renewed")
    await host.next()
    assert zombie.runs == ["r-1"]


async def test_the_next_attempt_waits_for_the_thread_of_the_one_that_timed_out(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """Two attempts at the same time would repeat each other's effects."""
    started, ended, is_over = list[int](), list[int](), threading.Event()

    def work(attempt: int) -> None:
        started.append(attempt)
        is_over.wait()
        ended.append(attempt)

    async def flow(_tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        await asyncio.to_thread(work, run.attempt)

    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(flow, timeout=timedelta(milliseconds=500)))
    host.post()
    try:
        await host.next()
        before = await lease_end(world)
        await host.next()
        assert (started, ended) == ([1], [])

        async def is_renewed() -> bool:
            host.clock.time += timedelta(seconds=20)
            return await lease_end(world) > before

        await wait_until(is_renewed, description="the lease is renewed")
        await host.next()
        assert (started, ended) == ([1], [])
    finally:
        is_over.set()
    await wait_until(lambda: lease_is_free(world), description="the lease is released")
    await host.all()

    assert (started, ended) == ([1, 2], [1, 2])
    (record,) = await world.records()
    assert [each["outcome"] for each in record["attempts"]] == ["failed", "succeeded"]


async def test_the_lease_of_a_thread_is_kept_after_an_outage_in_which_it_was_given_up(
    world: World, wire: Wire, services: Services, zombie: Zombie
) -> None:
    """The attempt has lost its lease, but nothing can stop its thread. The next attempt waits, and records it."""
    started, tried, is_over, is_back = list[int](), list[str](), threading.Event(), asyncio.Event()

    def work(attempt: int) -> None:
        started.append(attempt)
        is_over.wait()

    async def refuse() -> None:
        tried.append("a renewal")
        if not is_back.is_set():
            raise ServiceRequestError("connection refused")

    async def flow(_tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        working = asyncio.ensure_future(asyncio.to_thread(work, run.attempt))
        if run.attempt == 1:
            wire.before_each(to("PATCH", "state-flow", "/lease/until"), refuse)
            await wait_until(lambda: started, description="the thread has begun")
            host.clock.time += timedelta(seconds=61)
            await wait_until(lambda: tried, description="a renewal is tried")
            host.clock.time += timedelta(seconds=100)
        await working

    await world.put(document("t", entry("flow")))
    host = Deliveries(services, wire, registered(flow))
    host.post()
    try:
        before = (NOW + timedelta(minutes=3)).timestamp()
        await host.next()
        is_back.set()

        async def is_renewed() -> bool:
            host.clock.time += timedelta(seconds=5)
            return await lease_end(world) > before

        await wait_until(is_renewed, description="the lease is renewed")
        await host.next()
        assert started == [1]
    finally:
        is_over.set()
    await host.all()

    assert started == [1, 2]
    (record,) = await world.records()
    assert [each["outcome"] for each in record["attempts"]] == ["interrupted", "succeeded"]
