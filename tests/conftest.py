"""The real parts tests run against: started once for the whole run, with a database and queues for each test.

Where Node or its packages are missing these tests are skipped on a laptop and fail in CI.
"""

import atexit
import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import NoReturn

import pytest
import pytest_asyncio

from localdev.children import scratch_folder
from localdev.tls import Certificates, create_certificates

# Before anything imports aiohttp, which reads the trusted roots when it is imported.
_OPEN = ExitStack()
atexit.register(_OPEN.close)
_CERTIFICATES = create_certificates(_OPEN.enter_context(scratch_folder()))
os.environ["SSL_CERT_FILE"] = str(_CERTIFICATES.bundle)

from azure.cosmos.aio import CosmosClient  # noqa: E402

from datasync.services import Credential, Services, queue_client  # noqa: E402
from datasync.settings import Settings  # noqa: E402
from localdev.azurite import Storage, azurite  # noqa: E402
from localdev.cosmos import Database, cosmos  # noqa: E402
from localdev.errors import NodeMissing  # noqa: E402
from localdev.keyvault import KeyVault, key_vault  # noqa: E402
from localdev.provision import provision  # noqa: E402
from tests.world import World  # noqa: E402


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """Give the certificates every local https server of the run has, and this process trusts."""
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
    """Run a Key Vault, and the endpoint that gives out the tokens it asks for."""
    async with key_vault({}, tls=certificates) as running:
        yield running


@pytest.fixture
def vault(shared_vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> KeyVault:
    """Give the Key Vault, to which this process is let in as an app on Azure is."""
    for name, value in shared_vault.environ.items():
        monkeypatch.setenv(name, value)
    return shared_vault


@pytest_asyncio.fixture
async def world(storage: Storage, database: Database, shared_vault: KeyVault) -> AsyncGenerator[World]:
    """Make a database and queues that no other test sees."""
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


@pytest_asyncio.fixture
async def services(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Connect the app's services to this test's world."""
    connected = await Services.connect(world.settings)
    yield connected
    await connected.close()
