"""An edit reaches an open page through hot module replacement: the text changes, what the page holds stays."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import Page, expect

from tests.live.browser import chromium_path, page
from tests.live.client import Client
from tests.live.platform import EXAMPLES, Json, Platform

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one, or set DRAPE_CHROMIUM")

LINE_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
HEADING = "Drape example: Vite and React"
IGNORED = shutil.ignore_patterns("node_modules", "dist")


class Watching:
    """`drape preview FOLDER --watch --json`, which goes on until it is told to end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self, wanted: Callable[[Json], bool]) -> Json:
        """The next output line that `wanted` accepts."""
        assert self._process.stdout is not None
        seen: list[bytes] = []
        async with asyncio.timeout(LINE_TIMEOUT_S):
            async for raw in self._process.stdout:
                seen.append(raw)
                message: Json = msgspec.json.decode(raw)
                if wanted(message):
                    return message
        raise AssertionError(f"`drape preview --watch` ended: {b''.join(seen[-3:]).decode()}")


@asynccontextmanager
async def watching(platform: Platform, folder: Path) -> AsyncIterator[Watching]:
    """The command, ended by Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        *platform.argv("preview", folder, "--watch", "--json"),
        env=platform.env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Watching(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.communicate()


async def _open_and_mark(opened: Page, url: str) -> None:
    """Open the preview, count to two, and leave a mark that a reload would wipe out."""
    await opened.goto(url)
    await expect(opened.locator("#title")).to_have_text(HEADING)
    for _ in range(2):
        await opened.locator("#counter").click()
    await expect(opened.locator("#counter")).to_have_text("Count is 2")
    await opened.evaluate("window.drapeMark = 'still here'")


async def _expect_edit(opened: Page, heading: str) -> None:
    """The new heading in the old page: the same window, the same React state."""
    await expect(opened.locator("#title")).to_have_text(heading)
    await expect(opened.locator("#counter")).to_have_text("Count is 2")
    assert await opened.evaluate("window.drapeMark") == "still here"


@pytest.mark.timeout(300)
async def test_an_edit_reaches_the_open_page_by_watch_and_by_patch_without_a_reload(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    """First a file saved in the watched folder, then a PATCH to the API: each shows in the page, whose counter and
    window survive both."""
    folder = tmp_path / "vite-react"
    shutil.copytree(EXAMPLES / "vite-react", folder, ignore=IGNORED)
    source = folder / "src" / "App.tsx"
    async with watching(platform, folder) as command, page() as opened:
        ready = await command.line(lambda message: message["type"] in ("preview_ready", "preview_failed"))
        assert ready["type"] == "preview_ready", ready
        await _open_and_mark(opened, ready["url"])

        source.write_text(source.read_text().replace(HEADING, "Edited by watch"))
        sent = await command.line(lambda message: message["type"] == "files_changed")
        assert (sent["changed"], sent["deleted"]) == (["src/App.tsx"], [])
        await _expect_edit(opened, "Edited by watch")

        project_id = (await client.preview(ready["preview_id"]))["project_id"]
        edited = source.read_text().replace("Edited by watch", "Edited by patch")
        patched = await client.patch(project_id, sent["version"], {"src/App.tsx": edited})
        assert (patched.status, patched.json["changed"]) == (200, 1)
        await _expect_edit(opened, "Edited by patch")
    await client.stop(ready["preview_id"])
