"""A real browser: Debian's Chromium, driven by Playwright. One for all tests, with a new profile for each of them.

Without Chromium, the tests are skipped on a laptop and fail in CI.
"""

import os
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, ViewportSize, expect

from tests.browser.board import fill, fleet_of
from tests.browser.chromium import chromium, launched
from tests.browser.site import NOW, Site
from tests.browser.site import site as serve

AXE = Path(__file__).parent.parent.parent / "localdev" / "node_modules" / "axe-core" / "axe.min.js"
WIDE = ViewportSize(width=1280, height=800)
PATIENCE = 60_000  # ms: a busy machine is slow
expect.set_options(timeout=PATIENCE)
_EXPECTED = "Failed to load resource"  # a request that the app has refused, which the page itself tells


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncGenerator[Browser]:
    """Run the browser."""
    if (path := chromium()) is None:
        missing("Chromium is not installed (Debian: apt-get install chromium)")
    async with launched(path) as running:
        yield running


@pytest_asyncio.fixture(scope="session")
async def shared_site() -> AsyncGenerator[Site]:
    """Serve the page."""
    async with serve() as running:
        yield running


@pytest.fixture
def site(shared_site: Site) -> Site:
    """Return the page's server, with a fleet of 200 tenants."""
    shared_site.key, shared_site.mode, shared_site.now = "", "key", NOW
    shared_site.signed_out = HTTPStatus.OK
    shared_site.results, shared_site.asked, shared_site.done = {}, [], []
    fill(shared_site, fleet_of(200))
    return shared_site


@pytest_asyncio.fixture
async def page(browser: Browser, site: Site) -> AsyncGenerator[Page]:
    """Open a browser window, and check that nothing in it fails or is refused by the policy of the page."""
    context = await browser.new_context(
        viewport=WIDE, timezone_id="Europe/Berlin", accept_downloads=True, base_url=site.url
    )
    context.set_default_timeout(PATIENCE)
    page = await context.new_page()
    wrong = watched(page)
    yield page
    await context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the source of axe-core, which checks a page for people who cannot see it, or not well."""
    if not AXE.exists():
        missing(f"{AXE} is missing: make install")
    return AXE.read_text(encoding="utf-8")


def missing(why: str) -> NoReturn:
    """Skip the test on a laptop; fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def watched(page: Page) -> list[str]:
    """Return a list that gets the errors of a window."""
    wrong: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and _EXPECTED not in message.text:
            wrong.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return wrong
