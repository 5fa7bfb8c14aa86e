"""The static dev server, as its own process: pages, types, ranges, reload, and nothing from outside its folder."""

import asyncio
import itertools
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest_asyncio
from yarl import URL

from .world import REPOSITORY


class Site:
    """A running static server and a client session to it."""

    def __init__(self, root: Path, port: int, session: aiohttp.ClientSession) -> None:
        self.root = root
        self.url = f"http://127.0.0.1:{port}"
        self.session = session

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a path that is sent as it stands."""
        url = URL(self.url + path, encoded=True)
        async with self.session.get(url, headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.read(), {name.lower(): value for name, value in answer.headers.items()}


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A server of a folder beside which there are secrets."""
    root = tmp_path / "site"
    (root / "docs").mkdir(parents=True)
    (root / "index.html").write_text("<html><body><h1>home</h1></BODY></html>")
    (root / "docs" / "index.html").write_text("docs")
    (root / "about.html").write_text("about")
    (root / "app.mjs").write_text("export {}")
    (root / "data.bin").write_bytes(bytes(range(100)))
    (root / ".env").write_text("SECRET=1")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "out").symlink_to(tmp_path)
    (root / "app.mjs.gz").symlink_to(tmp_path / "secret.txt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    argv = (sys.executable, "-m", "shared.agent.static_server", "--port", str(port), "--root", str(root))
    process = await asyncio.create_subprocess_exec(*argv, cwd=REPOSITORY, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            running = Site(root, port, session)
            async with asyncio.timeout(10):
                while not await _answers(running):
                    await asyncio.sleep(0.01)
            yield running
    finally:
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def _answers(site: Site) -> bool:
    try:
        await site.get("/")
    except aiohttp.ClientConnectorError:
        return False
    return True


async def test_pages_are_found_as_a_web_host_finds_them(site: Site) -> None:
    """Folder index, name without .html, a redirect for a folder without its slash, a 404 page of one's own."""
    assert (await site.get("/"))[0] == 200
    assert b"docs" in (await site.get("/docs/"))[1]
    assert b"about" in (await site.get("/about"))[1]
    status, _, headers = await site.get("/docs?x=1")
    assert (status, headers["location"]) == (302, "./docs/")
    status, body, _ = await site.get("/absent")
    assert (status, b"Not found" in body) == (404, True)
    (site.root / "404.html").write_text("my own")
    assert b"my own" in (await site.get("/absent"))[1]


async def test_types_and_caching_are_right(site: Site) -> None:
    """Modules and pages have types that browsers accept, and nothing is cached."""
    for path, kind in (("/", "text/html"), ("/app.css", "text/css"), ("/data.bin", "application/octet-stream")):
        (site.root / "app.css").write_text("a{}")
        _, _, headers = await site.get(path)
        assert headers["content-type"].startswith(kind), path
        assert headers["cache-control"] == "no-store", path


async def test_ranges_work_and_pages_carry_the_script_once(site: Site) -> None:
    """Media can be sought in; the script stands before the end of the body."""
    status, body, headers = await site.get("/data.bin", Range="bytes=10-19")
    assert (status, body) == (206, bytes(range(10, 20)))
    assert headers["etag"]
    status, body, _ = await site.get("/")
    assert body.count(b"<script") == 1
    assert body.index(b"<script") < body.index(b"</BODY>")
    assert (await site.get("/_static_dev/reload.js"))[0] == 200


async def test_nothing_outside_the_folder_is_served(site: Site) -> None:
    """By "..", encoded or not, by symlink to a file or folder, by a compressed copy, and no hidden files."""
    paths = [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "//secret.txt",
        "/out.txt",
        "/out/secret.txt",
        "/.env",
        "/a%00b",
        "/" + "x" * 5000,
    ]
    for path in paths:
        status, body, _ = await site.get(path)
        assert (path[:40], status) == (path[:40], 404)
        assert b"SECRET" not in body
        assert body != b"secret"
    _, body, _ = await site.get("/app.mjs", **{"Accept-Encoding": "gzip"})
    assert body != b"secret"


async def test_a_page_learns_that_a_file_has_changed(site: Site) -> None:
    """The state first, then another one after a change, a new file and a removed one; by both names."""
    for path in ("/__drape/reload", "/_static_dev/reload"):
        async with asyncio.timeout(20), site.session.get(site.url + path) as stream:
            assert stream.content_type == "text/event-stream"
            states = [await _state(stream)]
            for change in (
                lambda: (site.root / "app.mjs").write_text("export default 1"),
                lambda: (site.root / "docs" / "new.css").write_text("a{}"),
                (site.root / "docs" / "new.css").unlink,
            ):
                change()
                states.append(await _state(stream))
        assert len(set(states)) >= 3
        assert all(before != after for before, after in itertools.pairwise(states))
        (site.root / "app.mjs").write_text("export {}")


async def _state(stream: aiohttp.ClientResponse) -> bytes:
    while line := await stream.content.readline():
        if line.startswith(b"data: "):
            return line
    raise AssertionError("the stream ended")


async def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    """Exit code 1 and no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        argv = (sys.executable, "-m", "shared.agent.static_server", "--port", port, "--root", str(tmp_path))
        process = await asyncio.create_subprocess_exec(*argv, cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(15):
            _, errors = await process.communicate()

    assert process.returncode == 1
    assert errors.decode().count("\n") == 1
    assert port in errors.decode()
