"""The attacks of `attacks.py` on real sockets: each reaches nothing, or the preview's dev server as the one request that it is."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web

from services.gateway.adapters.preview_target import ProxyConfig, Upstream
from services.gateway.adapters.upstreams import Upstreams
from tests.gateway.api_stage import api_stage
from tests.gateway.attacks import HOSTS, LINES, SMUGGLING
from tests.gateway.proxy_stage import HOST, LOOPBACK, PREVIEW, TIMEOUT_S, Stage, raw_server, stage

NAME = HOST.partition(":")[0]
LAST = f"GET /last HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
"""Sent behind each attack: the connection ends with its answer, unless it has ended before."""

Seen = tuple[str, str, bytes]

SMUGGLED = ("GET", "/smuggled", b"")
READ_AS_TWO: dict[str, list[Seen]] = {
    "te-underscore": [("POST", "/a", b"0\r\n\r\n"), SMUGGLED],
    "chunk-extension-crlf": [("POST", "/a", b"ab")],
    "chunk-extension-long": [("POST", "/a", b"ab")],
    "chunk-last-short": [("POST", "/a", b"ab")],
    "get-with-body": [("GET", "/a", b"abcd")],
}
"""What of `SMUGGLING` is clear to everybody, and what the dev server gets of it. The rest is refused."""
ODD_AND_HARMLESS: dict[str, list[Seen]] = {
    "absolute-own": [("GET", "/x", b"")],
    "scheme-relative": [("GET", "//127.0.0.1:{port}/x", b"")],
    "backslash": [("GET", "/\\127.0.0.1:{port}/x", b"")],
    "at-sign": [("GET", "/@127.0.0.1:{port}/", b"")],
    "asterisk": [("OPTIONS", "/", b"")],
    "dot-segments": [("GET", "/../../../etc/passwd", b"")],
    "encoded-dot-segments": [("GET", "/%2e%2e/%2e%2e/etc/passwd", b"")],
    "encoded-slash": [("GET", "/..%2f..%2fetc", b"")],
    "encoded-crlf": [("GET", "/x%0d%0aX-Injected:%20y", b"")],
    "encoded-nul": [("GET", "/x%00y", b"")],
    "fragment": [("GET", "/x", b"")],
    "query-url": [("GET", "/?url=http://127.0.0.1:{port}/", b"")],
    "upgrade-h2c": [("GET", "/x", b"")],
    "upgrade-tcp": [("GET", "/x", b"")],
    "upgrade-post": [("POST", "/a", b"")],
    "upgrade-no-key": [("GET", "/x", b"")],
    "forwarded-host": [("GET", "/x", b"")],
    "original-url": [("GET", "/x", b"")],
    "proxy-headers": [("GET", "/x", b"")],
}
"""Of `LINES`: paths are the dev server's business, character by character."""
THE_PREVIEWS_OWN = {"upper", "dot", "dot-port", "other-port"}
"""Of `HOSTS`: spellings of its name."""


class Field:
    """The proxy before the preview's dev server, beside a server that no request may reach."""

    def __init__(self, on: Stage, seen: list[web.Request], bodies: list[bytes], reached: list[int], port: int) -> None:
        self._on = on
        self._requests = seen
        self._bodies = bodies
        self.reached = reached
        self._port = port

    def filled(self, text: str) -> str:
        names = {"{host}": HOST, "{HOST}": HOST.upper(), "{name}": NAME, "{id}": PREVIEW, "{port}": str(self._port)}
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    async def attack(self, text: str) -> bytes:
        """All that comes back for the attack, and for the request behind it."""
        return await said(self._on.port, (self.filled(text) + LAST).encode())

    def seen(self) -> list[Seen]:
        """What the dev server got, but for the request behind the attack."""
        got = [(each.method, each.raw_path, body) for each, body in zip(self._requests, self._bodies, strict=True)]
        return [each for each in got if each[1] != "/last"]

    def headers(self) -> list[dict[str, str]]:
        return [dict(each.headers) for each in self._requests]

    @property
    def local_host(self) -> str:
        return f"localhost:{self._on.upstream_port}"


@asynccontextmanager
async def field() -> AsyncIterator[Field]:
    seen: list[web.Request] = []
    bodies: list[bytes] = []
    reached: list[int] = []

    async def dev_server(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen.append(request)
        bodies.append(body)
        return web.Response(text="dev server")

    async def forbidden(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(1)
        writer.close()

    server = await asyncio.start_server(forbidden, LOOPBACK, 0)
    async with server, stage(dev_server) as on:
        yield Field(on, seen, bodies, reached, server.sockets[0].getsockname()[1])


async def said(port: int, request: bytes) -> bytes:
    """Everything that is answered until the connection ends, also where it ends in the middle of sending."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    heard = b""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(65536):
                    heard += chunk
    finally:
        writer.close()
    return heard


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def _expected(at: Field, table: dict[str, list[Seen]], name: str) -> list[Seen]:
    return [(method, at.filled(path), body) for method, path, body in table.get(name, [])]


@pytest.mark.parametrize("name", SMUGGLING)
async def test_a_request_is_read_in_one_way_or_refused(name: str) -> None:
    """What is read as a request here is the one that the dev server gets; what could be read in two ways is a 400."""
    async with field() as at:
        answer = await at.attack(SMUGGLING[name])
        assert at.seen() == _expected(at, READ_AS_TWO, name)
        assert at.reached == []
        if name not in READ_AS_TWO:
            assert _status(answer) == 400
            assert b"dev server" not in answer
        for headers in at.headers():
            assert headers["Host"] == at.local_host
            assert not any("_" in header for header in headers)


@pytest.mark.parametrize("name", LINES)
async def test_a_target_leads_to_the_previews_dev_server_or_nowhere(name: str) -> None:
    """Whatever address, method or protocol a request names."""
    async with field() as at:
        answer = await at.attack(LINES[name])
        assert at.seen() == _expected(at, ODD_AND_HARMLESS, name)
        assert at.reached == []
        if name not in ODD_AND_HARMLESS:
            assert _status(answer) in (400, 404, 405)
        for headers in at.headers():
            assert headers["Host"] == at.local_host
            assert (
                not {"Upgrade", "HTTP2-Settings", "Proxy-Connection", "Forwarded"} & headers.keys()
                or name == "upgrade-no-key"
            )


@pytest.mark.parametrize("name", HOSTS)
async def test_a_host_is_the_previews_or_none(name: str) -> None:
    async with field() as at:
        answer = await at.attack(HOSTS[name])
        assert at.seen() == ([("GET", "/x", b"")] if name in THE_PREVIEWS_OWN else [])
        assert at.reached == []
        if name not in THE_PREVIEWS_OWN:
            assert _status(answer) in (400, 404)


async def test_hosts_that_are_almost_the_apis_get_nothing_of_it() -> None:
    """On the whole gateway: never an error of ours, never an answer of the API without a token."""
    async with api_stage() as on:
        port = int(on.url.rpartition(":")[2])
        for name, text in HOSTS.items():
            request = text.replace("GET /x", "GET /api/projects", 1).replace(
                "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1
            )
            filled = request.replace("{host}", HOST).replace("{HOST}", HOST.upper()).replace("{name}", NAME)
            answer = await said(port, filled.replace("{id}", PREVIEW).replace("{port}", str(port)).encode())
            assert _status(answer) in (400, 401, 404, 421), (name, answer[:200])


async def test_redirects_are_passed_on_and_never_followed() -> None:
    """The browser may go where the dev server says; the gateway does not."""
    async with field() as at:
        port = at.filled("{port}")

        async def elsewhere(_: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{port}/secret"})

        async with stage(elsewhere) as on, on.client.get(on.url("/x"), allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, f"http://127.0.0.1:{port}/secret")
        assert at.reached == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 2_000) for n in range(100)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX\0Y: z\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 -1 Odd\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\nraw",
    ],
    ids=[
        "headers-too-large", "too-many", "one-too-long", "two-lengths", "length-negative", "nul", "version",
        "status", "101",
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_clean_http_is_a_502_with_a_code(answer: bytes) -> None:
    """Nothing of it reaches the browser, and the connection still serves."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    async with raw_server(talk) as port, stage(upstream_port=port) as on, on.client.get(on.url()) as got:
        assert got.status == 502
        assert msgspec.json.decode(await got.read())["code"] in ("dev_server_bad_answer", "dev_server_unreachable")
        assert "X-0" not in got.headers


async def test_bad_requests_are_not_logged_with_their_words(caplog: pytest.LogCaptureFixture) -> None:
    """What a parser complains about may be the line with a token in it."""
    secret = "bearer-of-a-secret"
    async with field() as at:
        with caplog.at_level(logging.DEBUG):
            await at.attack(f"GET /x HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {secret}\0\r\n\r\n")
            await at.attack(f"GET /x\0{secret} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
    assert "bad_request" in caplog.text
    assert secret not in caplog.text
    assert "Traceback" not in caplog.text


async def test_no_connection_is_used_for_another_preview() -> None:
    """Two previews, one after the other at the same address: the second's request comes over a connection of its own, and so
    does a request after a restart."""
    opened: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(1)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                await reader.readuntil(b"\r\n\r\n")

    async with raw_server(talk) as port, Upstreams(ProxyConfig(upstreams_max=2)) as upstreams:

        async def ask(preview_id: str, generation: str) -> int:
            async with (
                upstreams.session(Upstream(preview_id, LOOPBACK, port, generation)) as session,
                session.get(f"http://{LOOPBACK}:{port}/") as answer,
            ):
                await answer.read()
            return len(opened)

        assert [await ask("a", "1"), await ask("a", "1")] == [1, 1]
        assert [await ask("b", "1"), await ask("a", "2"), await ask("a", "2")] == [2, 3, 3]
        assert [await ask("c", "1"), await ask("d", "1"), await ask("a", "2")] == [4, 5, 6]
