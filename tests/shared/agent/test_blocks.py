"""VMs that share a network never share a port: each has a block of its own, as long as it lives."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.agent import blocks
from shared.agent.client import AgentError
from shared.agent.protocol import JobSpec

from .world import RunningAgent, running_agent

START = 917
ECHO = ("{python}", "-c", "import sys, signal; print(sys.argv[1], flush=True); signal.pause()", "{port}")


def block_of(port: int) -> int:
    return (port - blocks.FIRST) // blocks.SIZE


def own_port(agent: RunningAgent) -> int:
    return int(agent.url.rpartition(":")[2])


async def job_port(agent: RunningAgent, job_id: str) -> int:
    """The port that the agent gives to one more job, as the job itself hears it."""
    status = await agent.client.start_job(job_id, JobSpec(argv=ECHO))
    async with asyncio.timeout(20):
        line = await anext(agent.client.log(job_id, follow=True))
    assert line.text == str(status.port)
    return int(line.text)


async def test_two_agents_that_want_the_same_block_get_two(tmp_path: Path) -> None:
    """The second takes another one, and what it gives to its jobs lies in that, never in the first one's. A frozen
    agent keeps its block."""
    arguments = ("--port-block", str(START))
    async with running_agent(tmp_path / "one", *arguments) as one:
        os.kill(one.pid, signal.SIGSTOP)
        try:
            async with running_agent(tmp_path / "two", *arguments) as two:
                os.kill(one.pid, signal.SIGCONT)
                first, second = block_of(own_port(one)), block_of(own_port(two))
                assert first != second
                assert (own_port(one) - blocks.FIRST) % blocks.SIZE == 0
                given = [await job_port(two, f"job-{n}") for n in range(3)]
                assert {block_of(port) for port in given} == {second}
                assert own_port(two) not in given
                assert block_of(await job_port(one, "job")) == first
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGCONT)


async def test_a_port_that_was_given_comes_last(tmp_path: Path) -> None:
    """The next job gets another port though the first one's is free again; a VM without any says so, with a code."""
    async with running_agent(tmp_path / "vm", "--port-block", str(START)) as agent:
        first = await job_port(agent, "one")
        await agent.client.stop_job("one")
        assert await job_port(agent, "two") != first

        with _taken(own_port(agent) + 1, own_port(agent) + blocks.SIZE - 1), pytest.raises(AgentError) as raised:
            await job_port(agent, "three")
        assert raised.value.code == "no_free_port"


@contextlib.contextmanager
def _taken(first: int, last: int) -> Iterator[None]:
    """Something listens on each of these ports."""
    with contextlib.ExitStack() as stack:
        for port in range(first, last + 1):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
        yield


def test_blocks_go_round_and_end() -> None:
    """The last block is followed by the first; where every one is taken, that is an error, not a port of another's."""
    tried: list[int] = []

    def listen(port: int) -> socket.socket:
        tried.append(port)
        raise OSError(errno.EADDRINUSE, "taken")

    with pytest.raises(blocks.NoPortLeft):
        blocks.take(listen, blocks.COUNT - 1)

    assert tried[:2] == [blocks.LAST - blocks.SIZE + 1, blocks.FIRST]
    assert len(set(tried)) == blocks.COUNT
    assert max(tried) + blocks.SIZE - 1 == blocks.LAST


def test_what_is_wrong_otherwise_is_told() -> None:
    """An error that another block would not mend ends the search."""

    def listen(_port: int) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "no such address")

    with pytest.raises(OSError, match="no such address"):
        blocks.take(listen, 0)
