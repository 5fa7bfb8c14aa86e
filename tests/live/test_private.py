"""A private preview in a real browser: closed without its link, open with it, and shown in the page's frame."""

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec
import pytest
from playwright.async_api import expect

from tests.live.browser import chromium_path, page
from tests.live.client import Client, node_project
from tests.live.platform import Json, Platform

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one, or set DRAPE_CHROMIUM")

SERVER = """
import http from 'node:http'
const seen = []
http.createServer((request, response) => {
  seen.push([request.url, request.headers])
  if (request.url === '/seen') return response.end(JSON.stringify(seen))
  response.setHeader('content-type', 'text/html')
  response.end('<h1>Only for you</h1><p id="data"></p><script>fetch("/data").then((answer) => answer.text())' +
    '.then((text) => { document.querySelector("#data").textContent = text.includes("Only") ? "fetched" : text })</script>')
}).listen(process.env.PORT, '127.0.0.1', () => console.log('listening on ' + process.env.PORT))
"""


@pytest.fixture
async def private(client: Client) -> AsyncIterator[Json]:
    """A private preview that is ready: so the platform's own probe has passed."""
    project_id = await client.project(node_project(SERVER), "secret-shop")
    wanted = await client.call("POST", "/api/previews", json={"project_id": project_id, "private": True})
    view = await client.ended(wanted.json["preview_id"])
    assert view["status"] == "ready", view["error"]
    assert view["private"] is True
    try:
        yield view
    finally:
        await client.stop(view["preview_id"])


async def _link(client: Client, preview_id: str) -> str:
    made = await client.call("POST", f"/api/previews/{preview_id}/links", json={"ttl_s": 60, "path": "/docs"})
    assert made.status == 201, made.text
    return str(made.json["url"])


@pytest.mark.timeout(170)
async def test_a_link_opens_it_in_a_browser_and_nothing_else_does(
    platform: Platform, client: Client, private: Json
) -> None:
    """The address alone shows why not. The link leads to the clean address; scripts of the page may fetch, and see no cookie;
    the dev server saw neither token nor cookie; and nothing of them is in any log of the platform."""
    async with page() as opened:
        refused = await opened.goto(private["url"])
        assert refused is not None
        assert refused.status == 403
        await expect(opened.locator("body")).to_contain_text("This preview is private")

        link = await _link(client, private["preview_id"])
        answer = await opened.goto(link)
        assert answer is not None
        assert answer.status == 200
        assert opened.url == private["url"] + "docs"
        await expect(opened.locator("h1")).to_have_text("Only for you")
        await expect(opened.locator("#data")).to_have_text("fetched")
        assert await opened.evaluate("document.cookie") == ""
        (cookie,) = await opened.context.cookies()
        assert cookie["httpOnly"] is True
        assert (
            cookie["domain"] == urlsplit(private["url"]).hostname
        )  # host-only: one with Domain would begin with a dot

        await opened.goto(private["url"] + "seen")
        told = await opened.locator("body").inner_text()
        secrets = [cookie["value"], link.partition("token=")[2].partition("&")[0].partition(".")[2]]
        for secret in secrets:
            assert secret not in told
    for path in platform.home.root.glob("logs/*"):
        with contextlib.suppress(IsADirectoryError):
            text = path.read_text("utf-8", "replace")
            assert not any(secret in text for secret in secrets), path


@pytest.mark.timeout(170)
async def test_the_page_shows_it_in_its_frame(client: Client, private: Json) -> None:
    """The page's host is another site than the preview's, so browsers keep the cookie for that frame alone."""
    async with page() as opened:
        await opened.goto(client.gateway)
        await opened.locator("button.entry", has_text="secret-shop").first.click()
        frame = opened.frame_locator(".frame iframe")
        await expect(frame.locator("h1")).to_have_text("Only for you")
        await expect(frame.locator("#data")).to_have_text("fetched")


@pytest.mark.timeout(170)
async def test_the_command_prints_a_link_that_opens_it(platform: Platform, client: Client, private: Json) -> None:
    """`drape preview --private --json`: the result has the clean address, and the link beside it."""
    folder = platform.home.root.parent / "private-site"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text("<h1>From a folder</h1>")
    ran = await platform.drape("preview", folder, "--private", "--json")
    assert ran.code == 0, ran.out
    result = ran.last
    try:
        assert (result["private"], "token" in result["url"]) == (True, False)
        assert result["link"].startswith(result["url"])
        assert result["preview_id"] != private["preview_id"]
        async with page() as opened:
            await opened.goto(result["link"])
            await expect(opened.locator("h1")).to_have_text("From a folder")
            # One preview's cookie is of no use at another's.
            other = await opened.goto(private["url"])
            assert other is not None
            assert other.status == 403
        asked = await client.visit(result["preview_id"], accept="*/*")
        assert (asked.status, msgspec.json.decode(asked.body)["code"]) == (403, "preview_private")
    finally:
        await client.stop(result["preview_id"])
