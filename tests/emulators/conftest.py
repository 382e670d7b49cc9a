"""An API on this machine, for flows that call one, and the secrets of flows."""

from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

from datasync.clock import Clock
from datasync.flow.secrets import Vault
from datasync.services import Services
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.authoring import Desk, Target
from tests.operating import Fleet
from tests.stages import FakeClock
from tests.world import World

TOKEN = "tenants--acme--homedepot--api-token"

type MakeVault = Callable[..., Vault]


class Api:
    """Gives the same answer to every request, and remembers the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: object = {"ok": True}
        self.requests: list[str] = []
        """The paths."""
        self.tokens: list[str] = []
        """The header `Authorization` of each request."""

    def heal(self) -> None:
        """Answer 200 from now on."""
        self.status, self.headers, self.body = 200, {}, {"ok": True}

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(request.path)
        self.tokens.append(request.headers.get("Authorization", ""))
        return web.json_response(self.body, status=self.status, headers=self.headers)


@pytest_asyncio.fixture
async def api() -> AsyncGenerator[Api]:
    """Serve the API."""
    api = Api()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    async with serving("the API", application) as url:
        api.url = url
        yield api


@pytest_asyncio.fixture
async def make_vault(vault: KeyVault) -> AsyncGenerator[MakeVault]:
    """Return a function that makes a Vault for the running Key Vault, with a real client and credential."""
    vault.set_secret(TOKEN, "s3cret")
    vault.reads.clear()
    credential = DefaultAzureCredential()
    made: list[Vault] = []

    def connect() -> SecretClient:
        return SecretClient(vault.uri, credential, verify_challenge_resource=False, retry_total=0)

    def make(clock: Clock | None = None, time_to_live: timedelta = timedelta(minutes=5)) -> Vault:
        made.append(Vault(connect, (clock or FakeClock()).now, time_to_live))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    await credential.close()


@pytest_asyncio.fixture
async def another_process(world: World, vault: KeyVault) -> AsyncGenerator[Services]:
    """Return the services of a second process."""
    made = Services(world.settings, FakeClock())
    yield made
    await made.close()


@pytest.fixture
def fleet(world: World, services: Services) -> Fleet:
    """Return the app over the tenants of this test."""
    return Fleet(world, services)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Return the folder of an author."""
    desk = Desk(tmp_path)
    with desk.importable():
        yield desk


@pytest_asyncio.fixture
async def target(vault: KeyVault) -> AsyncGenerator[Target]:
    """Serve the API of the flow `feed`, and store its URL and token for the tenant `t`."""
    target = Target()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", target.answer)
    async with serving("the API", application) as url:
        vault.set_secret("tenants--t--crm--base", url)
        vault.set_secret("tenants--t--crm--token", "s3cr3t-token")
        yield target
