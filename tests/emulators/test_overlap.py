"""Runs of one flow and tenant that meet: one at a time, unless the flow allows otherwise."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater
from datasync.errors import Continue
from datasync.model.job import run_id
from datasync.model.run import RunRecord
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Wire
from tests.stages import run_job
from tests.world import World

FOLLOW_UP = run_id("once more", "r-2")


async def endings(world: World) -> dict[str, list[str]]:
    """Return the outcomes of the attempts of each run."""
    return {record["runId"]: [attempt["outcome"] for attempt in record["attempts"]] for record in await world.records()}


class Holder:
    """A flow whose first run goes on while further messages are delivered."""

    def __init__(self, wire: Wire, services: Services, *others: str, end: BaseException | None = None) -> None:
        self.host = Deliveries(services, wire, registered(self.flow))
        self.runs: list[str] = []
        self.windows: list[Any] = []
        self._wire = wire
        self._others = list(others)
        self._end = end

    async def flow(self, _tenant_id: str, _kv: SecretClient, run: FlowRun) -> None:
        self.runs.append(run.run_id)
        self.windows.append(run.window)
        if run.run_id == "r-1" and self._others:
            others, self._others = self._others, []
            first = self.host.waiting[:]
            self.host.waiting.clear()
            for each in others:
                self.host.post(run_id=each)
                await self.host.next()
            self.host.waiting[:0] = first
        if run.run_id == "r-1" and self._end:
            end, self._end = self._end, None
            if isinstance(end, KeyboardInterrupt):
                self._wire.killed = True
            raise end

    async def run(self, **options: Any) -> None:
        self.host.registry = registered(self.flow, **options)
        self.host.post()
        await self.host.next()


class TestOnce:
    async def test_a_run_that_meets_another_is_skipped_and_follows_later(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The holder's settlement sends one run more. Its record says why it was skipped."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2")
        await holder.run()

        assert await endings(world) == {"r-1": ["succeeded"], "r-2": ["skipped_overlap"]}
        skipped = await services.runs.record("t", "r-2")
        assert skipped
        assert skipped.error
        assert skipped.error.message == "run r-1 of the same flow and tenant is going on"
        (follow_up,) = holder.host.waiting
        assert follow_up.job.run_id == FOLLOW_UP
        assert follow_up.visible_at - NOW < timedelta(seconds=2)
        await holder.host.all()
        assert holder.runs == ["r-1", FOLLOW_UP]
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_a_skipped_run_stays_skipped_if_its_record_is_read_too_early(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The state knows it, as it knows the runs that ended: a duplicate that reads an old record is dropped."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2")
        await holder.run()
        await world.runs.delete_item("run-r-2", partition_key="t")
        holder.host.waiting.clear()

        holder.host.post(run_id="r-2")
        await holder.host.next()

        assert holder.runs == ["r-1"]

    async def test_one_run_follows_however_many_were_skipped(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The follow-up covers the data of all of them."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2", "r-3", "r-4")
        await holder.run()

        assert len(holder.host.waiting) == 1
        await holder.host.all()
        assert len(holder.runs) == 2
        found = await endings(world)
        assert [found[run] for run in ("r-2", "r-3", "r-4")] == [["skipped_overlap"]] * 3
        assert len(found) == 5

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (OSError("down"), {"r-1": ["failed", "succeeded"]}),
            (GiveUp("closed"), {"r-1": ["gave_up"]}),
            (RetryLater(timedelta(minutes=1)), {"r-1": ["deferred", "succeeded"]}),
            (Continue(), {"r-1": ["continued"], "r-1.2": ["succeeded"]}),
            (KeyboardInterrupt(), {"r-1": ["interrupted", "succeeded"]}),
        ],
        ids=["fails", "gives up", "is deferred", "continues", "is killed"],
    )
    async def test_the_follow_up_is_not_lost_if_the_holder(
        self, world: World, wire: Wire, services: Services, end: BaseException, expected: dict[str, list[str]]
    ) -> None:
        """However the attempt of the holder ends, one more run is sent at the end of the run, or before."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2", end=end)
        await holder.run()
        await holder.host.all()

        assert await endings(world) == {**expected, "r-2": ["skipped_overlap"], FOLLOW_UP: ["succeeded"]}
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_the_follow_up_is_not_lost_if_a_third_run_takes_the_lease_over(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The state keeps the wish until a run ends."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2", end=KeyboardInterrupt())
        await holder.run()
        killed = holder.host.waiting.pop()
        holder.host.clock.time = NOW + timedelta(minutes=5)
        holder.host.post(run_id="r-3")
        await holder.host.all()
        assert await endings(world) == {
            "r-1": ["interrupted"],
            "r-2": ["skipped_overlap"],
            "r-3": ["succeeded"],
            FOLLOW_UP: ["succeeded"],
        }
        holder.host.waiting.append(killed)
        await holder.host.all()
        assert (await endings(world))["r-1"] == ["interrupted", "succeeded"]

    async def test_the_follow_up_is_not_lost_if_the_holder_dies_for_good(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The process dies in each attempt of the holder. Then one more run is sent."""
        await world.put(document("t", entry("flow")))
        skipped: list[RunRecord] = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            if run.run_id != "r-1":
                return
            if not skipped:
                host.post(run_id="r-2")
                await host.next()
                record = await services.runs.record("t", "r-2")
                assert record
                skipped.append(record)
            wire.killed = True
            raise OSError

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all(200)

        found = await endings(world)
        assert (found["r-1"][-1], found["r-2"]) == ("dead", ["skipped_overlap"])
        assert found.get(FOLLOW_UP) == ["succeeded"]


class TestRenamed:
    async def test_a_run_under_the_former_name_is_waited_for(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The version before runs it during the deployment. The next run starts where its window ends."""
        await world.put(document("t", entry("flow")))
        windows: list[Any] = []
        renamed = FlowRegistry()

        async def record_window(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            windows.append(run.window.start)

        async def before(tenant_id: str, kv: SecretClient) -> None:
            host.post(run_id="r-2", flow_name="flow")
            await host.next()

        renamed.flow("renamed", aliases=("flow",))(record_window)
        host = Deliveries(services, wire, renamed)
        await run_job(services, registered(before), message(), NOW)
        await host.all()

        assert await endings(world) == {"r-1": ["succeeded"], "r-2": ["succeeded"]}
        assert windows == [NOW]


class TestSkip:
    async def test_nothing_follows(self, world: World, wire: Wire, services: Services) -> None:
        """The run is recorded as skipped, and no other one is sent."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2")
        await holder.run(overlap="skip")

        assert holder.host.waiting == []
        assert await endings(world) == {"r-1": ["succeeded"], "r-2": ["skipped_overlap"]}
        assert (await services.runs.state("t", ["flow"])).wanted is None


class TestAllow:
    async def test_both_run_without_a_window(self, world: World, wire: Wire, services: Services) -> None:
        """Neither has a window start, and the state keeps no window."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2")
        await holder.run(overlap="allow")
        await holder.run(overlap="allow")

        assert holder.runs == ["r-1", "r-2"]
        assert await endings(world) == {"r-1": ["succeeded"], "r-2": ["succeeded"]}
        assert [window.start for window in holder.windows] == [None, None]
        state = await services.runs.state("t", ["flow"])
        assert (state.window_end_utc, state.last_outcome) == (None, "succeeded")

    async def test_a_cursor_is_refused(self, world: World, wire: Wire, services: Services) -> None:
        """The error names the option."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            run.cursor = 1
            await run.checkpoint()

        host = Deliveries(services, wire, registered(flow, overlap="allow"))
        host.post()
        await host.next()

        assert ["run.cursor is not kept for a flow with overlap=" in str(error) for error in host.errors] == [True]
        assert (await services.runs.state("t", ["flow"])).cursor is None

    async def test_two_messages_of_one_run_do_not_run_at_once(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The run's record has the lease. The other message is dropped; the same message is put back."""
        await world.put(document("t", entry("flow")))
        started, leases = [], []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            started.append(1)
            if len(started) > 1:
                return
            stored = await world.runs.read_item("run-r-1", partition_key="t")
            leases.append((stored["lease"]["message"]["runId"], stored["token"]))
            host.post()
            await host.next()

        host = Deliveries(services, wire, registered(flow, overlap="allow"))
        host.post()
        await host.next()

        assert (started, leases, host.waiting) == ([1], [("r-1", 1)], [])
        stored = dict(await world.runs.read_item("run-r-1", partition_key="t"))
        assert (stored["outcome"], "lease" in stored) == ("succeeded", False)

    async def test_a_message_that_cannot_start_leaves_the_lease_of_another_one(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A person makes the document unusable while the run goes on, and a duplicate of its message comes."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            await world.put(document("t", entry("flow", settings=5)))
            host.post()
            await host.next()
            await world.put(document("t", entry("flow")))
            stored = await world.runs.read_item("run-r-1", partition_key="t")
            assert stored["lease"]["nonce"]

        host = Deliveries(services, wire, registered(flow, overlap="allow"))
        host.post()
        await host.next()

        assert await endings(world) == {"r-1": ["succeeded"]}
        await host.all()
        assert await endings(world) == {"r-1": ["succeeded"]}

    async def test_a_killed_run_is_taken_over(self, world: World, wire: Wire, services: Services) -> None:
        """Its attempt is recorded as interrupted."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, end=KeyboardInterrupt())
        await holder.run(overlap="allow")
        await holder.host.all()

        assert await endings(world) == {"r-1": ["interrupted", "succeeded"]}

    async def test_many_run_at_once(self, world: World, services: Services, wire: Wire) -> None:
        """Each has one record, and the state counts all."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed, overlap="allow"))
        for number in range(8):
            host.post(run_id=f"r-{number}")
        await asyncio.gather(*[host.next() for _ in range(8)])

        assert len(await endings(world)) == 8
