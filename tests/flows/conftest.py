"""Fixtures that run the included flows as the app does, with the demo APIs as source and target."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, override
from uuid import uuid4

import pytest
import pytest_asyncio

import flows
from datasync.model.job import JobMessage, QueueMessage
from datasync.model.run import RunRecord
from datasync.services import Services
from flows.registry import registry
from localdev.demo_apis import NO_TROUBLE, DemoApis, demo_apis
from localdev.keyvault import KeyVault
from tests.documents import document, entry
from tests.stages import FakeClock, run_job
from tests.world import World

NOW = datetime(2025, 8, 23, 12, tzinfo=UTC)
TENANT = "acme-cabinets"
SOURCE_TOKEN, TARGET_TOKEN = "hd-token-acme", "bp-token-acme"

type RunFlow = Callable[..., Awaitable[RunRecord]]
type RunParts = Callable[..., Awaitable[list[RunRecord]]]


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
async def services(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the app's services, with a clock that really waits."""
    made = Services(world.settings, SleepingClock())
    yield made
    await made.close()


@pytest.fixture
def run_flow(world: World, services: Services, apis: DemoApis) -> RunFlow:
    """Return a function that runs a flow for the tenant, with given `settings` and a given scheduled time."""
    registry.load(flows)

    async def run(name: str, settings: dict[str, Any] | None = None, at: datetime = NOW) -> RunRecord:
        await world.put(document(TENANT, entry(name, settings=settings or {})))
        body = JobMessage(tenant_id=TENANT, flow_name=name, scheduled_utc=at).encode().encode()
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
