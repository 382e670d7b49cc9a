"""Takes the pictures of the page in docs/images, over invented data: `python -m tests.browser.screenshots`."""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from playwright.async_api import ViewportSize, expect

from datasync.operate.flows import FlowLine
from localdev.hosting import ROOT
from tests.browser.board import fill, fleet_of
from tests.browser.chromium import chromium, launched
from tests.browser.site import site as serve

FOLDER = ROOT / "docs" / "images"
TENANTS = 2_000
WIDE = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=760)


@dataclass(frozen=True)
class Picture:
    """A view, and how it is shown."""

    name: str
    view: str
    is_phone: bool = False
    scheme: Literal["light", "dark"] = "light"
    button: str = ""
    """The button to press before."""


PICTURES = (
    Picture("now", ""),
    Picture("fleet-dark", "#/fleet?q=is:wrong", scheme="dark"),
    Picture("tenant", "#/tenant/acme-decks", button="Why?"),
    Picture("fleet-phone", "#/fleet", is_phone=True),
)


async def main() -> None:
    """Write the pictures."""
    if (path := chromium()) is None:
        sys.exit("Chromium is not installed (Debian: apt-get install chromium)")
    FOLDER.mkdir(exist_ok=True)
    async with serve() as site, launched(path) as browser:
        lines = fleet_of(TENANTS)
        fill(site, lines)
        site.data["fleet"] = {"atTs": 1, "complete": True, "lines": [with_outcomes(each) for each in lines]}
        for picture in PICTURES:
            context = await browser.new_context(
                viewport=PHONE if picture.is_phone else WIDE, color_scheme=picture.scheme, reduced_motion="reduce"
            )
            page = await context.new_page()
            await page.goto(site.url + picture.view)
            await expect(page.locator(".loading")).to_have_count(0, timeout=60_000)
            await expect(page.get_by_text("Updated now")).to_be_visible(timeout=60_000)
            if picture.button:
                await page.get_by_role("button", name=picture.button).first.click()
                await expect(page.locator(".answer")).to_be_visible(timeout=60_000)
                await page.evaluate("scrollTo(0, 0)")
            await page.screenshot(path=FOLDER / f"{picture.name}.png")
            await context.close()


def with_outcomes(line: FlowLine) -> dict[str, Any]:
    """Return a line with the outcomes of its last attempts."""
    bad = ["failed", "failed", "failed", "failed", "dead"] if line.is_failing else []
    good = ["succeeded"] * (24 - len(bad)) if line.last_run_utc else []
    if len(line.tenant_id) % 7 == 0 and good:
        good[10] = "failed"
    return {**msgspec.to_builtins(line), "outcomes": good + bad}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    asyncio.run(main())
