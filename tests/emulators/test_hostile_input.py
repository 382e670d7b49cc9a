"""Unusual cursors, counts, errors, messages and edited documents: a clear error, and nothing is lost."""

import json
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from azure.keyvault.secrets.aio import SecretClient

from datasync import Continue, FlowRegistry, FlowRun, TenantSecretClient
from datasync.clock import Clock
from datasync.errors import FlowFailed, ServiceUnavailable
from datasync.flow.watchdog import Watchdog
from datasync.model.job import JobMessage, QueueMessage
from datasync.run.pipeline import run_message
from datasync.services import Services
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.deliveries import NOW, Deliveries, Waiting, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import deliver, run_job
from tests.world import World

type FlowFunction = Callable[[str, SecretClient, FlowRun], Awaitable[None]]

LARGE = 1_234_567_890_123_456_789


class Id(str):
    """A text of a library, such as that of an HTML parser."""

    __slots__ = ()


def nested(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


def leaving(cursor: Any, effects: list[Any]) -> FlowFunction:
    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        effects.append(run.cursor)
        run.cursor = cursor

    return flow


async def stored(world: World, document_id: str) -> dict[str, Any]:
    return dict(await world.runs.read_item(document_id, partition_key="t"))


class TestCursors:
    @pytest.mark.parametrize("cursor", [Id("page-7"), {None: 1}, {True: 1}], ids=repr)
    async def test_a_cursor_that_cannot_be_stored_is_kept_or_refused(
        self, world: World, wire: Wire, services: Services, cursor: Any
    ) -> None:
        """The attempt ends with a record. The flow is not called again and again as if its process had died."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(leaving(cursor, [])))
        host.post()

        await host.next()

        (record,) = await world.records()
        assert record["outcome"] == "succeeded" or record["error"]["class"] == "CursorInvalid"

    @pytest.mark.parametrize("cursor", [{"since_id": LARGE}, nested(600)], ids=["a large number", "many levels"])
    async def test_a_cursor_is_the_same_in_the_next_run_or_refused(
        self, world: World, wire: Wire, services: Services, cursor: Any
    ) -> None:
        """It is not changed to another number, and does not stop the next run before its flow is called."""
        await world.put(document("t", entry("flow")))
        seen: list[Any] = []
        host = Deliveries(services, wire, registered(leaving(cursor, [])))
        host.post()
        await host.next()
        refused = (await stored(world, "run-r-1"))["outcome"] == "failed"
        host.registry = registered(leaving(None, seen))
        host.post(run_id="r-2")
        await host.next()

        assert refused or seen == [cursor]

    async def test_a_cursor_of_overlapping_runs_is_refused(self, world: World, wire: Wire, services: Services) -> None:
        """It does not vanish: `overlap="allow"` has no cursor, with or without a checkpoint."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(leaving("page-7", []), overlap="allow"))
        host.post()
        await host.next()

        (record,) = await world.records()
        assert record["outcome"] == "failed"
        assert record["error"]["class"] == "CursorInvalid"


class TestContinue:
    async def test_an_end_before_the_window_is_refused(self, world: World, wire: Wire, services: Services) -> None:
        """The end has to be within the run's window."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(succeed), message(run_id="r-0"), NOW)

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            raise Continue(window_end=NOW - timedelta(days=1000))

        host = Deliveries(services, wire, registered(flow, parts=2))
        host.post()
        await host.next()

        assert (await stored(world, "run-r-1"))["outcome"] == "failed"

    async def test_an_end_is_refused_if_the_flow_has_no_window(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """With `overlap="allow"`, nothing keeps the end, and each part would begin at the same place."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            raise Continue(window_end=run.window.end)

        host = Deliveries(services, wire, registered(flow, overlap="allow", parts=2))
        host.post()
        await host.next()

        assert (await stored(world, "run-r-1"))["outcome"] == "failed"


async def test_an_outage_of_four_minutes_at_the_end_of_a_run_repeats_nothing(
    world: World, wire: Wire, services: Services
) -> None:
    """Another run of the flow starts before the end is recorded. The lease is over, but the first run has succeeded."""
    await world.put(document("t", entry("flow")))
    effects: list[str] = []
    back, second = NOW + timedelta(minutes=4), message(id="m-2", run_id="r-2", scheduled_utc=NOW + timedelta(minutes=4))

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        effects.append(run.run_id)

    registry, others = registered(flow), [second]

    def is_write(request: Request) -> bool:
        return request[0] == "POST" and "/docs" in request[1]

    async def other_process() -> None:
        if effects and services.clock.now() >= back and others:
            elsewhere = Services(world.settings, services.clock)
            try:
                await deliver(elsewhere, registry, others.pop(), services.clock.now())
            finally:
                await elsewhere.close()

    wire.refuse_all(lambda request: bool(effects) and services.clock.now() < back and is_write(request))
    wire.before_each(is_write, other_process)
    host = Deliveries(services, wire, registry)
    host.post()

    await host.all()

    assert effects.count("r-1") == 1


async def test_an_error_that_is_its_own_cause_is_a_failure(world: World, wire: Wire, services: Services) -> None:
    """The attempt has failed with that error. Its process has not died."""
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        error = OSError("down")
        raise error from error

    host = Deliveries(services, wire, registered(flow))
    host.post()
    await host.next()

    (record,) = await world.records()
    assert (record["outcome"], record["error"]["class"]) == ("failed", "OSError")


class TestRecords:
    @pytest.mark.parametrize("by", ["run.count", "run.counts"])
    async def test_200_000_counts_fail_in_the_flow(self, world: World, wire: Wire, services: Services, by: str) -> None:
        """The failure is recorded, with 100 counts, and the window has not moved."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            for number in range(200_000):
                if by == "run.count":
                    run.count(**{f"item-{number}": 1})
                else:
                    run.counts[f"item-{number}"] = 1

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()

        record = await stored(world, "run-r-1")
        assert (record["outcome"], len(record["counts"])) == ("failed", 100)
        assert "run.count: more than 100 names" in record["error"]["message"]
        assert (await services.runs.state("t", ["flow"])).window_end_utc is None

    async def test_a_truth_value_is_counted_or_refused(self, world: World, wire: Wire, services: Services) -> None:
        """The record can be read afterwards, and the run is attempted again."""
        await world.put(document("t", entry("flow")))
        attempts: list[int] = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            attempts.append(run.attempt)
            run.count(created=True)
            if len(attempts) == 1:
                raise OSError("down")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()
        await host.next()

        assert attempts == [1, 2]

    async def test_a_posted_message_with_a_run_id_is_recorded_as_posted(self, world: World, services: Services) -> None:
        """The trigger is `message`: nothing was scheduled."""
        await world.put(document("t", entry("flow")))
        body = json.dumps({"tenantId": "t", "flowName": "flow", "runId": "by-hand"}).encode()
        record = await run_job(services, registered(succeed), QueueMessage("m-1", body, 1, NOW), NOW)

        assert record.trigger == "message"


class TestForeignRunIds:
    async def test_a_message_with_the_run_id_of_another_flow_does_not_vanish(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """It runs, or it is kept with the reason. It is not a duplicate."""
        await world.put(document("t", entry("flow"), entry("other")))
        ran: list[str] = []
        registry = FlowRegistry()
        for name in ("flow", "other"):

            async def run_it(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
                ran.append(run.flow_name)

            registry.flow(name)(run_it)
        host = Deliveries(services, wire, registry)
        host.post()
        host.post(flow_name="other")
        await host.all()

        letters = [each async for each in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert ran == ["flow", "other"] or letters

    async def test_a_success_is_not_recorded_as_that_of_another_flow(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The run of the other flow has failed, and is attempted again."""
        await world.put(document("t", entry("flow"), entry("failing")))
        registry = registered(succeed)

        @registry.flow("failing")
        async def failing(tenant_id: str, kv: SecretClient) -> None:
            raise OSError("down")

        host = Deliveries(services, wire, registry)
        host.post(flow_name="failing")
        await host.next()
        host.post(flow_name="flow")
        await host.next()

        record = await stored(world, "run-r-1")
        assert (record["flowName"], record["outcome"]) == ("failing", "failed")

    @pytest.mark.parametrize(
        ("error", "ends"),
        [(None, ["succeeded"]), (OSError("down"), ["failed", "succeeded"])],
        ids=["success", "failure"],
    )
    async def test_a_run_of_another_flow_that_ends_first_has_a_record_of_its_own(
        self, world: World, wire: Wire, services: Services, error: Exception | None, ends: list[str]
    ) -> None:
        """A message names the run id of a run in progress. Both are recorded, and a failed one is attempted again."""
        await world.put(document("t", entry("flow"), entry("other")))
        registry, errors, posted = FlowRegistry(), [error], list[Waiting]()

        @registry.flow("flow")
        async def flow(tenant_id: str, kv: SecretClient) -> None:
            if not posted:
                posted.append(host.post(flow_name="other"))
                await host.next()
            if errors and (error := errors.pop()):
                raise error

        registry.flow("other")(succeed)
        host = Deliveries(services, wire, registry)
        host.post()
        await host.all()

        records = await world.records()
        found = {each["flowName"]: [attempt["outcome"] for attempt in each["attempts"]] for each in records}
        assert found == {"flow": ends, "other": ["succeeded"]}
        assert (await stored(world, "state-flow")).get("lease") is None

    async def test_a_poison_message_with_the_run_id_of_another_flow_is_kept(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The other flow's run goes on."""
        await world.put(document("t", entry("flow"), entry("other")))
        registry = registered(succeed)
        registry.flow("other")(succeed)
        await world.runs.upsert_item(
            {"id": "run-r-1", "tenantId": "t", "type": "Run", "flowName": "flow", "runId": "r-1", "outcome": "failed"}
            | dict.fromkeys(("scheduledUtc", "startedUtc", "finishedUtc"), NOW.isoformat())
        )
        before = await stored(world, "run-r-1")
        host = Deliveries(services, wire, registry)
        host.post(flow_name="other", is_poison=True, rounds=2)
        await host.all()

        letters = [each async for each in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert ["which is a run of 'flow'" in letter["why"] for letter in letters] == [True]
        assert await stored(world, "run-r-1") == before

    async def test_a_run_that_begins_under_the_id_of_another_flow_is_refused(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Its flow allows overlapping runs. The record appears after it was looked for."""
        await world.put(document("t", entry("flow"), entry("other")))
        registry = registered(succeed, overlap="allow")
        registry.flow("other")(succeed)
        wire.after(to("GET", "run-r-1"), lambda: run_job(services, registry, message(id="m-9", flow_name="other"), NOW))
        host = Deliveries(services, wire, registry)
        host.post()
        await host.all()

        letters = [each async for each in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        record = await stored(world, "run-r-1")
        assert (record["flowName"], record["attemptCount"], record.get("lease")) == ("other", 1, None)
        assert ["which is a run of 'other'" in letter["why"] for letter in letters] == [True]

    async def test_a_process_that_stood_still_refuses_the_id_of_another_flow_run(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The other flow's run has failed once meanwhile. Its record keeps only its own attempts."""
        await world.put(document("t", entry("flow"), entry("other")))

        async def fail(tenant_id: str, kv: SecretClient) -> None:
            raise OSError("down")

        registry = registered(succeed)
        registry.flow("other")(fail)
        host = Deliveries(services, wire, registry)

        async def stand_still() -> None:
            with pytest.raises(FlowFailed):
                await run_job(services, registry, message(id="m-9", flow_name="other"), NOW)
            host.clock.time += timedelta(minutes=1)

        wire.after(to("GET", "run-r-1"), stand_still)
        host.post()
        await host.all()

        letters = [each async for each in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        record = await stored(world, "run-r-1")
        assert (record["flowName"], [each["outcome"] for each in record["attempts"]]) == ("other", ["failed"])
        assert ["which is a run of 'other'" in letter["why"] for letter in letters] == [True]
        assert (await stored(world, "state-flow")).get("lease") is None


class TestEdits:
    async def test_a_state_with_the_name_of_another_flow_is_refused(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The flow is not called, because its end could not be recorded."""
        await world.put(document("t", entry("flow")))
        await world.runs.upsert_item({"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "folw"})
        ran: list[Any] = []
        host = Deliveries(services, wire, registered(leaving(None, ran)))
        host.post()
        await host.next()

        assert not ran
        assert "flowName" in (await stored(world, "run-r-1"))["error"]["message"]

    async def test_half_a_lease_does_not_skip_all_later_runs(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A lease that no attempt can hold, and a message without a run id, are not a run that is going on."""
        await world.put(document("t", entry("flow")))
        lease = {"until": 99_999_999_999, "nonce": "x", "message": {"tenantId": "t", "flowName": "flow"}}
        state = {"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "flow", "lease": lease}
        await world.runs.upsert_item(state)
        ran: list[Any] = []
        host = Deliveries(services, wire, registered(leaving(None, ran)))
        for day in range(3):
            host.clock.time = NOW + timedelta(days=day)
            host.post(run_id=f"r-{day}")
            await host.next()

        assert "skipped_overlap" not in [record["outcome"] for record in await world.records()]

    @pytest.mark.parametrize("end", ["2099-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
    async def test_a_window_end_in_the_future_is_reported(
        self, world: World, wire: Wire, services: Services, end: str
    ) -> None:
        """The run fails with this reason. It does not succeed with an empty window until then."""
        await world.put(document("t", entry("flow")))
        state = {"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "flow"}
        await world.runs.upsert_item({**state, "windowEndUtc": end})
        ends: list[datetime] = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            ends.append(run.window.end)

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()

        (record,) = await world.records()
        assert ends == []
        assert f"windowEndUtc {end} lies in the future" in record["error"]["message"]


class TestCooldowns:
    async def test_a_shorter_pause_does_not_open_a_provider(self, services: Services) -> None:
        """A run that was in progress hears of a shorter pause later. The longer one lasts."""
        now = services.clock.now()
        await services.runs.close("t", "p", now + timedelta(hours=1), now)
        await services.runs.close("t", "p", now + timedelta(minutes=2), now)

        until = await services.runs.cooldown("t", "p")
        assert until is not None
        assert until >= now + timedelta(hours=1)

    async def test_a_provider_that_is_closed_for_good_keeps_runs_waiting(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """A person closes it until the last date of the calendar."""
        await world.put(document("t", entry("flow")))
        closed = {"id": "cooldown-p", "tenantId": "t", "type": "Cooldown", "untilUtc": "9999-12-31T23:59:59Z"}
        await world.runs.upsert_item(closed)
        host = Deliveries(services, wire, registered(succeed, provider="p"))
        host.post()
        await host.next()

        assert not host.errors

    async def test_an_api_that_names_the_end_of_its_limit_is_left_alone(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """`X-RateLimit-Reset` of an answer 429 is ten minutes ahead: no further request is sent before."""
        requests: list[datetime] = []

        async def answer(request: web.Request) -> web.Response:
            requests.append(services.clock.now())
            return web.Response(status=429, headers={"X-RateLimit-Reset": "600"})

        api = web.Application()
        api.router.add_get("/", answer)
        await world.put(document("t", entry("flow")))
        async with serving("the API", api) as url:

            async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
                (await run.http.get(url)).raise_for_status()

            host = Deliveries(services, wire, registered(flow, provider="p"))
            host.post()
            await host.next()

        assert len(requests) == 1


async def test_a_refused_secret_is_read_again_after_an_outage_in_between(
    world: World, vault: KeyVault, wire: Wire, services: Services
) -> None:
    """401, then an attempt that a service away ended, then an attempt in another process with an older value."""
    await world.put(document("t", entry("flow")))
    vault.set_secret("tenants--t--api--token", "old-token")
    elsewhere = Services(world.settings, services.clock)
    used: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=401)

    api = web.Application()
    api.router.add_get("/", answer)
    async with serving("the API", api) as url:

        async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
            if run.attempt == 2:
                raise ServiceUnavailable("away", "Key Vault")
            used.append(await kv.secret("api", "token"))
            if run.attempt == 1:
                (await run.http.get(url)).raise_for_status()

        await elsewhere.vault.get("tenants--t--api--token")
        registry = registered(flow)
        first = Deliveries(services, wire, registry)
        first.post()
        await first.next()
        vault.set_secret("tenants--t--api--token", "new-token")
        await first.next()
        (last,) = first.waiting
        body = QueueMessage(last.id, last.body, 1, last.inserted)
        try:
            await deliver(elsewhere, registry, body, last.visible_at)
        finally:
            await elsewhere.close()

    assert used == ["old-token", "new-token"]


async def test_a_block_that_holds_the_interpreter_lock_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A regular expression or a sort stops the watchdog's thread too. Its line has no place, but there is one."""
    services = Services(world.settings)
    services.watchdog = Watchdog(Clock(), threshold=timedelta(seconds=0.25))
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        re.match(r"(a+)+$", "a" * 25 + "b")

    body = JobMessage(tenant_id="t", flow_name="flow").encode().encode()
    try:
        await run_message(services, registered(flow), QueueMessage("m-1", body, 1, services.clock.now()))
    finally:
        await services.close()

    assert [each for each in caplog.records if each.getMessage().startswith("BLOCKED ")]


async def test_bury_logs_a_message_that_waits_for_a_lease(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message that is put back has a line."""
    caplog.set_level(logging.INFO, "datasync")
    await world.put(document("t", entry("flow")))
    held = JobMessage(tenant_id="t", flow_name="flow", run_id="r-0", scheduled_utc=NOW, enqueued_utc=NOW)
    lease = {"until": (NOW + timedelta(minutes=2)).timestamp(), "nonce": "x", "message": json.loads(held.encode())}
    state = {"id": "state-flow", "tenantId": "t", "type": "FlowState", "flowName": "flow", "lease": lease}
    await world.runs.upsert_item(state)
    host = Deliveries(services, wire, registered(succeed))
    host.post(is_poison=True, rounds=2)
    await host.next()

    assert [each for each in caplog.records if each.name == "datasync"]
