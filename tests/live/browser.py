"""A headless Chromium for live tests: find it, open one page, close everything again.

The room holds no assertions and knows nothing of Drape: a test gets a Playwright page whose every wait is bounded, and
decides for itself what to look at. It never downloads a browser; a machine without one skips the tests that need it:

    pytestmark = pytest.mark.skipif(chromium_path() is None, reason="no Chromium: set DRAPE_CHROMIUM")
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, Page, Playwright, async_playwright

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")

LAUNCH_ARGS = (
    "--no-sandbox",  # Chromium's own sandbox refuses to start as root; these tests only open pages of this repository
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)

LAUNCH_TIMEOUT_S = 30.0  # a cold start on a busy two-core machine takes several seconds
CLOSE_TIMEOUT_S = 10.0
ACTION_TIMEOUT_S = 10.0
NAVIGATION_TIMEOUT_S = 30.0  # a first page may wait for a dev server's first compile


class ChromiumMissingError(RuntimeError):
    """There is no Chromium to run. Its message says where it was looked for and what to set."""


def chromium_path() -> str | None:
    """The path of a Chromium, or None where the machine has none.

    DRAPE_CHROMIUM (a path, or a name on PATH) comes first. When it is set but names nothing that can be run,
    ChromiumMissingError is raised: a mistyped path must not turn into silently skipped tests.
    """
    chosen = os.environ.get("DRAPE_CHROMIUM")
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise ChromiumMissingError(
                f"DRAPE_CHROMIUM is {chosen!r}, which is not a program that can be run: correct it, or unset it"
            )
        return found
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def page(
    *,
    action_timeout_s: float = ACTION_TIMEOUT_S,
    navigation_timeout_s: float = NAVIGATION_TIMEOUT_S,
) -> AsyncIterator[Page]:
    """One page in a fresh browser, with no cookies or cache from before; the browser ends with the block.

    Waits on the page (clicks, `wait_for`, `wait_for_function`) end after `action_timeout_s` seconds and page loads
    after `navigation_timeout_s` seconds, both with Playwright's TimeoutError. Raises ChromiumMissingError where there
    is no browser.
    """
    path = chromium_path()
    if path is None:
        raise ChromiumMissingError(
            f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on PATH; install one, or set DRAPE_CHROMIUM"
        )
    async with async_playwright() as playwright:
        browser = await _launch(playwright, path)
        try:
            opened = await browser.new_page()
            opened.set_default_timeout(action_timeout_s * 1000)
            opened.set_default_navigation_timeout(navigation_timeout_s * 1000)
            yield opened
        finally:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await browser.close()


async def _launch(playwright: Playwright, path: str) -> Browser:
    return await playwright.chromium.launch(
        executable_path=path,
        headless=True,
        args=list(LAUNCH_ARGS),
        timeout=LAUNCH_TIMEOUT_S * 1000,
    )
