"""The services of a process are created once, at their first use, and are closed."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from httpx_retries import Retry

from datasync.errors import ServiceUnavailable, SettingsInvalid
from datasync.flow.http import new_client
from datasync.flow.usage import HttpUsage
from datasync.model.state import FlowState
from datasync.services import Services, shared_services
from datasync.settings import Settings
from localdev.cosmos import cosmos
from tests.faults import Wire
from tests.world import World


@pytest.fixture
def new_process() -> Iterator[None]:
    """Start and end the test without shared services, as in a new process."""
    shared_services.cache_clear()
    yield
    shared_services.cache_clear()


def test_invocations_share_one_set_of_services(
    new_process: None, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every invocation of a process gets the same services."""
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)

    assert shared_services() is shared_services()


def test_wrong_settings_are_read_again(new_process: None, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the setting is corrected, the next invocation gets its services."""
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COSMOS_CONNECTION_STRING", "")
    with pytest.raises(SettingsInvalid, match="COSMOS_CONNECTION_STRING: missing"):
        shared_services()

    monkeypatch.setenv("COSMOS_CONNECTION_STRING", world.environ["COSMOS_CONNECTION_STRING"])

    assert shared_services().settings.cosmos.connection_string


async def test_nothing_connects_before_its_first_use(world: World, wire: Wire, services: Services) -> None:
    """Concurrent invocations share one connection and one check of the container."""
    assert wire.requests == []

    states = await asyncio.gather(*[services.runs.state(f"t-{n}", ["weather"]) for n in range(20)])

    assert states == [FlowState(tenant_id=f"t-{n}", flow_name="weather") for n in range(20)]
    checks = [url for method, url, _ in wire.requests if method == "GET" and url.endswith("/colls/runs/")]
    assert len(checks) == 1


async def test_a_failure_to_connect_is_not_cached(world: World, wire: Wire, services: Services) -> None:
    """The next use after an outage connects."""
    wire.refuse = True
    with pytest.raises(ServiceUnavailable, match="Cosmos DB could not be reached while connecting"):
        await services.runs.state("t", ["weather"])

    wire.refuse = False

    assert await services.runs.state("t", ["weather"]) == FlowState(tenant_id="t", flow_name="weather")


async def test_an_account_with_multi_region_writes_is_refused(world: World, wire: Wire) -> None:
    """The app connects to the account, but sends no request for a container. The client is closed."""
    async with cosmos(write_regions=["West Europe", "North Europe"]) as database:
        environ = {**world.environ, "COSMOS_CONNECTION_STRING": database.connection_string}
        services = Services(Settings.from_environ(environ))
        try:
            with pytest.raises(ServiceUnavailable, match="127.0.0.1 has multi-region writes"):
                await services.runs.state("t", ["weather"])
            assert not [transport for transport in wire.transports if transport.session]
        finally:
            await services.close()

    assert not [url for _, url, _ in wire.requests if "/dbs/" in url]


async def test_a_client_that_failed_to_connect_is_closed(world: World, wire: Wire, services: Services) -> None:
    """During an outage, failed invocations do not leave open connections."""
    wire.refuse = True
    for _ in range(3):
        with pytest.raises(ServiceUnavailable):
            await services.runs.state("t", ["weather"])

    assert wire.transports
    assert not [transport for transport in wire.transports if transport.session]


async def test_closing_services_closes_their_connections(world: World) -> None:
    """close() closes the HTTP connections of the flows. It can be called twice."""
    connected = Services(world.settings)
    client, once = new_client(connected.http_transport, HttpUsage()), {"retry": Retry(total=0)}
    with pytest.raises(httpx.TransportError):
        await client.get("http://127.0.0.1:1/", extensions=once)
    await connected.close()
    await connected.close()

    with pytest.raises(RuntimeError, match="Session is closed"):
        await client.get("http://127.0.0.1:1/", extensions=once)
