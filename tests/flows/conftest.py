"""Fixtures that run flows as the app does, from the message to the record: docs/testing.md."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, override
from uuid import uuid4

import pytest
import pytest_asyncio

import flows
from datasync.flow.http import new_transport
from datasync.flow.secrets import declared_secret
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.run import RunRecord
from datasync.services import Services
from datasync.testing import FakeClock, answered_by
from flows.registry import registry
from localdev.demo_apis import NO_TROUBLE, DemoApis, demo_apis
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.stages import run_job
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
TENANT = "acme-cabinets"
SOURCE_TOKEN, TARGET_TOKEN = "hd-token-acme", "bp-token-acme"


class RunFlow(Protocol):
    """Runs a flow once, and returns the record."""

    async def __call__(
        self,
        name: str,
        settings: dict[str, Any] | None = None,
        *,
        tenant: str = TENANT,
        secrets: dict[str, str] | None = None,
        at: datetime = NOW,
    ) -> RunRecord:
        """Run a flow.

        Args:
            name: The name of the flow, as in a tenant's document.
            settings: The settings of its entry.
            tenant: The id of the tenant, whose document is stored with this entry.
            secrets: Secrets to add to the vault, by the names that a flow declares: `mysource--api-token`.
            at: The scheduled time (aware), and the present instant.

        Raises:
            FlowFailed: the attempt has failed.

        """
        ...


type RunParts = Callable[..., Awaitable[list[RunRecord]]]


@pytest.fixture(scope="session")
def vcr_config() -> dict[str, Any]:
    """Leave credentials out of the cassettes that pytest-recording writes."""
    return {"filter_headers": ["authorization", "cookie", "x-api-key"]}


@pytest_asyncio.fixture
async def apis(vault: KeyVault) -> AsyncGenerator[DemoApis]:
    """Run the demo APIs without simulated errors, and store the tenant's secrets for them in the vault."""
    async with demo_apis(base_time=NOW, trouble=NO_TROUBLE) as running:
        for name, value in {
            "homedepot--api-base": f"{running.url}/homedepot/v1",
            "homedepot--api-token": SOURCE_TOKEN,
            "builderprime--api-base": f"{running.url}/builderprime/v1",
            "builderprime--api-token": TARGET_TOKEN,
        }.items():
            vault.set_secret(f"tenants--{TENANT}--{name}", value)
        yield running


class SleepingClock(FakeClock):
    """A clock that really waits: the demo APIs limit requests by their own time."""

    @override
    async def sleep(self, duration: timedelta) -> None:
        await super().sleep(duration)
        await asyncio.sleep(duration.total_seconds())


@pytest_asyncio.fixture
async def services(request: pytest.FixtureRequest, world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the app's services. In a test with `mock_api`, its routes answer the requests of flows.

    In a test without it, flows have the network, and a clock that really waits.
    """
    is_mocked = "mock_api" in request.fixturenames
    made = Services(world.settings, FakeClock() if is_mocked else SleepingClock())
    if is_mocked:
        made.http_transport = new_transport(answered_by(request.getfixturevalue("mock_api")))
    yield made
    await made.close()


@pytest.fixture
def run_flow(world: World, services: Services, vault: KeyVault) -> RunFlow:
    """Return a function that runs a flow for a tenant."""
    registry.load(flows)

    async def run(
        name: str,
        settings: dict[str, Any] | None = None,
        *,
        tenant: str = TENANT,
        secrets: dict[str, str] | None = None,
        at: datetime = NOW,
    ) -> RunRecord:
        for secret, value in (secrets or {}).items():
            vault.set_secret(declared_secret(tenant, secret), value)
        await world.put(document(tenant, entry(name, settings=settings or {})))
        body = JobMessage(tenant_id=tenant, flow_name=name, scheduled_utc=at).encode().encode()
        return await run_job(services, registry, QueueMessage(uuid4().hex, body, 1, at), at)

    return run


@pytest.fixture
def run_parts(world: World, services: Services, run_flow: RunFlow) -> RunParts:
    """Return a function that runs a flow as `run_flow` does, and then the parts that follow. It returns the records."""

    async def run(
        name: str, settings: dict[str, Any] | None = None, after_each: Callable[[RunRecord], object] = lambda _: None
    ) -> list[RunRecord]:
        parts = [await run_flow(name, settings)]
        after_each(parts[-1])
        while bodies := await world.take():
            (body,) = bodies
            parts.append(await run_job(services, registry, QueueMessage(uuid4().hex, body.encode(), 1, NOW), NOW))
            after_each(parts[-1])
        return parts

    return run
