"""The page as a whole: the key, old data, hostile texts, phones, the dark, and people who do not see it."""

import json
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from playwright.async_api import Browser, Page, expect

from dashboard.access import Visitor
from datasync.operate.files import BrokenFile, FlowFiles
from datasync.operate.flows import Health
from datasync.operate.gates import Gate
from datasync.operate.runs import ErrorLine, LoggedLine
from tests.browser.board import FEED, audit, fill, fleet_of, incident, line, run, run_detail, tenant_detail, why
from tests.browser.conftest import watched
from tests.browser.site import NOW, Site

HOSTILE = "<img src=x onerror=alert(1)><a href='javascript:alert(2)'>x</a>${alert(3)}</script>\u202e\u0007"
VIEWS = {
    "now": "",
    "fleet": "#/fleet",
    "tenant": "#/tenant/acme-decks",
    "run": "#/run/acme-decks/e27a90d4",
    "load": "#/load",
    "files": "#/files",
    "audit": "#/audit",
    "nothing": "#/nothing",
}


async def settled(page: Page) -> None:
    """Wait until a view has its data."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator(".loading")).to_have_count(0)
    await expect(page.get_by_text("Reading…")).to_have_count(0)


async def test_the_page_asks_for_the_function_key(page: Page, site: Site) -> None:
    """It goes into a header and into the memory of the tab, not into the address, and stays there after a reload."""
    site.key = "s3cret/key=="
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    await page.goto(site.url)

    await page.get_by_label("Key", exact=True).fill("wrong")
    await page.get_by_role("button", name="Open").click()
    await expect(page.get_by_role("dialog")).to_contain_text("The app has refused this key.")
    await page.get_by_label("Key", exact=True).fill(site.key)
    await page.get_by_role("button", name="Open").click()

    await expect(page.locator(".incident").first).to_be_visible()
    await page.reload()
    await expect(page.locator(".incident").first).to_be_visible()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert not [each for each in addresses if "s3cret" in each or "wrong" in each]
    assert await page.evaluate("JSON.stringify({...localStorage}) + document.cookie") == "{}"


@pytest.mark.parametrize("status", [HTTPStatus.FOUND, HTTPStatus.UNAUTHORIZED])
async def test_a_sign_in_that_is_over_is_told(page: Page, site: Site, status: HTTPStatus) -> None:
    """The page does not ask for a key. A link leads to the sign-in, and back to the view. The data stay."""
    site.mode, site.data["me"] = "entra", Visitor(mode="entra", name="ada@acme.example", can_operate=True)
    await page.goto(f"{site.url}#/tenant/acme-decks")
    await settled(page)

    site.signed_out = status
    await page.get_by_role("article", name=FEED).get_by_role("button", name="Run now…").click()
    await page.locator("dialog .primary").click()
    await expect(page.get_by_role("alert")).to_have_text("Your sign-in is over.")
    await page.get_by_role("button", name="Cancel").click()

    await expect(page.locator(".fresh")).to_contain_text("Your sign-in is over.")
    await expect(page.get_by_label("Key", exact=True)).to_have_count(0)
    await expect(page.get_by_role("link", name="Sign in again")).to_have_attribute(
        "href", "/.auth/login/aad?post_login_redirect_uri=%2Fapi%2Fops%23%2Ftenant%2Facme-decks"
    )
    await expect(page.get_by_role("article", name=FEED)).to_be_visible()
    site.signed_out = HTTPStatus.OK
    await page.get_by_role("button", name="Try now").click()
    await expect(page.locator(".fresh")).to_have_attribute("data-state", "fresh")


async def test_an_address_with_a_slash_at_its_end_leads_to_the_page(page: Page, site: Site) -> None:
    """The addresses of its files are relative. The view stays."""
    await page.goto(f"{site.url}/#/audit")

    await expect(page.get_by_role("heading", level=1)).to_have_text("Audit")
    assert page.url == f"{site.url}#/audit"


async def test_lost_connections_and_old_data_are_told(page: Page, site: Site) -> None:
    """The data stay, with their age. The page tries again by itself."""
    await page.clock.install()
    await page.goto(site.url)
    await settled(page)
    await page.route("**/api/ops/data/**", lambda route: route.abort())

    await page.clock.fast_forward(61_000)
    await expect(page.locator(".fresh")).to_contain_text("The connection is lost: the app cannot be reached.")
    await expect(page.locator(".fresh")).to_contain_text("old. The page tries again by itself.")
    await expect(page.locator(".incident h3").first).to_contain_text("67 tenants")
    await page.unroute_all()
    await page.clock.fast_forward(61_000)

    await expect(page.locator(".fresh")).to_have_attribute("data-state", "fresh")


async def test_only_the_first_view_asks_for_the_status(page: Page, site: Site) -> None:
    """The app reads its whole fleet for it. Each other view knows from its own data whether the app answers."""
    for address in (each for name, each in VIEWS.items() if name != "now"):
        await page.goto(f"{site.url}{address}")
        await settled(page)
        await expect(page.locator(".fresh")).to_contain_text("Updated")
    assert "status" not in [name for name, _ in site.asked]

    await page.get_by_role("navigation").get_by_role("link", name="Now").click()
    await expect(page.locator(".tile", has_text="Failing")).to_contain_text("67")


async def test_an_error_of_the_app_is_shown_beside_the_data(page: Page, site: Site) -> None:
    """Everything else goes on."""
    site.data.pop("incidents")
    await page.route(
        "**/data/incidents*", lambda route: route.fulfill(status=503, json={"error": "Cosmos DB is away: 503"})
    )

    await page.goto(site.url)

    await expect(page.get_by_text("Reading the incidents has failed: Cosmos DB is away: 503")).to_be_visible()
    await expect(page.locator(".tile", has_text="Failing")).to_contain_text("67")


@pytest.mark.parametrize("view", ["now", "fleet", "tenant", "run", "load", "files", "audit"])
async def test_texts_from_elsewhere_are_texts(page: Page, site: Site, view: str) -> None:
    """Markup in names, errors and answers is shown as it is. Nothing of it runs, loads or becomes a link."""
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    make_hostile(site)
    address = {"tenant": f"#/tenant/{HOSTILE}", "run": f"#/run/{HOSTILE}/{HOSTILE}"}.get(view, VIEWS[view])

    await page.goto(site.url)
    await page.evaluate("(hash) => { location.hash = hash; }", address)
    await expect(page.locator("main")).to_contain_text("<img src=x onerror=alert(1)>")
    await settled(page)
    for summary in await page.locator("main summary").all():
        await summary.click()

    assert await page.locator("main img, main script, main iframe").count() == 0
    assert await page.locator("a:not([href^='#/']):not(.skip)").count() == 0
    assert not [each for each in requests if not each.startswith(site.url)]
    text = await page.locator("main").inner_text()
    assert r"\u{202e}\u{7}" in text
    assert "\u202e" not in text
    assert dialogs == []


def make_hostile(site: Site) -> None:
    """Put markup into each text that people or foreign APIs have written."""
    error = ErrorLine(message=HOSTILE, kind=HOSTILE, fingerprint=HOSTILE, status=500, host=HOSTILE, body=HOSTILE)
    bad = line(HOSTILE, HOSTILE, Health.PROBLEM, problem=HOSTILE, problem_since_utc="2025-08-23T11:00:00Z")
    fill(site, [bad, line(HOSTILE, "late", Health.LATE, late_since_utc=NOW)])
    dead = run(HOSTILE, "dead", tenant_id=HOSTILE, flow_name=HOSTILE, error=error, counts={HOSTILE: 1}, trigger=HOSTILE)
    own = incident(error, 1, flows=(HOSTILE,), example_tenant_id=HOSTILE, example_run_id=HOSTILE)
    site.data["incidents"] = {"incidents": [own], "hasMore": True, "unreadable": [HOSTILE]}
    site.data["runs"] = {"runs": [dead], "hasMore": False, "unreadable": [HOSTILE]}
    logged = (LoggedLine(level=HOSTILE, seconds=0.1, text=HOSTILE),)
    site.data["run"] = msgspec.structs.replace(run_detail(dead), log=logged)
    site.data["why"] = why(HOSTILE, HOSTILE)
    site.data["gates"] = [Gate(HOSTILE, HOSTILE, None, HOSTILE, HOSTILE)]
    site.data["tenant"] = _hostile(tenant_detail(HOSTILE), FEED, "Acme Decks")
    site.data["load"] = {
        "fromUtc": NOW,
        "providers": [{"provider": HOSTILE, "flows": [HOSTILE], "jobs": 1, "minutes": [1] + [0] * 1439}],
    }
    site.data["files"] = FlowFiles(flows=(), broken=(BrokenFile(module=HOSTILE, cause=HOSTILE, traceback=HOSTILE),))
    site.data["audit"] = _hostile(audit(), "Ada", "acme-decks", "weather")


def _hostile(content: object, *names: str) -> Any:
    text = msgspec.json.encode(content).decode()
    for name in names:
        text = text.replace(json.dumps(name, ensure_ascii=False), json.dumps(HOSTILE))
    return json.loads(text)


@pytest.mark.parametrize("view", [*VIEWS])
async def test_axe_finds_nothing(browser: Browser, site: Site, axe: str, view: str) -> None:
    """Names, roles, contrasts and the order of headings are as the rules for accessible pages ask for."""
    context = await browser.new_context(
        color_scheme="light", reduced_motion="reduce", viewport={"width": 1280, "height": 900}
    )
    await context.add_init_script(axe)
    page = await context.new_page()
    wrong = watched(page)
    await page.goto(f"{site.url}{VIEWS[view]}")
    await settled(page)
    if view == "tenant":
        await page.get_by_role("button", name="Why?").first.click()
        await expect(page.locator(".answer")).to_be_visible()
        await page.get_by_role("button", name="Cursor and window").first.click()
        await expect(page.get_by_role("region", name="Cursor")).to_be_visible()
        await page.locator("summary", has_text="Document").click()
        await page.get_by_role("button", name="Edit…").click()
        await expect(page.get_by_label("Document, as JSON")).to_be_focused()

    assert await violations(page) == []
    await page.emulate_media(color_scheme="dark")
    assert await violations(page) == []

    if view == "tenant":
        await page.get_by_role("button", name="Pause…").first.click()
        assert await violations(page, "dialog") == []
    await context.close()
    assert wrong == []


async def violations(page: Page, part: str = "html") -> list[str]:
    found = await page.evaluate("(part) => axe.run(part).then(({ violations }) => violations)", part)
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:300]}" for each in found for node in each["nodes"]
    ]


@pytest.mark.parametrize("view", [*VIEWS])
async def test_a_phone_scrolls_in_one_direction(browser: Browser, site: Site, view: str) -> None:
    """Nothing is wider than the screen, and every view can be reached."""
    context = await browser.new_context(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    page = await context.new_page()
    await page.goto(f"{site.url}{VIEWS[view]}")
    await settled(page)

    width = await page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
    assert width <= 375
    await page.get_by_role("link", name="Fleet").first.tap()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")
    await context.close()


async def test_a_phone_shows_each_flow_in_two_lines(browser: Browser, site: Site) -> None:
    """The tenant, the flow, the state and the last success stay."""
    fill(site, fleet_of(50))
    context = await browser.new_context(viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    page = await context.new_page()
    await page.goto(f"{site.url}#/fleet")

    first = page.locator("tr[data-id]").first
    await expect(first.locator(".c-tenant")).to_be_visible()
    await expect(first.locator(".c-flow")).to_be_visible()
    await expect(first.locator(".c-health")).to_be_visible()
    await expect(first.locator(".c-success")).to_be_visible()
    box = await first.bounding_box()
    assert box is not None
    assert box["height"] == 62
    await context.close()


async def test_the_dark_is_dark(browser: Browser, site: Site) -> None:
    """The page follows the setting of the system."""
    context = await browser.new_context(color_scheme="dark")
    page = await context.new_page()
    await page.goto(site.url)

    await expect(page.locator("body")).to_have_css("background-color", "rgb(20, 24, 28)")
    await context.close()


async def test_a_view_that_opens_has_the_focus_and_the_title(page: Page, site: Site) -> None:
    """A screen reader continues at the heading of the new view."""
    await page.goto(site.url)
    await page.get_by_role("link", name="Flow files").click()

    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(page).to_have_title("Flow files · DataSync")
    await expect(page.get_by_role("link", name="Flow files")).to_have_attribute("aria-current", "page")


async def test_nothing_is_told_by_colour_alone(page: Page, site: Site) -> None:
    """Each state has a word and a sign, and the signs of those that need somebody differ in shape."""
    fill(site, fleet_of(300))
    await page.goto(f"{site.url}#/fleet")

    await expect(page.locator(".healths .badge")).to_have_count(7)
    shapes = await page.locator(".healths .sign path").evaluate_all(
        "(all) => all.map((each) => each.getAttribute('d'))"
    )
    words = await page.locator(".healths .badge").all_inner_texts()
    assert len(words) == len(shapes) == len(set(shapes))
    assert [each.split()[0] for each in words] == ["problem", "failing", "late", "running", "disabled", "new", "well"]
