"""The page and the app together: routes, database and queue are real. An operator finds the problem."""

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from localdev.hosting import ROOT, RunningHost, host
from tests.acceptance.conftest import FLOWS, App
from tests.documents import document, entry
from tests.waiting import wait_until
from tests.world import World

SETTINGS = {
    "DASHBOARD": "key",
    "AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:00",
    "AzureFunctionsJobHost__extensions__queues__maxPollingInterval": "00:00:00.2",
}


@pytest_asyncio.fixture
async def running(world: World, tmp_path: Path) -> AsyncGenerator[RunningHost]:
    """Run a copy of the app with one broken flow file, over four tenants."""
    for name in ("dashboard", "datasync", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("function_app.py", "host.json"):
        shutil.copy(ROOT / name, tmp_path)
    app = App(tmp_path)
    app.add_flow_file("for_tests.py", FLOWS)
    app.add_flow_file("broken.py", "import jobber_client\n")
    await world.put(
        document("acme", entry("succeeds"), entry("weather", enabled=False)),
        document("bravo", entry("fails")),
        document("charlie", entry("fails"), timezone="Europe/Berlin"),
        document("delta", entry("succeeds", cron="0 * * * *")),
    )
    async with host({**world.environ, **SETTINGS}, app=app.folder, on_line=app.log.append) as running:
        yield running


@pytest.mark.usefixtures("site")
async def test_an_operator_finds_what_is_wrong(page: Page, running: RunningHost, world: World) -> None:
    """Without a word about it: an API that is away for two tenants, a bad cron, a broken flow file."""
    await running.invoke("orchestrator")

    async def dead() -> bool:
        return [record["outcome"] for record in await world.records()].count("dead") == 2

    await wait_until(dead, description="the runs of bravo and charlie are dead", seconds=120)
    url = f"{running.url}/api/ops"

    await page.goto(url)
    await expect(page.locator(".incident")).to_have_count(1)
    await expect(page.locator(".incident")).to_contain_text("2 tenants")
    await expect(page.locator(".incident")).to_contain_text("the source closed the connection")
    problem = page.get_by_role("region", name="Problems, table").get_by_role("row").last
    await expect(problem).to_contain_text("5 fields found, 6 needed")

    await page.get_by_role("link", name="Last failed run").click()
    await expect(page.locator(".attempts > li")).to_have_count(5)

    await page.goto(f"{url}#/fleet?q=is:wrong")
    await expect(page.locator(".c-tenant a")).to_have_text(["delta", "bravo", "charlie"])
    await page.get_by_role("link", name="charlie").click()
    fails = page.get_by_role("article", name="fails")
    await expect(fails.locator(".times time")).to_have_count(5)
    await fails.get_by_role("button", name="Why?").click()
    await expect(page.locator(".answer")).to_contain_text("failing: 5 failed attempts in a row")
    await expect(page.locator(".timeline li")).to_contain_text("the source closed the connection")

    await page.get_by_role("link", name="Flow files").click()
    await expect(page.get_by_role("article")).to_contain_text("No module named 'jobber_client'")
    await page.get_by_role("link", name="Next 24 h").click()
    await expect(page.locator("figcaption")).to_contain_text("jobs, at most")
