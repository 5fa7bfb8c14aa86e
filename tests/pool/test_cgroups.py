"""Control groups with real processes in them, in each version that this machine has."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from services.pool.adapters import cgroups
from services.pool.adapters.cgroups import Arm, Cgroups, Group, Limits, detect

WAIT_S = 10.0
LIMITS = Limits(memory_bytes=64 << 20, cpu_cores=0.5, pids_max=16)


def detect_only(version: int, tmp_path: Path) -> Cgroups:
    """Detect as on a machine that has one version only."""
    kind = " - cgroup2 " if version == 2 else " - cgroup "
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\n".join(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if kind in line))
    return detect(mountinfo=mounts)


@pytest.fixture(params=["all", "v1", "v2"])
def groups(request: pytest.FixtureRequest, tmp_path: Path) -> Cgroups:
    found = detect() if request.param == "all" else detect_only(int(request.param[1]), tmp_path)
    if not found.arms:
        pytest.skip(f"no cgroups that can be written here: {request.param}")
    return found


@pytest.fixture
def group(groups: Cgroups) -> Iterator[Group]:
    group = groups.group(f"test-{uuid4().hex[:8]}")
    group.create(LIMITS)
    yield group
    assert group.kill(WAIT_S)
    assert group.remove()
    assert not group.exists()


def python(script: str) -> "subprocess.Popen[str]":
    """A child that waits for a line before it runs the script, so that it can be put into a group first."""
    command = [sys.executable, "-u", "-c", f"input()\n{script}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_in(group: Group, script: str) -> "subprocess.Popen[str]":
    child = python(script)
    group.add(child.pid)
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return child


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {WAIT_S} s: {what}"


def finish(child: "subprocess.Popen[str]") -> tuple[int, str]:
    out, _ = child.communicate(timeout=WAIT_S)
    return child.returncode, out


def test_detection_leaves_no_trial_groups(groups: Cgroups) -> None:
    """What detection made to find out is gone again."""
    for arm in groups.arms:
        assert not list((arm.base / cgroups.PARENT).glob(f"trial-{os.getpid()}-*"))


def test_memory_is_limited(groups: Cgroups, group: Group) -> None:
    """A process that takes more than the limit is killed; one within it is not."""
    if "memory" not in groups.can:
        pytest.skip("no memory controller here")

    assert finish(start_in(group, "print(len(b'x' * (8 << 20)))"))[0] == 0
    assert finish(start_in(group, "print(len(b'x' * (256 << 20)))"))[0] == -signal.SIGKILL


def test_the_number_of_processes_is_limited(groups: Cgroups, group: Group) -> None:
    """Forking ends with an error at the limit."""
    if "pids" not in groups.can:
        pytest.skip("no pids controller here")
    script = "import os, time\nn = 0\ntry:\n  while n < 64:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\n"

    code, out = finish_killing(start_in(group, f"{script}except OSError: print(n)\n"), group)

    assert (code, out.strip()) == (0, str(LIMITS.pids_max - 1))


def finish_killing(child: "subprocess.Popen[str]", group: Group) -> tuple[int, str]:
    """Wait for the child itself, then end what it forked, which holds its pipes."""
    code = child.wait(WAIT_S)
    assert group.kill(WAIT_S)
    return code, finish(child)[1]


def test_cpu_time_is_limited(groups: Cgroups, group: Group) -> None:
    """Half a core gives a busy process no more than that (with room for one period at the edges)."""
    if "cpu" not in groups.can:
        pytest.skip("no cpu controller here")
    script = "import time\na, b = time.monotonic(), time.process_time()\nwhile time.monotonic() < a + 1: pass\n"

    code, out = finish(start_in(group, f"{script}print((time.process_time() - b) / (time.monotonic() - a))"))

    assert code == 0
    assert float(out) < 0.65


def test_freezing_stops_and_thawing_goes_on(group: Group) -> None:
    """A frozen process makes no progress; both calls can be repeated."""
    if not group.can_freeze:
        pytest.skip("nothing here can freeze")
    child = start_in(group, "while True: pass")
    process = psutil.Process(child.pid)

    def used() -> float:
        return float(process.cpu_times().user)

    wait_until(lambda: used() > 0.02, "the child runs")

    group.freeze(WAIT_S)
    group.freeze(WAIT_S)
    frozen_at = used()
    started = time.monotonic()
    wait_until(lambda: time.monotonic() > started + 0.3, "time passes")

    assert group.frozen()
    assert used() == frozen_at
    group.thaw(WAIT_S)
    group.thaw(WAIT_S)
    assert not group.frozen()
    wait_until(lambda: used() > frozen_at, "the child runs on")
    group.kill(WAIT_S)
    child.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("frozen", [False, True])
def test_killing_reaches_what_forks_and_what_is_frozen(group: Group, frozen: bool) -> None:
    """Processes that fork without end and leave their session all die."""
    script = "import os\nprint('on')\nwhile True:\n  if os.fork() == 0: os.setsid()\n  else: os._exit(0)\n"
    child = start_in(group, script)
    assert child.stdout is not None
    child.stdout.readline()
    if frozen and group.can_freeze:
        group.freeze(WAIT_S)

    assert group.kill(WAIT_S)

    assert group.pids() == set()
    child.communicate(timeout=WAIT_S)


def test_a_group_that_is_in_use_is_not_removed(group: Group) -> None:
    """`remove` says that something is left, and works once the processes are gone."""
    child = start_in(group, "import time; time.sleep(60)")

    assert not group.remove()

    assert group.kill(WAIT_S)
    child.communicate(timeout=WAIT_S)


def test_without_parts_everything_is_a_no_op() -> None:
    """A machine without cgroups needs no special cases in the caller."""
    nothing = Cgroups(()).group("none")
    nothing.create(LIMITS)
    nothing.add(os.getpid())
    assert (nothing.kill(0), nothing.remove(), nothing.frozen(), nothing.can_freeze) == (True, True, False, False)


def test_a_group_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """A limit that can't be set (here: an ordinary folder) raises, and the folder is removed again."""
    group = Cgroups((Arm(1, tmp_path, frozenset({"memory"})),)).group("vm")

    with pytest.raises(OSError, match=r"memory.limit_in_bytes"):
        group.create(LIMITS)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mounts", "own", "expected"),
    [
        ("31 24 0:27 / {0}/u rw - cgroup2 cgroup2 rw", "0::/a/b", ([], ("u/a/b", "u"))),
        ("31 24 0:27 /a {0}/u rw shared:9 - cgroup2 cgroup2 rw", "0::/a/b", ([], ("u/b", "u"))),
        ("31 24 0:27 / {0}/u rw - cgroup2 cgroup2 rw", "0::/../x", ([], ("u", "u"))),
        ("31 24 0:27 / {0}/c rw - cgroup cgroup rw,cpu,cpuacct", "2:cpu,cpuacct:/a", ([(["cpu"], "c/a")], None)),
        ("31 24 0:27 / {0}/s rw - cgroup cgroup rw,name=systemd", "1:name=systemd:/a", ([], None)),
        ("31 24 0:27 / / rw - ext4 /dev/vda rw", "0::/", ([], None)),
    ],
)
def test_the_own_group_is_found(tmp_path: Path, mounts: str, own: str, expected: tuple[object, object]) -> None:
    """Groups go below the group of this process, wherever that is mounted; never above the mount point."""
    for folder in ("u/a/b", "u/b", "c/a"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    v1, v2 = cgroups._hierarchies([mounts.format(tmp_path)], [own])

    def shown(path: Path) -> str:
        return str(path.relative_to(tmp_path))

    assert ([(names, shown(path)) for names, path in v1], v2 and (shown(v2[0]), shown(v2[1]))) == expected
