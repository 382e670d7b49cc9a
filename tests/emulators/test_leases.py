"""Leases with real services: one attempt at a time runs a flow of a tenant, also after a crash or a freeze."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from azure.core.exceptions import ServiceRequestError
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRun
from datasync.errors import FlowFailed, LeaseLost, StateInvalid, TenantInvalid
from datasync.services import Services
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Killed, Request, Wire, to
from tests.stages import FakeClock, deliver, registry_of, run_job
from tests.waiting import wait_until
from tests.world import World

LEASE = timedelta(minutes=3)
MARGIN = timedelta(seconds=15)
ENDING = timedelta(seconds=20)
"""The longest time from the cancellation of a flow until it and its tasks have ended."""
OVER = NOW + LEASE + MARGIN + timedelta(seconds=1)


@pytest_asyncio.fixture
async def other(world: World, vault: KeyVault, wire: Wire) -> AsyncGenerator[Services]:
    """Return the services of another process, with a clock of its own."""
    services = Services(world.settings, FakeClock())
    yield services
    await services.close()


async def stored_state(world: World) -> dict[str, Any]:
    return dict(await world.runs.read_item("state-flow", partition_key="t"))


async def edit_state(world: World, **fields: Any) -> None:
    """Edit the state as a person does in the portal, or write it where there is none."""
    found = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.id = 'state-flow'")]
    before = found[0] if found else {"id": "state-flow", "tenantId": "t", "flowName": "flow", "type": "FlowState"}
    await world.runs.upsert_item({**before, **fields})


def clock_of(services: Services) -> FakeClock:
    assert isinstance(services.clock, FakeClock)
    return services.clock


def outcomes(record: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in record["attempts"]]


async def kill(services: Services, wire: Wire, *, overlap: Literal["once", "allow"] = "once", **fields: Any) -> None:
    """Kill the worker while the flow runs."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        wire.killed = True

    with pytest.raises(Killed):
        await run_job(services, registered(flow, overlap=overlap), message(**fields), services.clock.now())
    wire.heal()


class Rules(msgspec.Struct):
    limit: int = 1


async def break_it(world: World, what: str) -> None:
    """Make a run of `t/flow` impossible: its settings, its tenant, or its tenant's document. Leave a flow as it is."""
    if what == "settings":
        await world.put(document("t", entry("flow", settings={"limit": "x"})))
    if what == "tenant":
        await world.tenants.delete_item("t", partition_key="t")
    if what == "document":
        await world.put(document("t", entry("flow", cron=5)))


def first_of(wanted: Callable[[Request], bool]) -> Callable[[Request], bool]:
    """Return a predicate for the first such request."""
    seen: list[Request] = []

    def is_first(request: Request) -> bool:
        if wanted(request):
            seen.append(request)
        return seen == [request]

    return is_first


class TestTaking:
    async def test_a_run_has_the_lease_until_it_is_recorded(self, world: World, services: Services) -> None:
        """The state names the message and the end of the lease. The record keeps the token and the id of the lease."""
        await world.put(document("t", entry("flow")))
        states = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            states.append(await stored_state(world))

        for run in ("r-1", "r-2"):
            await run_job(services, registered(flow), message(run_id=run), NOW)

        leases = [state["lease"] for state in states]
        assert [lease["until"] for lease in leases] == [(NOW + LEASE).timestamp()] * 2
        assert [lease["message"]["runId"] for lease in leases] == ["r-1", "r-2"]
        assert [state["token"] for state in states] == [1, 2]
        attempts = [record["attempts"][0] for record in await world.records()]
        assert [(each["token"], each["id"]) for each in attempts] == [
            (1, leases[0]["nonce"]),
            (2, leases[1]["nonce"]),
        ]
        assert "lease" not in await stored_state(world)

    async def test_a_lease_is_renewed_while_the_flow_runs(
        self, world: World, services: Services, other: Services
    ) -> None:
        """A run that takes longer than a lease keeps it. Another run is skipped."""
        await world.put(document("t", entry("flow")))
        clock, skipped = clock_of(services), []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            for _ in range(5):
                clock.time += timedelta(minutes=1, seconds=1)
                wanted = (clock.now() + LEASE).timestamp()

                async def is_renewed(wanted: float = wanted) -> bool:
                    return bool((await stored_state(world))["lease"]["until"] == wanted)

                await wait_until(is_renewed, description="the lease is renewed")
            run = await run_job(other, registered(succeed), message(id="m-2", run_id="r-2"), clock.now())
            skipped.append(run.outcome)

        run = await run_job(services, registered(flow), message(), NOW)

        assert (skipped, run.outcome) == (["skipped_overlap"], "succeeded")

    @pytest.mark.parametrize("stored", [False, True], ids=["the first lease of a flow", "a later lease"])
    async def test_a_lost_answer_is_recognized(
        self, world: World, wire: Wire, services: Services, *, stored: bool
    ) -> None:
        """The run goes on at once, under the lease that it has."""
        await world.put(document("t", entry("flow")))
        if stored:
            await run_job(services, registered(succeed), message(run_id="r-0"), NOW)
        wire.lose_answer(to("PATCH", "state-flow") if stored else to("POST", "/docs", "nonce"))

        run = await run_job(services, registered(succeed), message(), NOW)

        assert [attempt.outcome for attempt in run.attempts] == ["succeeded"]
        assert not wire.stop_losing()

    async def test_a_lost_answer_of_a_takeover_is_recognized(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The killed attempt is recorded once, and the run goes on at once."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)
        wire.lose_answer(to("POST", "/docs", "interrupted"))

        run = await run_job(services, registered(succeed), message(2), OVER)

        assert [attempt.outcome for attempt in run.attempts] == ["interrupted", "succeeded"]
        assert not wire.stop_losing()


class TestMeeting:
    async def test_the_same_message_is_put_back_until_the_lease_ends(
        self, world: World, wire: Wire, services: Services, other: Services
    ) -> None:
        """The copy stands for the message, and no attempt is counted."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(other, wire, registered(succeed))
        puts = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            assert await deliver(other, host.registry, message(2), NOW) is None
            puts.extend(host.waiting)

        run = await run_job(services, registered(flow), message(), NOW)

        (put,) = puts
        assert (put.job.message_id, put.job.run_id) == ("m-1", "r-1")
        assert put.visible_at == OVER
        assert [attempt.outcome for attempt in run.attempts] == ["succeeded"]
        await host.all()
        assert [outcomes(record) for record in await world.records()] == [["succeeded"]]

    @pytest.mark.parametrize("why", ["settings", "tenant", "document", "flow"])
    async def test_the_same_message_is_put_back_if_the_run_could_not_start_now(
        self, world: World, wire: Wire, services: Services, other: Services, why: str
    ) -> None:
        """The run goes on with the tenant and the settings that it was started with."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(other, wire, registered(succeed, settings=Rules))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            await break_it(world, why)
            registry = registry_of("another") if why == "flow" else host.registry
            assert await deliver(other, registry, message(2), NOW) is None
            assert [put.visible_at for put in host.waiting] == [OVER]
            assert await world.records() == []

        run = await run_job(services, registered(flow, settings=Rules), message(), NOW)

        assert [attempt.outcome for attempt in run.attempts] == ["succeeded"]
        await host.all()
        assert [outcomes(record) for record in await world.records()] == [["succeeded"]]

    async def test_another_message_of_the_run_is_dropped(
        self, world: World, wire: Wire, services: Services, other: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The message of the run that goes on still exists."""
        caplog.set_level("INFO")
        await world.put(document("t", entry("flow")))
        host = Deliveries(other, wire, registered(succeed))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            assert await deliver(other, host.registry, message(id="m-2"), NOW) is None

        await run_job(services, registered(flow), message(), NOW)

        assert host.waiting == []
        assert "DUPLICATE t/flow dropped: another message of the same run is being run" in caplog.text
        assert [outcomes(record) for record in await world.records()] == [["succeeded"]]

    @pytest.mark.parametrize("overlap", ["once", "skip", "allow"])
    async def test_many_deliveries_at_once(self, world: World, wire: Wire, services: Services, overlap: str) -> None:
        """Executions of one flow and tenant do not overlap, and each run has one record with its end."""
        await world.put(document("t", entry("flow")))
        running: list[str] = []
        met: list[list[str]] = []
        executions: list[str] = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            running.append(run.run_id)
            met.append([*running])
            for _ in range(10):
                await asyncio.sleep(0)
            running.remove(run.run_id)
            executions.append(run.run_id)

        host = Deliveries(services, wire, registered(flow, overlap=overlap))
        for number in range(12):
            for _ in range(2):
                host.post(run_id=f"r-{number % 4}")
        await asyncio.gather(*[host.next() for _ in range(24)])
        await host.all()

        most = {"once": 1, "skip": 1, "allow": 4}[overlap]
        assert max(len(each) for each in met) <= most
        assert all(len(set(each)) == len(each) for each in met)
        assert len(executions) == len(set(executions)), "each run is executed once"
        records = await world.records()
        assert {record["outcome"] for record in records} <= {"succeeded", "skipped_overlap"}
        assert {f"r-{number}" for number in range(4)} <= {record["runId"] for record in records}

    @pytest.mark.parametrize("newer", [{"deferral": 1}, {"redrive": 1}, {"rounds": 1}], ids=str)
    async def test_a_newer_message_of_the_run_is_put_back(
        self, world: World, wire: Wire, services: Services, other: Services, newer: dict[str, int]
    ) -> None:
        """It goes on with the run, so it is not a duplicate of the message that has the lease."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(other, wire, registered(succeed))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            assert await deliver(other, host.registry, message(id="m-2", **newer), NOW) is None

        await run_job(services, registered(flow), message(), NOW)

        assert [(job.message_id, job.run_id) for job in host.jobs] == [("m-2", "r-1")]

    @pytest.mark.parametrize(("late", "taken"), [(timedelta(), False), (timedelta(seconds=1), True)], ids=str)
    async def test_a_lease_is_taken_over_after_a_margin_for_the_clocks(
        self, world: World, wire: Wire, services: Services, late: timedelta, *, taken: bool
    ) -> None:
        """The lease counts until 15 seconds after its end, since the clock of its holder may be late."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)

        run = await deliver(services, registered(succeed), message(2), NOW + LEASE + MARGIN + late)

        assert (run is not None) == taken

    @pytest.mark.parametrize("ahead", [timedelta(), MARGIN], ids=str)
    async def test_a_lease_that_is_renewed_while_another_process_stands_still_is_not_taken_over(
        self, world: World, wire: Wire, services: Services, other: Services, ahead: timedelta
    ) -> None:
        """That process asked for the lease before it stood still, so the end lies further ahead than it expects."""
        await world.put(document("t", entry("flow")))
        clock, executions = clock_of(services), list[str]()

        async def stand_still() -> None:
            clock_of(other).time += timedelta(minutes=1)
            clock.time += timedelta(minutes=1)
            wanted = (clock.now() + LEASE).timestamp()

            async def is_renewed() -> bool:
                return bool((await stored_state(world))["lease"]["until"] == wanted)

            await wait_until(is_renewed, description="the lease is renewed")

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            executions.append(run.run_id)
            if run.run_id == "r-1":
                wire.before_each(first_of(to("PATCH", "state-flow", "/token")), stand_still)
                await deliver(other, registered(flow), message(id="m-2", run_id="r-2"), NOW)

        await run_job(services, registered(flow), message(), NOW + ahead)

        assert executions == ["r-1"]
        assert [outcomes(record) for record in await world.records()] == [["succeeded"], ["skipped_overlap"]]


class TestTakingOver:
    async def test_a_killed_attempt_is_recorded_when_its_message_comes_back(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """It is recorded as interrupted, with its token, and the run is attempted again."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)
        lost = (await stored_state(world))["lease"]

        run = await run_job(services, registered(succeed), message(2), OVER)

        first, second = run.attempts
        assert (first.id, first.token, first.outcome) == (lost["nonce"], 1, "interrupted")
        assert (first.started_utc, first.finished_utc) == (NOW, OVER)
        assert first.error
        assert "the process died" in first.error.message
        assert (second.token, second.outcome) == (2, "succeeded")
        assert (run.failures, run.interruptions) == (0, 0), "counted in a row"

    @pytest.mark.parametrize("why", ["settings", "tenant", "document", "flow"])
    async def test_a_killed_attempt_is_recorded_if_the_run_cannot_start_again(
        self, world: World, wire: Wire, services: Services, why: str
    ) -> None:
        """The killed attempt comes first, then the failure, unless the job waits for its flow."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)
        await break_it(world, why)

        registry = registry_of("another") if why == "flow" else registered(succeed, settings=Rules)
        with suppress(TenantInvalid, FlowFailed):
            await deliver(services, registry, message(2), OVER)

        (record,) = await world.records()
        found = {"settings": ["dead"], "tenant": ["dead"], "document": ["failed"], "flow": []}[why]
        assert outcomes(record) == ["interrupted", *found]

    @pytest.mark.parametrize("why", ["settings", "tenant", "document", "flow"])
    async def test_an_outage_after_a_killed_attempt_was_recorded(
        self, world: World, wire: Wire, services: Services, why: str
    ) -> None:
        """The lease that recorded it cannot be released. The copy of the message replaces it, and does not wait."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)
        await break_it(world, why)
        registry = registry_of("another") if why == "flow" else registered(succeed, settings=Rules)
        host = Deliveries(services, wire, registry)
        host.post(deliveries=1, message_id="m-1")
        host.clock.time = OVER
        wire.refuse_all(to("PATCH", "state-flow", '"FROM c WHERE c.lease.nonce'))
        await host.next()
        wire.heal()

        (waiting,) = host.waiting
        assert waiting.visible_at <= OVER + timedelta(seconds=15)
        await host.next()

        (record,) = await world.records()
        found = {"settings": ["dead"], "tenant": ["dead"], "document": ["failed"], "flow": []}[why]
        assert outcomes(record) == ["interrupted", *found]
        assert not (await stored_state(world)).get("lease")

    async def test_another_run_takes_the_lease_over(self, world: World, wire: Wire, services: Services) -> None:
        """The killed attempt is recorded in its own run, which is attempted again when its message comes back."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)

        await run_job(services, registered(succeed), message(id="m-2", run_id="r-2"), OVER)
        between = {record["runId"]: outcomes(record) for record in await world.records()}
        await run_job(services, registered(succeed), message(2), OVER)

        assert between == {"r-1": ["interrupted"], "r-2": ["succeeded"]}
        after = {record["runId"]: outcomes(record) for record in await world.records()}
        assert after == {"r-1": ["interrupted", "succeeded"], "r-2": ["succeeded"]}

    @pytest.mark.parametrize("overlap", ["once", "allow"])
    async def test_a_start_without_an_offset_is_in_utc(
        self, world: World, wire: Wire, services: Services, overlap: Literal["once", "allow"]
    ) -> None:
        """Somebody has edited the lease of the killed attempt. The attempt that takes it over is not at fault."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire, overlap=overlap)
        held = "state-flow" if overlap == "once" else "run-r-1"
        edit = {"op": "set", "path": "/lease/startedUtc", "value": "2025-08-23T11:00:00"}
        await world.runs.patch_item(held, partition_key="t", patch_operations=[edit])

        run = await run_job(services, registered(succeed, overlap=overlap), message(2), OVER)

        first, second = run.attempts
        assert (first.outcome, first.started_utc) == ("interrupted", datetime(2025, 8, 23, 11, tzinfo=UTC))
        assert second.outcome == "succeeded"

    async def test_a_takeover_does_not_change_the_end_of_a_run(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A run may end without its lease: its entry was disabled after its worker was killed."""
        await world.put(document("t", entry("flow")))
        await kill(services, wire)
        await world.put(document("t", entry("flow", enabled=False)))
        await run_job(services, registered(succeed), message(2), OVER)
        await world.put(document("t", entry("flow")))

        await run_job(services, registered(succeed), message(id="m-2", run_id="r-2"), OVER)

        ended = next(record for record in await world.records() if record["runId"] == "r-1")
        assert (ended["outcome"], sorted(outcomes(ended))) == ("skipped_disabled", ["interrupted", "skipped_disabled"])

    async def test_the_lease_of_an_attempt_that_was_recorded_is_replaced(
        self, world: World, services: Services
    ) -> None:
        """A task that ignores its cancellation keeps the lease after the run has ended, until the process is gone."""
        await world.put(document("t", entry("flow")))
        leases = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            leases.append((await stored_state(world))["lease"])

        await run_job(services, registered(flow), message(), NOW)
        await edit_state(world, lease=leases[0])

        await run_job(services, registered(succeed), message(id="m-2", run_id="r-2"), OVER)

        assert [outcomes(record) for record in await world.records()] == [["succeeded"], ["succeeded"]]


class TestLosing:
    async def test_a_renewal_that_finds_another_lease_cancels_the_flow(
        self, world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The attempt writes nothing more, and the host delivers the message again."""
        await world.put(document("t", entry("flow")))
        cancelled = asyncio.Event()

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            state = await stored_state(world)
            await edit_state(world, lease={**state["lease"], "nonce": "another"}, token=2)
            clock_of(services).time += timedelta(minutes=1)
            try:
                await asyncio.Event().wait()
            finally:
                wire.requests.clear()
                cancelled.set()

        with pytest.raises(LeaseLost):
            await run_job(services, registered(flow), message(), NOW)

        assert cancelled.is_set()
        assert not [request for request in wire.requests if request[0] in ("PUT", "PATCH", "POST")]
        assert await world.records() == []
        assert "SUPERSEDED t/flow: the lease of t/flow is over" in caplog.text

    @pytest.mark.parametrize(
        "answers",
        [{60: "refused", 155: "refused"}, {60: "none"}, {60: "refused", 155: "none"}],
        ids=["only refusals", "no answer", "refusals, then no answer"],
    )
    async def test_an_attempt_without_renewals_gives_up_so_early_that_it_has_ended_before_another_one_begins(
        self, world: World, wire: Wire, services: Services, other: Services, answers: dict[int, str]
    ) -> None:
        """It tries for 100 s. The flow is cancelled 20 s before the end of the lease, and can do nothing more.

        It has 10 s to end, and then its tasks have 10 s. The clock of another process may be 15 s ahead.
        """
        await world.put(document("t", entry("flow")))
        clock, present, tried, cancelled = clock_of(services), [""], list[str](), list[datetime]()

        async def answer() -> None:
            tried.append(present[0])
            if present == ["none"]:
                await asyncio.Event().wait()
            raise ServiceRequestError("connection refused")

        wire.before_each(to("PATCH", "state-flow", "/lease/until"), answer)

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            for second, present[0] in answers.items():
                tried.clear()
                clock.time = NOW + timedelta(seconds=second)
                await wait_until(lambda: present[0] in tried, description="a renewal is tried")
            clock.time = NOW + LEASE - ENDING
            try:
                await wait_until(lambda: False, description="the flow is cancelled", seconds=5)
            except asyncio.CancelledError:
                cancelled.append(clock.now())
                with pytest.raises(LeaseLost):
                    await run.checkpoint()
                raise

        with pytest.raises(LeaseLost):
            await run_job(services, registered(flow), message(), NOW)

        assert cancelled == [NOW + LEASE - ENDING]
        again = await run_job(other, registered(succeed), message(2), OVER)
        assert [attempt.outcome for attempt in again.attempts] == ["interrupted", "succeeded"]

    @pytest.mark.parametrize("woken", [LEASE - timedelta(seconds=21), LEASE, timedelta(hours=1)], ids=str)
    @pytest.mark.parametrize(("answered", "outcome"), [(9, "succeeded"), (10, None)], ids=["in time", "too late"])
    async def test_a_process_that_stood_still_has_10_seconds_to_renew_its_lease(
        self, world: World, wire: Wire, services: Services, *, woken: timedelta, answered: int, outcome: str | None
    ) -> None:
        """It had no time to try while it stood still. The flow goes on if nobody has taken the lease.

        The first try meets a connection that was closed meanwhile.
        """
        await world.put(document("t", entry("flow")))
        clock, tries = clock_of(services), list[datetime]()

        async def answer() -> None:
            tries.append(clock.time)
            if len(tries) == 1:
                clock.time = max(clock.time, NOW + woken) + timedelta(seconds=5)
                raise ServiceRequestError("connection reset")
            clock.time = max(clock.time, NOW + woken + timedelta(seconds=answered))
            if outcome is None:
                await asyncio.Event().wait()

        wire.before_each(to("PATCH", "state-flow", "/lease/until"), answer)

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            clock.time = NOW + woken
            until = (NOW + woken + LEASE).timestamp()

            async def is_renewed() -> bool:
                return bool((await stored_state(world))["lease"]["until"] == until)

            await wait_until(is_renewed, description="the lease is renewed")

        with pytest.raises(LeaseLost) if outcome is None else nullcontext():
            assert (await run_job(services, registered(flow), message(), NOW)).outcome == outcome

    @pytest.mark.parametrize("action", ["checkpoint", "post", "end", "fail", "get"])
    async def test_a_run_that_was_frozen_notices_first_that_its_lease_was_taken_over(
        self, world: World, services: Services, other: Services, action: str
    ) -> None:
        """It keeps nothing, sends no request that changes data, and records nothing. Its message is delivered again."""
        await world.put(document("t", entry("flow")))
        received: list[str] = []

        async def answer(request: web.Request) -> web.Response:
            received.append(request.method)
            return web.Response()

        application = web.Application()
        application.router.add_route("*", "/", answer)

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            await run_job(other, registered(succeed), message(id="m-2", run_id="r-2"), OVER)
            clock_of(services).time = OVER  # the first instant that this process sees after the freeze
            run.cursor = "mine"
            if action == "checkpoint":
                await run.checkpoint()
            elif action == "post":
                await run.http.post(url)
            elif action == "get":
                await run.http.get(url)
            elif action == "fail":
                raise OSError("down")

        async with serving("the test server", application) as url:
            with pytest.raises(LeaseLost):
                await run_job(services, registered(flow), message(), NOW)

        assert received in ([], ["GET"])
        assert "cursor" not in await stored_state(world)
        records = {record["runId"]: record for record in await world.records()}
        assert {run: outcomes(record) for run, record in records.items()} == {
            "r-1": ["interrupted"],
            "r-2": ["succeeded"],
        }
        again = await run_job(services, registered(succeed), message(2), OVER)
        assert [attempt.outcome for attempt in again.attempts] == ["interrupted", "succeeded"]

    @pytest.mark.parametrize("woken", [NOW + LEASE - ENDING, OVER + timedelta(minutes=30)], ids=["nearly over", "over"])
    async def test_a_run_that_was_frozen_goes_on_if_nobody_has_taken_its_lease(
        self, world: World, services: Services, woken: datetime
    ) -> None:
        """Its lease is renewed before the next checkpoint."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            clock_of(services).time = woken
            run.cursor = "mine"
            await run.checkpoint()
            state = await stored_state(world)
            assert state["lease"]["until"] == (woken + LEASE).timestamp()

        run = await run_job(services, registered(flow), message(), NOW)

        assert run.outcome == "succeeded"
        assert (await stored_state(world))["cursor"] == "mine"

    async def test_a_state_that_was_deleted_has_no_lease(self, world: World, services: Services) -> None:
        """The attempt is over, and its message is delivered again."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            await world.runs.delete_item("state-flow", partition_key="t")

        with pytest.raises(LeaseLost):
            await run_job(services, registered(flow), message(), NOW)

        assert (await run_job(services, registered(succeed), message(2), NOW)).outcome == "succeeded"


class TestEdited:
    """Somebody has edited the state by hand."""

    @pytest.mark.parametrize(
        "lease",
        [
            None,
            {},
            "mine",
            5,
            [],
            {"nonce": "n"},
            {"until": "soon"},
            {"until": None, "nonce": 5},
            {"until": 0},
            {"until": 1, "nonce": "n", "message": {"tenantId": "t", "flowName": "flow"}},
            {"until": 1, "nonce": "n", "startedUtc": "2025-08-23T11:00:00Z"},
        ],
        ids=repr,
    )
    async def test_a_lease_without_an_end_or_with_a_past_one_is_replaced(
        self, world: World, services: Services, lease: object
    ) -> None:
        """The flow runs."""
        await world.put(document("t", entry("flow")))
        await edit_state(world, lease=lease, windowEndUtc="2025-08-01T00:00:00Z")

        run = await run_job(services, registered(succeed), message(), NOW)

        assert run.outcome == "succeeded"
        assert run.window
        assert run.window.start == datetime(2025, 8, 1, tzinfo=UTC)

    @pytest.mark.parametrize("until", [4e9, 1e15, 1e300], ids=repr)
    async def test_a_lease_longer_than_any_lease_does_not_count(
        self, world: World, services: Services, until: float
    ) -> None:
        """It was edited by hand, and the run takes it over."""
        await world.put(document("t", entry("flow")))
        await edit_state(world, lease={"until": until, "nonce": "n"})

        assert (await run_job(services, registered(succeed), message(), NOW)).outcome == "succeeded"

    async def test_a_lease_without_a_message_holds_the_run_up(
        self, world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The message is put back until the lease ends or somebody corrects it."""
        await world.put(document("t", entry("flow")))
        await edit_state(world, lease={"until": NOW.timestamp() + 60, "nonce": "n"})
        host = Deliveries(services, wire, registered(succeed))
        host.post()

        await host.next()

        assert "the lease of the flow was edited by hand, and is not over" in caplog.text
        assert [each.visible_at - NOW <= OVER - NOW for each in host.waiting] == [True]
        await edit_state(world, lease=None)
        await host.all()
        assert [outcomes(record) for record in await world.records()] == [["succeeded"]]

    async def test_a_missing_token_starts_again(self, world: World, services: Services) -> None:
        """The flow runs."""
        await world.put(document("t", entry("flow")))
        await edit_state(world, cursor="kept")

        run = await run_job(services, registered(succeed), message(), NOW)

        assert (run.outcome, run.attempts[0].token) == ("succeeded", 1)

    @pytest.mark.parametrize(
        ("edit", "problem"),
        [
            ({"token": "many"}, "token: expected a whole number"),
            ({"lease": {"until": 1, "nonce": 5}}, "lease.nonce: expected a text"),
            ({"lease": {"until": 1, "message": "r-1"}}, "lease.message"),
            ({"cursor": "x" * 900_000}, "cursor: expected at most 65,536 bytes of JSON, got 900,002"),
            ({"wanted": "yes"}, "wanted: expected a job message, or null"),
            ({"ended": "r-1"}, "ended: expected a list of texts"),
        ],
        ids=lambda value: str(value)[:40],
    )
    async def test_a_field_that_cannot_be_read_is_named(
        self, world: World, wire: Wire, services: Services, edit: dict[str, Any], problem: str
    ) -> None:
        """The attempts fail with an error that names the document and the field. The edit is kept until it is correct.

        The run succeeds after the correction.
        """
        await world.put(document("t", entry("flow")))
        await edit_state(world, **edit, note="of a person")
        host = Deliveries(services, wire, registered(succeed))
        host.post()
        for _ in range(3):
            await host.next()

        messages = {str(error) for error in host.errors if isinstance(error, StateInvalid)}
        assert [text for text in messages if f"flow state id='state-flow' of tenant 't': {problem}" in text]
        (field,) = edit
        stored = await stored_state(world)
        assert (stored[field] == edit[field], stored["note"]) == (True, "of a person")

        await edit_state(world, **{field: None if field in ("lease", "wanted", "cursor") else 7 * (field == "token")})
        if field == "ended":
            await edit_state(world, ended=[])
        await host.all()
        (record,) = await world.records()
        assert record["outcome"] == "succeeded"
        assert (await stored_state(world))["note"] == "of a person"
