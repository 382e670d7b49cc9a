import os
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from localdev.cosmos import Database
from localdev.errors import NodeMissing
from localdev.node import node_path
from tests.localdev.host.running import App


@pytest.fixture(scope="session")
def node() -> None:
    """Skip the test if Node or its packages are missing. In CI, fail instead."""
    try:
        node_path()
    except NodeMissing as why:
        if os.environ.get("CI"):
            pytest.fail(str(why))
        pytest.skip(str(why))


@pytest_asyncio.fixture(scope="session")
async def cosmos_client(database: Database) -> AsyncGenerator[CosmosClient]:
    """Connect to the session's Cosmos DB account with its key."""
    async with CosmosClient.from_connection_string(database.connection_string) as client:
        yield client


@pytest_asyncio.fixture
async def items(cosmos_client: CosmosClient) -> AsyncGenerator[ContainerProxy]:
    """Make a container for one test, partitioned by tenant."""
    database = await cosmos_client.create_database(f"test-{uuid.uuid4().hex[:12]}")
    yield await database.create_container("items", PartitionKey("/tenantId"), default_ttl=-1)
    await cosmos_client.delete_database(database)


@pytest.fixture
def bare_app(tmp_path: Path) -> App:
    """Make the folder of an app without a storage account."""
    return App(tmp_path, {})
