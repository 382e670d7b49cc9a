"""Settlement with real services: the end of an attempt, and the end of a run."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater, TenantSecretClient
from datasync.errors import FlowFailed
from datasync.services import Services
from tests.deliveries import NOW, Deliveries, message, registered, succeed
from tests.documents import document, entry
from tests.faults import Request, Wire
from tests.stages import deliver, run_job
from tests.world import World


def raising(error: BaseException) -> Callable[[str, SecretClient], Awaitable[None]]:
    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise error

    return flow


async def only_record(world: World) -> dict[str, Any]:
    (record,) = await world.records()
    return record


def outcomes(record: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in record["attempts"]]


def described(requests: list[Request]) -> list[str]:
    """Return each request as method and the kind of its document."""
    kinds = {"/docs/t/": "tenant", "/docs/run-": "record", "/docs/state-": "state"}
    return [
        f"{method} {next((kind for part, kind in kinds.items() if part in f'{url}/'), 'batch')}"
        for method, url, _ in requests
    ]


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("once", ["GET record", "GET tenant", "PATCH state", "POST batch"]),
        (
            "allow",
            [
                "GET record",
                "GET tenant",
                "PATCH record",
                "GET record",
                "POST batch",
                "GET state",
                "POST batch",
            ],
        ),
    ],
)
async def test_the_requests_of_a_run(
    world: World, wire: Wire, services: Services, overlap: str, expected: list[str]
) -> None:
    """A run makes two reads at once, a patch that takes the lease, and one transaction at its end.

    A run that may overlap others creates its record before it starts, and reads the state at the end.
    """
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed, overlap=overlap), message(), NOW)
    wire.requests.clear()

    await run_job(services, registered(succeed, overlap=overlap), message(run_id="r-2"), NOW)

    found = described(wire.requests)
    assert [*sorted(found[:2]), *found[2:]] == expected


async def test_attempts_are_counted_by_the_record(world: World, wire: Wire, services: Services) -> None:
    """The delivery count of a message also counts kills and outages. A run has its five attempts in any case."""
    await world.put(document("t", entry("flow")))
    numbers = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        numbers.append(run.attempt)
        raise OSError("down")

    host = Deliveries(services, wire, registered(flow))
    host.post(deliveries=4)
    await host.next()
    (copy,) = host.waiting
    assert (copy.job.message_id, copy.visible_at - NOW >= services.settings.retry_delay) == ("m-1", True)
    await host.all()

    record = await only_record(world)
    assert numbers == [1, 2, 3, 4, 5]
    assert (outcomes(record), record["failures"]) == (["failed"] * 4 + ["dead"], 5)
    assert len(host.errors) == 3, "the attempts that the host repeats"


async def test_a_record_lists_the_last_attempts_and_counts_all(world: World, wire: Wire, services: Services) -> None:
    """It stays small."""
    await world.put(document("t", entry("flow")))
    executions = []

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        executions.append(1)
        if len(executions) < 30:
            raise RetryLater(timedelta(minutes=1))

    host = Deliveries(services, wire, registered(flow))
    host.post()
    await host.all()

    record = await only_record(world)
    assert (len(record["attempts"]), record["attemptCount"], record["outcome"]) == (20, 30, "succeeded")
    assert record["startedUtc"] == "2025-08-23T12:00:00Z"


async def test_a_stopped_attempt_is_recorded_and_repeated(world: World, wire: Wire, services: Services) -> None:
    """The host stops: the attempt is interrupted, does not count as a failure, and its lease is released."""
    await world.put(document("t", entry("flow")))
    started = asyncio.Event()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        started.set()
        await asyncio.Event().wait()

    attempt = asyncio.create_task(deliver(services, registered(flow), message(), NOW))
    await started.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    run = await run_job(services, registered(succeed), message(2), NOW)
    assert [each.outcome for each in run.attempts] == ["interrupted", "succeeded"]
    assert run.failures == 0


@pytest.mark.parametrize("ahead", [timedelta(seconds=5), timedelta(seconds=90)], ids=str)
async def test_a_window_does_not_end_in_the_future(world: World, services: Services, ahead: timedelta) -> None:
    """The clock of the queue may be ahead. The next window would skip the items that the source creates until then."""
    await world.put(document("t", entry("flow")))
    posted = msgspec.structs.replace(message(run_id=None, scheduled_utc=None), inserted=NOW + ahead)
    ends = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        ends.append(run.window.end - services.clock.now())

    await run_job(services, registered(flow), posted, NOW)

    assert ends == [timedelta()]


class Rules(msgspec.Struct):
    limit: int


def defer_once() -> Callable[[str, SecretClient], Awaitable[None]]:
    calls: list[str] = []

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        calls.append(tenant_id)
        if len(calls) == 1:
            raise RetryLater(timedelta(minutes=1))

    return flow


class TestPermanentFailures:
    """Another attempt would fail as well."""

    @pytest.mark.parametrize("tenant", ["t", "nobody"])
    async def test_the_run_ends_at_once(self, world: World, wire: Wire, services: Services, tenant: str) -> None:
        """GiveUp, or a tenant without a document: the message is complete after one delivery."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(raising(GiveUp("the account was closed"))))
        host.post(tenant_id=tenant)

        assert await host.all() == 1
        record = await only_record(world)
        expected = {"t": ("gave_up", "the account was closed"), "nobody": ("dead", "there is no tenant 'nobody'")}
        outcome, error = expected[tenant]
        assert (outcomes(record), record["outcome"], host.errors) == ([outcome], outcome, [])
        assert error in record["error"]["message"]

    async def test_settings_that_do_not_fit(self, world: World, wire: Wire, services: Services) -> None:
        """The error names the field."""
        await world.put(document("t", entry("flow", settings={"limit": "many"})))
        host = Deliveries(services, wire, registered(succeed, settings=Rules))
        host.post()

        assert await host.all() == 1
        record = await only_record(world)
        assert record["outcome"] == "dead"
        assert "flows[0].settings.limit" in record["error"]["message"]
        assert (await services.runs.state("t", ["flow"])).consecutive_failures == 1

    @pytest.mark.parametrize("name", ["tenants--another--crm--key", "crm--key", "a b"])
    async def test_a_secret_outside_the_tenant(self, world: World, wire: Wire, services: Services, name: str) -> None:
        """The flow has to be corrected."""
        await world.put(document("t", entry("flow")))

        async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
            await kv.get_secret(name)

        host = Deliveries(services, wire, registered(flow))
        host.post()

        assert await host.all() == 1
        record = await only_record(world)
        assert (record["outcome"], record["error"]["class"]) == ("dead", "SecretRefused")

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"tenantId": 5}', b"\xff\xfe", b'{"tenantId": "t"}'])
    async def test_a_message_that_is_not_a_job(self, world: World, wire: Wire, services: Services, body: bytes) -> None:
        """It is kept as a dead letter with its body, and is complete."""
        host = Deliveries(services, wire, registered(succeed))
        host.post_body(body)

        assert await host.all() == 1
        (letter,) = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert (letter["tenantId"], letter["body"]) == ("@fleet", body.decode(errors="backslashreplace"))
        assert "is not a job" in letter["why"]
        assert await world.records() == []

    async def test_a_message_that_could_not_be_sent_again(self, world: World, wire: Wire, services: Services) -> None:
        """It fits in the queue only without the fields that the app adds, so its run could not be put back."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(defer_once()))
        posted = b'{"tenantId": "t", "flowName": "flow", "note": "%s"}'
        room = 48 * 1024 - len(posted % b"")
        host.post_body(posted % (b"x" * room))

        assert await host.all() == 1
        (letter,) = [item async for item in world.runs.query_items("SELECT * FROM c WHERE c.type = 'DeadLetter'")]
        assert "Leave out what is not needed" in letter["why"]

        host.post_body(posted % (b"x" * (room - 1000)))
        await host.all()
        assert (await only_record(world))["outcome"] == "succeeded"


class TestUnknownFlows:
    async def test_a_job_waits_for_its_flow(self, world: World, wire: Wire, services: Services) -> None:
        """A deployment may still be under way. The job runs as soon as the flow exists, with its first run id."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, FlowRegistry())
        host.post()
        for _ in range(3):
            await host.next()
        assert await world.records() == []

        host.registry = registered(succeed)
        await host.all()

        record = await only_record(world)
        assert (record["runId"], outcomes(record), host.errors) == ("r-1", ["succeeded"], [])

    async def test_a_job_whose_flow_does_not_appear_is_dead_after_a_week(
        self, world: World, wire: Wire, services: Services
    ) -> None:
        """The record says which flows exist."""
        await world.put(document("t", entry("flow")))
        registry = FlowRegistry()
        registry.flow("flaw")(succeed)
        host = Deliveries(services, wire, registry)
        host.post()
        await host.next()
        host.clock.time = NOW + timedelta(days=7) - timedelta(seconds=1)
        await host.next()
        assert await world.records() == []
        await host.all()

        record = await only_record(world)
        assert record["outcome"] == "dead"
        assert "did you mean 'flaw'?" in record["error"]["message"]


class TestDeferrals:
    async def test_a_run_is_deferred_100_times(self, world: World, wire: Wire, services: Services) -> None:
        """Then it is dead, with the number and the last reason."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(raising(RetryLater(timedelta(seconds=1), "asked too often"))))
        host.post()
        await host.all(150)

        record = await only_record(world)
        assert (record["outcome"], record["attemptCount"], record["deferrals"]) == ("dead", 101, 100)
        assert "the run was deferred 100 times since 2025-08-23 12:00 UTC" in record["error"]["message"]
        assert "asked too often" in record["error"]["message"]
        assert host.errors == []

    async def test_a_run_is_deferred_for_7_days(self, world: World, wire: Wire, services: Services) -> None:
        """Then it is dead."""
        await world.put(document("t", entry("flow")))
        host = Deliveries(services, wire, registered(raising(RetryLater(timedelta(days=3)))))
        host.post()
        await host.all()

        record = await only_record(world)
        assert outcomes(record) == ["deferred"] * 3 + ["dead"]
        times = [datetime.fromisoformat(attempt["startedUtc"]) for attempt in record["attempts"]]
        assert {(after - before).days for before, after in pairwise(times)} == {3}

    async def test_a_deferral_is_not_a_failure(self, world: World, wire: Wire, services: Services) -> None:
        """The failures before and after it count, and it does not."""
        await world.put(document("t", entry("flow")))
        ends = [OSError("down"), RetryLater(timedelta(minutes=1)), *[OSError("down")] * 4]

        async def flow(tenant_id: str, kv: SecretClient) -> None:
            raise ends.pop(0)

        host = Deliveries(services, wire, registered(flow))
        host.post()
        await host.all()

        record = await only_record(world)
        assert outcomes(record) == ["failed", "deferred", "failed", "failed", "failed", "dead"]
        assert (await services.runs.state("t", ["flow"])).consecutive_failures == 5


class TestOtherVersions:
    """Documents of an older or a newer version of the app."""

    async def test_unknown_fields_survive(self, world: World, services: Services) -> None:
        """A newer version has written them, and both run during a deployment."""
        await world.put(document("t", entry("flow")))
        with pytest.raises(FlowFailed):
            await run_job(services, registered(raising(OSError("down"))), message(), NOW)
        for name in ("state-flow", "run-r-1"):
            stored = dict(await world.runs.read_item(name, partition_key="t"))
            await world.runs.upsert_item({**stored, "fromTheFuture": {"a": [1]}})

        await run_job(services, registered(succeed), message(2), NOW)

        for name in ("state-flow", "run-r-1"):
            stored = dict(await world.runs.read_item(name, partition_key="t"))
            assert stored["fromTheFuture"] == {"a": [1]}

    async def test_a_state_of_version_0_1_is_read(self, world: World, services: Services) -> None:
        """The window goes on."""
        await world.put(document("t", entry("flow")))
        await world.runs.upsert_item(
            {
                "id": "state-flow",
                "type": "FlowState",
                "tenantId": "t",
                "flowName": "flow",
                "windowEndUtc": "2025-08-23T11:00:00Z",
                "lastRunUtc": "2025-08-23T11:30:00Z",
                "lastOutcome": "failed",
                "lastSuccessUtc": None,
                "consecutiveFailures": 2,
                "applied": ["r-0/1/m"],
            }
        )

        run = await run_job(services, registered(succeed), message(), NOW)

        assert run.window
        assert run.window.start == NOW - timedelta(hours=1)
        state = dict(await world.runs.read_item("state-flow", partition_key="t"))
        assert (state.get("consecutiveFailures", 0), state["lastOutcome"]) == (0, "succeeded")
        assert "applied" not in state

    @pytest.mark.parametrize("error", [None, "OSError: down"])
    async def test_a_record_of_version_0_1_is_read(self, world: World, services: Services, error: str | None) -> None:
        """It had one record for each attempt, with the error as a text."""
        await world.runs.upsert_item(
            {
                "id": "run-r-1-2",
                "type": "Run",
                "ttl": 86400,
                "tenantId": "t",
                "flowName": "flow",
                "runId": "r-1",
                "attempt": 2,
                "outcome": "failed" if error else "succeeded",
                "scheduledUtc": "2025-08-23T11:00:00Z",
                "startedUtc": "2025-08-23T11:00:00Z",
                "finishedUtc": "2025-08-23T11:00:01Z",
                "error": error,
                "counts": {"items": 5},
            }
        )

        record = await services.runs.record("t", "r-1-2")

        assert record
        assert (record.run_id, record.attempt_count, record.counts) == ("r-1", 2, {"items": 5})
        assert (record.error and record.error.message) == error
