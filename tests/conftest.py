"""Fixtures for real services. They start once per test run, and each test has its own database and queues.

If Node or its packages are missing, tests that need them are skipped on a laptop and fail in CI.
"""

import atexit
import os
import signal
import uuid
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import NoReturn

import pytest
import pytest_asyncio

from localdev.children import scratch_folder
from localdev.tls import Certificates, create_certificates

# Set before aiohttp is imported, since it reads the trusted roots on import.
_OPEN = ExitStack()
atexit.register(_OPEN.close)
_CERTIFICATES = create_certificates(_OPEN.enter_context(scratch_folder()))
os.environ["SSL_CERT_FILE"] = str(_CERTIFICATES.bundle)

from azure.cosmos.aio import CosmosClient  # noqa: E402

from datasync import clients  # noqa: E402
from datasync.clients import Credential, queue_client  # noqa: E402
from datasync.services import Services  # noqa: E402
from datasync.settings import Settings  # noqa: E402
from localdev.azurite import Storage, azurite  # noqa: E402
from localdev.cosmos import Database, cosmos  # noqa: E402
from localdev.errors import NodeMissing  # noqa: E402
from localdev.keyvault import KeyVault, key_vault  # noqa: E402
from localdev.provision import provision  # noqa: E402
from tests.faults import FaultyTransport, Wire  # noqa: E402
from tests.stages import FakeClock  # noqa: E402
from tests.world import World  # noqa: E402

# A shell starts processes in the background with SIGINT ignored. The processes of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("datasync.testing.plugin", "tests.chaos.options", "tests.fuzz.options")


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """Return the certificates of the local https servers, which this process trusts."""
    return _CERTIFICATES


def missing(why: NodeMissing) -> NoReturn:
    """Skip the test on a laptop; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(str(why))
    pytest.skip(str(why))


@pytest_asyncio.fixture(scope="session")
async def storage() -> AsyncGenerator[Storage]:
    """Run Azurite."""
    try:
        async with azurite() as running:
            yield running
    except NodeMissing as why:
        missing(why)


@pytest_asyncio.fixture(scope="session")
async def database() -> AsyncGenerator[Database]:
    """Run a Cosmos DB account."""
    try:
        async with cosmos() as running:
            yield running
    except NodeMissing as why:
        missing(why)


@pytest_asyncio.fixture(scope="session")
async def shared_vault(certificates: Certificates) -> AsyncGenerator[KeyVault]:
    """Run a Key Vault and the endpoint that issues tokens for it."""
    async with key_vault({}, tls=certificates) as running:
        yield running


@pytest.fixture
def vault(shared_vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> KeyVault:
    """Return the Key Vault. This process has access to it through a managed identity, as on Azure."""
    for name, value in shared_vault.environ.items():
        monkeypatch.setenv(name, value)
    return shared_vault


@pytest_asyncio.fixture
async def world(storage: Storage, database: Database, shared_vault: KeyVault) -> AsyncGenerator[World]:
    """Create a database and queues for one test, and delete them after it."""
    name = uuid.uuid4().hex[:12]
    environ = {
        "AzureWebJobsStorage": storage.connection_string,
        "COSMOS_CONNECTION_STRING": database.connection_string,
        "COSMOS_DATABASE": f"db-{name}",
        "QUEUE_NAME": f"jobs-{name}",
        **shared_vault.environ,
    }
    settings = Settings.from_environ(environ)
    await provision(settings)
    credential = Credential()
    async with (
        CosmosClient.from_connection_string(database.connection_string) as client,
        queue_client(settings.storage, settings.queue_name, credential) as jobs,
        queue_client(settings.storage, f"{settings.queue_name}-poison", credential) as poison,
    ):
        own = client.get_database_client(settings.cosmos_database)
        try:
            yield World(
                environ=environ,
                settings=settings,
                tenants=own.get_container_client(settings.tenants_container),
                runs=own.get_container_client(settings.runs_container),
                jobs=jobs,
                poison=poison,
            )
        finally:
            await client.delete_database(settings.cosmos_database)
            await jobs.delete_queue()
            await poison.delete_queue()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Return the wire between the app's clients and their services, on which a test can cause faults."""
    made = Wire()
    monkeypatch.setattr(clients, "new_transport", lambda: FaultyTransport(made))
    return made


@pytest_asyncio.fixture
async def services(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the services of the app to the database and queues of this test."""
    connected = Services(world.settings, FakeClock())
    yield connected
    await connected.close()
