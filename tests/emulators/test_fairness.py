"""Fairness among tenants, with real services: one tenant does not hold up the others of a process."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import batched
from typing import Any

import pytest
import pytest_asyncio
from azure.keyvault.secrets.aio import SecretClient

from datasync import Continue, FlowRegistry, FlowRun, GiveUp, RetryLater
from datasync.errors import FlowFailed, LeaseLost, ServiceUnavailable
from datasync.services import Services
from datasync.settings import Settings
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, Deliveries, message
from tests.documents import document, entry
from tests.faults import Wire
from tests.stages import FakeClock, deliver
from tests.waiting import wait_until
from tests.world import World

FLOWS = 500
OTHERS = [f"other-{number}" for number in range(4)]


class Waits:
    """Flows that wait until a test opens the gate, if they run for a tenant named `slow`."""

    def __init__(self, names: list[str]) -> None:
        self.registry = FlowRegistry()
        self.gate = asyncio.Event()
        self.running: Counter[str] = Counter()
        """Executions that are going on, by tenant."""
        self.most: Counter[str] = Counter()
        """The most executions of a tenant that went on at once."""
        self.executions: Counter[str] = Counter()
        """Finished executions, by run."""

        async def run_one(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            self.running[tenant_id] += 1
            self.most[tenant_id] = max(self.most[tenant_id], self.running[tenant_id])
            if tenant_id == "slow":
                await self.gate.wait()
            self.running[tenant_id] -= 1
            self.executions[run.run_id] += 1

        for name in names:
            self.registry.flow(name)(run_one)


async def test_500_due_flows_of_a_tenant_do_not_hold_up_the_others(
    world: World, wire: Wire, services: Services
) -> None:
    """16 of its runs go on at once. The others' runs end meanwhile, and the rest is put back and runs later, once."""
    most = services.settings.concurrency_per_tenant
    names = [f"flow-{number}" for number in range(FLOWS)]
    await world.put(document("slow", *(entry(name) for name in names)))
    await world.put(*(document(tenant, entry("flow-0")) for tenant in OTHERS))
    flows = Waits(names)
    host = Deliveries(services, wire, flows.registry)
    first = [message(id=f"m-{name}", tenant_id="slow", flow_name=name, run_id=f"r-{name}") for name in names]
    slow = [asyncio.ensure_future(deliver(services, flows.registry, each, NOW)) for each in first]
    others = [message(id=f"m-{each}", tenant_id=each, flow_name="flow-0", run_id=f"r-{each}") for each in OTHERS]

    records = await asyncio.gather(*[deliver(services, flows.registry, each, NOW) for each in others])
    assert [record and record.outcome for record in records] == ["succeeded"] * len(OTHERS)
    assert sum(flows.executions.values()) == len(OTHERS)

    await wait_until(lambda: len(host.waiting) == FLOWS - most, description="the rest is put back")
    assert flows.running["slow"] == most == 16
    assert {each.job.run_id for each in host.waiting} | {f"r-{name}" for name in names[:most]} == {
        f"r-{name}" for name in names
    }
    delays = [each.visible_at - NOW for each in host.waiting]
    assert min(delays) >= timedelta(seconds=5)
    assert max(delays) <= timedelta(seconds=20)
    assert len(set(delays)) > 10, "they do not come back all at once"

    flows.gate.set()
    await asyncio.gather(*slow)
    rest, host.waiting = host.waiting, []
    for at_once in batched(rest, most, strict=False):
        copies = [message(id=each.job.message_id or "", **fields(each.job)) for each in at_once]
        await asyncio.gather(*[deliver(services, flows.registry, copy, services.clock.now()) for copy in copies])

    assert host.waiting == []
    assert flows.executions == Counter([f"r-{name}" for name in names + OTHERS])
    assert flows.most["slow"] == most
    assert Counter([record["outcome"] for record in await world.records()]) == {"succeeded": FLOWS + len(OTHERS)}
    assert all(record["attemptCount"] == 1 for record in await world.records("slow"))


def fields(job: Any) -> dict[str, Any]:
    """Return the fields of a job message."""
    return {name: getattr(job, name) for name in type(job).__struct_fields__}


@pytest_asyncio.fixture
async def narrow(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the services of a process that runs one run of a tenant at once."""
    settings = Settings.from_environ({**world.environ, "CONCURRENCY_PER_TENANT": "1"})
    made = Services(settings, FakeClock())
    yield made
    await made.close()


async def next_is_attempted(services: Services, registry: FlowRegistry) -> bool:
    """Return whether the process attempts the next run of the tenant, or puts it back."""
    record = await deliver(services, registry, message(id="m-next", flow_name="next", run_id="r-next"), NOW)
    return record is not None


def with_next(function: Callable[..., Awaitable[None]], **options: Any) -> FlowRegistry:
    """Return a registry with `flow`, and with `next`, which succeeds."""
    registry = FlowRegistry()

    async def succeed(tenant_id: str, kv: SecretClient) -> None: ...

    registry.flow("flow", **options)(function)
    registry.flow("next")(succeed)
    return registry


@asynccontextmanager
async def a_run_going_on(world: World, narrow: Services) -> AsyncGenerator[FlowRegistry]:
    """Keep a run of the tenant `t` going during the block, which ends well after it. Yields the registry."""
    await world.put(document("t", entry("flow"), entry("next")))
    started, gate = asyncio.Event(), asyncio.Event()

    async def wait(tenant_id: str, kv: SecretClient) -> None:
        started.set()
        await gate.wait()

    registry = with_next(wait)
    present = asyncio.ensure_future(deliver(narrow, registry, message(), NOW))
    await started.wait()
    yield registry
    gate.set()
    assert (await present) is not None


class TestOneRunAtOnce:
    """`CONCURRENCY_PER_TENANT` is 1."""

    async def test_the_next_run_is_put_back_meanwhile(
        self, world: World, narrow: Services, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No attempt is made, and the log has the reason. Another process has a limit of its own."""
        async with a_run_going_on(world, narrow) as registry:
            assert not await next_is_attempted(narrow, registry)
            assert "1 runs of the tenant are going on in this process" in caplog.text
            assert await world.records() == []
            assert await next_is_attempted(services, registry)

    async def test_an_outage_is_not_over_for_a_run_that_waits_for_its_turn(
        self, world: World, wire: Wire, narrow: Services
    ) -> None:
        """No service was asked, so the delays of the outage grow on."""
        async with a_run_going_on(world, narrow) as registry:
            host = Deliveries(narrow, wire, registry)
            host.post(flow_name="next", run_id="r-next", outages=3)
            await host.next()

        assert [job.outages for job in host.jobs] == [3]

    async def test_a_run_that_has_waited_for_long_looks_less_often(
        self, world: World, narrow: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """So a tenant with many runs does not fill the log and the queue. No wait is longer than about two minutes."""
        async with a_run_going_on(world, narrow) as registry:
            # The clock stays: a process that stands still for hours loses the lease of its run.
            for waited in (timedelta(), timedelta(minutes=4), timedelta(hours=1), timedelta(days=2)):
                sent = NOW - waited
                job = message(id="m-next", flow_name="next", run_id="r-next", scheduled_utc=sent, enqueued_utc=sent)
                await deliver(narrow, registry, job, NOW)
            ahead = message(
                id="m-next", flow_name="next", run_id="r-next", scheduled_utc=NOW, enqueued_utc=NOW - timedelta(hours=1)
            )
            await deliver(narrow, registry, ahead, NOW)

        first, *later = [int(each) for each in re.findall(r"WAITING t/next for (\d+)s", caplog.text)]
        assert 5 <= first <= 20
        extra = first - 5
        assert later == [60 + extra, 120 + extra, 120 + extra, first], "one that was planned ahead starts to wait late"

    @pytest.mark.parametrize(
        "error",
        [
            OSError("down"),
            GiveUp("the account was closed"),
            RetryLater(timedelta(minutes=5)),
            Continue(),
            SystemExit(1),
            asyncio.CancelledError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_a_run_that_ends_lets_the_next_one_in(
        self, world: World, narrow: Services, error: BaseException
    ) -> None:
        """It failed, ended by a signal, or ended itself."""
        await world.put(document("t", entry("flow"), entry("next")))

        async def end(tenant_id: str, kv: SecretClient) -> None:
            raise error

        registry = with_next(end)
        await asyncio.gather(deliver(narrow, registry, message(), NOW), return_exceptions=True)

        assert len(await world.records()) == 1
        assert await next_is_attempted(narrow, registry)

    async def test_a_run_that_timed_out_lets_the_next_one_in(self, world: World, narrow: Services) -> None:
        """The flow was cancelled."""
        await world.put(document("t", entry("flow"), entry("next")))

        async def stay(tenant_id: str, kv: SecretClient) -> None:
            await asyncio.Event().wait()

        registry = with_next(stay, timeout=timedelta(milliseconds=10))
        with pytest.raises(FlowFailed, match="was cancelled after"):
            await deliver(narrow, registry, message(), NOW)

        assert await next_is_attempted(narrow, registry)

    async def test_a_run_that_the_host_stops_lets_the_next_one_in(self, world: World, narrow: Services) -> None:
        """The invocation was cancelled."""
        await world.put(document("t", entry("flow"), entry("next")))
        started = asyncio.Event()

        async def stay(tenant_id: str, kv: SecretClient) -> None:
            started.set()
            await asyncio.Event().wait()

        registry = with_next(stay)
        present = asyncio.ensure_future(deliver(narrow, registry, message(), NOW))
        await started.wait()
        present.cancel()
        with pytest.raises(asyncio.CancelledError):
            await present

        assert await next_is_attempted(narrow, registry)

    async def test_a_run_that_loses_its_lease_lets_the_next_one_in(self, world: World, narrow: Services) -> None:
        """Somebody has deleted the state of the flow."""
        await world.put(document("t", entry("flow"), entry("next")))

        async def lose(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            await world.runs.delete_item("state-flow", partition_key="t")
            await run.checkpoint()

        registry = with_next(lose)
        with pytest.raises(LeaseLost):
            await deliver(narrow, registry, message(), NOW)

        assert await next_is_attempted(narrow, registry)

    @pytest.mark.parametrize("changes", [{"flow_name": "nobody's"}, {"run_id": "r-0"}, {"tenant_id": "nobody"}])
    async def test_a_delivery_without_a_run_lets_the_next_one_in(
        self, world: World, narrow: Services, changes: dict[str, Any]
    ) -> None:
        """Its flow or tenant is unknown, or it is a duplicate."""
        await world.put(document("t", entry("flow"), entry("next")))

        async def succeed(tenant_id: str, kv: SecretClient) -> None: ...

        registry = with_next(succeed)
        await deliver(narrow, registry, message(id="m-0", run_id="r-0"), NOW)
        await deliver(narrow, registry, message(id="m-1", **changes), NOW)

        assert await next_is_attempted(narrow, registry)

    async def test_an_outage_lets_the_next_one_in(self, world: World, wire: Wire, narrow: Services) -> None:
        """Cosmos DB and the queue were away."""
        await world.put(document("t", entry("flow"), entry("next")))

        async def succeed(tenant_id: str, kv: SecretClient) -> None: ...

        registry = with_next(succeed)
        wire.refuse = True
        with pytest.raises(ServiceUnavailable):
            await deliver(narrow, registry, message(), NOW)
        wire.refuse = False

        assert await next_is_attempted(narrow, registry)
