"""Each view shows what the app knows."""

from playwright.async_api import Page, expect

from tests.browser.board import AWAY
from tests.browser.site import Site


async def test_now_shows_the_numbers_and_the_incidents(page: Page, site: Site) -> None:
    """An incident names the status, the host, the tenants and the time since when."""
    await page.goto(site.url)

    await expect(page.get_by_role("heading", level=1)).to_have_text("Now")
    await expect(page.locator(".incident h3").first).to_contain_text("503 api.homedepot.com: 67 tenants, since 02:00")
    await expect(page.locator(".incident").first).to_contain_text(AWAY.message)
    await expect(page.locator(".tile", has_text="Failing")).to_contain_text("67")
