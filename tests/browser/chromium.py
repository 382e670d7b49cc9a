"""The browser that is installed on this machine."""

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Return the path of Chromium or Chrome; None if neither is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def launched(path: str) -> AsyncGenerator[Browser]:
    """Run the browser without a window. Chromium's sandbox does not work for root."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"] if is_root else [])
        yield running
        await running.close()
