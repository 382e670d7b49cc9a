"""The routes of the dashboard, on the wire."""

import json
from collections.abc import AsyncGenerator

import pytest_asyncio
from aiohttp import ClientSession

from tests.acceptance.conftest import Start
from tests.documents import document, entry
from tests.world import World


@pytest_asyncio.fixture
async def client(start: Start) -> AsyncGenerator[ClientSession]:
    """Run the app with its dashboard in mode `key`, and return a client of it."""
    async with start(DASHBOARD="key") as running, ClientSession(running.url) as session:
        yield session


async def test_the_page_has_no_data_and_the_data_are_json(client: ClientSession, world: World) -> None:
    """The page is a file. Status and fleet are what the command line shows."""
    await world.put(document("acme", entry(name="succeeds")))

    async with client.get("/api/ops") as page:
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "acme" not in await page.text()
    async with client.get("/api/ops/data/status") as status:
        found = await status.json()
        assert found["flows"]["enabled"] == 1
    async with client.get("/api/ops/data/fleet") as fleet:
        found = json.loads(await fleet.text())
        assert [(line["tenantId"], line["flowName"]) for line in found["lines"]] == [("acme", "succeeds")]
        assert found["complete"] is True
    async with client.get(f"/api/ops/data/fleet?since={found['atTs']}") as changes:
        assert (await changes.json())["complete"] is False
