"""Recordings of failed attempts: stored in blobs where they are on, and replayed without any service."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import ContainerClient

from datasync import IDEMPOTENT, FlowRegistry, FlowRun, RetryLater, TenantSecretClient
from datasync.author.playback import Step
from datasync.author.replay import Replayed, replay, stored_recording
from datasync.clients import Credential, container_client
from datasync.errors import FlowFailed, RecordingUnknown, RunUnknown
from datasync.flow.registry import Flow
from datasync.model.run import RunRecord
from datasync.services import Services
from datasync.stores.recordings import KEPT, RecordingStore
from flows.weather import weather
from localdev.keyvault import KeyVault
from tests.deliveries import message
from tests.documents import document, entry
from tests.emulators.conftest import Api
from tests.faults import Wire
from tests.operating import command
from tests.stages import FakeClock, deliver
from tests.world import World

TOKEN = "s3cr3t-of-the-api"


@pytest.fixture
def tenant(vault: KeyVault, api: Api) -> str:
    """Return a tenant of this test, with the secrets of its source."""
    name = f"t-{uuid4().hex[:8]}"
    vault.set_secret(f"tenants--{name}--mysource--api-base", f"{api.url}/v1")
    vault.set_secret(f"tenants--{name}--mysource--api-token", TOKEN)
    return name


@pytest_asyncio.fixture
async def recording(world: World, vault: KeyVault, tenant: str) -> AsyncGenerator[Services]:
    """Connect the services of an app that records failures."""
    await world.put(document(tenant, entry("flow", settings={"pages": 2})))
    services = Services(replace(world.settings, record_failures=True), FakeClock())
    yield services
    await services.close()


@pytest_asyncio.fixture
async def container(world: World) -> AsyncGenerator[ContainerClient]:
    """Return the container of the recordings."""
    async with container_client(world.settings.storage, "datasync-recordings", Credential()) as client:
        yield client


def flow_of(function: Callable[..., Any], name: str = "flow") -> FlowRegistry:
    """Return a registry with a function as its only flow."""
    registry = FlowRegistry()
    registry.flow(name)(function)
    return registry


async def copy(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
    """Send a request for each page."""
    base, token = await kv.secret("mysource", "api-base"), await kv.secret("mysource", "api-token")
    for page in range(run.settings["pages"]):
        headers = {"Authorization": f"Bearer {token}"}
        response = await run.http.post(f"{base}/items", params={"page": page}, json={"page": page}, headers=headers)
        response.raise_for_status()
        run.log.info("page %d: %s", page, response.json()["name"])


async def run_once(services: Services, registry: FlowRegistry, tenant: str, run_id: str = "r-1") -> RunRecord:
    """Make an attempt of a run, and return its record."""
    (flow,) = registry
    delivery = message(tenant_id=tenant, run_id=run_id, flow_name=flow.name)
    with suppress(FlowFailed):
        await deliver(services, registry, delivery, services.clock.now())
    record = await services.runs.record(tenant, run_id)
    assert record is not None
    return record


async def replayed(services: Services, registry: FlowRegistry, tenant: str) -> tuple[Replayed, list[Step]]:
    steps: list[Step] = []
    flow: Flow = registry.resolve("flow")
    return await replay(flow, await stored_recording(services, "r-1", tenant), steps.append), steps


async def test_a_failed_attempt_is_recorded_and_replayed(
    recording: Services, container: ContainerClient, tenant: str, api: Api, vault: KeyVault
) -> None:
    """The blob holds no secret. The replay needs neither the API nor the vault, and ends as the attempt did."""
    api.body = {"ok": True, "echo": TOKEN}

    record = await run_once(recording, flow_of(copy), tenant)
    sent = len(api.requests)
    end, steps = await replayed(recording, flow_of(copy), tenant)

    assert (str(record.outcome), record.recording) == ("failed", f"{tenant}/flow/20250823T120000Z-r-1-1.yaml")
    blob = (await (await container.download_blob(record.recording or "")).readall()).decode()
    assert TOKEN not in blob
    assert api.url not in blob
    assert (end.differences, end.unused) == ((), ())
    assert end.end.startswith("KeyError: 'name' at emulators/test_recordings.py:")
    assert end.traceback.splitlines()[1].strip().startswith(f'File "{__file__}"')
    assert [(step.request, step.sent) for step in steps] == [
        ("POST https://mysource--api-base.invalid/items?page=0", 10)
    ]
    assert len(api.requests) == sent


async def test_the_replay_of_a_corrected_flow_differs(recording: Services, tenant: str, api: Api) -> None:
    """It says what is different, and which request is not recorded."""
    await run_once(recording, flow_of(copy), tenant)

    async def corrected(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await run.http.post(f"{await kv.secret('mysource', 'api-base')}/items?page=0")

    async def another(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        await run.http.get(f"{await kv.secret('mysource', 'api-base')}/orders")

    succeeded, _ = await replayed(recording, flow_of(corrected), tenant)
    unknown, _ = await replayed(recording, flow_of(another), tenant)

    assert (succeeded.end, succeeded.differences) == (
        "succeeded",
        ("it succeeded, and the attempt failed: KeyError: 'name'",),
    )
    assert unknown.differences == (
        "not recorded: GET https://mysource--api-base.invalid/orders; the flow has changed, or the request depends on "
        "the time or on chance",
    )
    assert unknown.unused == ("POST https://mysource--api-base.invalid/items?page=0",)


async def test_the_answers_of_all_tries_are_replayed(recording: Services, tenant: str, api: Api) -> None:
    """The retries are those of the client, and do not wait."""
    api.status, api.headers = 503, {"Retry-After": "30"}

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        base = await kv.secret("mysource", "api-base")
        (await run.http.post(f"{base}/items", extensions=IDEMPOTENT)).raise_for_status()

    await run_once(recording, flow_of(flow), tenant)
    end, steps = await replayed(recording, flow_of(flow), tenant)

    assert end.differences == ()
    assert [step.answer for step in steps] == ["503 Service Unavailable, 0 bytes, it was not read"] * 4 + [
        "503 Service Unavailable, 12 bytes"
    ]


async def test_an_error_of_the_connection_is_replayed(recording: Services, tenant: str, vault: KeyVault) -> None:
    """The client raises the same error, without a connection."""
    vault.set_secret(f"tenants--{tenant}--mysource--api-base", "http://127.0.0.1:1/v1")

    record = await run_once(recording, flow_of(copy), tenant)
    end, steps = await replayed(recording, flow_of(copy), tenant)

    assert record.error is not None
    assert record.error.kind == "ConnectError"
    assert end.differences == ()
    assert steps[0].answer.startswith("ConnectError: ")


async def test_nothing_is_recorded_by_default(
    world: World, services: Services, container: ContainerClient, tenant: str
) -> None:
    """Nor of an attempt that succeeds, or is deferred."""
    await world.put(document(tenant, entry("flow", settings={"pages": 1})))

    record = await run_once(services, flow_of(copy), tenant)

    assert (str(record.outcome), record.recording) == ("failed", None)
    assert await _names(container, tenant) == []
    with pytest.raises(RecordingUnknown, match="the setting RECORD_FAILURES|app setting RECORD_FAILURES"):
        await stored_recording(services, "r-1", None)
    with pytest.raises(RunUnknown, match="there is no record of run 'other'"):
        await stored_recording(services, "other", None)


async def test_only_failures_are_recorded(recording: Services, container: ContainerClient, tenant: str) -> None:
    """A flow that asks to run later has not failed."""

    async def flow(tenant_id: str, kv: TenantSecretClient, run: FlowRun) -> None:
        if run.run_id == "r-2":
            raise RetryLater(timedelta(minutes=5))

    assert (await run_once(recording, flow_of(flow), tenant)).recording is None
    assert (await run_once(recording, flow_of(flow), tenant, "r-2")).recording is None
    assert await _names(container, tenant) == []


async def test_storage_that_is_away_does_not_change_the_end_of_a_run(
    recording: Services, wire: Wire, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is one warning."""
    wire.refuse_all(lambda request: "datasync-recordings" in request[1])

    with caplog.at_level(logging.WARNING):
        record = await run_once(recording, flow_of(copy), tenant)

    assert (str(record.outcome), record.recording) == ("failed", None)
    assert record.error is not None
    assert record.error.kind == "KeyError"
    (line,) = [each.getMessage() for each in caplog.records if each.getMessage().startswith("UNRECORDED")]
    assert line.startswith(f"UNRECORDED {tenant}/flow: the recording was not stored: the blob container")


async def test_the_newest_recordings_of_a_flow_are_kept(recording: Services, container: ContainerClient) -> None:
    """The others are deleted, those of other flows are not."""
    store, folder = recording.recordings, f"t-{uuid4().hex[:8]}/flow"
    kept = await store.put(f"{folder}-2", "a", b"{}")

    paths = [await store.put(folder, f"{number:02}", b"{}") for number in range(KEPT + 2)]

    assert await _names(container, folder) == sorted([*paths[2:], kept])
    with pytest.raises(RecordingUnknown, match="is no longer in the container datasync-recordings"):
        await store.get(paths[0])


async def test_the_container_is_created_with_the_first_recording(world: World) -> None:
    """Provisioning need not know whether failures will be recorded."""
    async with container_client(world.settings.storage, f"c-{uuid4().hex}", Credential()) as client:
        store = RecordingStore(client)
        await store.ping()

        path = await store.put("t/flow", "a", b"content")

        assert await store.get(path) == b"content"
        await client.delete_container()


async def _names(container: ContainerClient, prefix: str) -> list[str]:
    try:
        return [name async for name in container.list_blob_names(name_starts_with=prefix)]
    except ResourceNotFoundError:
        return []


async def test_the_command_line_names_the_recording_and_replays_it(
    recording: Services, world: World, tenant: str, api: Api
) -> None:
    """`show` has the command to run next."""
    api.body = {"now": 21}
    await world.put(document(tenant, entry("weather", settings={"baseUrl": api.url})))
    await run_once(recording, flow_of(weather, "weather"), tenant)

    shown = await command(world, "show", "r-1", "--tenant", tenant)
    replayed = await command(world, "replay", "r-1", "--tenant", tenant)
    unknown = await command(world, "replay", "other")

    assert f"recorded answers: python -m datasync replay r-1 --tenant {tenant}\n" in shown.output
    assert "reproduced: the same error: KeyError: 'current' at flows/weather.py:" in replayed.output
    assert (replayed.exit_code, unknown.exit_code) == (0, 3)
    assert unknown.output == (
        "Error: there is no record of run 'other', and no such file. List the runs: python -m datasync runs\n"
    )
