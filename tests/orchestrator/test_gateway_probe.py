"""The look through the gateway: a page, and the socket for edits, against a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from services.orchestrator.adapters.gateway_probe import MIN_SEQ_HEADER, PROBED_HEADER, HttpGatewayProbe
from shared.errors import Unavailable
from shared.secrets import probed_token

SECRET, PREVIEW = "0" * 64, "preview-1"
URL = "http://preview-1.preview.localhost:8080/"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def probing(handler: Handler) -> AsyncIterator[HttpGatewayProbe]:
    """A probe of a gateway that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        async with aiohttp.ClientSession() as session:
            yield HttpGatewayProbe(session, f"http://127.0.0.1:{port}", SECRET)
    finally:
        await runner.cleanup()


async def test_a_page_is_asked_for_at_the_path_of_its_url() -> None:
    """By the preview's host name; only an answer that the gateway swears to counts."""
    seen: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers["Host"]))
        return web.Response(status=404, headers={PROBED_HEADER: probed_token(SECRET, PREVIEW)})

    async with probing(answer) as probe:
        assert await probe.page(PREVIEW, URL + "docs/", 1, 5.0) == 404
    assert seen == [("/docs/", "preview-1.preview.localhost:8080")]


async def test_a_page_that_the_gateway_does_not_swear_to_is_none() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text="somebody else")

    async with probing(answer) as probe:
        with pytest.raises(Unavailable):
            await probe.page(PREVIEW, URL, 1, 5.0)


async def test_a_socket_that_takes_the_connection_is_open() -> None:
    """With the sub-protocol, the host name and the origin that a page of the preview would have, once the gateway has read
    of ready; at the first path that opens."""
    seen: list[tuple[str, str, str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path != "/_next/hmr":
            return web.Response(status=404)
        seen.append((request.headers["Origin"], request.headers["Host"], request.headers[MIN_SEQ_HEADER]))
        socket = web.WebSocketResponse(protocols=("vite-ping",))
        await socket.prepare(request)
        await socket.close()
        return socket

    async with probing(answer) as probe:
        found = await probe.socket(PREVIEW, URL, 7, ("/other", "/_next/hmr"), "vite-ping", 5.0)
    assert (found.state, found.path) == ("open", "/_next/hmr")
    assert seen == [("http://preview-1.preview.localhost:8080", "preview-1.preview.localhost:8080", "7")]


async def test_a_socket_that_is_refused_says_how() -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=403)

    async with probing(answer) as probe:
        found = await probe.socket(PREVIEW, URL, 7, ("/",), "", 5.0)
    assert (found.state, found.path, found.detail) == ("refused", "/", "status 403")


async def test_a_socket_that_never_answers_is_silent() -> None:
    """Vite hangs up on nobody who asks the wrong way: the handshake has a limit."""
    forever = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        await forever.wait()
        return web.Response()

    async with probing(answer) as probe:
        found = await probe.socket(PREVIEW, URL, 7, ("/", "/ws"), "vite-hmr", 0.3)
    assert found.state == "silent"


async def test_a_path_that_never_answers_holds_up_no_other() -> None:
    """Next.js says nothing on the path that another of its versions has."""
    forever = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/_next/webpack-hmr":
            await forever.wait()
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket

    async with probing(answer) as probe:
        found = await probe.socket(PREVIEW, URL, 7, ("/_next/webpack-hmr", "/_next/hmr"), "", 5.0)
    assert (found.state, found.path) == ("open", "/_next/hmr")


async def test_vite_5_which_knows_no_ping_is_found() -> None:
    """It says nothing to the ping, and opens its real socket to who names no origin."""
    forever = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers["Sec-WebSocket-Protocol"] != "vite-hmr" or "Origin" in request.headers:
            await forever.wait()
        socket = web.WebSocketResponse(protocols=("vite-hmr",))
        await socket.prepare(request)
        await socket.close()
        return socket

    async with probing(answer) as probe:
        found = await probe.socket(PREVIEW, URL, 7, ("/",), "vite-ping", 5.0)
    assert (found.state, found.path) == ("open", "/")
