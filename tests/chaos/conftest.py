"""The arena of a chaos test, and the summary of all of them.

`--chaos-scale=N` multiplies the numbers of tenants and faults. `--chaos-seed=S` repeats the choices of another run.
"""

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
from tests.chaos.hosts import create_app
from tests.chaos.proxies import proxy
from tests.world import World

_SEED = random.SystemRandom().randrange(10**6)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-scale", type=int, default=1, help="factor for the numbers of the chaos tests")
    parser.addoption("--chaos-seed", type=int, default=_SEED, help="seed of the chaos tests (default: a random one)")


@pytest.fixture(scope="session")
def chaos_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the app of these tests."""
    folder = tmp_path_factory.mktemp("app")
    create_app(folder)
    return folder


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
    seed = request.config.getoption("--chaos-seed", _SEED)
    choices = random.Random(f"{seed} {request.node.nodeid}")  # noqa: S311 - not for security
    scale = request.config.getoption("--chaos-scale", 1)
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


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the faults and the numbers of each chaos test, also of those that passed."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    rows = [
        (report.nodeid.rpartition("::")[2], line)
        for report in reports
        if report.when == "call" and "tests/chaos/" in report.nodeid
        for line in report.capstdout.splitlines()
        if line.startswith(("injected:", "found:"))
    ]
    if rows:
        terminalreporter.section(f"chaos: --chaos-seed={terminalreporter.config.getoption('--chaos-seed', _SEED)}")
        for name, line in rows:
            if line.startswith("injected:"):
                terminalreporter.write_line(name)
            terminalreporter.write_line(f"  {line}")
