"""Runs with real services: all outcomes of a flow, and a killed worker."""

import asyncio
import json
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
    ServiceUnavailable,
    StateInvalid,
    TenantInvalid,
)
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.lease import DURATION, MARGIN
from datasync.model.state import FlowState
from datasync.run.admit import LONGEST_PARKING
from datasync.services import Services
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.faults import Killed, Request, Wire, to
from tests.hostile_http import hostile_server
from tests.stages import deliver, run_job
from tests.waiting import wait_until
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
LEASE_OVER = NOW + DURATION + MARGIN + timedelta(seconds=1)
"""When the lease of an attempt that started at NOW can be taken over."""


def message(delivery: int = 1, **fields: Any) -> QueueMessage:
    job = JobMessage(**{"tenant_id": "t", "flow_name": "flow", "scheduled_utc": NOW, "run_id": "r-1", **fields})
    return QueueMessage(f"m-{job.run_id}", job.encode().encode(), delivery, NOW)


def registered(function: Callable[..., Awaitable[None]], **options: Any) -> FlowRegistry:
    registry = FlowRegistry()
    registry.flow("flow", **options)(function)
    return registry


async def succeed(tenant_id: str, kv: SecretClient) -> None:
    """Do nothing."""


async def hidden(world: World) -> int:
    """Return the number of messages on the queue that are not visible yet."""
    count = (await world.jobs.get_queue_properties()).approximate_message_count or 0
    return count - len(await world.messages())


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


async def test_answers_that_a_flow_leaves_open_are_closed(world: World, services: Services) -> None:
    """Their connections are free again when the run ends, and the flow cannot use the client any more."""
    left: list[Any] = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        left.append(run.http)
        left.append(await run.http.send(run.http.build_request("GET", f"{server.url}/hanging-body"), stream=True))

    await world.put(document("t", entry("flow")))
    async with hostile_server() as server:
        await run_job(services, registered(flow), message(), NOW)
        await wait_until(lambda: server.open == 0, description="the connection is closed")

    client, answer = left
    assert answer.status_code == 200
    with pytest.raises(RuntimeError, match="client has been closed"):
        await client.get(server.url)


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
    """The run is dead at once. Its record has the tenant, the flow, the field, its value and the remedy."""
    called = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        called.append(tenant_id)

    await world.put(document("t", entry("flow", settings={"minTotal": 5, "skip": ["a", 5]})))
    run = await run_job(services, registered(flow, settings=Rules), message(), NOW)

    assert run.outcome == "dead"
    (record,) = await world.records()
    assert record["error"]["message"] == (
        "FlowSettingsInvalid: t/flow flows[0].settings.skip[1]: expected a text, got 5 (correct the tenant's document)"
    )
    assert called == []


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (TimeoutError("the source took too long"), "TimeoutError: the source took too long"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError("its own"), "CancelledError: the flow cancelled itself"),
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

    (record,) = await world.records()
    assert (record["outcome"], record["error"]["message"]) == ("failed", error)


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
    for text in (caplog.text, record["error"]["message"], str(failure.value)):
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
    """The log has the outcome and the reason. The run is repeated when its lease is over."""
    await world.put(document("t", entry("flow")))
    calls = []

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        calls.append(tenant_id)
        wire.refuse = len(calls) == 1

    with pytest.raises(ServiceUnavailable):
        await run_job(services, registered(flow), message(), NOW)

    assert "UNAVAILABLE t/flow ended (succeeded), which could not be recorded: Cosmos DB could not be" in caplog.text
    wire.refuse = False
    assert await world.records() == []

    await run_job(services, registered(flow), message(2), LEASE_OVER)
    (record,) = await world.records()
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["interrupted", "succeeded"]
    assert len(calls) == 2


async def test_an_invalid_edit_of_a_state_is_named(world: World, services: Services) -> None:
    """People may edit the window. The error for an invalid value names the document, the field and the value.

    As soon as it is corrected, the next attempt runs.
    """
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)
    state = dict(await world.runs.read_item("state-flow", partition_key="t"))
    await world.runs.upsert_item({**state, "windowEndUtc": "2025-08-01T00:00:00"})
    assert (await services.runs.state("t", ["flow"])).window_end_utc == datetime(2025, 8, 1, tzinfo=UTC)

    await world.runs.upsert_item({**state, "windowEndUtc": "last week"})
    for delivery in (1, 2):
        with pytest.raises(StateInvalid, match="flow state id='state-flow' of tenant 't': windowEndUtc: .*last week"):
            await run_job(services, registered(succeed), message(delivery, run_id="r-2"), NOW)

    edited = dict(await world.runs.read_item("state-flow", partition_key="t"))
    await world.runs.upsert_item({**edited, "windowEndUtc": "2025-08-01T00:00:00Z"})
    run = await run_job(services, registered(succeed), message(3, run_id="r-2"), NOW)
    assert [attempt.outcome for attempt in run.attempts] == ["failed", "failed", "succeeded"]


async def test_a_stopped_worker_does_not_complete_the_message(world: World, services: Services) -> None:
    """A cancellation from outside is not a failure. It is recorded, and the host delivers the message again."""
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

    (record,) = await world.records()
    assert (record["outcome"], record.get("failures", 0)) == ("interrupted", 0)
    state = await services.runs.state("t", ["flow"])
    assert (state.consecutive_failures, state.window_end_utc, state.lease) == (0, None, None)

    again = await run_job(services, registered(succeed), message(2), NOW)
    assert [attempt.outcome for attempt in again.attempts] == ["interrupted", "succeeded"]


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
    """An unknown tenant ends the run, since another attempt would meet it as well. An invalid entry fails the attempt.

    The record has the remedy.
    """
    await world.put(document("t", entry("flow", enabled="yes")))

    unknown = await run_job(services, registered(succeed), message(tenant_id="nobody", run_id="r-1"), NOW)
    with pytest.raises(TenantInvalid):
        await run_job(services, registered(succeed), message(run_id="r-3"), NOW)

    assert unknown.outcome == "dead"
    records = {record["runId"]: record for record in await world.records()}
    assert [records[run_id]["outcome"] for run_id in ("r-1", "r-3")] == ["dead", "failed"]
    errors = {run_id: record["error"]["message"] for run_id, record in records.items()}
    assert "there is no tenant 'nobody' in container 'tenants': create its document" in errors["r-1"]
    assert "flows[0].enabled: expected true or false, without quotes" in errors["r-3"]


async def test_a_job_for_an_unknown_flow_waits_for_it(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """A new version of the app may be on its way. After seven days the run is dead, and its record names the flow."""
    await world.put(document("t", entry("fow")))

    posted = message(flow_name="fow")
    assert await deliver(services, registered(succeed), posted, NOW) is None
    assert "no flow is named 'fow'; did you mean 'flow'? Known flows: 'flow'" in caplog.text
    assert await world.records() == []
    assert await hidden(world) == 1

    assert await deliver(services, registered(succeed), posted, NOW + LONGEST_PARKING - timedelta(seconds=1)) is None
    run = await run_job(services, registered(succeed), posted, NOW + LONGEST_PARKING)

    assert run.outcome == "dead"
    (record,) = await world.records()
    assert "no flow is named 'fow'; did you mean 'flow'? Known flows: 'flow'" in record["error"]["message"]


async def test_consecutive_failures_are_counted_until_a_success(world: World, services: Services) -> None:
    """The state of the flow counts failures, and a success resets the count. The record of the run has all attempts."""

    async def fail(tenant_id: str, kv: SecretClient) -> None:
        raise OSError("down")

    await world.put(document("t", entry("flow")))
    for delivery in (1, 2):
        with pytest.raises(FlowFailed):
            await run_job(services, registered(fail), message(delivery), NOW)
    failing = await services.runs.state("t", ["flow"])
    await run_job(services, registered(succeed), message(3), NOW)
    recovered = await services.runs.state("t", ["flow"])

    assert (failing.consecutive_failures, failing.last_outcome, failing.last_success_utc) == (2, "failed", None)
    assert (recovered.consecutive_failures, recovered.last_outcome) == (0, "succeeded")
    (record,) = await world.records()
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed", "failed", "succeeded"]
    assert "error" not in record


async def test_a_failure_that_cannot_be_recorded_is_logged(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback of the flow, and the reason. The message waits, and no attempt is counted."""

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        wire.refuse_all(to("", "/dbs/"))
        raise OSError("down")

    await world.put(document("t", entry("flow")))
    assert await deliver(services, registered(flow), message(), NOW) is None

    assert "UNAVAILABLE t/flow ended (failed), which could not be recorded: Cosmos DB could not be" in caplog.text
    assert "test_run.py" in caplog.text
    assert "OSError: down" in caplog.text
    assert (
        "UNAVAILABLE t/flow waits for 15s: Cosmos DB is away since 2025-08-23T12:00:00Z. Cosmos DB could" in caplog.text
    )
    wire.heal()
    assert await world.records() == []
    assert await hidden(world) == 1


async def test_runs_that_meet_do_not_overwrite_each_others_state(world: World, services: Services) -> None:
    """One runs, and the others are skipped. Each has a record, and the state has the writes of each."""
    await world.put(document("t", entry("flow")))
    times = [NOW + timedelta(hours=n) for n in range(8)]
    running, most, skipped, ended = 0, 0, 0, asyncio.Event()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ended.wait()
        running -= 1

    async def run(number: int, scheduled: datetime) -> None:
        nonlocal skipped
        job = message(run_id=f"r-{number}", scheduled_utc=scheduled)
        while (record := await deliver(services, registered(flow), job, times[-1])) is None:
            pass  # put back, since others changed the state in every try
        skipped += record.outcome == "skipped_overlap"
        if skipped == len(times) - 1:
            ended.set()

    async with asyncio.timeout(60):
        await asyncio.gather(*[run(number, scheduled) for number, scheduled in enumerate(times)])

    assert most == 1
    outcomes = sorted(record["outcome"] for record in await world.records())
    assert outcomes == [*["skipped_overlap"] * 7, "succeeded"]
    (succeeded,) = [record for record in await world.records() if record["outcome"] == "succeeded"]
    state = await services.runs.state("t", ["flow"])
    assert state.window_end_utc == datetime.fromisoformat(succeeded["window"]["end"])
    assert (state.lease, state.wanted, state.last_outcome) == (None, None, "succeeded")
    run_ids = [json.loads(body)["runId"] for body in await world.messages()]
    assert len([each for each in run_ids if not each.startswith("r-")]) == 1, "one more, however many were skipped"


async def test_a_run_with_an_earlier_time_does_not_move_the_window_back(world: World, services: Services) -> None:
    """Runs may end in another order than they were scheduled."""
    await world.put(document("t", entry("flow")))
    later = NOW + timedelta(hours=1)

    await run_job(services, registered(succeed), message(run_id="r-1", scheduled_utc=later), later)
    await run_job(services, registered(succeed), message(run_id="r-2", scheduled_utc=NOW), later)

    assert (await services.runs.state("t", ["flow"])).window_end_utc == later


def is_settlement(request: Request) -> bool:
    """Return whether a request writes the record and the state of an attempt that ended."""
    return to("POST", "/docs", "attempts")(request) and "FlowState" in request[2]


TAKES = to("PATCH", "/docs/state-flow")
CREATES = to("POST", "/docs", "FlowState")


@pytest.mark.parametrize(
    "lost",
    [CREATES, TAKES, is_settlement],
    ids=["the lease of a new state", "the lease", "the settlement"],
)
@pytest.mark.parametrize("outcome", ["failed", "succeeded"])
async def test_an_attempt_is_applied_once_even_if_an_answer_is_lost(
    world: World, wire: Wire, services: Services, lost: Callable[[Request], bool], outcome: str
) -> None:
    """The client repeats the request. The state counts the attempt once, and the record lists it once."""
    calls = []

    async def flow(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        calls.append(run.run_id)
        if outcome == "failed":
            raise OSError("down")

    await world.put(document("t", entry("flow")))
    states = []
    for run_id in ("r-1", "r-2"):
        wire.lose_answer(lost)
        with suppress(FlowFailed):
            await run_job(services, registered(flow), message(run_id=run_id), NOW)
        states.append(await services.runs.state("t", ["flow"]))

    assert [state.consecutive_failures for state in states] == ([1, 2] if outcome == "failed" else [0, 0])
    assert [len(state.ended) for state in states] == ([0, 0] if outcome == "failed" else [1, 2])
    assert [state.lease for state in states] == [None, None]
    assert [[each["outcome"] for each in record["attempts"]] for record in await world.records()] == [[outcome]] * 2
    assert calls == ["r-1", "r-2"]
    assert wire.stop_losing() == 0


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
    (record,) = await world.records()
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["failed", "succeeded"]


async def test_the_tries_to_write_a_state_are_limited(
    world: World, wire: Wire, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """The number of tries is limited. The message is put back, and the run is repeated when its lease is over."""
    await world.put(document("t", entry("flow")))

    async def touch() -> None:
        state = await world.runs.read_item("state-flow", partition_key="t")
        await world.runs.upsert_item(dict(state))

    wire.before_each(is_settlement, touch)
    assert await deliver(services, registered(succeed), message(), NOW) is None

    assert "the state of t/flow was changed by others in each of 20 tries" in caplog.text
    assert await world.records() == []
    assert await hidden(world) == 1


async def test_a_run_that_is_killed_at_any_request_is_repeated(world: World, wire: Wire, services: Services) -> None:
    """The message is delivered again. Then one success is recorded, and the window has advanced once.

    The flow is called again only if the worker was killed after the call and before the success was recorded.
    """
    await services.runs.state("t", ["flow"])  # connects
    killed, calls = 0, list[str]()

    async def flow(tenant_id: str, kv: SecretClient) -> None:
        calls.append(tenant_id)

    for answered in (False, True):
        for number in count(1):
            tenant = f"t-{answered}-{number}"
            await world.put(document(tenant, entry("flow")))
            wire.kill_at(number, answered=answered)
            try:
                await run_job(services, registered(flow), message(1, tenant_id=tenant), NOW)
            except Killed:
                killed += 1
            else:
                break
            wire.heal()
            was_recorded = bool(await world.records(tenant))
            first_calls = calls.count(tenant)
            at_once = await deliver(services, registered(flow), message(2, tenant_id=tenant), NOW)
            later = await deliver(services, registered(flow), message(3, tenant_id=tenant), LEASE_OVER)
            assert [at_once, later].count(None) == (2 if was_recorded else 1)

            (record,) = await world.records(tenant)
            outcomes = [attempt["outcome"] for attempt in record["attempts"]]
            assert outcomes in (["succeeded"], ["interrupted", "succeeded"])
            assert (record["runId"], record["outcome"]) == ("r-1", "succeeded")
            assert calls.count(tenant) == (first_calls if was_recorded else first_calls + 1)
            state = await services.runs.state(tenant, ["flow"])
            assert (state.lease, state.consecutive_failures) == (None, 0)
            assert state.window_end_utc == NOW
        wire.heal()
    assert killed >= 8


async def test_a_deferral_killed_before_it_is_enqueued_is_not_lost(
    world: World, wire: Wire, services: Services
) -> None:
    """The original message is delivered again. The record has the next message, which is sent without another call."""
    calls = []

    async def later(tenant_id: str, kv: SecretClient) -> None:
        calls.append(tenant_id)
        raise RetryLater(timedelta(hours=1), "asked too often")

    await world.put(document("t", entry("flow")))
    wire.kill_before(to("POST", "/messages"))
    with pytest.raises((Killed, BaseExceptionGroup)):
        await run_job(services, registered(later), message(1), NOW)
    wire.heal()
    assert await hidden(world) == 0
    assert await deliver(services, registered(later), message(2), NOW) is None

    assert await hidden(world) == 1
    assert [(record["outcome"], record["attemptCount"]) for record in await world.records()] == [("deferred", 1)]
    assert len(calls) == 1


async def test_a_deferral_that_cannot_be_enqueued_is_not_lost(
    world: World, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """It is recorded, with the reason and the counts. Each delivery of the message tries again to enqueue the next."""
    calls = []

    async def later(tenant_id: str, kv: SecretClient, run: FlowRun) -> None:
        calls.append(tenant_id)
        run.count(items=5)
        raise RetryLater(timedelta(hours=1), "asked too often")

    await world.put(document("t", entry("flow")))
    await world.jobs.delete_queue()
    try:
        for delivery in (1, 2):
            with pytest.raises(ServiceUnavailable, match="does not exist"):
                await run_job(services, registered(later), message(delivery), NOW)
    finally:
        await world.jobs.create_queue()

    (record,) = await world.records()
    assert (record["outcome"], record["counts"]) == ("deferred", {"items": 5})
    assert record["error"]["message"] == "asked too often"
    state = await services.runs.state("t", ["flow"])
    assert (state.last_outcome, state.consecutive_failures) == ("deferred", 0)
    assert "DEFERRED t/flow after 0.0s: asked too often" in caplog.text

    assert await deliver(services, registered(later), message(3), NOW) is None
    assert await hidden(world) == 1
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("entries", "failures"),
    [
        ([entry("flow", enabled="yes")], 1),
        ([{"name": ["odd"]}, entry("flow", cron=5)], 1),
        ("not a list", None),
        ([{"name": "flow", "enabled": False}], None),
    ],
    ids=[
        "an entry that cannot be read",
        "an entry that cannot be read beside an odd entry",
        "no entry at all",
        "an entry that cannot be read and is disabled",
    ],
)
async def test_a_failure_before_the_flow_starts_counts_if_the_tenant_has_the_entry(
    world: World, services: Services, entries: Any, failures: int | None
) -> None:
    """A flow that cannot start counts as failing. A message for a flow without an entry creates no state."""
    await world.put({**document("t"), "flows": entries})

    with pytest.raises(TenantInvalid):
        await run_job(services, registered(succeed), message(), NOW)

    assert [record["outcome"] for record in await world.records()] == ["failed"]
    state = await services.runs.state("t", ["flow"])
    assert (state.consecutive_failures or None, state.last_outcome) == (failures, failures and "failed")


@pytest.mark.parametrize(
    ("entries", "job"),
    [([entry("another")], "gone"), ([entry("a/b")], "a/b"), ([entry("gone", enabled=False)], "gone")],
    ids=["no entry", "a name under which no state can be stored", "a disabled entry"],
)
async def test_a_run_of_a_flow_that_never_came_creates_no_state(
    world: World, services: Services, entries: Any, job: str
) -> None:
    """The run is dead, and has a record."""
    await world.put(document("t", *entries))

    await run_job(services, registered(succeed), message(flow_name=job), NOW + LONGEST_PARKING)

    documents = [dict(item) async for item in world.runs.query_items("SELECT * FROM c")]
    assert [(item["type"], item["flowName"], item["outcome"]) for item in documents] == [("Run", job, "dead")]


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
    """An outage is not a failure of the flow. The log has an event, no attempt is recorded, and the message waits."""
    await world.put(document("t", entry("flow")))
    await run_job(services, registered(succeed), message(), NOW)
    wire.refuse_all(to("GET", "/docs/t/"))

    assert await deliver(services, registered(succeed), message(run_id="r-2"), NOW) is None

    assert "UNAVAILABLE t/flow waits for 15s: Cosmos DB is away since 2025-08-23T12:00:00Z. " in caplog.text
    assert "Cosmos DB could not be reached while reading tenant 't'" in caplog.text
    state = await services.runs.state("t", ["flow"])
    assert (state.consecutive_failures, state.last_outcome, state.lease) == (0, "succeeded", None)
    assert [record["runId"] for record in await world.records()] == ["r-1"]
    assert await hidden(world) == 1


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
    assert rest[-1] == "  LookupError: no such order"
