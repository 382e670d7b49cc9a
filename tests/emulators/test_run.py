"""Runs with real services: all outcomes of a flow, and a killed worker."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from azure.keyvault.secrets.aio import SecretClient
from msgspec.structs import replace

from datasync import FlowRegistry, FlowRun, GiveUp, RetryLater, TenantSecretClient
from datasync.errors import (
    FlowFailed,
    FlowSettingsInvalid,
    FlowUnknown,
    ServiceUnavailable,
    StateInvalid,
    TenantInvalid,
    TenantUnknown,
)
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.state import FlowState
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.faults import Killed, Request, Wire, to
from tests.stages import run_job
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)


def message(attempt: int = 1, **fields: Any) -> QueueMessage:
    job = JobMessage(**{"tenant_id": "t", "flow_name": "flow", "scheduled_utc": NOW, "run_id": "r-1", **fields})
    return QueueMessage(f"m-{job.run_id}", job.encode().encode(), attempt, NOW)


def registered(function: Callable[..., Awaitable[None]], **options: Any) -> FlowRegistry:
    registry = FlowRegistry()
    registry.flow("flow", **options)(function)
    return registry


async def succeed(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


async def test_an_attempt_that_exceeds_its_timeout_is_cancelled(world: World, services: Services) -> None:
    """The attempt fails with a message that contains the remedy. The flow receives the cancellation."""
    cancelled = asyncio.Event()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed, match="t/flow was cancelled after 0:00:00.050000: do less in one run, or register"):
        await run_job(services, registered(flow, timeout=timedelta(milliseconds=50)), message(), NOW)

    assert cancelled.is_set()
    assert [record["outcome"] for record in await world.records()] == ["failed"]


class Rules(msgspec.Struct, rename="camel"):
    min_total: float
    skip: list[str] = []


async def test_declared_settings_are_decoded(world: World, services: Services) -> None:
    """`run.settings` is an instance of the declared type."""
    seen = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        seen.append(run.settings)

    await world.put(document("t", entry("flow", settings={"minTotal": 5, "note": "ignored"})))
    run = await run_job(services, registered(flow, settings=Rules), message(), NOW)

    assert run.outcome == "succeeded"
    assert seen == [Rules(min_total=5)]


async def test_settings_that_do_not_fit_keep_the_flow_from_starting(world: World, services: Services) -> None:
    """The record has the tenant, the flow, the field, its value and the remedy."""
    called = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        called.append(tenant_id)

    await world.put(document("t", entry("flow", settings={"minTotal": 5, "skip": ["a", 5]})))
    with pytest.raises(FlowSettingsInvalid):
        await run_job(services, registered(flow, settings=Rules), message(), NOW)

    (record,) = await world.records()
    assert record["error"] == (
        "FlowSettingsInvalid: t/flow flows[0].settings.skip[1]: expected a text, got 5. Correct the tenant's document"
    )
    assert called == []


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (TimeoutError("the source took too long"), "TimeoutError: the source took too long"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError("its own"), "CancelledError: its own"),
        (ExceptionGroup("several", [ValueError("one")]), "ExceptionGroup: several (1 sub-exception): ValueError: one"),
        (KeyError("id"), "KeyError: 'id'"),
    ],
)
async def test_any_exception_of_a_flow_is_a_failure(
    world: World, services: Services, raised: BaseException, error: str
) -> None:
    """No exception of a flow ends the worker. It is recorded in one line, and FlowFailed is raised for the host."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise raised

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed):
        await run_job(services, registered(flow), message(), NOW)

    assert [record["error"] for record in await world.records()] == [error]


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        ([RetryLater(timedelta(0)), RetryLater(timedelta(hours=1))], "deferred"),
        ([RetryLater(timedelta(0)), GiveUp("the account was closed")], "gave_up"),
    ],
)
async def test_a_signal_from_a_task_group_is_a_signal(
    world: World, services: Services, raised: list[Exception], outcome: str
) -> None:
    """A group of signals only is a signal: GiveUp if it has one, otherwise RetryLater with the longest delay."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise ExceptionGroup("several", [ExceptionGroup("inner", raised)])

    await world.put(document("t", entry("flow")))
    run = await run_job(services, registered(flow), message(), NOW)

    assert run.outcome == outcome
    assert await world.messages() == [], "the longer delay is used"


async def test_a_signal_among_errors_is_a_failure(world: World, services: Services) -> None:
    """A group of a signal and an error is a failure, so the error is not hidden."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise ExceptionGroup("several", [RetryLater(timedelta(0)), ValueError("bad")])

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed, match="several"):
        await run_job(services, registered(flow), message(), NOW)


async def test_a_flow_that_ignores_its_cancellation_has_failed(world: World, services: Services) -> None:
    """An attempt that exceeds its timeout fails and does not advance the window, even if it ends normally."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed, match="was cancelled after"):
        await run_job(services, registered(flow, timeout=timedelta(milliseconds=50)), message(), NOW)

    assert (await services.runs.state("t", ["flow"])).window_end_utc is None


async def test_secrets_are_removed_from_any_exception(
    world: World, services: Services, vault: KeyVault, caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets are removed from a BaseExceptionGroup too, and secrets of several lines in each form."""
    vault.set_secret("tenants--t--crm--key", "first-line-of-key\nsecond-line-of-key\n")

    class Odd(BaseException):
        pass

    async def flow(tenant_id: str, kv: TenantSecretClient) -> None:
        key = await kv.secret("crm", "key")
        raise BaseExceptionGroup(f"with {key!r}", [Odd(key), Odd(key.strip()), Odd(" ".join(key.split()))])

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed) as failure:
        await run_job(services, registered(flow), message(), NOW)

    (record,) = await world.records()
    for text in (caplog.text, record["error"], str(failure.value)):
        assert "<crm--key>" in text
        assert "-line-of-key" not in text


async def test_a_count_that_is_not_a_number_fails_in_the_flow(world: World, services: Services) -> None:
    """A count that is not a whole number is rejected when the flow reports it. The error names the count."""

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.count(items="many")  # type: ignore[arg-type]

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed, match=r"run.count\(items='many'\): expected a whole number"):
        await run_job(services, registered(flow), message(), NOW)


async def test_a_success_that_cannot_be_recorded_is_logged(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is delivered again. The log has the outcome and the reason."""
    await world.put(document("t", entry("flow")))

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        wire.refuse = True

    with pytest.raises(ServiceUnavailable):
        await run_job(services, registered(flow), message(), NOW)

    assert "UNAVAILABLE t/flow ended (succeeded), which could not be recorded: Cosmos DB could not be" in caplog.text
    wire.refuse = False
    assert await world.records() == []


async def test_an_invalid_edit_of_a_state_is_named(world: World, services: Services) -> None:
    """People may edit the window. The error for an invalid value names the document, the field and the value."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)
    state = dict(await world.runs.read_item("state-flow", partition_key="t"))
    await world.runs.upsert_item({**state, "windowEndUtc": "2025-08-01T00:00:00"})
    assert (await services.runs.state("t", ["flow"])).window_end_utc == datetime(2025, 8, 1, tzinfo=UTC)

    await world.runs.upsert_item({**state, "windowEndUtc": "last week"})
    with pytest.raises(StateInvalid, match="flow state id='state-flow' of tenant 't': windowEndUtc: .*last week"):
        await run_job(services, registered(succeed), message(), NOW)


async def test_a_stopped_worker_does_not_complete_the_message(world: World, services: Services) -> None:
    """A cancellation from outside is not a failure. Nothing is recorded, and the host delivers the message again."""
    started = asyncio.Event()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        started.set()
        await asyncio.Event().wait()

    await world.put(document("t", entry("flow")))
    attempt = asyncio.create_task(run_job(services, registered(flow), message(), NOW))
    await started.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt

    assert await world.records() == []


async def test_an_entry_under_an_alias_runs_the_flow(world: World, services: Services) -> None:
    """A document with an old name of a flow works. State and records use the current name."""
    await world.put(document("t", entry("old-name")))

    run = await run_job(services, registered(succeed, aliases=("old-name",)), message(flow_name="old-name"), NOW)

    assert (run.outcome, run.flow_name) == ("succeeded", "flow")
    assert (await services.runs.state("t", ["flow"])).last_success_utc


async def test_a_renamed_flow_continues_its_window(world: World, services: Services) -> None:
    """The window continues from the state of the old name, until a run under the new name has succeeded."""
    windows = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        windows.append(run.window.start)
        if len(windows) == 2:
            raise OSError("down")

    await world.put(document("t", entry("old-name")))
    before = FlowRegistry()
    before.flow("old-name")(flow)
    await run_job(services, before, message(flow_name="old-name"), NOW)
    renamed = registered(flow, aliases=("old-name",))
    with pytest.raises(FlowFailed):
        await run_job(services, renamed, message(flow_name="old-name", run_id="r-2"), NOW)
    await run_job(services, renamed, message(flow_name="old-name", run_id="r-2"), NOW)

    assert windows == [None, NOW, NOW]


async def test_a_job_with_the_new_name_finds_the_entry_with_the_old_one(world: World, services: Services) -> None:
    """A message posted by hand may contain the old or the new name."""
    await world.put(document("t", entry("old-name", settings={"a": 1})))
    seen = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        seen.append(run.settings)

    await run_job(services, registered(flow, aliases=("old-name",)), message(), NOW)

    assert seen == [{"a": 1}]


async def test_an_entry_with_60_kib_of_settings_runs(world: World, services: Services) -> None:
    """Settings are read from the document and not sent in the message, so the size of a message does not limit them."""
    settings = {"map": {f"category-{n}": "x" * 50 for n in range(1000)}}
    await world.put(document("t", entry("flow", settings=settings)))
    sizes = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        sizes.append(len(str(run.settings)))

    await run_job(services, registered(flow), message(), NOW)

    assert sizes[0] > 60 * 1024
    assert len(message().body) < 200


async def test_a_job_that_cannot_run_is_recorded_with_its_reason(world: World, services: Services) -> None:
    """An unknown flow, an unknown tenant and an invalid entry are recorded as failures, with the remedy."""
    await world.put(document("t", entry("flow", enabled="yes")))
    cases: list[tuple[type[Exception], dict[str, Any]]] = [
        (FlowUnknown, {"flow_name": "fow", "run_id": "r-1"}),
        (TenantUnknown, {"tenant_id": "nobody", "run_id": "r-2"}),
        (TenantUnknown, {"tenant_id": "a/b", "run_id": "r-3"}),
        (TenantInvalid, {"run_id": "r-4"}),
    ]
    for expected, fields in cases:
        with pytest.raises(expected):
            await run_job(services, registered(succeed), message(**fields), NOW)

    errors = {record["runId"]: record["error"] for record in await world.records()}
    assert "no flow is named 'fow'; did you mean 'flow'? Known flows: 'flow'" in errors["r-1"]
    assert "there is no tenant 'nobody' in container 'tenants': create its document" in errors["r-2"]
    assert "there is no tenant 'a/b'" in errors["r-3"]
    assert "flows[0].enabled: expected true or false, without quotes" in errors["r-4"]


async def test_consecutive_failures_are_counted_until_a_success(world: World, services: Services) -> None:
    """The state of the flow counts failures, and a success resets the count."""

    async def fail(tenant_id: str, kv: SecretClient) -> None:
        raise OSError("down")

    await world.put(document("t", entry("flow")))
    for attempt in (1, 2):
        with pytest.raises(FlowFailed):
            await run_job(services, registered(fail), message(attempt), NOW)
    failing = await services.runs.state("t", ["flow"])
    await run_job(services, registered(succeed), message(3), NOW)
    recovered = await services.runs.state("t", ["flow"])

    assert (failing.consecutive_failures, failing.last_outcome, failing.last_success_utc) == (2, "failed", None)
    assert (recovered.consecutive_failures, recovered.last_outcome) == (0, "succeeded")


async def test_a_failure_that_cannot_be_recorded_is_still_raised(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is the failure of the flow. The log states that it could not be recorded."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        wire.refuse = True
        raise OSError("down")

    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed, match="OSError: down"):
        await run_job(services, registered(flow), message(), NOW)

    assert "UNAVAILABLE t/flow ended (failed: OSError: down), which could not be recorded: Cosmos DB" in caplog.text
    assert "test_run.py" in caplog.text


async def test_runs_that_end_at_once_do_not_overwrite_each_others_state(world: World, services: Services) -> None:
    """All attempts are applied to the state, and the window does not go back to an earlier time."""
    await world.put(document("t", entry("flow")))
    times = [NOW + timedelta(hours=n) for n in range(8)]

    await asyncio.gather(
        *[
            run_job(services, registered(succeed), message(run_id=f"r-{n}", scheduled_utc=at), times[-1])
            for n, at in enumerate(times)
        ]
    )

    assert (await services.runs.state("t", ["flow"])).window_end_utc == times[-1]
    assert len(await world.records()) == 8


def writes_state(method: str) -> Callable[[Request], bool]:
    return to(method, "/docs", "FlowState")


@pytest.mark.parametrize("outcome", ["failed", "succeeded"])
async def test_an_attempt_is_applied_once_even_if_an_answer_is_lost(
    world: World, wire: Wire, services: Services, outcome: str
) -> None:
    """The client repeats the write of the state, and the state counts the attempt once."""

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        if outcome == "failed":
            raise OSError("down")

    await world.put(document("t", entry("flow")))
    states = []
    for attempt, write in enumerate(("POST", "PUT"), start=1):
        wire.lose_answer(writes_state(write))
        with suppress(FlowFailed):
            await run_job(services, registered(flow), message(attempt), NOW)
        states.append(await services.runs.state("t", ["flow"]))

    assert [state.consecutive_failures for state in states] == ([1, 2] if outcome == "failed" else [0, 0])
    assert [record["outcome"] for record in await world.records()] == [outcome, outcome]


async def test_two_messages_of_one_run_both_count(world: World, services: Services) -> None:
    """A killed tick may send a message twice. The attempt of the second message succeeds, and the window advances."""
    results = iter([OSError("down"), None])

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        if error := next(results):
            raise error

    await world.put(document("t", entry("flow")))
    for message_id in ("m-1", "m-2"):
        with suppress(FlowFailed):
            await run_job(services, registered(flow), replace(message(), id=message_id), NOW)

    state = await services.runs.state("t", ["flow"])
    assert (state.consecutive_failures, state.last_outcome, state.window_end_utc) == (0, "succeeded", NOW)


async def test_the_tries_to_write_a_state_are_limited(world: World, wire: Wire, services: Services) -> None:
    """The number of tries is limited. The message is delivered again."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)

    async def touch() -> None:
        state = await world.runs.read_item("state-flow", partition_key="t")
        await world.runs.upsert_item(dict(state))

    wire.before_each(writes_state("PUT"), touch)
    with pytest.raises(ServiceUnavailable, match="the state of t/flow was changed by others in each of 20 tries"):
        await run_job(services, registered(succeed), message(run_id="r-2"), NOW)


async def test_a_run_that_is_killed_at_any_request_is_repeated(world: World, wire: Wire, services: Services) -> None:
    """The message is delivered again. Then a success is recorded, and the window has advanced once."""
    await services.runs.state("t", ["flow"])  # connects
    killed = 0
    for answered in (False, True):
        for number in count(1):
            tenant = f"t-{answered}-{number}"
            await world.put(document(tenant, entry("flow")))
            wire.kill_at(number, answered=answered)
            try:
                await run_job(services, registered(succeed), message(1, tenant_id=tenant), NOW)
            except Killed:
                killed += 1
            else:
                break
            wire.heal()
            await run_job(services, registered(succeed), message(2, tenant_id=tenant), NOW)

            records = await world.records(tenant)
            assert records[-1]["outcome"] == "succeeded"
            assert {record["runId"] for record in records} == {"r-1"}
            assert (await services.runs.state(tenant, ["flow"])).window_end_utc == NOW
        wire.heal()
    assert killed >= 8


async def test_a_deferral_killed_before_it_is_enqueued_is_not_lost(
    world: World, wire: Wire, services: Services
) -> None:
    """The original message is delivered again, and the flow raises RetryLater again."""

    async def later(tenant_id: str, kv: SecretClient) -> None:
        raise RetryLater(timedelta(hours=1), "asked too often")

    await world.put(document("t", entry("flow")))
    wire.kill_before(to("POST", "/messages"))
    with pytest.raises(Killed):
        await run_job(services, registered(later), message(1), NOW)
    wire.heal()
    await run_job(services, registered(later), message(2), NOW)

    assert (await world.jobs.get_queue_properties()).approximate_message_count == 1
    assert [record["outcome"] for record in await world.records()] == ["deferred", "deferred"]


async def test_a_deferral_that_cannot_be_enqueued_is_a_failure(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The record has the reason and the counts, and the state counts a failure."""

    async def later(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        run.count(items=5)
        raise RetryLater(timedelta(hours=1), "asked too often")

    await world.put(document("t", entry("flow")))
    await world.jobs.delete_queue()
    try:
        with pytest.raises(ServiceUnavailable, match="does not exist"):
            await run_job(services, registered(later), message(services.settings.max_attempts), NOW)
    finally:
        await world.jobs.create_queue()

    (record,) = await world.records()
    assert (record["outcome"], record["counts"]) == ("dead", {"items": 5})
    assert "does not exist" in record["error"]
    state = await services.runs.state("t", ["flow"])
    assert (state.last_outcome, state.consecutive_failures) == ("dead", 1)
    assert "FAIL t/flow after 0.0s (dead): ServiceUnavailable: queue" in caplog.text


@pytest.mark.parametrize(
    ("entries", "job", "failures"),
    [
        ([entry("gone")], "gone", 1),
        ([entry("flow", enabled="yes")], "flow", 1),
        ("not a list", "flow", None),
        ([entry("another")], "gone", None),
        ([{"name": ["odd"]}, entry("gone")], "gone", 1),
        ([entry("a/b")], "a/b", None),
        ([entry("gone", enabled=False)], "gone", None),
    ],
    ids=[
        "an unknown flow",
        "an entry that cannot be read",
        "no entry at all",
        "an unknown flow without entry",
        "an unknown flow beside an odd entry",
        "a name under which no state can be stored",
        "an unknown flow whose entry is disabled",
    ],
)
async def test_a_failure_before_the_flow_starts_counts_if_the_tenant_has_the_entry(
    world: World, services: Services, entries: Any, job: str, failures: int | None
) -> None:
    """A flow that cannot start counts as failing. A message for a flow without an entry creates no state."""
    await world.put({**document("t"), "flows": entries})

    with pytest.raises((FlowUnknown, TenantInvalid)):
        await run_job(services, registered(succeed), message(flow_name=job), NOW)

    assert [record["outcome"] for record in await world.records()] == ["failed"]
    state = FlowState(tenant_id="t", flow_name=job) if "/" in job else await services.runs.state("t", [job])
    assert (state.consecutive_failures or None, state.last_outcome) == (failures, failures and "failed")


async def test_a_disabled_flow_is_skipped_even_if_its_state_cannot_be_read(world: World, services: Services) -> None:
    """A run that does not start needs no state."""
    await world.put(document("t", entry("flow", enabled=False)))
    await world.runs.upsert_item(
        {"id": "state-flow", "tenantId": "t", "flowName": "flow", "type": "FlowState", "windowEndUtc": "last week"}
    )

    assert (await run_job(services, registered(succeed), message(), NOW)).outcome == "skipped_disabled"


async def test_an_invalid_tenant_counts_in_the_flow_that_could_not_start(world: World, services: Services) -> None:
    """The document cannot be used, but it has an entry for the flow."""
    await world.put(document("t", entry("flow"), timezone=5))

    with pytest.raises(TenantInvalid, match="timezone: expected an IANA name"):
        await run_job(services, registered(succeed), message(), NOW)

    assert (await services.runs.state("t", ["flow"])).consecutive_failures == 1


async def test_an_unavailable_service_counts_in_no_state(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage is not a failure of the flow. The log has an event, and the state is not changed."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)
    wire.refuse_all(to("GET", "/docs/t/"))

    with pytest.raises(ServiceUnavailable):
        await run_job(services, registered(succeed), message(run_id="r-2"), NOW)

    assert "UNAVAILABLE t/flow did not start: Cosmos DB could not be reached while reading tenant 't'" in caplog.text
    state = await services.runs.state("t", ["flow"])
    assert (state.consecutive_failures, state.last_outcome) == (0, "succeeded")


async def test_records_expire_and_flow_state_does_not(world: World, services: Services) -> None:
    """A run record has a time to live. The state has none, because it has the start of the next window."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)

    items = {item["type"]: item async for item in world.runs.query_items("SELECT * FROM c")}
    assert items["Run"]["ttl"] == 30 * 86400
    assert not {"ttl", "etag"} & set(items["FlowState"])
    assert FlowState.from_document(items["FlowState"]).window_end_utc == NOW


async def test_the_log_of_a_failure_has_the_traceback_of_the_flow(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """One log entry holds the FAIL line and the traceback of the flow."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        raise LookupError("no such order")

    caplog.set_level(logging.ERROR)
    await world.put(document("t", entry("flow")))
    with pytest.raises(FlowFailed):
        await run_job(services, registered(flow), message(), NOW)

    (failure,) = [record.getMessage() for record in caplog.records if "FAIL" in record.getMessage()]
    first, *rest = failure.splitlines()
    assert first.startswith("FAIL t/flow after ")
    assert any("test_run.py" in line for line in rest)
    assert rest[-1] == "LookupError: no such order"
