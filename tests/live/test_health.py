"""Health over HTTP of real processes on a real NATS: while they start, replay, lose the log, and end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.bench.replay import fill
from deploy.local.nats import NatsServer, answers, find_nats_server, running_nats
from deploy.local.paths import Home
from deploy.local.ports import LOOPBACK, free_port
from deploy.provision import provision
from shared.jetstream.connection import connect
from tests.deploy.waiting import eventually

EVENTS = 20_000
"""A quarter of a second's replay on a quiet machine, which is dozens of looks."""
PHASE_TIMEOUT_S = 60.0
LEAVE_S = 5.0
NO_POSTGRES = "postgresql://127.0.0.1:1/none"
Said = tuple[int, dict[str, Any]]


class Process:
    """A service with its health port, by its own configuration file."""

    def __init__(self, session: aiohttp.ClientSession, port: int, child: asyncio.subprocess.Process) -> None:
        self.session = session
        self.port = port
        self.child = child

    async def ask(self, path: str) -> Said:
        """Status and body; 0 where nobody answers."""
        try:
            async with self.session.get(f"http://{LOOPBACK}:{self.port}{path}") as answer:
                return answer.status, await answer.json(content_type=None)
        except aiohttp.ClientConnectionError:
            return 0, {}

    async def until(self, path: str, status: int) -> dict[str, Any]:
        """The body, once it has this status. It lives all the time."""
        found: Said = (0, {})

        async def said() -> bool:
            nonlocal found
            assert self.child.returncode is None
            if found[0]:
                assert (await self.ask("/live"))[0] == 200
            found = await self.ask(path)
            return found[0] == status

        await eventually(said, PHASE_TIMEOUT_S)
        return found[1]


@asynccontextmanager
async def service(name: str, folder: Path, nats_url: str, **more: str) -> AsyncIterator[Process]:
    """It runs for the length of the block."""
    port = free_port()
    config = folder / f"{name}.toml"
    config.write_text(f'[common]\nhealth_port = {port}\nnats_url = "{nats_url}"\nsecret = "{"0" * 64}"\n')
    config.chmod(0o600)
    given = {key: value for key, value in os.environ.items() if not key.startswith(("DRAPE_", "NATS_", "DATABASE_"))}
    env = {**given, "DRAPE_CONFIG": str(config), **more}
    with (folder / f"{name}.log").open("wb") as output:
        argv = (sys.executable, "-m", f"services.{name}")
        child = await asyncio.create_subprocess_exec(*argv, env=env, stdout=output, stderr=output)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            yield Process(session, port, child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    home = Home(tmp_path / "home")
    home.create()
    async with running_nats(home, "correct-horse_battery") as server:
        await provision(server.url, seed="")
        yield server


class Unsynced:
    """A NATS that does not fsync, so that a long log is quickly made; it is started again by hand."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._argv = (find_nats_server(), "-js", "-sd", str(folder), "-a", LOOPBACK, "-p", str(self._port))
        self._child: asyncio.subprocess.Process | None = None
        self.url = f"nats://{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        quiet = asyncio.subprocess.DEVNULL
        self._child = await asyncio.create_subprocess_exec(*self._argv, stdout=quiet, stderr=quiet)
        await eventually(lambda: answers(self.url), PHASE_TIMEOUT_S)

    def send(self, signum: int) -> None:
        assert self._child is not None
        self._child.send_signal(signum)

    async def end(self) -> None:
        """At once."""
        assert self._child is not None
        self.send(signal.SIGKILL)
        await self._child.wait()


@pytest.fixture
async def unsynced(tmp_path: Path) -> AsyncIterator[Unsynced]:
    server = Unsynced(tmp_path / "nats")
    await server.start()
    try:
        await provision(server.url, seed="")
        yield server
    finally:
        await server.end()


async def test_before_there_is_a_log_it_lives_and_says_what_it_waits_for(tmp_path: Path) -> None:
    """Nobody kills what waits for a NATS that accepts and says nothing."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, LOOPBACK, 0)
    url = f"nats://{LOOPBACK}:{listener.sockets[0].getsockname()[1]}"
    async with listener, service("telemetry", tmp_path, url) as process:
        assert (await process.until("/startup", 503))["status"] == "connecting"
        assert (await process.until("/ready", 503))["reason"] == "starting"


async def test_a_replay_is_told_and_a_lost_log_is_no_reason_to_die(unsynced: Unsynced, tmp_path: Path) -> None:
    """503 with figures until the start is over, for which it needs no PostgreSQL; then ready as long as the log answers."""
    writer = await connect(unsynced.url, "drape-live-test")
    await fill(writer, EVENTS)
    await writer.close()
    soon = {"DATABASE_URL": NO_POSTGRES, "DRAPE_HEALTH_LAG_MAX_S": "3"}
    async with service("telemetry", tmp_path, unsynced.url, **soon) as process:
        seen: list[Said] = []

        async def started() -> bool:
            said = await process.ask("/startup")
            if said[0]:
                seen.append(said)
                assert (await process.ask("/live"))[0] == 200
            return said[0] == 200

        await eventually(started, PHASE_TIMEOUT_S)
        replaying = [body for status, body in seen if body["status"] == "replaying" and body["until"]]
        assert {status for status, _ in seen[:-1]} == {503}
        assert {body["until"] for body in replaying} == {EVENTS}
        percents = [body["percent"] for body in replaying]
        assert percents == sorted(percents)
        assert [each for each in percents if 0 < each < 100]
        assert (await process.until("/ready", 200))["seq"] >= EVENTS

        unsynced.send(signal.SIGSTOP)
        assert (await process.until("/ready", 503))["reason"] in {"log_silent", "loop_busy", "disconnected"}
        unsynced.send(signal.SIGCONT)
        await process.until("/ready", 200)

        await unsynced.end()
        assert (await process.until("/ready", 503))["reason"] in {"log_silent", "loop_busy", "disconnected"}
        await unsynced.start()
        await process.until("/ready", 200)
        assert (await process.ask("/startup"))[0] == 200


async def test_one_that_is_told_to_end_says_so_before_it_takes_nothing_more(server: NatsServer, tmp_path: Path) -> None:
    """`/ready` is 503 at once; for `DRAPE_LEAVE_S` who has not noticed is served; then all is drained, health last."""
    port = free_port()
    more = {"DRAPE_GATEWAY_PORT": str(port), "DRAPE_LEAVE_S": str(LEAVE_S)}
    async with service("gateway", tmp_path, server.url, **more) as process:
        assert (await process.until("/ready", 200))["service"] == "gateway"
        process.child.send_signal(signal.SIGTERM)
        assert (await process.until("/ready", 503))["reason"] == "draining"
        async with process.session.get(f"http://{LOOPBACK}:{port}/api/projects") as answer:
            assert answer.status == 200
        async with asyncio.timeout(PHASE_TIMEOUT_S):
            assert await process.child.wait() == 0
        assert (await process.ask("/live"))[0] == 0


async def test_the_pool_tells_what_an_autoscaler_needs(server: NatsServer, tmp_path: Path) -> None:
    """Warm VMs and waiting claims, as text that Prometheus reads."""
    more = {"DRAPE_POOL_PROVIDER": "simulated", "DRAPE_POOL_TARGET": "2"}
    async with service("pool", tmp_path, server.url, **more) as process:
        await process.until("/ready", 200)
        found: list[str] = []

        async def warm() -> bool:
            async with process.session.get(f"http://{LOOPBACK}:{process.port}/metrics") as answer:
                found[:] = (await answer.text()).splitlines()
            return 'drape_pool_vms{pool="default",state="ready"} 2.0' in found

        await eventually(warm, PHASE_TIMEOUT_S)
        assert 'drape_pool_claims_waiting{pool="default"} 0.0' in found
        assert 'drape_pool_vms{pool="default",state="in_use"} 0.0' in found
        assert 'drape_ready{service="pool"} 1.0' in found


async def test_two_processes_on_one_port_are_told_apart(server: NatsServer, tmp_path: Path) -> None:
    """The second ends, and says why."""
    async with service("telemetry", tmp_path, server.url, DATABASE_URL=NO_POSTGRES) as first:
        await first.until("/startup", 200)
        async with service("pool", tmp_path, server.url, DRAPE_HEALTH_PORT=str(first.port)) as second:
            async with asyncio.timeout(PHASE_TIMEOUT_S):
                assert await second.child.wait() == 1
        said = (tmp_path / "pool.log").read_text()
        assert f"{first.port}" in said
        assert "DRAPE_HEALTH_PORT" in said
        assert "Traceback" not in said
