"""The company, and the shop that its flows call."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest_asyncio
from aiohttp import web

from datasync.services import Services
from localdev.keyvault import KeyVault
from localdev.web import serving
from tests.faults import Wire
from tests.scenarios.company import Company, Shop, own_flows
from tests.world import World


@pytest_asyncio.fixture
async def shop() -> AsyncGenerator[Shop]:
    """Serve the shop."""
    shop = Shop()
    application = web.Application()
    application.router.add_get("/orders", shop.answer)
    async with serving("the shop", application) as shop.url:
        yield shop


@pytest_asyncio.fixture
async def company(  # noqa: PLR0917 - the parts of the company
    world: World, wire: Wire, services: Services, vault: KeyVault, shop: Shop, tmp_path: Path
) -> AsyncGenerator[Company]:
    """Return the company. It has no tenant yet."""
    with own_flows(tmp_path):
        yield Company(world, services, wire, vault=vault, shop=shop, folder=tmp_path)
