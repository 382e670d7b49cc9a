"""The services of a process: created once, when they are first needed, and closed."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
from httpx_retries import Retry

from datasync import services as module
from datasync.errors import SettingsInvalid
from datasync.http import new_client
from datasync.services import services
from tests.world import World


@pytest_asyncio.fixture
async def unconnected() -> AsyncGenerator[None]:
    """Start without services, as a new process does. Close them after the test."""
    services.cache_clear()
    yield
    if services.cache_info().currsize:
        await (await services()).close()
    services.cache_clear()


async def test_invocations_share_one_set_of_clients(
    unconnected: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrent first invocations connect only once."""
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)

    first, *others = await asyncio.gather(*[services() for _ in range(20)])

    assert all(other is first for other in others)
    assert await services() is first


async def test_a_failure_to_connect_is_not_cached(
    unconnected: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the setting is corrected, the next invocation connects."""
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COSMOS_CONNECTION_STRING", "")
    with pytest.raises(SettingsInvalid, match="COSMOS_CONNECTION_STRING: missing"):
        await services()

    monkeypatch.setenv("COSMOS_CONNECTION_STRING", world.environ["COSMOS_CONNECTION_STRING"])

    assert isinstance(await services(), module.Services)


async def test_closed_services_keep_no_connection_open(world: World) -> None:
    """After close(), the HTTP connections of flows are closed. A second close() has no effect."""
    connected = await module.Services.connect(world.settings)
    client, once = new_client(connected.http_transport), {"retry": Retry(total=0)}
    with pytest.raises(httpx.TransportError):
        await client.get("http://127.0.0.1:1/", extensions=once)
    await connected.close()
    await connected.close()

    with pytest.raises(RuntimeError, match="Session is closed"):
        await client.get("http://127.0.0.1:1/", extensions=once)
