"""Which text of a project an edit replaces, and that the change counts once it is seen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from deploy.bench import edits
from deploy.bench.edits import Spot, Target, find_spot, marker, texts, viewing
from deploy.cli.folder import read_folder
from services.orchestrator.rules.frameworks import Hmr

VITE = Hmr(paths=("/",), protocol="vite-ping")


class Page:
    """A dev server of one page with a socket. `told`: what it says once the page has changed; None: nothing."""

    def __init__(self, body: str, told: str | None = '{"type":"update"}') -> None:
        self.body = body
        self.told = told
        self.sockets: list[web.WebSocketResponse] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "") == "websocket":
            socket = web.WebSocketResponse(protocols=("vite-hmr",))
            await socket.prepare(request)
            await socket.send_str('{"type":"connected"}')
            self.sockets.append(socket)
            async for _ in socket:
                pass
            return socket
        return web.Response(text=self.body, content_type="text/html")

    async def save(self, content: str) -> None:
        self.body = content
        for socket in self.sockets:
            if self.told is not None:
                await socket.send_str(self.told)


@asynccontextmanager
async def serving(page: Page) -> AsyncIterator[tuple[aiohttp.ClientSession, Target]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", page.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, Target(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def test_components_come_before_pages_and_tests_of_attributes_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "index.html").write_text("<title>My page</title>")
    (tmp_path / "src" / "Deep.tsx").write_text("<p>Deep text</p>")
    (tmp_path / "src" / "App.tsx").write_text(
        '<h1 id="a">Head {line}</h1><p>Twice told</p><b>Twice told</b><i>Once</i>'
    )
    assert texts(read_folder(tmp_path)) == [
        ("src/App.tsx", "Once"),
        ("src/Deep.tsx", "Deep text"),
        ("index.html", "My page"),
    ]


def test_an_edit_replaces_the_text_alone() -> None:
    spot = Spot("a.html", "Hello", "/")
    assert spot.content("<h1>Hello</h1><p>Hello there</p>", 7) == f"<h1>{marker(7)}</h1><p>Hello there</p>"


async def test_the_spot_is_one_that_an_answer_shows(tmp_path: Path) -> None:
    (tmp_path / "App.tsx").write_text("<p>Never shown</p><p>Shown here</p>")
    async with serving(Page("<html>Shown here</html>")) as (session, target):
        files = read_folder(tmp_path)
        assert await find_spot(session, target, files) == Spot("App.tsx", "Shown here", "/App.tsx")
        (tmp_path / "App.tsx").write_text("<p>Never shown</p>")
        assert await find_spot(session, target, read_folder(tmp_path)) is None


async def test_an_edit_is_seen_after_the_socket_has_told_of_it() -> None:
    page = Page("<p>Hello</p>")
    async with serving(page) as (session, target), viewing(session, target, Spot("a", "Hello", "/"), VITE) as viewer:
        assert viewer.hears
        assert 0 < await viewer.time_edit(page.save, f"<p>{marker(1)}</p>", 1) < 5


@pytest.mark.parametrize("told", [None, '{"type":"ping"}', '{"type":"custom","event":"x"}'])
async def test_a_change_that_the_socket_does_not_tell_of_is_unseen(
    told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "SEEN_TIMEOUT_S", 0.2)
    page = Page("<p>Hello</p>", told)
    async with serving(page) as (session, target), viewing(session, target, Spot("a", "Hello", "/"), VITE) as viewer:
        with pytest.raises(edits.Unseen, match="Edit 1 of a"):
            await viewer.time_edit(page.save, f"<p>{marker(1)}</p>", 1)


async def test_without_a_socket_the_new_bytes_count() -> None:
    page = Page("<p>Hello</p>")

    async def save(content: str) -> None:
        asyncio.get_running_loop().call_later(0.05, setattr, page, "body", content)

    async with serving(page) as (session, target), viewing(session, target, Spot("a", "Hello", "/"), Hmr()) as viewer:
        assert not viewer.hears
        assert await viewer.time_edit(save, f"<p>{marker(3)}</p>", 3) >= 0.05
