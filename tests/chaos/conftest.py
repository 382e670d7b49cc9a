"""The arena of a chaos test."""

import json
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from localdev.azurite import Storage
from localdev.cosmos import Database
from localdev.keyvault import KeyVault
from localdev.tls import Certificates
from tests.chaos.arena import HIDING, MOST_DELIVERIES, QUEUES, YEARLY, Arena
from tests.chaos.hosts import LASTING, SECONDS, create_app
from tests.chaos.proxies import proxy
from tests.world import World


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin the long form with its longest test, so that the other process does the rest meanwhile."""
    if config.getoption("--chaos-scale") > 1:
        items.sort(key=lambda item: item.path.name != "test_state_machine.py")


@pytest.fixture(scope="session")
def chaos_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the app of these tests."""
    folder = tmp_path_factory.mktemp("app")
    create_app(folder, SECONDS)
    return folder


@pytest.fixture(scope="session")
def lasting_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the app with leases that last longer."""
    folder = tmp_path_factory.mktemp("app-with-lasting-leases")
    create_app(folder, LASTING)
    return folder


@pytest.fixture
def lasting_leases(arena: Arena, lasting_app: Path) -> None:
    """Give the app leases that last longer. No run dies in the test, so no lease should end by itself."""
    arena.app = lasting_app


@pytest_asyncio.fixture
async def arena(
    *,
    request: pytest.FixtureRequest,
    chaos_app: Path,
    tmp_path: Path,
    world: World,
    storage: Storage,
    database: Database,
    shared_vault: KeyVault,
    certificates: Certificates,
) -> AsyncGenerator[Arena]:
    """Make the arena of one test. The app reaches its services through proxies."""
    seed = request.config.getoption("--chaos-seed")
    choices = random.Random(f"{seed} {request.node.nodeid}")  # noqa: S311 - not for security
    scale = request.config.getoption("--chaos-scale")
    storage_url = storage.queue_endpoint.rpartition("/")[0]
    async with AsyncExitStack() as stack:
        cosmos = await stack.enter_async_context(proxy("Cosmos DB", database.endpoint.rstrip("/"), choices))
        queue = await stack.enter_async_context(proxy("queue", storage_url, choices))
        vault = await stack.enter_async_context(
            proxy(
                "vault",
                shared_vault.uri.rstrip("/"),
                choices,
                server=certificates.server_context(),
                client=certificates.client_context(),
            )
        )
        effects = tmp_path / "effects.jsonl"
        made = Arena(
            world=world,
            app=chaos_app,
            effects=effects,
            environ={
                **world.environ,
                "AzureWebJobsStorage": storage.connection_string.replace(storage_url, queue.url),
                "COSMOS_CONNECTION_STRING": database.connection_string.replace(database.endpoint, f"{cosmos.url}/"),
                "KEY_VAULT_URI": f"{vault.url}/",
                "ORCHESTRATOR_SCHEDULE": YEARLY,
                "LOCALDEV_MESSAGE_HIDING": str(HIDING),
                f"{QUEUES}visibilityTimeout": "00:00:01",
                f"{QUEUES}maxPollingInterval": "00:00:00.2",
                MOST_DELIVERIES: "5",
                "CHAOS_EFFECTS": str(effects),
                "CHAOS_CLOCK": "0",
            },
            random=choices,
            scale=scale,
            cosmos=cosmos,
            queue=queue,
            vault=vault,
            set_secret=shared_vault.set_secret,
        )
        yield made
        lines = [line for host in made.hosts for line in host.log]
        (tmp_path / "hosts.log").write_text("\n".join(lines), encoding="utf-8")
        (tmp_path / "left.json").write_text(json.dumps(await made.left(), indent=1), encoding="utf-8")
