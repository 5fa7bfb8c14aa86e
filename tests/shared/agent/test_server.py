"""The agent as a process: its start, its token, its end, and the client's view of trouble."""

import asyncio
import io
import json
import os
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest

from shared.agent.client import AgentClient, AgentError, AgentUnreachable
from shared.agent.protocol import JobSpec, ReadySpec

from .world import TOKEN, RunningAgent, gone, running_agent, until

SLEEPER = JobSpec(argv=("sh", "-c", "setsid sleep 60 & echo $! ; sleep 60"))


async def start_sleeper(agent: RunningAgent) -> list[int]:
    """Starts a job with a second process in a session of its own; gives the pids of all."""
    status = await agent.client.start_job("sleeper", SLEEPER)
    async with asyncio.timeout(10):
        async for _ in agent.client.log("sleeper", follow=True):
            break
    assert status.pid is not None
    return [process.pid for process in psutil.Process(agent.pid).children(recursive=True)]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("PUT", "/jobs/j"), ("GET", "/nothing")])
async def test_without_the_token_nothing_is_told(
    agent_shared: RunningAgent, header: str | None, method: str, path: str
) -> None:
    """401 with a code, for every route and also for those that do not exist."""
    headers = {} if header is None else {"Authorization": header}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, agent_shared.url + path, headers=headers) as answer,
    ):
        body = await answer.json(content_type="application/problem+json")

    assert answer.status == 401
    assert body["code"] == "unauthorized"
    assert TOKEN not in json.dumps(body)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", b"", 404, "route_unknown"),
        ("POST", "/health", b"", 405, "method_not_allowed"),
        ("PUT", "/jobs/j", b"{", 400, "request_invalid"),
        ("PUT", "/jobs/j", b"{}", 400, "request_invalid"),
        ("PUT", "/jobs/j", b'{"argv":"ls"}', 400, "request_invalid"),
        ("PUT", "/jobs/j", b" " * 2_000_000, 413, "request_too_large"),
        ("GET", "/jobs/absent", b"", 404, "job_unknown"),
        ("DELETE", "/jobs/absent", b"", 404, "job_unknown"),
        ("POST", "/jobs/absent/ready", b"{}", 404, "job_unknown"),
        ("GET", "/jobs/absent/log?offset=x", b"", 404, "job_unknown"),
        ("GET", "/jobs/j?wait_s=nan", b"", 404, "job_unknown"),
    ],
)
async def test_errors_have_a_body_with_a_code(
    agent_shared: RunningAgent, method: str, path: str, body: bytes, *, status: int, code: str
) -> None:
    """Whatever is wrong, the answer says so in one form."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, agent_shared.url + path, headers=headers, data=io.BytesIO(body)) as answer,
    ):
        told = await answer.json(content_type="application/problem+json")

    assert (answer.status, told["code"]) == (status, code)
    assert told["message"]


async def test_health_tells_what_runs(agent: RunningAgent) -> None:
    """The agent names its VM, its time left, the files' version and its jobs."""
    await start_sleeper(agent)
    health = await agent.client.health()

    assert (health.vm_id, health.files_version, health.jobs) == ("vm-1", 0, {"sleeper": "running"})
    assert 0 < health.orphan_in_s <= 180


async def test_the_state_folder_is_private(agent: RunningAgent) -> None:
    """Only the agent's user can look into it."""
    await agent.put(1, {"a": b"a"})

    assert (agent.root / "state").stat().st_mode & 0o077 == 0
    assert (agent.root / "state" / "files.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("way", ["signal", "request"])
async def test_asked_to_end_it_ends_all_its_jobs(tmp_path: Path, way: str) -> None:
    """SIGTERM and /shutdown: exit 0, every process of every job gone, an open log stream ended in order."""
    async with running_agent(tmp_path / "vm") as agent:
        pids = await start_sleeper(agent)
        following = asyncio.ensure_future(_follow(agent))
        if way == "signal":
            os.kill(agent.pid, signal.SIGTERM)
        else:
            await agent.client.shutdown()
        async with asyncio.timeout(10):
            assert await agent.process.wait() == 0
            await following

    assert len(pids) >= 2
    assert [pid for pid in pids if not gone(pid)] == []


async def _follow(agent: RunningAgent) -> int:
    return len([line async for line in agent.client.log("sleeper", follow=True)])


async def test_an_agent_that_nobody_calls_ends_itself(tmp_path: Path) -> None:
    """Without contact for the time given: exit 75, its jobs gone. Calls without the token are no contact."""
    async with running_agent(tmp_path / "vm", "--orphan-timeout-s", "1") as agent:
        pids = await start_sleeper(agent)
        async with aiohttp.ClientSession() as session, asyncio.timeout(15):
            while agent.process.returncode is None:
                try:
                    async with session.get(f"{agent.url}/health"):
                        pass
                except aiohttp.ClientError:
                    await agent.process.wait()
                await asyncio.wait((asyncio.ensure_future(agent.process.wait()),), timeout=0.1)

    assert agent.process.returncode == 75
    assert [pid for pid in pids if not gone(pid)] == []


async def test_an_open_stream_is_contact(tmp_path: Path) -> None:
    """While someone follows a log, nobody is missing; once they have gone, the time runs."""
    async with running_agent(tmp_path / "vm", "--orphan-timeout-s", "0.8") as agent:
        await start_sleeper(agent)
        following = asyncio.ensure_future(_follow(agent))
        done, _ = await asyncio.wait((following,), timeout=2.5)
        assert not done
        assert agent.process.returncode is None
        following.cancel()
        async with asyncio.timeout(10):
            assert await agent.process.wait() == 75


async def test_time_in_which_it_was_frozen_does_not_count(tmp_path: Path) -> None:
    """A suspended VM can't be called: after it resumes, its time starts where it was."""
    async with running_agent(tmp_path / "vm", "--orphan-timeout-s", "2") as agent:
        os.kill(agent.pid, signal.SIGSTOP)
        await asyncio.wait((asyncio.ensure_future(agent.process.wait()),), timeout=2.5)
        os.kill(agent.pid, signal.SIGCONT)
        await asyncio.wait((asyncio.ensure_future(agent.process.wait()),), timeout=0.5)

        assert agent.process.returncode is None
        assert (await agent.client.health()).vm_id == "vm-1"


async def test_an_agent_that_has_gone_is_unreachable(tmp_path: Path) -> None:
    """Calls and streams alike say AgentUnreachable, also when it dies in the middle."""
    async with running_agent(tmp_path / "vm") as agent:
        pids = await start_sleeper(agent)
        streams = [asyncio.ensure_future(_follow(agent)), asyncio.ensure_future(_ready(agent))]
        await until(lambda: psutil.Process(agent.pid).status() != psutil.STATUS_ZOMBIE, 5)
        await agent.client.health()
        os.kill(agent.pid, signal.SIGKILL)
        for stream in streams:
            with pytest.raises(AgentUnreachable):
                await stream
        with pytest.raises(AgentUnreachable):
            await agent.client.health()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


async def _ready(agent: RunningAgent) -> int:
    return len([update async for update in agent.client.ready("sleeper", ReadySpec(timeout_s=30))])


async def test_every_call_has_a_time_limit(agent: RunningAgent) -> None:
    """An agent that stops in its tracks is unreachable, not waited for."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        async with aiohttp.ClientSession() as session:
            client = AgentClient(agent.url, TOKEN, session, request_timeout_s=0.3)
            with pytest.raises(AgentUnreachable):
                await client.health()
    finally:
        os.kill(agent.pid, signal.SIGCONT)


async def test_a_client_with_the_wrong_token_gets_an_error_with_the_code(agent: RunningAgent) -> None:
    """Refusals are AgentError, told apart from silence."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(AgentError) as caught:
            await AgentClient(agent.url, "wrong", session).health()

    assert (caught.value.status, caught.value.code) == (401, "unauthorized")


async def test_a_job_can_not_read_the_agents_memory(agent: RunningAgent) -> None:
    """The token is in there. A process of the same user without special rights is refused (root is not)."""
    if os.geteuid() == 0:
        pytest.skip("root may read every process")
    code = f"open('/proc/{agent.pid}/mem','rb')"
    await agent.client.start_job("j", JobSpec(argv=("{python}", "-c", code)))

    assert (await agent.client.wait_job("j")).exit_code == 1
