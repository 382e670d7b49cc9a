"""Outages and crashes with real services: no attempt is counted, and runs that are not to blame succeed."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, RetryLater, TenantSecretClient
from datasync.errors import ServiceUnavailable
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire, to
from tests.stages import deliver, run_job
from tests.world import World

SENT = to("POST", "/messages")
TRIES = 4
"""How often the vault's client asks a vault that is busy."""


def cosmos(request: Request) -> bool:
    return "/dbs/" in request[1]


class TestCosmosDB:
    async def test_jobs_wait_with_a_growing_delay(
        self, world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is recorded, nothing reaches the poison queue, and the run succeeds after the outage."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        host.post()
        wire.refuse_all(cosmos)
        delays = []
        for _ in range(8):
            await host.next()
            (waiting,) = host.waiting
            delays.append((waiting.visible_at - host.clock.now()).total_seconds())
            assert (waiting.is_poison, waiting.job.message_id, waiting.job.run_id) == (False, "m-1", "r-1")
        wire.heal()
        await host.all()

        assert delays == [15, 30, 60, 120, 240, 480, 900, 900]
        (record,) = await world.records()
        assert ([attempt["outcome"] for attempt in record["attempts"]], host.errors) == (["succeeded"], [])
        assert "UNAVAILABLE t/flow waits for 15s" in caplog.text
        assert "Cosmos DB could not be reached" in caplog.text

    async def test_the_first_delay_of_another_outage_is_short_again(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Between the two, the job waits for another reason: its flow is not published yet."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, FlowRegistry())
        host.post()
        delays = []
        for is_away in (True, True, False, True, True):
            if is_away:
                wire.refuse_all(cosmos)
            await host.next()
            wire.heal()
            (waiting,) = host.waiting
            delays.append((waiting.visible_at - host.clock.now()).total_seconds())

        assert delays == [15, 30, 300, 15, 30]

    async def test_the_end_of_a_run_is_recorded_when_cosmos_db_is_back(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The attempt waits, and is not repeated."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            wire.refuse_all(lambda request: cosmos(request) and services.clock.now() < NOW + timedelta(minutes=1))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        assert await host.all() == 1

        assert executions == [1]
        assert [record["outcome"] for record in await world.records()] == ["succeeded"]

    async def test_a_long_outage_at_the_end_of_a_run(self, world: World, wire: Wire, services: Services) -> None:
        """The attempt is given up, recorded as interrupted later, and repeated under the same run id."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            if len(executions) == 1:
                wire.refuse_all(lambda request: cosmos(request) and services.clock.now() < NOW + timedelta(hours=2))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["interrupted", "succeeded"]
        assert (len(executions), record.get("failures", 0), host.errors) == (2, 0, [])

    async def test_an_outage_at_the_end_of_a_run_that_took_long(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The message is put back before `functionTimeout`, after which the host would end the process and its runs."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            host.clock.time = NOW + timedelta(minutes=25)
            wire.refuse_all(cosmos)

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()

        assert services.settings.function_timeout == timedelta(minutes=30)
        assert NOW + timedelta(minutes=28) <= services.clock.now() < NOW + timedelta(minutes=29)
        assert len(host.waiting) == 1

    async def test_a_checkpoint_during_an_outage(self, world: World, wire: Wire, services: Services) -> None:
        """The attempt is deferred, and does not count as a failure."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            until = NOW + timedelta(seconds=10)
            wire.refuse_all(lambda request: cosmos(request) and services.clock.now() < until)
            run.cursor = "half"
            await run.checkpoint()

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["deferred", "succeeded"]
        assert record.get("failures", 0) == record.get("retryLaters", 0) == 0

    async def test_a_message_that_is_not_a_job_waits(self, world: World, wire: Wire, services: Services) -> None:
        """It cannot be kept as a dead letter, so the host delivers it again; at last it is in the poison queue."""
        host = Deliveries(services, wire, registered(succeed))
        host.post_body(b"{")
        wire.refuse_all(cosmos)
        await host.next()
        wire.heal()
        await host.all()

        letters = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert len(letters) == 1


class TestQueue:
    async def test_the_host_repeats_a_delivery_if_nothing_can_be_put_back(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Cosmos DB and the queue are away: the error is raised."""
        await world.put(document("t", entry("flow")))
        wire.refuse = True
        with pytest.raises(ServiceUnavailable):
            await deliver(services, registered(succeed), message(), NOW)
        wire.refuse = False

        assert await world.records() == []

    async def test_a_long_outage_of_both_loses_nothing(self, world: World, wire: Wire, services: Services) -> None:
        """The message reaches the poison queue, and is sent again from there."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(succeed))
        host.post()
        wire.refuse = True
        for _ in range(services.settings.max_attempts):
            await host.next()
        assert [each.is_poison for each in host.waiting] == [True]
        wire.refuse = False
        await host.all()

        assert [record["outcome"] for record in await world.records()] == ["succeeded"]

    async def test_the_send_of_a_successor_is_refused(self, world: World, wire: Wire, services: Services) -> None:
        """The deferral is recorded, and the message is delivered again until the successor was sent."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            if len(executions) == 1:
                raise RetryLater(timedelta(minutes=1))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        wire.refuse_all(SENT)
        for _ in range(services.settings.max_attempts):
            await host.next()
        assert [each.is_poison for each in host.waiting] == [True]
        wire.heal()
        await host.all()

        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["deferred", "succeeded"]
        assert len(executions) == 2

    async def test_a_copy_after_the_last_delivery_is_refused(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The host moves the message to the poison queue, from where it is sent again. No attempt is lost."""
        await world.put(document("t", entry("flow")))
        results: list[BaseException | None] = [OSError("down"), None]

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            if error := results.pop(0):
                raise error

        host = Deliveries(services, wire, registered(flow))
        host.post(deliveries=4)
        wire.refuse_all(SENT)
        await host.next()
        wire.heal()
        assert [each.is_poison for each in host.waiting] == [True]
        await host.all()

        (record,) = await world.records()
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed", "succeeded"]


class TestVault:
    @pytest.mark.parametrize("status", [403, 429, 503])
    async def test_runs_wait_while_the_vault_refuses(
        self, world: World, wire: Wire, services: Services, vault: KeyVault, status: int
    ) -> None:
        """No attempt counts as a failure, and the delay grows. A 403 is an outage, too: a role or a firewall."""
        vault.set_secret("tenants--t--crm--key", "k")
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
            await kv.secret("crm", "key")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        delays = []
        for _ in range(8):
            vault.fail_next(status, times=1 if status == HTTPStatus.FORBIDDEN else TRIES)
            await host.next()
            (waiting,) = host.waiting
            delays.append(round((waiting.visible_at - host.clock.now()).total_seconds()))
        await host.all()

        (record,) = await world.records()
        outcomes = Counter(attempt["outcome"] for attempt in record["attempts"])
        assert outcomes == {"deferred": 8, "succeeded": 1}
        assert (record.get("failures", 0), record.get("retryLaters", 0), host.errors) == (0, 0, [])
        assert delays == [15, 30, 60, 120, 240, 480, 900, 900]
        assert (await services.runs.state("t", ["flow"])).consecutive_failures == 0

    async def test_a_run_waits_for_the_vault_for_7_days(
        self, world: World, wire: Wire, services: Services, vault: KeyVault
    ) -> None:
        """Then it is dead, with the reason."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
            await kv.secret("crm", "key")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        vault.fail_next(403)
        await host.next()
        host.clock.time = NOW + timedelta(days=7, minutes=1)
        vault.fail_next(403)
        await host.all()

        (record,) = await world.records()
        assert record["outcome"] == "dead"
        assert "refused to give 'tenants--t--crm--key'" in record["error"]["message"]


class TestLeases:
    @pytest.mark.parametrize(
        ("answers", "deliveries"), [(4, 1), (40, 1), (80, 3)], ids=["of one request", "of all tries", "again and again"]
    )
    async def test_a_lease_whose_answers_are_lost_costs_no_attempt(
        self, world: World, wire: Wire, services: Services, answers: int, deliveries: int
    ) -> None:
        """Cosmos DB takes the lease, and is away for the answers. The flow has not started, and no process has died."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(succeed), message(run_id="r-0"), NOW)
        attempts = []

        async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
            attempts.append(run.attempt)

        for _ in range(answers):
            wire.lose_answer(to("PATCH", "/docs/state-flow"))
        host = Deliveries(services, wire, registered(flow))
        host.post()
        for _ in range(deliveries):
            await host.next()
        assert host.waiting
        assert wire.stop_losing()
        await host.all()

        record = dict(await world.runs.read_item("run-r-1", partition_key="t"))
        assert (attempts, [each["outcome"] for each in record["attempts"]]) == ([1], ["succeeded"])
        assert services.clock.now() - NOW < timedelta(minutes=2), "it need not wait until the lease is over"

    async def test_two_copies_of_a_message_with_an_unclear_lease_do_not_both_run(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The answer to the message that was put back was lost, too, so that it was sent twice."""
        await world.put(document("t", entry("flow")))
        await run_job(services, registered(succeed), message(run_id="r-0"), NOW)
        running = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            running.append("begin")
            if host.waiting and len(running) == 1:
                await host.next()
            running.append("end")

        for _ in range(4):
            wire.lose_answer(to("PATCH", "/docs/state-flow"))
        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.next()
        wire.stop_losing()
        (waiting,) = host.waiting
        host.waiting.append(replace(waiting, id="m-copy"))
        await host.all()

        assert running == ["begin", "end"]


class TestCrashes:
    async def test_a_run_whose_process_dies_ends_after_three_rounds_of_five_attempts(
        self, world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
    ) -> None:
        """From the second interruption on it is attempted apart from the others. The record has its end."""
        await world.put(document("t", entry("flow")))
        starts = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            starts.append(services.clock.now())
            wire.killed = True

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all(200)

        (record,) = await world.records()
        assert (len(starts), host.kills) == (15, 15)
        assert [attempt["outcome"] for attempt in record["attempts"]] == ["interrupted"] * 15 + ["dead"]
        assert "the process died in each of 15 attempts" in record["error"]["message"]
        assert "FAIL t/flow" in caplog.text
        assert len(caplog.text.split("attempts of the run were interrupted")) > 13, "each spread says why"
        assert (await services.runs.state("t", ["flow"])).lease is None

    async def test_innocents_of_a_crash_succeed(self, world: World, wire: Wire, services: Services) -> None:
        """A flow kills its process whenever it runs. Others that run beside it at first are separated from it."""
        tenants = [f"t-{number}" for number in range(5)]
        for tenant in tenants:
            await world.put(document(tenant, entry("flow")))
        executions: Counter[str] = Counter()

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions[tenant_id] += 1
            if tenant_id == "t-0":
                wire.killed = True
                return
            beside = [each for each in host.waiting if each.job.tenant_id == "t-0"]
            if beside and beside[0].visible_at <= services.clock.now():  # the culprit runs at the same time
                wire.killed = True

        host = Deliveries(services, wire, registered(flow))
        for tenant in reversed(tenants):
            host.post(tenant_id=tenant, run_id=f"r-{tenant}")
        await host.all(300)

        outcomes = {record["tenantId"]: record["outcome"] for record in await world.records()}
        assert outcomes == {"t-0": "dead", **dict.fromkeys(tenants[1:], "succeeded")}
        assert all(executions[tenant] <= 5 for tenant in tenants[1:])

    async def test_a_run_whose_process_dies_now_and_then_goes_on(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Only interruptions in a row end a run: this one makes progress between them."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            wire.killed = len(executions) % 2 == 1
            if len(executions) < 40:
                raise RetryLater(timedelta(minutes=1))

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all(300)

        (record,) = await world.records()
        assert (record["outcome"], host.kills, len(executions)) == ("succeeded", 20, 40)

    async def test_a_failure_between_interruptions_counts_as_one(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """Interruptions do not use up the attempts of a run."""
        await world.put(document("t", entry("flow")))
        executions = []

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            executions.append(1)
            if len(executions) in (1, 3, 4):
                wire.killed = True
            raise OSError("down")

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all(100)

        (record,) = await world.records()
        outcomes = Counter(attempt["outcome"] for attempt in record["attempts"])
        assert outcomes == {"interrupted": 3, "failed": 4, "dead": 1}
