"""What no client library sends: raw HTTP, WebSocket frames and server-sent events, against a gateway on a real socket."""

import asyncio
import contextlib
import random
from typing import Any

import aiohttp

from services.gateway.adapters.describe import openapi
from tests.builders import PREVIEW, PROJECT, preview_requested, project_created
from tests.fuzz import rubbish, tars
from tests.fuzz.api import UNLIMITED, others
from tests.fuzz.trial import Leaks, Outcome, Trial
from tests.gateway.api_stage import TOKEN, ApiStage, api_stage
from tests.gateway.proxy_stage import LOOPBACK

ANSWER_S = 1.5
"""How long a connection may wait for more of a request that was cut off; then the client leaves, as clients do."""
METHODS = (
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "get",
    "PRI",
    "X" * 300,
    "G ET",
    "\0",
    "",
)
SEGMENTS = (
    "api", "projects", "previews", "files", "env", "logs", "events", "links", "restart", "prepare", "missing", "residents", "erasure",
    "assets", "..", ".", "%2e%2e", "%00", "%ff", "%", "%zz", "%2f", "a" * 3_000, "é", ";x", "*", "?", "#", "//", "\\", "app.js", "health",
    "openapi.json", "__drape", PREVIEW, PROJECT,
)  # fmt: skip
QUERIES = (
    "",
    "?since=9",
    "?since=²",
    "?attempt=0&step=install",
    "?days=" + "9" * 5_000,
    "?days=%D9%A3",
    "?step=%ff",
    "?%00",
    "?a=" + "b" * 7_000,
    "?since=&since=1",
    "?token=x",
)
HEADERS = (
    b"Idempotency-Key: \xff\xfe", b"Idempotency-Key: " + b"k" * 300, b"Last-Event-ID: \xb2", b"Last-Event-ID: 9999999999999999999999",
    b"Accept: text/event-stream", b"Content-Type: application/json", b"Content-Type: \xff", b"Content-Type: application/x-tar",
    b"Content-Type: application/json; charset=utf-16", b"Content-Encoding: gzip", b"Content-Encoding: br, deflate, x", b"Expect: 100-continue",
    b"Expect: x", b"Transfer-Encoding: chunked", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
    b"Upgrade: websocket", b"Connection: Upgrade", b"Connection: close", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: x", b"Range: bytes=0-,-1",
    b"Origin: null", b"Origin: http://[", b"Cookie: " + b"a=b; " * 100, b"X: " + b"y" * 9_000, b"X-Forwarded-For: \xff, ::1", b"If-None-Match: *",
    b"If-Modified-Since: x", b"traceparent: \xff", b"traceparent: 00-" + b"f" * 600, b"Authorization: Bearer \xff", b"Authorization: Basic eA==",
    b"no colon", b": empty", b"Sec-WebSocket-Protocol: drape.bearer.\xff, drape.v1", b"Accept-Encoding: \xff", b"Sec-Fetch-Site: cross-site",
)  # fmt: skip
SOCKET_QUERIES = (
    "",
    "?since=0",
    "?since=1",
    "?since=999999",
    "?since=x",
    "?since=-1",
    "?since=9999999999999999999",
    "?project=x",
    f"?project={PROJECT}&since=1",
    "?since=%D9%A1",
)
WISH = {"type": "subscribe_logs", "preview_id": PREVIEW}


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """Seven raw requests, then two sockets and a stream of events, and so on."""
    trial, warm = Trial("wires", seed, inputs, first), Trial("wires", seed + 1, min(40, inputs))
    knobs = {**UNLIMITED, "projects_per_owner_max": 100_000}
    async with api_stage(project_created(), preview_requested(), **knobs) as stage:
        await others(stage)
        await _all(warm, stage)
        tasks = len(asyncio.all_tasks())
        leaks = Leaks()
        await _all(trial, stage)
        with trial.one(-1, "what the gateway is like afterwards"):
            assert (await stage.call("GET", "/api/projects")).status == 200
            await _settled(tasks)
        return leaks.outcome(trial)


async def _settled(most: int) -> None:
    """Connections that clients have left end by themselves; nothing of them stays."""
    slack = 10
    async with asyncio.timeout(30):
        while len(asyncio.all_tasks()) > most + slack:
            await asyncio.sleep(0)


async def _all(trial: Trial, stage: ApiStage) -> None:
    for number, rng in trial.each():
        match number % 10:
            case 7 | 8:
                async with trial.within(number, "a socket; the number repeats it"):
                    await _socket(rng, stage)
            case 9:
                query = rng.choice((*SOCKET_QUERIES, *QUERIES))
                async with trial.within(number, f"events {query}"):
                    await _events(rng, stage, query)
            case _:
                raw = request(rng)
                async with trial.within(number, raw):
                    check(await _sent(rng, stage, raw))


def request(rng: random.Random) -> bytes:
    """A request that is wrong in some place, or in several."""
    paths = list(openapi()["paths"])
    known = rng.choice(paths).replace("{id}", rng.choice((PREVIEW, PROJECT, "x", "%ff", "%00", "é")))
    path = known if rng.random() < 0.6 else "/" + "/".join(rubbish.some(rng, SEGMENTS, 6))
    line = f"{rng.choice(METHODS[:5] if rng.random() < 0.7 else METHODS)} {path}{rng.choice(QUERIES) if rng.random() < 0.3 else ''} "
    body = rubbish.one_of(rng, _no_body, rubbish.some_bytes, _json, tars.hostile)
    headers = [b"Host: 127.0.0.1", f"Authorization: Bearer {TOKEN}".encode(), *rubbish.some(rng, HEADERS, 4)]
    if body and rng.random() < 0.8:
        length = len(body) if rng.random() < 0.8 else rng.choice((0, 1, len(body) + 100, len(body) // 2, 10**9))
        headers.append(b"Content-Length: %d" % length)
        headers.append(rng.choice((b"Content-Type: application/json", b"Content-Type: application/x-tar")))
    version = rng.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/2.0", ""))
    head = line.encode("utf-8", "surrogatepass") + version.encode() + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n"
    raw = head + body
    return rubbish.mutated(rng, raw) if rng.random() < 0.2 else raw


def _no_body(_rng: random.Random) -> bytes:
    return b""


def _json(rng: random.Random) -> bytes:
    right = rng.choice(
        ({"name": "a"}, {"project_id": PROJECT}, {"ttl_s": 60, "path": "/"}, {"A": "b"}, {"count": 1}, {"app": "x"})
    )
    return rubbish.encoded(rng, right if rng.random() < 0.5 else rubbish.near(rng, right))


async def _sent(rng: random.Random, stage: ApiStage, raw: bytes) -> bytes:
    """The begin of the answer; empty where none comes, for a request that did not end."""
    reader, writer = await asyncio.open_connection(LOOPBACK, int(stage.url.rsplit(":", 1)[1]))
    try:
        if rng.random() < 0.1:
            for at in range(0, len(raw), max(1, len(raw) // 20)):
                writer.write(raw[at : at + max(1, len(raw) // 20)])
                await asyncio.sleep(0)
        else:
            writer.write(raw)
        if rng.random() < 0.7:
            writer.write_eof()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(ANSWER_S):
                return await reader.read(4096)
        return b""
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()  # an orderly end would wait until all was read


def check(answer: bytes) -> None:
    """No 5xx but 503, and no traceback."""
    if not answer.startswith(b"HTTP/"):
        assert not answer, answer[:100]
        return
    status = int(answer.split(b" ", 2)[1])
    assert status < 500 or status in (501, 503, 505), answer
    assert b"Traceback" not in answer


async def _socket(rng: random.Random, stage: ApiStage) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        async with stage.session.ws_connect(
            stage.url + "/ws" + rng.choice(SOCKET_QUERIES), headers=headers, max_msg_size=0
        ) as socket:
            for _ in range(rng.randrange(1, 8)):
                await _say(rng, socket)
                if rng.random() < 0.3:
                    message = await socket.receive(timeout=ANSWER_S)
                    assert message.type in (
                        aiohttp.WSMsgType.TEXT,
                        aiohttp.WSMsgType.CLOSE,
                        aiohttp.WSMsgType.CLOSED,
                    ), message
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        assert socket.close_code != 1011, socket.close_code
                        return
    except aiohttp.WSServerHandshakeError as error:
        assert error.status in (400, 401, 404, 429, 503), error
    except (ConnectionError, TimeoutError):
        return  # closed while we spoke, or nothing to say to us


async def _say(rng: random.Random, socket: aiohttp.ClientWebSocketResponse) -> None:
    match rng.randrange(6):
        case 0:
            await socket.send_bytes(rubbish.some_bytes(rng))
        case 1:
            await socket.ping(rubbish.some_bytes(rng, 100))
        case 2:
            await socket.send_str("x" * rng.choice((4_095, 4_096, 4_097, 100_000)))
        case 3:
            raw: Any = socket._writer.transport  # frames that no client makes
            if raw is not None:
                raw.write(rubbish.some_bytes(rng))
        case _:
            body = rubbish.encoded(rng, WISH if rng.random() < 0.4 else rubbish.near(rng, WISH))
            await socket.send_str(body[:4_000].decode("utf-8", "replace"))


async def _events(rng: random.Random, stage: ApiStage, query: str) -> None:
    """The first event of a stream, or a refusal."""
    what = rng.choice(("events", "logs"))
    last = rng.choice(("", "0", "1", "99999", "x", "-1", "²", "\udcff", "9" * 30))
    raw = (
        f"GET /api/previews/{PREVIEW}/{what}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {TOKEN}\r\nLast-Event-ID: {last}\r\n\r\n"
    )
    check(await _sent(rng, stage, raw.encode("utf-8", "surrogateescape")))
