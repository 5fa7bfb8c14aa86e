"""The agent's protocol, both ends: a real agent that is sent rubbish, and its client that is answered with it."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from shared.agent.client import AgentClient, AgentError, AgentUnreachable
from shared.agent.protocol import (
    SYNC_HEADER_NAME,
    Cleaned,
    FileSync,
    Health,
    JobStatus,
    Listening,
    LogLine,
    ReadinessUpdate,
    Ready,
    ReadySpec,
    SyncResult,
)
from tests.fuzz import rubbish, tars
from tests.fuzz.trial import Leaks, Outcome, Trial
from tests.fuzz.wires import ANSWER_S, HEADERS
from tests.gateway.proxy_stage import LOOPBACK
from tests.shared.agent.world import TOKEN, RunningAgent, running_agent

ROUTES = (
    "/health",
    "/files",
    "/files/a",
    "/files/../x",
    "/files/%2e%2e/x",
    "/files/%00",
    "/jobs/j",
    "/jobs/j/log",
    "/jobs/j/ready",
    "/jobs/..",
    "/jobs/%ff",
    "/x",
    "/jobs/" + "a" * 100,
    "/tunnel/1",
    "/tunnel/65536",
    "/tunnel/%00",
)
QUERIES = (
    "",
    "?wait_s=nan",
    "?wait_s=-1",
    "?wait_s=inf",
    "?offset=1e309",
    "?offset=x",
    "?grace_s=0",
    "?follow=1&offset=9",
    "?wait_s=0." + "1" * 5_000,
)
LEASES = (
    b"X-Drape-Lease: -1",
    b"X-Drape-Lease: \xb2",
    b"X-Drape-Lease: " + b"9" * 5_000,
    b"X-Drape-Lease: 1",
    b"X-Drape-Lease: \xff",
)
UPGRADE = b"Connection: Upgrade\r\nUpgrade: drape-tunnel"
BODIES: tuple[dict[str, Any], ...] = (
    {"argv": ["{python}", "-c", "pass"], "cwd": ".", "env": {"A": "b"}, "timeout_s": 5},
    {"argv": ["nothing-of-this-name"], "cwd": "../.."},
    {"port": 1, "path": "/", "timeout_s": 0.2},
    {"version": 1, "files": {}},
)
AGENT_BYTES_MAX = 256 * 1024 * 1024
AGENT_FILES_MAX = 64


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """Two thirds to the agent, the others to its client."""
    trial = Trial("agents", seed, inputs, first)
    with tempfile.TemporaryDirectory(prefix="fuzz-agents-") as place:
        root = Path(place) / "vm"
        root.mkdir()
        secret = Path(place) / "secret"
        secret.write_text("untouched")
        async with running_agent(root) as agent, hostile() as (server, client):
            told = asyncio.create_task(_read_past(agent.process.stderr))
            leaks = Leaks()
            for number, rng in trial.each():
                if number % 3:
                    raw = request(rng)
                    async with trial.within(number, raw):
                        check(await _sent(agent, raw))
                else:
                    async with trial.within(number, "an answer; the number repeats it"):
                        server.answer = answer(rng)
                        await ask(rng, client)
            with trial.one(-1, "what the agent is like afterwards"):
                await _well(agent)
                assert secret.read_text() == "untouched"
                assert {each.name for each in Path(place).iterdir()} <= {"vm", "secret", "vm.port.json"}
            told.cancel()
            await asyncio.wait({told})
            return leaks.outcome(trial)


async def _read_past(stream: asyncio.StreamReader | None) -> None:
    """What the agent logs of rubbish: a pipe that nobody reads would make it stand still."""
    while stream is not None and await stream.read(65_536):
        continue


async def _well(agent: RunningAgent) -> None:
    assert (await agent.client.health()).agent_version
    process = psutil.Process(agent.pid)
    assert process.memory_info().rss < AGENT_BYTES_MAX
    assert process.num_fds() < AGENT_FILES_MAX, "the agent holds on to descriptors"


# --- the agent ----------------------------------------------------------------------------------------------------


def request(rng: random.Random) -> bytes:
    """A request to the agent, wrong in some places."""
    route = rng.choice(ROUTES)
    if route == "/files" and rng.random() < 0.7:
        sync = msgspec.json.encode(FileSync(version=rng.randrange(1, 99)))
        body = tars.hostile(rng, tars.plain({SYNC_HEADER_NAME: sync}))
        method = "PUT"
    else:
        right = rng.choice(BODIES)
        body = rubbish.encoded(rng, right if rng.random() < 0.3 else rubbish.near(rng, right))
        method = rng.choice(("GET", "PUT", "POST", "DELETE", "PATCH"))
    length = len(body) if rng.random() < 0.9 else rng.choice((0, len(body) // 2))
    headers = [
        b"Host: agent",
        f"Authorization: Bearer {TOKEN}".encode(),
        b"Content-Length: %d" % length,
        *rubbish.some(rng, (*LEASES, *HEADERS, UPGRADE), 1),
    ]
    line = f"{method} {route}{rng.choice(QUERIES) if rng.random() < 0.3 else ''} HTTP/1.1\r\n".encode()
    raw = line + b"\r\n".join(headers) + b"\r\n\r\n" + body
    return rubbish.mutated(rng, raw) if rng.random() < 0.1 else raw


async def _sent(agent: RunningAgent, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(LOOPBACK, int(agent.url.rsplit(":", 1)[1]))
    try:
        writer.write(raw)
        writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                return await reader.read(4096)
        return b""
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()  # an orderly end would wait until all was read


def check(given: bytes) -> None:
    """No 5xx."""
    if given:
        status = int(given.split(b" ", 2)[1])
        assert status < 500 or status in (501, 505), given


# --- its client ---------------------------------------------------------------------------------------------------


class _Server:
    """Answers each connection with `answer`, and closes it."""

    def __init__(self) -> None:
        self.answer = b""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def hostile() -> Any:
    server = _Server()
    async with await asyncio.start_server(server.handle, LOOPBACK, 0) as listening, aiohttp.ClientSession() as session:
        port = listening.sockets[0].getsockname()[1]
        yield server, AgentClient(f"http://{LOOPBACK}:{port}", TOKEN, session)


def answer(rng: random.Random) -> bytes:
    """An answer of some route, nearly."""
    status = JobStatus(id="j", state="exited", started_at=1.0, exit_code=0)
    right: list[Any] = [
        Health(vm_id="v", agent_version="1", uptime_s=1.0, orphan_in_s=1.0, files_version=1, jobs={"a": "running"}),
        SyncResult(version=1),
        Cleaned(bytes=1, entries=1, trees=("node_modules",)),
        status,
        LogLine(offset=0, at=1.0, stream="stdout", text="x"),
        Listening(port=1, host="::1", elapsed_s=1.0),
        Ready(port=1, host="::1", status=200, listening_s=1.0, first_response_s=1.0, elapsed_s=1.0),
    ]
    lines = [
        rubbish.encoded(rng, rubbish.near(rng, msgspec.to_builtins(rng.choice(right))))
        for _ in range(rng.randrange(1, 4))
    ]
    body = b"\n".join(lines) + rng.choice((b"\n", b"", b"x" * 2_000_000 if rng.random() < 0.05 else b""))
    head = f"HTTP/1.1 {rng.choice(('200 OK', '200 OK', '201 C', '400 B', '409 C', '500 E', '302 F', '999 X'))}\r\n".encode()
    headers = [
        b"Connection: close",
        b"Content-Length: %d" % (len(body) if rng.random() < 0.8 else rng.choice((0, len(body) + 9))),
    ]
    if rng.random() < 0.2:
        headers += rubbish.some(rng, HEADERS, 2)
    raw = head + b"\r\n".join(headers) + b"\r\n\r\n" + body
    return rubbish.mutated(rng, raw) if rng.random() < 0.2 else raw


async def ask(rng: random.Random, client: AgentClient) -> None:
    """Any call: what it gives is what it says, or an error of its own."""

    async def log_lines() -> None:
        async with contextlib.aclosing(client.log("j")) as lines:
            async for line in lines:
                assert isinstance(line, LogLine)

    async def updates() -> None:
        async with contextlib.aclosing(client.ready("j", ReadySpec())) as told:
            async for each in told:
                assert isinstance(each, ReadinessUpdate)

    calls: list[Callable[[], Awaitable[Any]]] = [client.health, lambda: client.job("j"), log_lines, updates]
    with contextlib.suppress(AgentError, AgentUnreachable):
        await rng.choice(calls)()
