"""Runs of one flow and tenant that meet: one at a time, unless the flow allows otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater
from datasync.errors import Continue
from datasync.model.job import Job, JobMessage, Trigger, run_id
from datasync.model.run import RunRecord
from datasync.run.admit import Admitted, admit_by_hand
from datasync.run.pipeline import run_admitted
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
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

    async def run(self, posted: dict[str, Any] | None = None, **options: Any) -> None:
        self.host.registry = registered(self.flow, **options)
        self.host.post(**(posted or {}))
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


class Rules(msgspec.Struct):
    limit: int = 1


async def disable(world: World) -> None:
    await world.put(document("t", entry("flow", enabled=False)))


async def remove(world: World) -> None:
    await world.put(document("t", entry("other")))


async def break_settings(world: World) -> None:
    await world.put(document("t", entry("flow", settings={"limit": "many"})))


async def break_tenant(world: World) -> None:
    await world.put(document("t", entry("flow", settings=5)))


async def delete_tenant(world: World) -> None:
    await world.tenants.delete_item("t", partition_key="t")


class TestHolderThatDoesNotRunAgain:
    """A run is skipped because of another one, whose attempt ends. When the other one comes back, it cannot run."""

    @pytest.mark.parametrize(
        "end",
        [KeyboardInterrupt(), OSError("down"), RetryLater(timedelta(minutes=1))],
        ids=["killed", "failed", "deferred"],
    )
    @pytest.mark.parametrize(
        ("edit", "expected"),
        [
            (disable, "skipped_disabled"),
            (remove, "skipped_disabled"),
            (break_settings, "dead"),
            (break_tenant, "dead"),
            (delete_tenant, "dead"),
        ],
    )
    async def test_its_end_sends_the_follow_up(
        self,
        *,
        world: World,
        wire: Wire,
        services: Services,
        end: BaseException,
        edit: Callable[[World], Awaitable[None]],
        expected: str,
    ) -> None:
        """The follow-up ends for the same reason, and is on record."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2", end=end)
        await holder.run(settings=Rules)
        await edit(world)
        await holder.host.all()

        found = await endings(world)
        assert (found["r-1"][-1], found["r-2"], found[FOLLOW_UP][-1]) == (expected, ["skipped_overlap"], expected)
        assert len(found) == 3
        assert (await services.runs.state("t", ["flow"])).wanted is None

    @pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError("down")], ids=["killed", "failed"])
    async def test_the_follow_up_runs_if_the_schedule_was_changed(
        self, world: World, wire: Wire, services: Services, end: BaseException
    ) -> None:
        """The first run was planned ahead by the former schedule. The forced run is not lost with it."""
        await world.put(document("t", entry("flow")))
        tenant = await services.tenants.get("t")
        holder = Holder(wire, services, "r-2", end=end)
        await holder.run({"rev": tenant.revision_of(tenant.flows[0]), "enqueued_utc": NOW - timedelta(minutes=30)})
        await world.put(document("t", entry("flow", cron="0 0 0 1 * *")))
        await holder.host.all()

        found = await endings(world)
        assert (found["r-1"][-1], found["r-2"]) == ("skipped_rescheduled", ["skipped_overlap"])
        assert found[FOLLOW_UP] == ["succeeded"]
        assert holder.runs == ["r-1", FOLLOW_UP]
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_the_follow_up_of_a_deferred_run_is_not_skipped_because_of_it(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The clock of the process is 15 seconds behind: the time until which the first run is deferred is not over."""
        await world.put(document("t", entry("flow")))
        tenant = await services.tenants.get("t")
        holder = Holder(wire, services, "r-2", end=RetryLater(timedelta(minutes=1)))
        await holder.run({"rev": tenant.revision_of(tenant.flows[0]), "enqueued_utc": NOW - timedelta(minutes=30)})
        await world.put(document("t", entry("flow", cron="0 0 0 1 * *")))
        (deferred,) = holder.host.waiting
        holder.host.waiting[:] = [replace(deferred, visible_at=deferred.visible_at - timedelta(seconds=15))]
        await holder.host.all()

        assert await endings(world) == {
            "r-1": ["deferred", "skipped_rescheduled"],
            "r-2": ["skipped_overlap"],
            FOLLOW_UP: ["succeeded"],
        }
        assert (await services.runs.state("t", ["flow"])).wanted is None

    @pytest.mark.parametrize("number", range(1, 18))
    async def test_the_follow_up_is_not_lost_by_a_kill(
        self, world: World, wire: Wire, services: Services, number: int
    ) -> None:
        """The process of the run that comes back is killed before one of its requests."""
        await world.put(document("t", entry("flow")))
        tenant = await services.tenants.get("t")
        holder = Holder(wire, services, "r-2", end=KeyboardInterrupt())
        await holder.run({"rev": tenant.revision_of(tenant.flows[0]), "enqueued_utc": NOW - timedelta(minutes=30)})
        await world.put(document("t", entry("flow", cron="0 0 0 1 * *")))
        wire.kill_at(number, answered=False)
        await holder.host.all()
        assert holder.host.kills == 2

        assert (await endings(world))[FOLLOW_UP][-1] == "succeeded"
        assert holder.runs == ["r-1", FOLLOW_UP]
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_the_follow_up_is_not_lost_if_the_entry_is_changed_back_after_a_kill(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The process is killed before it sends the follow-up. The run is attempted after all, and fails at first."""
        await world.put(document("t", entry("flow")))
        failures = [OSError("down"), OSError("down")]

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            if run.run_id != "r-1":
                return
            if len(failures) == 2:
                host.post(run_id="r-2")
                await host.next()
            if failures:
                raise failures.pop()

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()
        await disable(world)
        wire.kill_before(to("POST", "/messages"))
        await host.next()
        assert host.kills == 1
        await world.put(document("t", entry("flow")))
        await host.all()

        assert await endings(world) == {
            "r-1": ["failed", "skipped_disabled", "failed", "succeeded"],
            "r-2": ["skipped_overlap"],
            FOLLOW_UP: ["succeeded"],
        }

    async def test_the_follow_up_waits_for_a_run_that_goes_on(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A third run that ends as skipped leaves the follow-up to the run that has the lease."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            if run.run_id == "r-1":
                host.post(run_id="r-2")
                await host.next()
                host.post(run_id="r-3", rev="former", enqueued_utc=NOW - timedelta(minutes=30))
                await host.next()
                assert host.waiting == []

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        assert await endings(world) == {
            "r-1": ["succeeded"],
            "r-2": ["skipped_overlap"],
            "r-3": ["skipped_rescheduled"],
            FOLLOW_UP: ["succeeded"],
        }

    async def test_a_redriven_run_is_dead_again(self, world: World, wire: Wire, services: Services) -> None:
        """It was killed in its new attempt, and its flow is then disabled. The follow-up is sent all the same."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, end=GiveUp("closed"))
        await holder.run()
        holder = Holder(wire, services, "r-2", end=KeyboardInterrupt())
        await holder.run({"redrive": 1})
        await disable(world)
        await holder.host.all()

        found = await endings(world)
        assert found == {
            "r-1": ["gave_up", "interrupted", "dead"],
            "r-2": ["skipped_overlap"],
            FOLLOW_UP: ["skipped_disabled"],
        }
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_the_follow_up_is_not_lost_if_the_dead_holder_is_attempted_again(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Its process was killed before it sent the follow-up, and its message has not come back yet."""
        await world.put(document("t", entry("flow")))
        holder = Holder(wire, services, "r-2", end=GiveUp("closed"))
        await holder.run()
        holder.host.waiting.clear()
        holder.host.registry = registered(succeed)
        holder.host.post(redrive=1)
        await holder.host.all()

        assert await endings(world) == {
            "r-1": ["gave_up", "succeeded"],
            "r-2": ["skipped_overlap"],
            FOLLOW_UP: ["succeeded"],
        }


class TestHolderThatNobodySendsAgain:
    """No end of the run that has the lease may ever come, so a run that meets it waits for the end of the lease."""

    async def test_a_run_that_meets_a_run_by_hand_runs_after_it(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The run by hand succeeds."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        by_hand = await begin_by_hand(services, host.registry)
        host.post(run_id="r-2")
        await host.next()
        await run_admitted(services, by_hand, NOW)
        await host.all()

        assert await endings(world) == {"r-hand": ["succeeded"], "r-2": ["succeeded"]}
        assert (await services.runs.state("t", ["flow"])).wanted is None

    @pytest.mark.parametrize("trigger", [Trigger.SCHEDULE, Trigger.FORCED, Trigger.MESSAGE])
    async def test_a_run_that_meets_a_killed_run_by_hand_is_not_lost(
        self, world: World, wire: Wire, services: Services, trigger: Trigger
    ) -> None:
        """It takes the lease over, and records that the run by hand is over."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        await begin_by_hand(services, host.registry)
        host.post(run_id="r-2", trigger=trigger)
        await host.all()

        assert await endings(world) == {"r-hand": ["interrupted"], "r-2": ["succeeded"]}

    async def test_of_many_runs_of_the_schedule_one_waits(self, world: World, wire: Wire, services: Services) -> None:
        """The others are skipped, and its end sends one more."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        await begin_by_hand(services, host.registry)
        for each in ("r-2", "r-3", "r-4"):
            host.post(run_id=each)
        for _ in range(3):
            await host.next()
        assert [job.run_id for job in host.jobs] == ["r-2"]
        await host.all()

        assert await endings(world) == {
            "r-hand": ["interrupted"],
            "r-2": ["succeeded"],
            "r-3": ["skipped_overlap"],
            "r-4": ["skipped_overlap"],
            run_id("once more", "r-4"): ["succeeded"],
        }

    async def test_the_follow_up_is_not_lost_if_the_waiting_run_is_skipped(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The flow is disabled meanwhile."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        await begin_by_hand(services, host.registry)
        for each in ("r-2", "r-3"):
            host.post(run_id=each)
            await host.next()
        await disable(world)
        await host.all()

        assert await endings(world) == {
            "r-2": ["skipped_disabled"],
            "r-3": ["skipped_overlap"],
            run_id("once more", "r-3"): ["skipped_disabled"],
        }
        assert (await services.runs.state("t", ["flow"])).wanted is None

    async def test_nothing_waits_if_nothing_follows(self, world: World, wire: Wire, services: Services) -> None:
        """A flow with `skip` leaves the run out."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed, overlap="skip"))
        await begin_by_hand(services, host.registry)
        host.post(run_id="r-2")
        await host.all()

        assert await endings(world) == {"r-2": ["skipped_overlap"]}

    async def test_a_lease_that_a_duplicate_has_left_behind_ends(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The duplicate has read an old record, and its process is killed before it gives the lease back.

        When its message comes back, it is dropped, since its run has ended long ago.
        """
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        host.post()
        await host.next()
        record = dict(await world.runs.read_item("run-r-1", partition_key="t"))
        await world.runs.delete_item("run-r-1", partition_key="t")
        wire.kill_before(releases)
        host.post()
        await host.next()
        assert host.kills == 1
        await world.runs.upsert_item(record)
        host.post(run_id="r-2")
        await host.all()

        assert await endings(world) == {"r-1": ["succeeded", "interrupted"], "r-2": ["succeeded"]}
        assert (await services.runs.state("t", ["flow"])).wanted is None


def releases(request: Request) -> bool:
    return to("PATCH", "/docs/state-flow", "null")(request)


async def begin_by_hand(services: Services, registry: FlowRegistry) -> Admitted:
    """Take the lease for a run by hand, whose process then does nothing more."""
    wire = JobMessage(tenant_id="t", flow_name="flow", scheduled_utc=NOW, run_id="r-hand")
    job = Job.of(msgspec.structs.replace(wire, trigger=Trigger.HAND, enqueued_utc=NOW, message_id="r-hand"))
    return await admit_by_hand(services, registry.resolve("flow"), job, {})


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
