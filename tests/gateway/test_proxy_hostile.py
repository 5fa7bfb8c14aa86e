"""Requests and answers that try to lead the preview proxy astray."""

import asyncio

import pytest
from aiohttp import web

from tests.gateway.proxy_stage import HOST, raw_server, stage


async def _target(request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"dev server saw {request.raw_path}")


def _head(line: str, *headers: str, host: str = HOST) -> bytes:
    return "\r\n".join([line, f"Host: {host}", "Connection: close", *headers, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "request_bytes",
    [
        _head("POST / HTTP/1.1", "Content-Length: 4", "Transfer-Encoding: chunked")
        + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
        _head("POST / HTTP/1.1", "Content-Length: 4", "Content-Length: 5") + b"abcde",
        _head("POST / HTTP/1.1", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        _head("POST / HTTP/1.1", "Content-Length: +4") + b"abcd",
        _head("GET / HTTP/1.1", "X-Folded: a\r\n b: c"),
        _head("GET / HTTP/1.1", "X-Bad : space before the colon"),
        _head("GET / HTTP/1.1", "X-Nul: a\0b"),
        _head("GET / HTTP/1.1", "X-Bare: a\rX-Injected: b"),
        _head("GET / HTTP/1.1", f"Host: {HOST}"),
    ],
    ids=[
        "cl+te",
        "two-lengths",
        "te-not-last",
        "signed-length",
        "obs-fold",
        "space-colon",
        "nul",
        "bare-cr",
        "two-hosts",
    ],
)
async def test_ambiguous_requests_are_refused(request_bytes: bytes) -> None:
    """What two parsers could read in two ways is refused, and no part of it reaches the dev server."""
    seen: list[str] = []

    async def upstream(request: web.Request) -> web.StreamResponse:
        seen.append(request.raw_path)
        return web.Response()

    async with stage(upstream) as on:
        answer = await on.raw(request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert seen == []


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (f"http://{HOST}/x?y", "/x?y"),
        ("//elsewhere.example/x", "//elsewhere.example/x"),
        ("/\\elsewhere.example", "/\\elsewhere.example"),
        ("/@elsewhere.example:80/", "/@elsewhere.example:80/"),
    ],
)
async def test_target_cannot_name_another_server(target: str, seen: str) -> None:
    """Whatever address the request line holds, the resolver's is the one that is dialled."""
    async with stage(_target) as on:
        answer = await on.raw(_head(f"GET {target} HTTP/1.1"))
    assert answer.endswith(f"dev server saw {seen}".encode())


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x?y", "http://user:word@elsewhere.example/"])
async def test_absolute_target_of_another_site_is_not_found(target: str) -> None:
    """A whole address in the request line stands above Host (RFC 9112 3.2.2): one of another site is no preview."""
    async with stage(_target) as on:
        answer = await on.raw(_head(f"GET {target} HTTP/1.1"))
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "host", ["a.b.preview.localhost", "x_y.preview.localhost", "..preview.localhost", "@evil.preview.localhost"]
)
async def test_impossible_ids_are_not_found(host: str) -> None:
    """A name below the base domain that no id can have is 404, and is not looked up."""
    async with stage(_target) as on:
        answer = await on.raw(_head("GET / HTTP/1.1", host=host))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))


async def test_own_paths_never_reach_the_dev_server() -> None:
    """Everything below /__drape/ is answered here, however it is spelled and asked for."""
    async with stage(_target) as on:
        for line in (
            "GET /__drape/x",
            "POST /__drape/status",
            "GET /__drape",
            "GET /%5F_drape/x",
            "GET /__drape/assets/..%2Fpages.py",
        ):
            answer = await on.raw(_head(f"{line} HTTP/1.1"))
            assert answer.startswith(b"HTTP/1.1 404"), line
            assert b"dev server saw" not in answer
        status = await on.raw(_head("GET /__drape/status HTTP/1.1"))
        assert b'"status": "ready"' in status


async def test_connect_is_refused() -> None:
    """The proxy opens no tunnel."""
    async with stage(_target) as on:
        answer = await on.raw(_head("CONNECT 127.0.0.1:22 HTTP/1.1"))
    assert not answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Bare: a\rX-Injected: b\r\nContent-Length: 0\r\n\r\n",
        b"rubbish\r\n\r\n",
    ],
    ids=["cl+te", "long-header", "many-headers", "bare-cr", "no-http"],
)
async def test_bad_answers_are_a_502(answer: bytes) -> None:
    """An answer that is no clean HTTP, or past the header limits, is the dev server's fault and is said so."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with raw_server(talk) as port, stage(upstream_port=port) as on, on.client.get(on.url()) as got:
        assert got.status == 502
        assert "X-Injected" not in got.headers
