"""An operator who knows only the page finds the problem, and fixes it with clicks there."""

import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from dashboard.data import forget
from localdev.keyvault import KeyVault
from tests.browser.conftest import PATIENCE, WIDE, browser, watched
from tests.scenarios.company import ORDERS, Company, Shop
from tests.scenarios.site import served

__all__ = ["browser"]  # a fixture


@pytest_asyncio.fixture
async def page(browser: Browser, company: Company, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Page]:
    """Open a browser window for the page of the company. Nothing in it fails."""
    monkeypatch.setattr("dashboard.server.shared_services", lambda: company.services)
    async with served(company) as url:
        context = await browser.new_context(viewport=WIDE, base_url=url)
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        wrong = watched(page)
        yield page
        await context.close()
    assert wrong == []


async def opened(page: Page) -> None:
    """Open the page, as somebody who has only its address."""
    forget()
    await page.goto("/api/ops")


async def click(page: Page, name: str, role: str = "button") -> None:
    """Click a button, or a link, of this name."""
    await page.get_by_role("link" if role == "link" else "button", name=name).first.click()


async def confirm(page: Page, button: str, **fields: str) -> None:
    """Fill the fields of the dialog, by their labels, and confirm it."""
    dialog = page.get_by_role("dialog")
    for label, value in {"Your name": "Ada", **fields}.items():
        await dialog.get_by_label(label.replace("_", " ")).fill(value)
    await dialog.get_by_role("button", name=button).click()
    await expect(dialog).to_have_count(0)


async def is_well(page: Page) -> None:
    """Wait until the first view finds nothing wrong."""
    forget()  # the answers that the app keeps for some seconds
    await page.reload()
    await click(page, "Now", "link")
    for tile in ("Failing", "Late", "Problems", "Unusual"):
        await expect(page.locator(".tile", has_text=tile).locator("dd")).to_have_text(re.compile(r"^\s*0\s*$"))
    await expect(page.get_by_text("ticks are missing")).to_have_count(0)


async def test_a_provider_that_is_down_for_half_the_fleet(company: Company, shop: Shop, page: Page) -> None:
    """Its tenants are one incident. When the provider is back, one button runs all of them again."""
    await company.add("orders", "acme", "bolt")
    await company.add("stock", "cobalt", "delta")
    await company.tick()
    shop.is_down = True
    await company.hours(1)

    await opened(page)
    await expect(page.locator(".tile", has_text="Failing")).to_contain_text("2")
    await expect(page.locator(".incident h3")).to_contain_text("503 127.0.0.1: 2 tenants, since 14:00")
    shop.is_down = False
    await click(page, "Run these 2 again…")
    await confirm(page, "Run 2 again", Type_2="2")
    await company.work()

    await is_well(page)
    assert [await company.outcomes(tenant) for tenant in ("acme", "bolt")] == [["succeeded"], ["succeeded"]]


async def test_the_expired_token_of_one_tenant(company: Company, shop: Shop, vault: KeyVault, page: Page) -> None:
    """The failed run says that the server refuses a secret, and has the command that sets it."""
    await company.add("orders", "acme", "bolt")
    await company.tick()
    shop.expired.add("token-of-bolt")
    await company.hours(1)

    await opened(page)
    await expect(page.locator(".incident h3")).to_contain_text("401 127.0.0.1: 1 tenant, since 14:00")
    await click(page, "Last failed run", "link")
    command = "az keyvault secret set --vault-name <vault> --name tenants--bolt--shop--token --value <value>"
    await expect(page.get_by_text(command)).to_be_visible()
    vault.set_secret("tenants--bolt--shop--token", "new-token-of-bolt")
    await click(page, "Now", "link")
    await click(page, "Run it again…")
    await confirm(page, "Run 1 again", Type_1="1")
    await company.work()

    await is_well(page)
    assert await company.outcomes("bolt") == ["succeeded"]
    assert shop.asked[-1][0] == "new-token-of-bolt"


async def test_a_bad_cron(company: Company, page: Page) -> None:
    """The problem names the field, the value and the correction. The document is edited beside it."""
    await company.add("stock", "acme")
    await company.add("stock", "bolt", cron="0 * * * *")
    await company.tick()

    await opened(page)
    await expect(page.locator(".tile", has_text="Problems")).to_contain_text("1")
    problem = page.get_by_role("region", name="Problems")
    await expect(problem).to_contain_text("flows[0].cron: cron '0 * * * *': 5 fields found, 6 needed")
    await click(page, "bolt", "link")
    await click(page, "Why?")
    await click(page, "Edit the document…")
    editor = page.get_by_label("Document, as JSON")
    await editor.fill((await editor.input_value()).replace('"0 * * * *"', '"0 0 * * * *"'))
    await click(page, "Store…")
    await confirm(page, "Store")
    await company.hours(2)

    await is_well(page)
    assert await company.outcomes("bolt") == ["succeeded"]


async def test_a_broken_flow_file(company: Company, page: Page) -> None:
    """The problem names the file, the line and the error, and so does the view of the flow files."""
    await company.add("orders", "acme")
    await company.add("stock", "bolt")
    await company.tick()
    company.write_file("orders.py", ORDERS.replace("raise_for_status()", "raise_for_status("))
    company.deploy()
    await company.hours(1)

    await opened(page)
    cause = "SyntaxError: '(' was never closed (orders.py, line 14)"
    problem = page.get_by_role("region", name="Problems")
    await expect(problem).to_contain_text(cause)
    await problem.get_by_role("link", name="acme").click()
    await click(page, "Why?")
    await expect(page.locator(".next")).to_contain_text("correct the flow file, and deploy the app")
    await expect(page.locator(".next").get_by_role("button")).to_have_count(0)
    await page.locator(".next").get_by_role("link", name="The flow files").click()
    await expect(page.get_by_role("heading", name="1 broken file")).to_be_visible()
    await expect(page.get_by_text("Correct the file, and deploy again")).to_be_visible()
    await expect(page.get_by_role("article").get_by_text(cause).first).to_be_visible()
    company.write_file("orders.py", ORDERS)
    company.deploy()
    await company.hours(1)

    await is_well(page)
    assert await company.outcomes("acme") == ["succeeded"]


async def test_a_stuck_run(company: Company, page: Page) -> None:
    """It is late. The reason is the run that does not end, with its start, its lease, and the command that ends it."""
    await company.add("orders", "acme")
    await company.add("stock", "bolt")
    await company.tick()
    await company.hours(1)
    delivery = await company.start_stuck_run(hours=3)

    await opened(page)
    await expect(page.locator(".tile", has_text="Late")).to_contain_text("1")
    await page.get_by_role("region", name="Late flows").get_by_role("link", name="acme").click()
    await click(page, "Why?")
    why = page.locator(".why")
    await expect(why).to_contain_text("is going on since 2025-08-23T15:00:00Z, and its lease lasts until")
    await expect(why).to_contain_text("the time limit of the flow, 0:10:00, has passed")
    await expect(why).to_contain_text("az functionapp restart")
    await company.restart(delivery)
    await company.work()

    await is_well(page)
    state = await company.state("acme", "orders")
    assert (state.lease, state.last_outcome) == (None, "succeeded")


async def test_ticks_that_do_not_come(company: Company, page: Page) -> None:
    """The first view states the last tick, and the checks to make, on this machine and on Azure."""
    await company.add("stock", "acme")
    await company.tick()
    await company.hours(1)
    company.clock.time += 5 * (company.next_hour - company.now)

    await opened(page)
    await expect(page.locator(".tile", has_text="Last tick")).to_contain_text("5 h ago ticks are missing")
    await expect(page.get_by_role("note")).to_contain_text("does make start run?")
    await expect(page.get_by_role("note")).to_contain_text("az functionapp show --name <app>")
    company.deploy()
    await company.hours(1)

    await is_well(page)
    assert (await company.state("acme", "stock")).last_success_utc == company.now


async def test_a_flow_that_suddenly_reads_zero(company: Company, shop: Shop, page: Page) -> None:
    """Why? leads to the run. It shows its numbers beside the usual ones, and reads its window again."""
    await company.add("orders", "acme", "bolt")
    await company.tick()
    await company.hours(1)
    for tenant in ("acme", "bolt"):
        await company.know_the_usual(tenant, "orders")
    shop.empty.add("token-of-bolt")
    await company.hours(1)

    await opened(page)
    await expect(page.locator(".tile", has_text="Unusual")).to_contain_text("1")
    unusual = page.get_by_role("region", name="Unusual flows")
    await expect(unusual).to_contain_text("orders=0, usually 120")
    await unusual.get_by_role("link", name="bolt").click()
    await click(page, "Why?")
    await page.locator(".next").get_by_role("link", name="Run").click()
    await expect(page.get_by_role("row", name=re.compile("^orders 0 1"))).to_be_visible()
    await expect(page.get_by_text(re.compile("14:00.* to .*15:00"))).to_be_visible()
    shop.empty.clear()
    await click(page, "Set the window to")
    await confirm(page, "Set")
    await click(page, "Run now…")
    await confirm(page, "Run now")
    await company.work()

    await is_well(page)
    assert shop.asked[-1] == ("token-of-bolt", "2025-08-23T14:00:00+00:00"), "the start of the window that was empty"
