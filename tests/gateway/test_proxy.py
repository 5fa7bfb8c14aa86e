"""HTTP through the preview proxy: streamed whole, unchanged where it may be, truthful where it breaks."""

import asyncio
import gzip
import json
import resource
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.gateway.proxy_stage import HOST, LOOPBACK, PREVIEW, TIMEOUT_S, raw_server, stage

pytestmark = pytest.mark.usefixtures("each_way")

_MIB = 1024 * 1024


async def _echo(request: web.Request) -> web.StreamResponse:
    """Tells what the dev server saw."""
    seen = {
        "method": request.method,
        "target": request.raw_path,
        "headers": [[name.lower(), value] for name, value in request.headers.items()],
        "body": (await request.read()).decode("latin-1"),
    }
    return web.json_response(seen)


def _grown_mib(before_kib: int) -> float:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024


async def test_dev_server_sees_its_own_name() -> None:
    """Host, Origin and Referer name localhost and the dev server's port, whatever the browser's address bar says."""
    async with stage(_echo) as on:
        headers = {"Origin": f"http://{HOST}", "Referer": f"http://{HOST}/a?b=1"}
        async with on.client.post(on.url("/x"), headers=headers) as answer:
            seen = dict((await answer.json())["headers"])
    assert seen["host"] == f"localhost:{on.upstream_port}"
    assert seen["origin"] == on.local_origin
    assert seen["referer"] == f"{on.local_origin}/a?b=1"
    assert "x-forwarded-host" not in seen, "Next and React Router refuse a form whose Origin differs from it"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-for"] == LOOPBACK


async def test_a_dev_server_may_listen_on_ipv6_only() -> None:
    """Its address is dialled as it is, and its name is the one that all dev servers know."""
    async with stage(_echo, upstream_host="::1") as on, on.client.get(on.url("/a?b=1")) as answer:
        told = await answer.json()
    assert (told["target"], dict(told["headers"])["host"]) == ("/a?b=1", f"localhost:{on.upstream_port}")


async def test_foreign_origin_is_not_disguised() -> None:
    """Another site's Origin reaches the dev server as it is, so that the dev server's own guard can refuse it."""
    async with stage(_echo) as on:
        headers = {"Origin": "http://elsewhere.example", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil"}
        async with on.client.get(on.url(), headers=headers) as answer:
            seen = dict((await answer.json())["headers"])
    assert seen["origin"] == "http://elsewhere.example"
    assert seen["x-forwarded-host"] == HOST
    assert seen["x-forwarded-for"] == LOOPBACK


async def test_target_arrives_character_by_character() -> None:
    """Path and query are not normalised on the way: escapes, double slashes, dots and an empty query stay."""
    targets = ["/a%2Fb/%7e?x=%20+&y", "//elsewhere.example/x", "/@fs/a/../b?import", "/style.css?", "/%C3%A9"]
    async with stage(_echo) as on:
        for target in targets:
            head = f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
            body = (await on.raw(head)).partition(b"\r\n\r\n")[2]
            assert json.loads(body)["target"] == target


async def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    """Headers about one connection, and those that Connection names, go no further; in both directions."""

    async def upstream(request: web.Request) -> web.StreamResponse:
        seen = ",".join(sorted(name.lower() for name in request.headers))
        headers = {"Connection": "x-private", "X-Private": "1", "Keep-Alive": "timeout=9", "X-Seen": seen}
        return web.Response(text="ok", headers=headers)

    async with stage(upstream) as on:
        headers = {"Connection": "keep-alive, X-Secret-Hop", "X-Secret-Hop": "1", "TE": "trailers", "X-Kept": "1"}
        async with on.client.get(on.url(), headers=headers) as answer:
            seen = answer.headers["X-Seen"].split(",")
            assert "x-private" not in answer.headers
            assert "Keep-Alive" not in answer.headers
    assert "x-kept" in seen
    assert not {"x-secret-hop", "te", "keep-alive", "expect"} & set(seen)


async def test_answer_carries_the_dev_servers_headers_only() -> None:
    """No Server, no Content-Type and no cookie that the dev server did not send; repeated headers stay repeated."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 203 Fine\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\nX-Latin: caf\xe9\r\n"
            b"Set-Cookie: a=1; Domain=localhost; Path=/\r\n"
            b"Set-Cookie: b=2; HttpOnly; domain=.preview.localhost\r\n\r\nok"
        )
        await writer.drain()

    async with raw_server(talk) as port, stage(upstream_port=port) as on, on.client.get(on.url()) as answer:
        assert (answer.status, answer.reason, await answer.read()) == (203, "Fine", b"ok")
        assert answer.headers.getall("X-A") == ["1", "2"]
        assert answer.headers["X-Latin"] == "café"
        assert answer.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
        assert set(answer.headers) == {"Content-Length", "X-A", "X-Latin", "Set-Cookie", "Date"}


async def test_redirects_stay_on_the_preview() -> None:
    """A Location of the dev server's own address becomes the preview's; others stay. None is followed."""

    async def upstream(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=307, headers={"Location": request.query["to"].replace("PORT", str(request.url.port))}
        )

    cases = {
        "http://localhost:PORT/a?b#c": f"http://{HOST}/a?b#c",
        "https://127.0.0.1:PORT/": f"http://{HOST}/",
        "//localhost:PORT/x": f"http://{HOST}/x",
        "http://[::1]:PORT": f"http://{HOST}",
        "/relative": "/relative",
        "http://localhost:1/other": "http://localhost:1/other",
        "http://localhost.evil.example:PORT/": "http://localhost.evil.example:PORT/",
        "https://elsewhere.example/x": "https://elsewhere.example/x",
    }
    async with stage(upstream) as on:
        for given, wanted in cases.items():
            async with on.client.get(on.url(), params={"to": given}, allow_redirects=False) as answer:
                assert answer.status == 307
                assert answer.headers["Location"] == wanted.replace("PORT", str(on.upstream_port))


async def test_compressed_bodies_pass_untouched() -> None:
    """A gzip body, up or down, arrives as the same bytes with the same Content-Encoding and Content-Length."""
    plain = b"x" * 10_000
    packed = gzip.compress(plain)

    async def upstream(request: web.Request) -> web.StreamResponse:
        assert await request.read() == plain, "this server unpacks what it gets: it got it packed"
        seen = {"X-Length": request.headers["Content-Length"], "Content-Encoding": "gzip"}
        return web.Response(body=packed, headers=seen)

    async with stage(upstream) as on:
        headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
        async with on.client.post(on.url(), data=packed, headers=headers) as answer:
            assert await answer.read() == packed
            assert answer.headers["Content-Encoding"] == "gzip"
            assert answer.headers["Content-Length"] == answer.headers["X-Length"] == str(len(packed))


async def test_answers_without_a_body() -> None:
    """HEAD keeps the length and type of what GET would bring; 204 and 304 end at their headers."""

    async def upstream(request: web.Request) -> web.StreamResponse:
        status = int(request.query.get("status", 200))
        if status != 200:
            return web.Response(status=status, headers={"ETag": '"1"'})
        return web.Response(body=b"x" * 1234, content_type="text/css")

    async with stage(upstream) as on:
        async with on.client.head(on.url()) as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "1234")
            assert answer.headers["Content-Type"] == "text/css"
        for status in (204, 304):
            async with on.client.get(on.url(f"/?status={status}")) as answer:
                assert (answer.status, answer.headers["ETag"], await answer.read()) == (status, '"1"', b"")
                assert "Content-Type" not in answer.headers
        async with on.client.get(on.url()) as answer:
            assert len(await answer.read()) == 1234


async def test_chunked_upload_is_streamed() -> None:
    """The dev server reads the first part of an upload before the browser has sent the second."""
    first_seen = asyncio.Event()

    async def upstream(request: web.Request) -> web.StreamResponse:
        first = await request.content.readany()
        first_seen.set()
        return web.Response(body=first + await request.content.read())

    async def body() -> AsyncIterator[bytes]:
        yield b"first "
        await asyncio.wait_for(first_seen.wait(), TIMEOUT_S)
        yield b"second"

    async with stage(upstream) as on, on.client.put(on.url(), data=body()) as answer:
        assert await answer.read() == b"first second"


async def test_first_event_arrives_before_the_stream_ends() -> None:
    """Server-sent events are flushed at once: headers first, then each event as it is written."""
    go_on = asyncio.Event()

    async def upstream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.wait_for(go_on.wait(), TIMEOUT_S)
        go_on.clear()
        await response.write(b"data: 1\n\n")
        await asyncio.wait_for(go_on.wait(), TIMEOUT_S)
        await response.write(b"data: 2\n\n")
        return response

    async with stage(upstream) as on, on.client.get(on.url()) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        go_on.set()
        assert await answer.content.readany() == b"data: 1\n\n"
        go_on.set()
        assert await answer.content.read() == b"data: 2\n\n"


async def test_large_bodies_need_little_memory() -> None:
    """200 MiB down and 200 MiB up pass with a memory growth that has nothing to do with their size."""
    chunk = b"x" * (256 * 1024)
    total = 200 * _MIB

    async def upstream(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            size = 0
            async for part in request.content.iter_any():
                size += len(part)
            return web.Response(text=str(size))
        response = web.StreamResponse(headers={"Content-Length": str(total)})
        await response.prepare(request)
        for _ in range(total // len(chunk)):
            await response.write(chunk)
        return response

    async def body() -> AsyncIterator[bytes]:
        for _ in range(total // len(chunk)):
            yield chunk

    async with stage(upstream) as on:
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with on.client.get(on.url()) as answer:
            size = 0
            async for part in answer.content.iter_any():
                size += len(part)
        assert size == total
        async with on.client.put(on.url(), data=body()) as answer:
            assert await answer.text() == str(total)
        assert _grown_mib(before_kib) < 32


async def test_slow_browser_slows_the_dev_server() -> None:
    """What a browser does not read, the dev server does not get rid of: nobody in between keeps it."""
    written = 0
    stalled = asyncio.Event()

    async def upstream(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while written < 400 * _MIB:
                async with asyncio.timeout(1):
                    await response.write(b"x" * _MIB)
                written += _MIB
        except TimeoutError:
            stalled.set()
        return response

    async with stage(upstream) as on:
        reader, writer = await asyncio.open_connection(LOOPBACK, on.port, limit=1024)
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await reader.readline()
        await asyncio.wait_for(stalled.wait(), TIMEOUT_S)
        writer.transport.abort()
    assert written < 64 * _MIB


async def test_expect_continue_is_answered_here() -> None:
    """A client that waits for 100 before its body gets it, and the dev server gets the whole body."""
    async with stage(_echo) as on, on.client.post(on.url(), data=b"body", expect100=True) as answer:
        seen = await answer.json()
        assert seen["body"] == "body"


async def test_host_names() -> None:
    """Whatever is below the base domain is the proxy's, with or without port, dot and capitals; nothing else is."""
    async with stage(_echo) as on:
        ask = on.proxy.preview_id
        assert ask(HOST) == ask(f"{PREVIEW.upper()}.Preview.LocalHost.") == PREVIEW
        assert ask("a.b.preview.localhost") == "a.b"
        for host in (
            "localhost:8080",
            "preview.localhost:8080",
            ".preview.localhost",
            "xpreview.localhost",
            "[::1]:8080",
            "",
        ):
            assert ask(host) is None
