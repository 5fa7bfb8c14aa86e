"""The agent's tunnels: raw connections to what a job of the VM listens on, and to nothing else."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
from aiohttp import web

from shared.agent.client import AgentError
from shared.agent.protocol import LEASE_HEADER, AgentProblem, CleanSpec, ErrorBody, JobSpec
from shared.agent.tunnel import TunnelLimits, Tunnels

from .world import TOKEN, RunningAgent, running_agent, until

LOOPBACK = "127.0.0.1"
SERVER = """
import asyncio, os, sys
async def talk(reader, writer):
    first = await reader.readline()
    if first == b"echo\\n":
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    elif first == b"end, then say\\n":  # it has heard the end, and still has something to say
        writer.write(str(len(await reader.read())).encode())
    elif first == b"reset\\n":
        writer.write(b"half")
        await writer.drain()
        import socket, struct
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return
    writer.close()
async def main():
    server = await asyncio.start_server(talk, sys.argv[1], int(os.environ["PORT"]))
    print("up", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


async def listening_job(agent: RunningAgent, job_id: str = "dev-1", host: str = LOOPBACK) -> int:
    """A job that listens on `host`; gives its port once it does."""
    await agent.client.start_job(
        job_id, JobSpec(argv=("{python}", "-c", SERVER, host), env={"PORT": "{port}", "PATH": "/usr/bin:/bin"})
    )
    async for line in agent.client.log(job_id, follow=True):
        if line.text == "up":
            break
    port = (await agent.client.job(job_id)).port
    assert port is not None
    return port


@asynccontextmanager
async def tunnel(
    url: str, port: int | str, *, token: str = TOKEN, upgrade: str = "drape-tunnel", lease: int = 0
) -> AsyncIterator[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]]:
    """The head of the answer, and the connection behind it."""
    host, _, agent_port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(agent_port))
    held = f"{LEASE_HEADER}: {lease}\r\n" if lease else ""
    writer.write(
        f"GET /tunnel/{port} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{held}"
        f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n".encode()
    )
    try:
        async with asyncio.timeout(30):
            yield await reader.readuntil(b"\r\n\r\n"), reader, writer
    finally:
        writer.close()


async def refusal(url: str, port: int | str, **more: str | int) -> tuple[int, str]:
    """Status and code of the agent's answer."""
    async with tunnel(url, port, **more) as (head, reader, _):  # type: ignore[arg-type]
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = msgspec.json.decode(await reader.readexactly(length), type=ErrorBody)
        return int(head.split(b" ")[1]), body.code


@pytest.mark.parametrize("host", [LOOPBACK, "::1"])
async def test_bytes_pass_both_ways_whole(agent: RunningAgent, host: str) -> None:
    port = await listening_job(agent, host=host)
    sent = bytes(range(256)) * 4096 * 8  # 8 MiB
    async with tunnel(agent.url, port) as (head, reader, writer):
        assert head.startswith(b"HTTP/1.1 101 ")

        async def send() -> None:
            writer.write(b"echo\n" + sent)
            await writer.drain()
            writer.write_eof()

        got, _ = await asyncio.gather(reader.read(-1), send())
    assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


async def test_an_end_is_passed_on_and_the_other_side_may_still_speak(agent: RunningAgent) -> None:
    port = await listening_job(agent)
    async with tunnel(agent.url, port) as (_, reader, writer):
        writer.write(b"end, then say\n" + b"x" * 1000)
        writer.write_eof()
        assert await reader.read() == b"1000"


async def test_what_breaks_off_does_not_look_whole(agent: RunningAgent) -> None:
    port = await listening_job(agent)
    async with tunnel(agent.url, port) as (_, reader, writer):
        writer.write(b"reset\n")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)


async def test_only_ports_of_jobs_can_be_reached(agent: RunningAgent) -> None:
    """Not the agent's own, none of other processes of the machine, and none of a job that has ended."""
    own = int(agent.url.rpartition(":")[2])
    server = await asyncio.start_server(lambda _, writer: writer.close(), LOOPBACK, 0)
    async with server:
        for port in (own, server.sockets[0].getsockname()[1]):
            assert await refusal(agent.url, port) == (409, "port_not_listening")
    port = await listening_job(agent)
    async with tunnel(agent.url, port) as (head, _, _):
        assert b" 101 " in head
    await agent.client.stop_job("dev-1", 0)
    assert await refusal(agent.url, port) == (409, "port_not_listening")


async def test_what_is_no_tunnels_request_is_refused(agent: RunningAgent) -> None:
    for port in ("0", "65536", "x", "-1", "%D9%A3"):
        assert await refusal(agent.url, port) == (400, "request_invalid")
    assert await refusal(agent.url, 80, upgrade="websocket") == (426, "upgrade_required")
    assert await refusal(agent.url, 80, token="wrong") == (401, "unauthorized")
    # And the connection on which one was refused is still HTTP.
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {TOKEN}", "Connection": "Upgrade", "Upgrade": "drape-tunnel"}
        for _ in range(2):
            async with session.get(f"{agent.url}/tunnel/80", headers=headers) as answer:
                assert answer.status == 409


async def test_who_held_the_vm_before_gets_none(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with running_agent(tmp_path / "vm", "--scratch", str(scratch)) as agent:
        with contextlib.suppress(
            AgentError
        ):  # whether it can be emptied depends on the machine; the hold is over anyway
            await agent.client.clean(CleanSpec(lease=5))
        assert await refusal(agent.url, 80, lease=5) == (409, "lease_over")
        assert await refusal(agent.url, 80, lease=6) == (409, "port_not_listening")


async def test_one_that_is_open_and_silent_keeps_no_vm_alive(tmp_path: Path) -> None:
    async with running_agent(tmp_path / "vm", "--orphan-timeout-s", "1") as agent:
        port = await listening_job(agent)
        async with tunnel(agent.url, port):
            await until(lambda: agent.process.returncode is not None, 30)
        assert agent.process.returncode == 75


@asynccontextmanager
async def own_tunnels(limits: TunnelLimits, heard: Callable[[], None] = lambda: None) -> AsyncIterator[str]:
    """The tunnels of an agent whose VM is this process."""
    inside = Tunnels(lambda: [psutil.Process()], heard, limits)

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await inside.serve(request, lambda: None)
        except AgentProblem as problem:
            return web.json_response(msgspec.to_builtins(problem.body), status=problem.status)

    app = web.Application()
    app.add_routes([web.get("/tunnel/{port}", serve)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, 0).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, "asyncio.Queue[asyncio.StreamReader]"]]:
    """A server that takes connections and says nothing: its port, and what has come."""
    came: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        came.put_nowait(reader)

    server = await asyncio.start_server(taken, LOOPBACK, 0, limit=1024)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        for writer in writers:
            writer.transport.abort()
        server.close()


async def test_there_is_a_limit_of_tunnels_and_those_that_end_make_room() -> None:
    async with own_tunnels(TunnelLimits(tunnels_max=2, half_closed_idle_s=0.1)) as url, silent_server() as (port, _):
        async with tunnel(url, port) as (first, _, _), tunnel(url, port) as (second, _, _):
            assert b" 101 " in first
            assert b" 101 " in second
            assert await refusal(url, port) == (503, "tunnels_full")
        async with asyncio.timeout(20):
            while True:
                async with tunnel(url, port) as (head, _, _):
                    if b" 101 " in head:
                        break


async def test_one_that_moves_nothing_is_ended() -> None:
    async with own_tunnels(TunnelLimits(idle_timeout_s=0.2)) as url, silent_server() as (port, came):
        async with tunnel(url, port) as (_, reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        inside = await came.get()
        with pytest.raises(ConnectionResetError):
            await inside.read()


async def test_who_reads_slowly_slows_the_sender() -> None:
    """What nobody takes is not piled up: the sender has to wait with most of it."""
    async with own_tunnels(TunnelLimits()) as url, silent_server() as (port, came), tunnel(url, port) as (_, _, writer):
        inside = await came.get()
        sent = 0
        for _ in range(2048):  # 128 MiB
            writer.write(b"x" * 65536)
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                break
            sent += 65536
        assert sent < 64 * 1024 * 1024
        assert await inside.read(1024) == b"x" * 1024


async def test_what_the_control_plane_sends_is_heard_and_what_the_server_says_is_not() -> None:
    """A preview in use keeps its VM while the pool is away, and one that only talks to itself doesn't."""
    heard: list[None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        assert await reader.readexactly(3) == b"ask"
        writer.write(b"answer")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with (
            own_tunnels(TunnelLimits(), lambda: heard.append(None)) as url,
            tunnel(url, port) as (_, reader, writer),
        ):
            assert await reader.readexactly(5) == b"hello"
            assert heard == []
            writer.write(b"ask")
            assert await reader.read() == b"answer"
            assert len(heard) == 1
