"""The preview proxy when one side breaks, stalls or asks for too much: what each side then sees."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from services.gateway.adapters.proxy import ProxyConfig
from tests.gateway.proxy_stage import HOST, LOOPBACK, TIMEOUT_S, free_port_refusing, raw_server, stage

pytestmark = pytest.mark.usefixtures("each_way")


async def _length(request: web.Request) -> web.StreamResponse:
    return web.Response(text=str(len(await request.read())))


async def test_refused_connection_is_a_clear_502() -> None:
    """Nothing listening: programs get a problem with a code and a hint, people get a page."""
    async with stage(upstream_port=free_port_refusing()) as on:
        async with on.client.get(on.url()) as answer:
            assert (answer.status, answer.content_type) == (502, "application/problem+json")
            problem = await answer.json(content_type=None)
        async with on.client.get(on.url(), headers={"Accept": "text/html"}) as page:
            assert (page.status, page.content_type) == (502, "text/html")
            assert "dev_server_unreachable" in await page.text()
    assert problem["code"] == "dev_server_unreachable"
    assert problem["hint"]


async def test_dropped_before_an_answer_is_a_502() -> None:
    """A dev server that accepts, reads and hangs up is unreachable, not an empty page."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Unauthorized")

    async with raw_server(talk) as port, stage(upstream_port=port) as on, on.client.get(on.url()) as answer:
        assert answer.status == 502


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
def test_half_an_answer_looks_broken(framing: bytes, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """A dev server that dies while answering leaves the browser with an error, never with a clean end.

    On both event loops, since their transports are different classes.
    """

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        await writer.drain()

    async def scene() -> None:
        async with raw_server(talk) as port, stage(upstream_port=port) as on:
            with pytest.raises(aiohttp.ClientError):
                async with on.client.get(on.url()) as answer:
                    await answer.read()
            head = f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode()
            with pytest.raises(ConnectionResetError):
                await on.raw(head)

    run(scene())


async def test_browser_that_leaves_ends_the_exchange() -> None:
    """An event stream whose reader is gone is ended at the dev server too, though no byte moves on it."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        started.set()
        await reader.read()
        ended.set()

    async with raw_server(talk) as port, stage(upstream_port=port) as on:
        async with on.client.get(on.url()):
            await asyncio.wait_for(started.wait(), TIMEOUT_S)
        await asyncio.wait_for(ended.wait(), TIMEOUT_S)


async def test_upload_that_breaks_off_is_broken_for_the_dev_server() -> None:
    """Half an upload never arrives as a whole one."""
    failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    begun = asyncio.Event()

    async def upstream(request: web.Request) -> web.StreamResponse:
        try:
            await request.content.readany()
            begun.set()
            await request.content.read()
        except Exception as error:
            failed.set_result(type(error).__name__)
            raise
        failed.set_result("whole")
        return web.Response()

    async with stage(upstream) as on:
        _, writer = await asyncio.open_connection(LOOPBACK, on.port)
        writer.write(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".encode())
        await asyncio.wait_for(begun.wait(), TIMEOUT_S)
        writer.transport.abort()
        assert await asyncio.wait_for(failed, TIMEOUT_S) != "whole"


async def test_silent_dev_server_is_a_504() -> None:
    """A dev server that takes the request and says nothing is given up after its time, with a code."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    config = ProxyConfig(first_byte_timeout_s=0.1, client_check_interval_s=0.02)
    async with (
        raw_server(talk) as port,
        stage(upstream_port=port, config=config) as on,
        on.client.get(on.url()) as answer,
    ):
        assert answer.status == 504
        assert (await answer.json(content_type=None))["code"] == "dev_server_timeout"


async def test_bodies_have_a_limit() -> None:
    """A body over the limit is refused by its length, or, sent in chunks, once it has gone past it."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with stage(_length, config=ProxyConfig(request_body_bytes_max=1000, client_check_interval_s=0.02)) as on:
        for data in (b"x" * 1001, body()):
            async with on.client.post(on.url(), data=data) as answer:
                assert answer.status == 413
                assert (await answer.json(content_type=None))["code"] == "request_too_large"
        async with on.client.post(on.url(), data=b"x" * 1000) as answer:
            assert answer.status == 200


async def test_one_preview_cannot_take_every_connection() -> None:
    """Past its share a preview gets 503 with Retry-After, and is served again once one of its connections ends."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def upstream(_: web.Request) -> web.StreamResponse:
        entered.set()
        await asyncio.wait_for(leave.wait(), TIMEOUT_S)
        return web.Response(text="ok")

    config = ProxyConfig(connections_per_preview_max=1)
    async with stage(upstream, config=config) as on:
        first = asyncio.ensure_future(on.client.get(on.url()))
        await asyncio.wait_for(entered.wait(), TIMEOUT_S)
        async with on.client.get(on.url()) as second:
            assert (second.status, second.headers["Retry-After"]) == (503, "1")
        leave.set()
        assert (await first).status == 200
        async with on.client.get(on.url()) as third:
            assert third.status == 200
