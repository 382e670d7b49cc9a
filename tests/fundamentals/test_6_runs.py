"""Each message runs one flow for one tenant. The result is stored in a run record."""

import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from azure.keyvault.secrets.aio import SecretClient

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater, TenantSecretClient
from datasync.errors import FlowFailed
from datasync.model.job import JobMessage, QueueMessage
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.stages import run_job
from tests.world import World

NOW = datetime(2025, 8, 23, 12, 0, 5, tzinfo=UTC)
NOON = datetime(2025, 8, 23, 12, tzinfo=UTC)


def message(attempt: int = 1, scheduled: datetime = NOON, run_id: str = "r-1") -> QueueMessage:
    job = JobMessage(tenant_id="tenant-999", flow_name="my-source→my-target", scheduled_utc=scheduled, run_id=run_id)
    return QueueMessage(f"m-{run_id}", job.encode().encode(), attempt, scheduled)


def registered(function: Callable[..., Awaitable[None]]) -> FlowRegistry:
    registry = FlowRegistry()
    registry.flow("my-source→my-target")(function)
    return registry


@pytest.fixture
def tenant() -> dict[str, object]:
    return document("tenant-999", entry("my-source→my-target", settings={"limit": 5}), name="Newco")


async def test_a_flow_runs_with_its_tenant_and_its_secrets(
    world: World, services: Services, vault: KeyVault, tenant: dict[str, object]
) -> None:
    """A flow receives the tenant id, a SecretClient, and a FlowRun with the tenant, settings and scheduled time."""
    vault.set_secret("tenants--tenant-999--mysource--api-token", "s3cret")
    seen: list[tuple[object, ...]] = []

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        assert isinstance(kv, SecretClient)
        token = (await kv.get_secret(f"tenants--{tenant_id}--mysource--api-token")).value
        seen.append((tenant_id, token, await kv.secret("mysource", "api-token")))
        seen.append((run.tenant.name, run.flow_name, run.settings, run.scheduled_utc, run.attempt, run.run_id))

    await world.put(tenant)
    await run_job(services, registered(flow), message(), NOW)

    assert seen == [
        ("tenant-999", "s3cret", "s3cret"),
        ("Newco", "my-source→my-target", {"limit": 5}, NOON, 1, "r-1"),
    ]


async def test_success_is_recorded_and_logged(
    world: World, services: Services, tenant: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """The log has a START and a DONE line. The record holds the times, the attempt and the counts."""

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.count(orders=2)
        run.count(orders=1, leads=1)

    caplog.set_level(logging.INFO)
    await world.put(tenant)
    await run_job(services, registered(flow), message(), NOW)

    assert "START tenant-999/my-source→my-target" in caplog.text
    assert "DONE tenant-999/my-source→my-target in " in caplog.text
    (record,) = await world.records("tenant-999")
    assert record["outcome"] == "succeeded"
    assert (record["runId"], record["attemptCount"], record["flowName"]) == ("r-1", 1, "my-source→my-target")
    assert (record["scheduledUtc"], record["startedUtc"]) == ("2025-08-23T12:00:00Z", "2025-08-23T12:00:05Z")
    assert record["counts"] == {"orders": 3, "leads": 1}
    assert record["ttl"] == timedelta(days=30).total_seconds()


async def test_a_failure_is_recorded_logged_and_raised(
    world: World, services: Services, tenant: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Any exception is a failure. The host delivers the message again, and the last attempt is recorded as dead."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise ConnectionError("the source closed the connection")

    await world.put(tenant)
    for delivery in range(1, services.settings.max_attempts):
        with pytest.raises(FlowFailed, match="ConnectionError: the source closed the connection"):
            await run_job(services, registered(flow), message(delivery), NOW)
    await run_job(services, registered(flow), message(services.settings.max_attempts), NOW)

    assert "FAIL tenant-999/my-source→my-target after 0.0s (failed): ConnectionError: the source closed" in caplog.text
    assert "FAIL tenant-999/my-source→my-target after 0.0s (dead): ConnectionError: the source closed" in caplog.text
    (record,) = await world.records()
    assert (record["attemptCount"], record["outcome"]) == (5, "dead")
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed"] * 4 + ["dead"]
    assert record["error"]["message"] == "ConnectionError: the source closed the connection"


async def test_secrets_are_removed_from_logs_records_and_errors(
    world: World, services: Services, vault: KeyVault, tenant: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """A secret that the run has read is replaced by its name in log lines, in the record, and in the exception."""
    vault.set_secret("tenants--tenant-999--mysource--api-token", "s3cret-t0ken")

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        token = await kv.secret("mysource", "api-token")
        run.log.info("using %s", token)
        raise ValueError(f"GET https://api.example.com/orders?key=qu3ry with {token} failed")

    caplog.set_level(logging.DEBUG)
    await world.put(tenant)
    with pytest.raises(FlowFailed) as failure:
        await run_job(services, registered(flow), message(), NOW)

    (record,) = await world.records()
    assert "using <mysource--api-token>" in caplog.text
    for text in (caplog.text, record["error"]["message"], str(failure.value)):
        assert "https://api.example.com/orders?*** with <mysource--api-token> failed" in text
        assert "s3cret-t0ken" not in text
        assert "qu3ry" not in text
    assert (failure.value.__cause__, failure.value.__context__) == (None, None)


async def test_secrets_are_removed_from_counts_and_from_the_reasons_of_signals(
    world: World, services: Services, vault: KeyVault, tenant: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """In the record, and in the line of the run. Counts that differ in the secret only are added up."""
    vault.set_secret("tenants--tenant-999--mysource--api-token", "s3cret-t0ken")

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        token = await kv.secret("mysource", "api-token")
        run.count(**{f"of {token}": 2, f"of {token.upper()}": 3})
        raise GiveUp(f"{token} is closed")

    caplog.set_level(logging.DEBUG)
    await world.put(tenant)
    await run_job(services, registered(flow), message(), NOW)

    (record,) = await world.records()
    assert record["counts"] == {"of <mysource--api-token>": 5}
    assert record["error"]["message"] == "<mysource--api-token> is closed"
    assert "of <mysource--api-token>=5" in caplog.text
    assert "s3cret-t0ken" not in f"{caplog.text} {record}".lower()


async def test_a_long_secret_is_removed_while_other_runs_go_on(
    world: World, services: Services, vault: KeyVault, tenant: dict[str, object]
) -> None:
    """Around each cut, as much text is searched as the secret may be long. That is done in a thread."""
    secret = " ".join(f"s3cret{n}" for n in range(2_400))  # a vault takes 25,600 bytes
    vault.set_secret("tenants--tenant-999--mysource--api-token", secret)
    threads = set[int]()

    class Failed(Exception):
        def __str__(self) -> str:
            threads.add(threading.get_ident())
            return secret * 10

    async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
        await kv.secret("mysource", "api-token")
        raise Failed

    await world.put(tenant)
    with pytest.raises(FlowFailed, match=r"^Failed: (<mysource--api-token>)+$"):
        await run_job(services, registered(flow), message(), NOW)

    assert threading.get_ident() not in threads
    assert "s3cret" not in str(await world.records())


async def test_secrets_are_removed_from_the_reasons_why_an_end_cannot_be_kept(
    world: World, services: Services, vault: KeyVault, tenant: dict[str, object]
) -> None:
    """Such as a count that is not a whole number."""
    vault.set_secret("tenants--tenant-999--mysource--api-token", "s3cret-t0ken")

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        run.counts[await kv.secret("mysource", "api-token")] = 1.5  # type: ignore[assignment]

    await world.put(tenant)
    with pytest.raises(FlowFailed, match=r"run.count\(<mysource--api-token>=1.5\)"):
        await run_job(services, registered(flow), message(), NOW)

    (record,) = await world.records()
    assert "s3cret-t0ken" not in str(record)


async def test_a_window_starts_where_the_last_successful_one_ended(
    world: World, services: Services, tenant: dict[str, object]
) -> None:
    """Windows follow each other without a gap. After a failed run, the next window includes the failed one."""
    windows = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        windows.append((run.window.start, run.window.end))
        if len(windows) == 2:
            raise OSError("down")

    await world.put(tenant)
    hours = [NOON + timedelta(hours=n) for n in range(4)]
    for number, hour in enumerate(hours[:3]):
        try:
            await run_job(services, registered(flow), message(1, hour, f"r-{number}"), hour)
        except FlowFailed:
            assert number == 1

    assert windows == [(None, hours[0]), (hours[0], hours[1]), (hours[0], hours[2])]


async def test_the_window_of_a_forced_run_ends_when_it_was_enqueued(
    world: World, services: Services, tenant: dict[str, object]
) -> None:
    """A run with a past scheduled time has a window that ends at the time the message was enqueued."""
    windows = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        windows.append(run.window.end)

    await world.put(tenant)
    job = JobMessage(
        tenant_id="tenant-999", flow_name="my-source→my-target", scheduled_utc=datetime(2000, 1, 1, tzinfo=UTC)
    )
    await run_job(services, registered(flow), QueueMessage("m-1", job.encode().encode(), 1, NOW), NOW)

    assert windows == [NOW]


async def test_a_disabled_flow_is_skipped(world: World, services: Services) -> None:
    """A job is recorded as skipped if its flow has been disabled or removed since it was enqueued."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise AssertionError("must not run")

    errors = []
    for entries in ([entry("my-source→my-target", enabled=False)], [entry("another")]):
        await world.put(document("tenant-999", *entries))
        await run_job(services, registered(flow), message(), NOW)
        (record,) = await world.records()
        assert record["outcome"] == "skipped_disabled"
        errors.append(record["error"]["message"])

    assert errors == [
        "the flow is disabled: enabled is false in the tenant's document",
        "the tenant's document has no such flow",
    ]


async def test_a_flow_can_ask_for_a_later_attempt(world: World, services: Services, tenant: dict[str, object]) -> None:
    """RetryLater ends the attempt without a failure. The next attempt of the run starts after the delay."""
    pause = timedelta(hours=1)

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        raise RetryLater(pause, f"asked too often, attempt {run.attempt}")

    await world.put(tenant)
    run = await run_job(services, registered(flow), message(), NOW)
    (job,) = run.next
    body = job.message.encode().encode()
    again = await run_job(services, registered(flow), QueueMessage("m-2", body, 1, NOW), job.visible_at)

    assert run.error
    assert job.visible_at == NOW + pause
    assert (run.outcome, run.attempt_count, run.error.message) == ("deferred", 1, "asked too often, attempt 1")
    assert (again.outcome, again.attempt_count, again.run_id) == ("deferred", 2, run.run_id)


async def test_a_flow_can_give_up(world: World, services: Services, tenant: dict[str, object]) -> None:
    """GiveUp ends the job without another attempt or a poison message. The record holds the reason."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise GiveUp("the account was closed")

    await world.put(tenant)
    run = await run_job(services, registered(flow), message(), NOW)

    assert run.error
    assert (run.outcome, run.error.message) == ("gave_up", "the account was closed")
    assert [record["outcome"] for record in await world.records()] == ["gave_up"]


async def test_a_flow_that_always_gives_up_is_failing(
    world: World, services: Services, tenant: dict[str, object]
) -> None:
    """Its state counts the runs since the last success. The number of failures of the run, for retries, does not."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise GiveUp("the account was closed")

    await world.put(tenant)
    for number in range(3):
        await run_job(services, registered(flow), message(run_id=f"r-{number}"), NOW)

    state = await services.runs.state("tenant-999", ["my-source→my-target"])
    assert (state.consecutive_failures, state.last_outcome, state.window_end_utc) == (3, "gave_up", None)
    assert [record.get("failures", 0) for record in await world.records()] == [0, 0, 0]
