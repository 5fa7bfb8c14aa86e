"""One supervised child, with real processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from deploy.local import logs, records
from deploy.local.leftovers import end_leftovers
from deploy.local.paths import Home
from deploy.local.processes import ChildSpec, RestartPolicy, Supervised
from tests.deploy.waiting import alive, eventually

Make = Callable[..., Supervised]


@pytest.fixture
async def make(home: Home) -> AsyncIterator[Make]:
    """Starts children running the given Python code and ends them after the test."""
    children: list[Supervised] = []

    def start(code: str, **settings: object) -> Supervised:
        values = {"argv": (sys.executable, "-S", "-c", code), "restart": RestartPolicy(first_delay_s=0.02)}
        spec = ChildSpec(name="child", env={}, log=home.logs / "child.log", **{**values, **settings})  # type: ignore[arg-type]
        children.append(Supervised(spec, home))
        children[-1].start()
        return children[-1]

    yield start
    for child in children:
        await child.stop()


LIVES = "print('alive', flush=True); import time; time.sleep(600)"


def logged(home: Home, text: str) -> Callable[[], bool]:
    """Whether the child has written this."""
    return lambda: any(text in line for line in logs.tail(home.logs / "child.log"))


def test_back_off_doubles_up_to_its_limit() -> None:
    """0.2 s, 0.4 s ... and never more than 10 s, however often a child fails."""
    policy = RestartPolicy()

    assert [policy.delay_s(failures) for failures in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert 10.0 == policy.delay_s(10) == policy.delay_s(10_000)


async def test_child_is_recorded_while_it_lives(home: Home, make: Make) -> None:
    """The pid file holds the bare process id; the record proves the process; both go with it."""
    child = make(LIVES)
    await eventually(logged(home, "alive"))
    record = records.read(home, "child")

    assert record is not None
    assert record.process() is not None
    assert child.pid == int((home.run / "child.pid").read_text()) == record.pid
    await child.stop()
    assert os.listdir(home.run) == []
    assert not alive(record.pid)


async def test_killed_child_is_started_again(home: Home, make: Make) -> None:
    """A crash costs a restart with a new process id, and the exit is counted."""
    child = make(LIVES)
    await eventually(logged(home, "alive"))
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.pid not in (None, first))

    assert child.exits == 1
    assert child.last_exit == -signal.SIGKILL


async def test_crashing_child_is_restarted_ever_more_slowly(make: Make) -> None:
    """The waits between the lives grow: with 50 ms first, five lives take at least 0.75 s."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    child = make("raise SystemExit(3)", restart=RestartPolicy(first_delay_s=0.05))
    await eventually(lambda: child.exits >= 5)

    assert child.last_exit == 3
    assert loop.time() - began >= 0.05 + 0.1 + 0.2 + 0.4


async def test_stop_during_back_off_does_not_wait_for_it(make: Make) -> None:
    """A child in a long back-off ends at once when asked to."""
    child = make("raise SystemExit(3)", restart=RestartPolicy(first_delay_s=600, delay_max_s=600))
    await eventually(lambda: child.exits == 1)
    async with asyncio.timeout(2):
        await child.stop()

    assert child.exits == 1


async def test_child_that_ignores_sigterm_is_killed_with_its_group(home: Home, make: Make) -> None:
    """After the grace comes SIGKILL, also for what the child had started in its process group."""
    child = make(
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)']);"
        "print('grandchild', p.pid, flush=True); p.wait()",
        stop=((signal.SIGTERM, 0.2),),
    )
    await eventually(logged(home, "grandchild"))
    grandchild = int(logs.tail(home.logs / "child.log")[-1].split()[1])
    pid = child.pid
    assert pid is not None
    await child.stop()

    assert child.last_exit == -signal.SIGKILL
    assert not alive(pid)
    await eventually(lambda: not alive(grandchild))


async def test_program_that_does_not_exist_is_an_exit_with_a_reason(home: Home, make: Make) -> None:
    """A missing program counts as exit 127 with a line in the log, and breaks nothing."""
    child = make("", argv=("/nonexistent/program",))
    await eventually(lambda: child.exits >= 2)

    assert child.last_exit == 127
    assert "cannot start /nonexistent/program" in logs.tail(home.logs / "child.log")[0]


async def test_what_the_last_start_has_said_is_told_apart(home: Home, make: Make) -> None:
    """An earlier start's words, those of another day among them, are not taken for the reason of this one."""
    home.logs.mkdir(parents=True, exist_ok=True)
    (home.logs / "child.log").write_text("an old mistake\n")
    child = make("import sys; print('a new mistake'); sys.exit(1)")
    await eventually(lambda: child.exits >= 2)

    assert logs.tail(child.spec.log)[0] == "an old mistake"
    assert logs.tail(child.spec.log, since=child.log_from) in (["a new mistake"], [])
    assert "old" not in logs.tail_text(child.spec.log, child.log_from)


async def test_chatty_child_cannot_fill_the_disk(home: Home, make: Make) -> None:
    """A log that grows past its limit is rotated while the child goes on writing."""
    make(
        "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.0005)",
        limits=logs.LogLimits(bytes_max=20_000, keep_count=1),
        log_check_s=0.02,
    )
    rotated = home.logs / "child.log.1"
    await eventually(rotated.exists)
    first = rotated.stat().st_ino, rotated.stat().st_mtime_ns
    await eventually(lambda: (rotated.stat().st_ino, rotated.stat().st_mtime_ns) != first)

    assert {"child.log", "child.log.1"} == set(os.listdir(home.logs))


async def test_reused_process_id_is_not_mistaken_for_ours(home: Home) -> None:
    """A record whose process id now belongs to another process is dropped, and that process lives on."""
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "import time; time.sleep(600)")
    try:
        created = psutil.Process(bystander.pid).create_time() - 100
        records.write(home, records.ProcessRecord(name="pool", pid=bystander.pid, created=created))

        assert await end_leftovers(home) == []
        assert alive(bystander.pid)
        assert os.listdir(home.run) == []
    finally:
        bystander.kill()
        await bystander.wait()


async def test_child_without_a_record_is_found_by_its_mark(home: Home, tmp_path: Path) -> None:
    """A child whose supervisor was killed before it wrote the record is ended; another home's child is not."""
    code = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
    ours = await asyncio.create_subprocess_exec(*code, env={records.SUPERVISED_BY: str(home.root)})
    other = await asyncio.create_subprocess_exec(*code, env={records.SUPERVISED_BY: str(tmp_path / "other")})
    try:
        assert [f"process {ours.pid}"] == await end_leftovers(home)
        assert await ours.wait() == -signal.SIGTERM
        assert alive(other.pid)
    finally:
        for child in (ours, other):
            if child.returncode is None:
                child.kill()
                await child.wait()


async def test_stuck_child_is_started_again(home: Home, make: Make) -> None:
    """What its probe calls stuck several times in a row is ended and started anew; once or twice is not enough, and a probe
    that breaks says nothing."""
    answers = iter([True, True, False, None, True, True, True])
    asked = 0

    async def stuck() -> bool:
        nonlocal asked
        answer = next(answers, False)
        asked += 1
        if answer is None:
            raise OSError("the probe cannot be made")
        return answer

    child = make(LIVES, stuck=stuck, stuck_check_s=0.01)
    await eventually(lambda: asked >= 4)
    first = child.pid
    assert (child.exits, first is not None) == (0, True)
    await eventually(lambda: child.exits == 1 and child.pid not in (None, first))

    assert child.last_exit == -signal.SIGTERM
    await eventually(lambda: asked > 8)
    assert child.exits == 1
