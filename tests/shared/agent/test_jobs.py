"""Jobs in a real agent: started once, watched to their end, ended as a whole tree."""

import asyncio
import json
import os
import time
from pathlib import Path

import psutil
import pytest

from shared.agent.client import AgentError
from shared.agent.protocol import JobSpec, JobStatus, LogLine

from .world import RunningAgent, gone, running_agent, until


def python(code: str, **more: object) -> JobSpec:
    """A job that runs this code."""
    return JobSpec(argv=("{python}", "-c", code), **more)  # type: ignore[arg-type]


async def ended(agent: RunningAgent, job_id: str, spec: JobSpec) -> JobStatus:
    """Starts a job and waits for its end."""
    await agent.client.start_job(job_id, spec)
    async with asyncio.timeout(20):
        return await agent.client.wait_job(job_id)


async def lines_of(agent: RunningAgent, job_id: str, offset: int = 0) -> list[LogLine]:
    """The log of a job, to its end."""
    async with asyncio.timeout(20):
        return [line async for line in agent.client.log(job_id, offset, follow=True)]


async def said(agent: RunningAgent, job_id: str, text: str) -> str:
    """The first line of a running job that begins with `text`."""
    async with asyncio.timeout(20):
        async for line in agent.client.log(job_id, follow=True):
            if line.text.startswith(text):
                return line.text
    raise AssertionError(f"{job_id} never said {text}")


async def test_a_job_gives_its_output_and_exit_code(agent: RunningAgent) -> None:
    """Both streams arrive, each line with its number, and the exit code is the process's."""
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    status = await ended(agent, "j", python(code))
    lines = await lines_of(agent, "j")

    assert (status.state, status.exit_code, status.signal, status.killed) == ("exited", 3, None, False)
    assert {(line.stream, line.text) for line in lines} == {("stdout", "out"), ("stderr", "err")}
    assert [line.offset for line in lines] == [0, 1]


async def test_the_same_id_never_runs_twice(agent: RunningAgent) -> None:
    """Ten starts at once, and one after the end, give one process and one line in its file."""
    spec = python("open('ran','a').write('x')")
    statuses = await asyncio.gather(*(agent.client.start_job("once", spec) for _ in range(10)))
    await agent.client.wait_job("once")
    again = await agent.client.start_job("once", spec)

    assert len({status.pid for status in statuses}) == 1
    assert again.state == "exited"
    assert (agent.app / "ran").read_text() == "x"


async def test_another_spec_with_the_same_id_is_refused(agent: RunningAgent) -> None:
    """An id names one command."""
    await ended(agent, "j", python("pass"))
    with pytest.raises(AgentError) as caught:
        await agent.client.start_job("j", python("print()"))

    assert (caught.value.status, caught.value.code) == (409, "job_spec_conflict")


async def test_a_command_that_is_missing_ends_with_127(agent: RunningAgent) -> None:
    """As in a shell: exit code 127 and a line that says which command."""
    status = await ended(agent, "j", JobSpec(argv=("no-such-command", "x")))

    assert status.exit_code == 127
    assert [(line.stream, line.text) for line in await lines_of(agent, "j")] == [
        ("agent", "no-such-command: command not found")
    ]


BAD_JOBS = [
    ("a.b", JobSpec(argv=("true",)), "job_id_invalid"),
    ("x" * 65, JobSpec(argv=("true",)), "job_id_invalid"),
    ("j", JobSpec(argv=()), "job_spec_invalid"),
    ("j", JobSpec(argv=("true\0",)), "job_spec_invalid"),
    ("j", JobSpec(argv=("true",), env={"A=B": "x"}), "job_spec_invalid"),
    ("j", JobSpec(argv=("true",), timeout_s=0), "job_spec_invalid"),
    ("j", JobSpec(argv=("true",), cwd="../home"), "job_cwd_invalid"),
    ("j", JobSpec(argv=("true",), cwd="/tmp"), "job_cwd_invalid"),
    ("j", JobSpec(argv=("true",), cwd="nowhere"), "job_cwd_invalid"),
    ("j", JobSpec(argv=("true",), cwd="out"), "job_cwd_invalid"),
]


async def test_bad_jobs_are_refused(agent: RunningAgent) -> None:
    """What can't be run as asked is refused with a code, and no job comes to be."""
    (agent.app / "out").symlink_to(agent.root / "home")
    for job_id, spec, code in BAD_JOBS:
        with pytest.raises(AgentError) as caught:
            await agent.client.start_job(job_id, spec)
        assert (caught.value.status, caught.value.code) == (400, code), spec

    assert (await agent.client.health()).jobs == {}


async def test_the_environment_is_only_what_was_named(tmp_path: Path) -> None:
    """Jobs see the basics, what --pass-env names and their own spec; not the agent's other variables, and no token."""
    env = {"SECRET_OF_HOST": "1", "PASSED": "yes"}
    async with running_agent(tmp_path / "vm", "--pass-env", "PASSED,ABSENT", env=env) as agent:
        await ended(
            agent,
            "j",
            JobSpec(argv=("{python}", "-c", "import os,json;print(json.dumps(dict(os.environ)))"), env={"OWN": "1"}),
        )
        seen = json.loads((await lines_of(agent, "j"))[0].text)

    assert set(seen) - {"LC_CTYPE"} == {"PATH", "HOME", "LANG", "TMPDIR", "PASSED", "OWN", "DRAPE_JOB"}
    assert seen["HOME"] == str(agent.root / "home")


async def test_a_job_cannot_find_the_token(agent: RunningAgent) -> None:
    """The token is in nobody's arguments or environment."""
    code = (
        "import pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "  for n in ('cmdline','environ'):\n"
        "    try: d=(p/n).read_bytes()\n"
        "    except OSError: continue\n"
        "    if b'a-token-for-' + b'tests' in d: print('found', p, n)\n"
    )
    await ended(agent, "j", python(code))

    assert [line for line in await lines_of(agent, "j") if line.text.startswith("found")] == []


async def test_the_exit_is_known_though_a_grandchild_holds_the_pipe(agent: RunningAgent) -> None:
    """The first process's end counts at once, and the log ends too."""
    began_s = time.monotonic()
    status = await ended(agent, "j", JobSpec(argv=("sh", "-c", "sleep 60 & echo done")))
    lines = await lines_of(agent, "j")

    assert status.exit_code == 0
    assert time.monotonic() - began_s < 45
    assert [line.text for line in lines] == ["done"]


async def test_stopping_an_ended_job_ends_what_it_left_behind(agent: RunningAgent) -> None:
    """A grandchild that outlived its job goes with DELETE, and asking twice does no harm."""
    await ended(agent, "j", JobSpec(argv=("sh", "-c", "sleep 60 & echo pid $!")))
    pid = int((await lines_of(agent, "j"))[0].text.split()[1])
    assert not gone(pid)

    first = await agent.client.stop_job("j", 1)
    second = await agent.client.stop_job("j", 1)

    assert gone(pid)
    assert first == second


TREE = """
import os, subprocess, sys, time, signal
# A child in a session of its own, ignoring SIGTERM; and a daemon: forked twice, a session of its own.
stubborn = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
one = subprocess.Popen([sys.executable, '-c', stubborn], start_new_session=True, stdout=subprocess.PIPE)
one.stdout.readline()
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getpid()).encode()); time.sleep(60)
    os._exit(0)
os.wait()
print('tree', os.getpid(), one.pid, os.read(read, 20).decode(), flush=True)
time.sleep(60)
"""


async def test_stop_ends_the_whole_tree(agent: RunningAgent) -> None:
    """Also processes that left the session, ignore SIGTERM, or became daemons; and none is left as a zombie."""
    await agent.client.start_job("tree", python(TREE))
    pids = [int(word) for word in (await said(agent, "tree", "tree ")).split()[1:]]

    status = await agent.client.stop_job("tree", 0.2)

    assert len(pids) == 3
    assert [pid for pid in pids if not gone(pid)] == []
    assert (status.state, status.killed) == ("exited", True)
    await until(lambda: psutil.Process(agent.pid).children(recursive=True) == [], 5)


async def test_stopping_one_job_leaves_the_others(agent: RunningAgent) -> None:
    """Trees are told apart."""
    spec = python("import time; print('up', flush=True); time.sleep(60)")
    for job_id in ("a", "b"):
        await agent.client.start_job(job_id, spec)
        await said(agent, job_id, "up")

    await agent.client.stop_job("a", 1)

    assert (await agent.client.health()).jobs == {"a": "exited", "b": "running"}


async def test_a_job_that_takes_too_long_is_ended(agent: RunningAgent) -> None:
    """`timeout_s` ends the tree and says so."""
    status = await ended(agent, "slow", JobSpec(argv=("sleep", "60"), timeout_s=0.2))

    assert (status.timed_out, status.killed, status.signal) == (True, True, "SIGTERM")
    assert "still running after 0.2 s" in (await lines_of(agent, "slow"))[-1].text


async def test_waiting_returns_with_the_exit(agent: RunningAgent) -> None:
    """A long poll lasts while the job does, and ends when it ends, not with its time."""
    os.mkfifo(agent.app / "gate")
    await agent.client.start_job("j", JobSpec(argv=("sh", "-c", "read x < gate")))
    waiting = asyncio.ensure_future(agent.client.job("j", 60))
    status = await agent.client.job("j", 0.1)
    assert (status.state, (status.rss_bytes or 0) > 0, waiting.done()) == ("running", True, False)

    await asyncio.to_thread((agent.app / "gate").write_text, "go\n")
    async with asyncio.timeout(10):
        assert (await waiting).exit_code == 0


async def test_old_jobs_give_way_and_running_ones_do_not(tmp_path: Path) -> None:
    """Beyond the limit the oldest ended job is forgotten; when all run, a new one is refused."""
    async with running_agent(tmp_path / "vm", "--jobs-max", "2") as agent:
        await ended(agent, "old", python("pass"))
        for job_id in ("a", "b"):
            await agent.client.start_job(job_id, JobSpec(argv=("sleep", "60")))
        with pytest.raises(AgentError) as unknown:
            await agent.client.job("old")
        with pytest.raises(AgentError) as full:
            await agent.client.start_job("c", JobSpec(argv=("sleep", "60")))

    assert (unknown.value.status, unknown.value.code) == (404, "job_unknown")
    assert (full.value.status, full.value.code) == (429, "too_many_jobs")


async def test_a_flood_is_bounded_and_the_loss_is_named(tmp_path: Path) -> None:
    """The ring keeps the newest lines, says how many are gone, and the agent's memory stays small."""
    async with running_agent(tmp_path / "vm", "--log-bytes-max", "100000") as agent:
        status = await ended(agent, "flood", python("for i in range(200000): print('line', i)"))
        lines = await lines_of(agent, "flood")
        rest = await lines_of(agent, "flood", lines[-1].offset + 1)

    assert lines[0].stream == "agent"
    assert f"{status.log_dropped_lines} earlier lines were dropped" in lines[0].text
    assert lines[-1].text == "line 199999"
    assert [line.offset for line in lines] == list(range(lines[0].offset, 200000))
    assert sum(len(line.text) for line in lines) < 100000
    assert rest == []


async def test_lines_arrive_while_the_job_runs(agent: RunningAgent) -> None:
    """A follower sees a prompt without a line end, progress with carriage returns, and escapes, as they come."""
    code = (
        r"import sys,os,time; w=lambda b: (sys.stdout.buffer.write(b), sys.stdout.flush());"
        r"w(b'10%\r20%\r\n\x1b[32mgreen\x1b[0m\n\xff\n' + b'x'*10000 + b'\nOk? '); time.sleep(60)"
    )
    await agent.client.start_job("j", python(code))
    await said(agent, "j", "Ok? ")
    lines = [line.text async for line in agent.client.log("j")]

    assert lines[:4] == ["10%", "20%", "\x1b[32mgreen\x1b[0m", "\ufffd"]
    assert lines[4] == "x" * 8192 + " [line cut at 8192 bytes]"
    assert lines[5:] == ["Ok? "]
