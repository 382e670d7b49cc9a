"""The fleet: 20,000 flows, a filter, the keyboard, and a file for a spreadsheet."""

import csv
from pathlib import Path
from typing import Any

import msgspec
from playwright.async_api import Page, expect

from datasync.operate.fleet import Fleet
from datasync.operate.flows import FlowLine, Health
from tests.browser.board import FEED, MINUTE, failing, fill, fleet_of, line, status_of
from tests.browser.site import NOW, Site

SMALL = [
    failing("acme"),
    line("acme", "weather"),
    line("acorn", "weather", Health.DISABLED, enabled=False, last_outcome="skipped_disabled"),
    line("bravo", "weather", Health.LATE, late_since_utc=NOW),
    line("bravo", "Ärger (alt)", Health.PROBLEM, problem="flows[1].cron: expected a text"),
]


def row(page: Page, number: int) -> str:
    """Return the place of a row, from 1 on."""
    return f"tr[aria-rowindex='{number + 1}']"


async def open_fleet(page: Page, site: Site, lines: list[FlowLine]) -> None:
    fill(site, lines)
    await page.goto(f"{site.url}#/fleet")
    await expect(page.locator("tr[data-id]").first).to_be_visible()


async def test_20_000_flows_are_filtered_and_scrolled(page: Page, site: Site) -> None:
    """Only the rows on the screen are in the document. The last row is reached, and a filter finds one of 20,000."""
    lines = fleet_of(10_000)
    await open_fleet(page, site, lines)

    await expect(page.get_by_text("20,000 flows, 10,000 tenants")).to_be_visible()
    assert await page.locator("tr[data-id]").count() < 60
    await page.locator(".rows").evaluate("(box) => { box.scrollTop = box.scrollHeight; }")
    await expect(page.locator(row(page, 20_000))).to_be_in_viewport()
    await page.get_by_role("searchbox").fill("tenant:prairie-windows-049 flow:weather")
    await expect(page.get_by_text("1 of 20,000 flows, 1 tenant")).to_be_visible()
    await expect(page.locator("tr[data-id]")).to_have_count(1)
    await expect(page.locator("tr[data-id]")).to_contain_text("prairie-windows-049")


FILTERS = {
    "is:failing": ["acme"],
    "is:wrong": ["bravo", "acme", "bravo"],
    "is:disabled": ["acorn"],
    "-is:enabled": ["acorn"],
    "tenant:ac*": ["acme", "acorn", "acme"],
    "tenant:*o*": ["bravo", "bravo", "acorn"],
    "tenant:cor": ["acorn"],
    'tenant:"acm"': [],
    'flow:"ärger (alt)"': ["bravo"],
    "flow:weather -tenant:b*": ["acorn", "acme"],
    "outcome:dead": ["acme"],
    "outcome:skipped*": ["acorn"],
    "EXPECTED text": ["bravo"],
    "flow:(alt": ["bravo"],
    "home-depot→": ["acme"],
    "https://nowhere": [],
}


async def test_the_filter_language(page: Page, site: Site) -> None:
    """All parts must match. A part with `*`, or in quotes, is the whole value; another one is part of it."""
    await open_fleet(page, site, SMALL)

    for text, found in FILTERS.items():
        await page.get_by_role("searchbox").fill(text)
        await expect(page.locator(".c-tenant a"), text).to_have_text(found)
        await expect(page.get_by_role("alert")).to_have_count(0)


async def test_a_filter_that_means_nothing_is_named(page: Page, site: Site) -> None:
    """The part is left out, and a sentence says which ones there are."""
    await open_fleet(page, site, SMALL)

    await page.get_by_role("searchbox").fill("is:broken tenant:acorn")

    await expect(page.get_by_role("alert")).to_contain_text("is:broken is none of is:wrong, is:failing, is:late")
    await expect(page.locator(".c-tenant a")).to_have_text(["acorn"])


async def test_the_keyboard_is_enough(page: Page, site: Site) -> None:
    """`/` filters, `j` and `k` move, `enter` opens. In the filter, the letters are letters."""
    await open_fleet(page, site, SMALL)
    focus = page.locator(":focus")

    await page.keyboard.press("/")
    await page.keyboard.type("tenant:*j*")
    await expect(page.get_by_role("searchbox")).to_have_value("tenant:*j*")
    await page.get_by_role("searchbox").fill("")
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await expect(focus).to_have_attribute("href", f"#/tenant/bravo?flow={'%C3%84rger%20(alt)'}")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await expect(focus).to_have_attribute("href", "#/tenant/acme?flow=home-depot%E2%86%92builder-prime")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("acme")
    await expect(page.get_by_role("article", name=FEED)).to_have_attribute("data-opened", "true")


async def test_the_keyboard_scrolls_through_a_long_list(page: Page, site: Site) -> None:
    """A row that comes into focus is on the screen."""
    await open_fleet(page, site, fleet_of(100))
    await page.keyboard.press("j")

    for number in range(2, 42):
        await page.keyboard.press("j")
        await expect(page.locator(f"{row(page, number)} a")).to_be_focused()

    await expect(page.locator(row(page, 41))).to_be_in_viewport(ratio=1)


async def test_columns_sort(page: Page, site: Site) -> None:
    """A second click turns the order around, and the header says so."""
    await open_fleet(page, site, SMALL)

    await page.get_by_role("button", name="Tenant").click()
    await expect(page.locator(".c-tenant a")).to_have_text(["acme", "acme", "acorn", "bravo", "bravo"])
    await page.get_by_role("button", name="Tenant").click()
    await expect(page.locator(".c-tenant a")).to_have_text(["bravo", "bravo", "acorn", "acme", "acme"])
    await expect(page.get_by_role("columnheader", name="Tenant")).to_have_attribute("aria-sort", "descending")


async def test_changes_arrive_without_loss_of_the_focus(page: Page, site: Site) -> None:
    """The page asks for the changes. The row that has the focus keeps it, and typed text stays."""
    await page.clock.install()
    await open_fleet(page, site, SMALL)
    await page.get_by_role("searchbox").fill("tenant:a*")
    await page.keyboard.press("Enter")
    await page.keyboard.press("j")
    focused = page.locator(":focus")
    await expect(focused).to_have_text("acorn")

    healed = (line("acme", FEED), line("acme", "weather"), line("acme", "new-flow", Health.NEW))
    site.data["fleet"] = Fleet(at_ts=1_755_950_460, complete=False, lines=healed, removed=("bravo",))
    await page.clock.fast_forward(21_000)

    await expect(page.get_by_text("4 of 4 flows, 2 tenants")).to_be_visible()
    assert [query for name, query in site.asked if name == "fleet"] == [{}, {"since": "1755950400"}]
    await expect(focused).to_have_text("acorn")
    await expect(page.get_by_role("searchbox")).to_have_value("tenant:a*")


async def test_a_csv_has_the_filtered_flows_and_no_formulas(page: Page, site: Site, tmp_path: Path) -> None:
    """A spreadsheet takes a text that starts like a formula for a text."""
    hostile = ['=HYPERLINK("http://evil")', "+1", "-1", "@SUM(A1)", "\tx"]
    await open_fleet(page, site, [failing(name) for name in hostile] + [line("acme", 'say "hi", twice')])
    await page.get_by_role("searchbox").fill("-tenant:+1")

    async with page.expect_download() as started:
        await page.get_by_role("button", name="Save as CSV").click()
    path = tmp_path / "flows.csv"
    await (await started.value).save_as(path)

    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(each["tenantId"] for each in rows) == [
        "'\tx",
        "'-1",
        '\'=HYPERLINK("http://evil")',
        "'@SUM(A1)",
        "acme",
    ]
    assert rows[-1]["flowName"] == 'say "hi", twice'
    assert rows[0]["consecutiveFailures"] == "5"


async def test_the_states_are_filters(page: Page, site: Site) -> None:
    """Each state has its number, and a click shows its flows. The address keeps the filter."""
    await open_fleet(page, site, SMALL)

    await page.get_by_role("button", name="late 1").click()

    await expect(page.locator(".c-tenant a")).to_have_text(["bravo"])
    assert page.url.endswith("#/fleet?q=is%3Alate")
    await page.get_by_role("button", name="late 1").click()
    await expect(page.locator(".c-tenant a")).to_have_count(5)


async def test_the_numbers_of_the_states_are_those_of_their_filters(page: Page, site: Site) -> None:
    """A flow to which several apply counts in each: it is failing, and late too."""
    both: dict[str, Any] = {"late_since_utc": NOW, "consecutive_failures": 3}
    lines = [*SMALL, line("charlie", health=Health.FAILING, **both), line("delta", health=Health.PROBLEM, problem="x")]
    lines.append(line("echo", health=Health.RUNNING, enabled=False))
    await open_fleet(page, site, lines)

    said = [" ".join(each.split()) for each in await page.locator(".healths button").all_inner_texts()]
    assert said == ["problem 2", "failing 2", "late 2", "running 1", "disabled 2", "well 1"]
    for text in said:
        state, number = text.split()
        await page.locator(".healths button", has_text=state).click()
        await expect(page.locator(".numbers"), state).to_contain_text(f"{number} of 8 flows")


async def test_a_flow_becomes_late_when_time_passes(page: Page, site: Site) -> None:
    """No document changes for that. A flow with a problem stays one, and one that is failing stays failing too."""
    await page.clock.install()
    soon: dict[str, Any] = {"stale_utc": NOW + MINUTE}
    lines = [
        line("acme", overdue_utc=NOW + MINUTE, next_run_utc=NOW - MINUTE),
        line("bravo", **soon),
        line("charlie", health=Health.FAILING, consecutive_failures=1, **soon),
        line("delta", health=Health.PROBLEM, problem="x", **soon),
        line("echo", health=Health.DISABLED, enabled=False, **soon),
        line("foxtrot", stale_utc=NOW + 3 * MINUTE),
    ]
    await open_fleet(page, site, lines)
    await expect(page.locator(".healths button", has_text="late")).to_have_count(0)

    site.now = NOW + 2 * MINUTE
    await page.clock.fast_forward(21_000)

    await page.locator(".healths button", has_text="late 3").click()
    await expect(page.locator(".c-tenant a")).to_have_text(["charlie", "acme", "bravo"])
    await expect(page.locator(".c-health .badge")).to_have_text(["failing", "late", "late"])
    assert [query for name, query in site.asked if name == "fleet"] == [{}, {"since": "1755950400"}]
    await page.get_by_role("link", name="Now").click()
    rows = page.get_by_role("region", name="Late flows").get_by_role("row")
    await page.get_by_label("Times").select_option("tenant")
    await expect(rows.nth(1)).to_contain_text("acmeweather06:59 CDT 3 min ago06:59 CDT")


async def test_the_last_outcomes_are_said(page: Page, site: Site) -> None:
    """Bars have different heights, and a screen reader hears the numbers."""
    outcomes = ["succeeded"] * 22 + ["failed", "gave_up"]
    made = msgspec.to_builtins(line("acme")) | {"outcomes": outcomes}
    site.data["status"] = status_of(SMALL)
    site.data["fleet"] = {"atTs": 1, "complete": True, "lines": [made]}

    await page.goto(f"{site.url}#/fleet")

    await expect(page.get_by_role("img", name="Last 24: 22 succeeded, 1 failed, 1 gave up")).to_be_visible()
