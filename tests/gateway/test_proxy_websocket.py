"""WebSockets through the preview proxy: what hot module replacement stands on."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from yarl import URL

from services.gateway.adapters.proxy import Holding, ProxyConfig
from tests.gateway.proxy_stage import FAST, HOST, PREVIEW, TIMEOUT_S, Stage, free_port_refusing, raw_server, stage

pytestmark = pytest.mark.usefixtures("each_way")


async def _echo(request: web.Request) -> web.StreamResponse:
    """Echoes messages; on "close N text" it closes so, and the first message is what it saw of the handshake."""
    socket = web.WebSocketResponse(protocols=("vite-hmr",))
    await socket.prepare(request)
    await socket.send_json({"headers": {k.lower(): v for k, v in request.headers.items()}, "target": request.raw_path})
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data.startswith("close "):
            _, code, reason = message.data.split(" ", 2)
            await socket.close(code=int(code), message=reason.encode())
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


@asynccontextmanager
async def _visit(on: Stage, *, autoping: bool = True) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with on.client.ws_connect(
        URL(on.url("/?token=a%2Fb"), encoded=True),
        protocols=("vite-hmr", "other"),
        origin=f"http://{HOST}",
        autoping=autoping,
        timeout=aiohttp.ClientWSTimeout(ws_close=2),
    ) as socket:
        yield socket


async def test_messages_and_sub_protocol_pass_both_ways() -> None:
    """Text, binary, the sub-protocol and the target arrive; Host and Origin are the dev server's own."""
    async with stage(_echo) as on, _visit(on) as socket:
        assert socket.protocol == "vite-hmr"
        seen = await socket.receive_json(timeout=TIMEOUT_S)
        assert seen["target"] == "/?token=a%2Fb"
        assert seen["headers"]["host"] == f"localhost:{on.upstream_port}"
        assert seen["headers"]["origin"] == on.local_origin
        assert seen["headers"]["sec-websocket-protocol"] == "vite-hmr,other"
        await socket.send_str("grüße")
        assert await socket.receive_str(timeout=TIMEOUT_S) == "grüße"
        await socket.send_bytes(bytes(range(256)) * 4096)
        assert await socket.receive_bytes(timeout=TIMEOUT_S) == bytes(range(256)) * 4096


async def test_server_closes_with_its_own_code() -> None:
    """The dev server's close code and reason are what the browser gets."""
    async with stage(_echo) as on, _visit(on) as socket:
        await socket.receive_json(timeout=TIMEOUT_S)
        await socket.send_str("close 4321 because of this")
        message = await socket.receive(timeout=TIMEOUT_S)
        assert (message.type, socket.close_code, message.extra) == (WSMsgType.CLOSE, 4321, "because of this")


async def test_browser_closes_with_its_own_code() -> None:
    """The browser's close code reaches the dev server."""
    closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def upstream(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        closed.set_result(socket.close_code)
        return socket

    async with stage(upstream) as on:
        async with _visit(on) as socket:
            await socket.close(code=4001, message=b"done")
        assert await asyncio.wait_for(closed, TIMEOUT_S) == 4001


async def test_pings_reach_the_other_end() -> None:
    """A ping of the dev server is answered by the browser, not by anybody in between."""
    ponged: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def upstream(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        await socket.ping(b"marker")
        ponged.set_result(bytes((await socket.receive()).data))
        return socket

    async with stage(upstream) as on, _visit(on, autoping=False) as socket:
        ping = await socket.receive(timeout=TIMEOUT_S)
        assert (ping.type, bytes(ping.data)) == (WSMsgType.PING, b"marker")
        await socket.pong(b"from the browser")
        assert await asyncio.wait_for(ponged, TIMEOUT_S) == b"from the browser"


async def test_dead_server_ends_the_browsers_socket() -> None:
    """A dev server that dies without a word ends the browser's socket with 1011, so that its script reconnects."""

    async def upstream(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return socket

    async with stage(upstream) as on, _visit(on) as socket:
        await socket.receive(timeout=TIMEOUT_S)
        assert socket.close_code == 1011


async def test_browser_that_vanishes_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A browser that drops its connection ends the dev server's side at once, and nobody logs an error."""
    opened, ended = asyncio.Event(), asyncio.Event()

    async def upstream(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        opened.set()
        try:
            while (await socket.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
                await socket.send_str("x" * 100_000)
        finally:
            ended.set()
        return socket

    with caplog.at_level(logging.WARNING):
        async with stage(upstream) as on, on.client.ws_connect(on.url()) as socket:
            await asyncio.wait_for(opened.wait(), TIMEOUT_S)
            await socket.send_str("go")
            await socket.send_str("go")
            socket._response.connection.transport.abort()  # type: ignore[union-attr]
            await asyncio.wait_for(ended.wait(), TIMEOUT_S)
    assert not caplog.records


async def test_too_large_a_message_ends_both_sides() -> None:
    """A message over the limit closes the connection with 1009 instead of being kept in memory."""
    async with (
        stage(_echo, config=ProxyConfig(ws_message_bytes_max=1000, ws_close_timeout_s=0.5)) as on,
        _visit(on) as socket,
    ):
        await socket.receive_json(timeout=TIMEOUT_S)
        await socket.send_str("x" * 1001)
        await socket.receive(timeout=TIMEOUT_S)
        assert socket.close_code == 1009


async def test_servers_refusal_is_the_browsers_refusal() -> None:
    """A dev server that answers an upgrade with 400 is heard as 400."""

    async def upstream(_: web.Request) -> web.StreamResponse:
        return web.Response(status=400, text="no", headers={"X-Why": "token"})

    async with stage(upstream) as on:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.client.ws_connect(on.url())
    assert refused.value.status == 400
    assert refused.value.headers is not None
    assert refused.value.headers["X-Why"] == "token"


async def test_unanswered_handshake_is_a_504() -> None:
    """Vite leaves an upgrade on a wrong path unanswered: the browser hears so after the time-out."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with (
        raw_server(talk) as port,
        stage(upstream_port=port, config=ProxyConfig(ws_handshake_timeout_s=0.1)) as on,
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.client.ws_connect(on.url())
    assert refused.value.status == 504


@pytest.mark.parametrize(
    ("holding", "status"),
    [
        (None, 502),
        (Holding("starting", PREVIEW), 503),
        (Holding("failed", PREVIEW), 503),
        (Holding("unknown", PREVIEW), 503),
    ],
)
async def test_no_socket_without_a_server(holding: Holding | None, status: int) -> None:
    """A dead dev server is 502 and a preview that is held is 503, before any upgrade."""
    async with stage(holding=holding, upstream_port=free_port_refusing(), config=FAST) as on:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await on.client.ws_connect(on.url())
    assert refused.value.status == status
