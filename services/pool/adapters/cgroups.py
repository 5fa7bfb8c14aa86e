"""Linux control groups for local VMs: limits on memory, CPU and process count, freezing, and killing.

Works with cgroup v2, v1, and the mixture of both, and takes nothing for granted: `detect` makes a trial group in each
hierarchy and keeps what could really be written. Groups live below this process's own group (`<own>/drape/<name>`), so
a VM never leaves the limits that the pool itself runs under; on v2, where a group that holds processes can't hand out
controllers, a sibling is used instead. Everything here blocks for a short, bounded time: call it from a thread. It
knows nothing of VMs, agents or sandboxes.
"""

import errno
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec

log = logging.getLogger("drape.pool.cgroups")

PARENT = "drape"
LIMITS = ("memory", "cpu", "pids")
CPU_PERIOD_US = 100_000
POLL_S = 0.001
CREATE_TRIES_MAX = 3
_trials = itertools.count()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one group may use."""

    memory_bytes: int
    cpu_cores: float
    pids_max: int


class Arm(msgspec.Struct, frozen=True):
    """One hierarchy in which groups can be made: `base` is the folder that holds `drape/`.

    `can` names what works there: `memory`, `cpu`, `pids`, `freeze`, `kill`.
    """

    version: Literal[1, 2]
    base: Path
    can: frozenset[str]


class Part(msgspec.Struct, frozen=True):
    """A VM's folder in one hierarchy; plain data, so that a later process can find it again."""

    version: Literal[1, 2]
    path: Path
    can: frozenset[str]


class Cgroups:
    """The hierarchies that can be used on this machine, and the groups made in them."""

    def __init__(self, arms: Iterable[Arm]) -> None:
        self.arms = tuple(arms)

    @property
    def can(self) -> frozenset[str]:
        """All that works: a subset of memory, cpu, pids, freeze, kill."""
        return frozenset().union(*(arm.can for arm in self.arms))

    def group(self, name: str) -> "Group":
        """The group of that name, which need not exist yet."""
        return Group(Part(arm.version, arm.base / PARENT / name, arm.can) for arm in self.arms)


class Group:
    """One VM's group: the same name in each hierarchy. With no parts it is empty, and every call does nothing."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)

    @property
    def can_freeze(self) -> bool:
        return any("freeze" in part.can for part in self.parts)

    def create(self, limits: Limits) -> None:
        """Make the folders and set the limits. Raises OSError, having removed what it made."""
        try:
            for part in self.parts:
                _make(part)
                _set_limits(part, limits)
        except OSError:
            self.remove()
            raise

    def add(self, pid: int) -> None:
        """Move a process in; children that it starts from now on are in too. Raises OSError."""
        for part in self.parts:
            (part.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> set[int]:
        """The processes in the group, as this process numbers them."""
        return {pid for part in self.parts for pid in _pids(part.path)}

    def freeze(self, timeout_s: float) -> None:
        """Stop every process; returns when all stand still. Raises TimeoutError, having let them go on."""
        part = self._freezer()
        _write_freeze(part, frozen=True)
        if not _wait_until(lambda: _is_frozen(part), timeout_s):
            _write_freeze(part, frozen=False)
            raise TimeoutError(f"the group {part.path.name} did not freeze within {timeout_s} s")

    def thaw(self, timeout_s: float) -> None:
        """Let every process go on. Raises TimeoutError."""
        part = self._freezer()
        _write_freeze(part, frozen=False)
        if not _wait_until(lambda: not _is_frozen(part), timeout_s):
            raise TimeoutError(f"the group {part.path.name} did not thaw within {timeout_s} s")

    def frozen(self) -> bool:
        return any(_is_frozen(part) for part in self.parts if "freeze" in part.can)

    def memory_bytes(self) -> int:
        """What the group's processes hold, the files that they read included; 0 where that is not counted."""
        for part in self.parts:
            if "memory" in part.can:
                name = "memory.current" if part.version == 2 else "memory.usage_in_bytes"
                try:
                    return int((part.path / name).read_text())
                except (OSError, ValueError) as error:
                    log.debug("memory of %s is not known: %s", part.path, error)
        return 0

    def kill(self, timeout_s: float) -> bool:
        """SIGKILL everything in the group, also what forks meanwhile and what is frozen. True: it is empty."""
        deadline = time.monotonic() + timeout_s
        while self.pids():
            self._kill_once()
            if _wait_until(lambda: not self.pids(), min(0.1, max(0.0, deadline - time.monotonic()))):
                break
            if time.monotonic() >= deadline:
                return False
        return True

    def remove(self) -> bool:
        """Remove the folders, also those that processes inside made. True: nothing is left. Never raises OSError."""
        for part in self.parts:
            for folder, _, _ in os.walk(part.path, topdown=False):
                _rmdir(Path(folder))
            _rmdir(part.path.parent)  # goes with the last group in it
        return not self.exists()

    def exists(self) -> bool:
        return any(part.path.exists() for part in self.parts)

    def _freezer(self) -> Part:
        return next(part for part in self.parts if "freeze" in part.can)

    def _kill_once(self) -> None:
        for part in self.parts:
            if "kill" in part.can and part.path.exists():
                _write(part.path / "cgroup.kill", "1")
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for part in self.parts:  # v1: a frozen process takes its SIGKILL only when thawed
            if "freeze" in part.can and part.version == 1 and part.path.exists():
                _write_freeze(part, frozen=False)


def detect(
    mountinfo: Path = Path("/proc/self/mountinfo"),
    own: Path = Path("/proc/self/cgroup"),
) -> Cgroups:
    """Find out by trial what this process may use. No cgroups, or none writable: an empty `Cgroups`."""
    try:
        mounts, paths = mountinfo.read_text().splitlines(), own.read_text().splitlines()
    except OSError:
        return Cgroups(())
    v1, v2 = _hierarchies(mounts, paths)
    arms: list[Arm] = []
    if v2 is not None:
        own_group, mount_point = v2
        # Own group first; its parent where it holds processes itself and so can't hand out controllers.
        bases = [own_group] if own_group == mount_point else [own_group, own_group.parent]
        trials = [arm for base in bases if (arm := _trial(2, base, LIMITS)) is not None]
        arms += sorted(trials, key=lambda arm: -len(arm.can))[:1]
    for controllers, base in v1:
        taken = frozenset().union(*(arm.can for arm in arms))
        wanted = [c for c in controllers if {"freezer": "freeze"}.get(c, c) not in taken]
        arm = _trial(1, base, wanted) if wanted else None
        arms += [arm] if arm else []
    return Cgroups(arms)


def _hierarchies(mounts: list[str], paths: list[str]) -> tuple[list[tuple[list[str], Path]], tuple[Path, Path] | None]:
    """Parse mountinfo and /proc/self/cgroup: v1 as (controllers, own group), v2 as (own group, mount point)."""
    own = {frozenset(c.split(",")): path for _, c, path in (line.split(":", 2) for line in paths)}
    v1: list[tuple[list[str], Path]] = []
    v2: tuple[Path, Path] | None = None
    for line in mounts:
        left, _, right = line.partition(" - ")
        root, point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            v2 = v2 or (
                _own_group(Path(point), root, own.get(frozenset({""}), "/")),
                Path(point),
            )
        elif kind == "cgroup":
            named = set(options.split(","))
            for controllers, path in own.items():
                useful = sorted(controllers & {*LIMITS, "freezer"})
                if useful and controllers <= named:
                    v1.append((useful, _own_group(Path(point), root, path)))
    return v1, v2


def _own_group(point: Path, root: str, path: str) -> Path:
    """The folder of this process's group below a mount point; the mount point itself when it is not visible there."""
    inside = path.removeprefix(root.rstrip("/")).lstrip("/") if path.startswith(root.rstrip("/")) else ""
    group = point / inside
    return group if ".." not in group.parts and group.is_dir() else point


def _trial(version: Literal[1, 2], base: Path, wanted: Iterable[str]) -> Arm | None:
    """Make, limit and remove a group: what could be set is what this arm can do."""
    wanted = tuple(wanted)
    part = Part(
        version,
        base / PARENT / f"trial-{os.getpid()}-{next(_trials)}",
        frozenset(wanted),
    )
    group = Group((part,))
    try:
        _make(part)
        found = {c for c in wanted if c in LIMITS and _can_limit(part, c)}
        state = part.path / ("cgroup.freeze" if version == 2 else "freezer.state")
        if os.access(state, os.W_OK) and (version == 2 or "freezer" in wanted):
            found.add("freeze")
        if version == 2 and os.access(part.path / "cgroup.kill", os.W_OK):
            found.add("kill")
    except OSError as error:
        log.debug("no cgroups below %s: %s", base, error)
        return None
    finally:
        group.remove()
    return Arm(version, base, frozenset(found)) if found else None


def _can_limit(part: Part, controller: str) -> bool:
    trial = Limits(memory_bytes=1 << 30, cpu_cores=1, pids_max=64)
    try:
        _set_limits(Part(part.version, part.path, frozenset({controller})), trial)
    except OSError:
        return False
    return True


def _make(part: Part) -> None:
    """Create the folder; the parent may vanish meanwhile with the last group of another process, so try again."""
    for attempt in range(CREATE_TRIES_MAX):
        try:
            part.path.parent.mkdir(exist_ok=True)
            if part.version == 2:
                _hand_down(part)
            part.path.mkdir(exist_ok=True)
        except FileNotFoundError:
            if attempt == CREATE_TRIES_MAX - 1:
                raise
        else:
            return


def _hand_down(part: Part) -> None:
    """v2: controllers reach a group only when each group above passes them on. What can't be passed isn't there."""
    for folder in (part.path.parent.parent, part.path.parent):
        passed = (folder / "cgroup.subtree_control").read_text().split()
        for controller in part.can & set(LIMITS) - set(passed):
            try:
                _write(folder / "cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                log.debug("cgroup %s does not pass on %s: %s", folder, controller, error)


def _set_limits(part: Part, limits: Limits) -> None:
    quota_us = max(1000, int(limits.cpu_cores * CPU_PERIOD_US))
    if "memory" in part.can:
        name, swap = (
            ("memory.max", "memory.swap.max")
            if part.version == 2
            else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        )
        _write(part.path / name, str(limits.memory_bytes))
        if (part.path / swap).exists():  # v2 counts swap alone, v1 memory and swap together
            _write(part.path / swap, "0" if part.version == 2 else str(limits.memory_bytes))
    if "cpu" in part.can and part.version == 2:
        _write(part.path / "cpu.max", f"{quota_us} {CPU_PERIOD_US}")
    elif "cpu" in part.can:
        _write(part.path / "cpu.cfs_period_us", str(CPU_PERIOD_US))
        _write(part.path / "cpu.cfs_quota_us", str(quota_us))
    if "pids" in part.can:
        _write(part.path / "pids.max", str(limits.pids_max))


def _write(path: Path, text: str) -> None:
    """Write to a control file that must exist (a plain write_text would ask the kernel to create it)."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_freeze(part: Part, *, frozen: bool) -> None:
    if part.version == 2:
        _write(part.path / "cgroup.freeze", "1" if frozen else "0")
    else:
        _write(part.path / "freezer.state", "FROZEN" if frozen else "THAWED")


def _is_frozen(part: Part) -> bool:
    try:
        if part.version == 2:
            return "frozen 1" in (part.path / "cgroup.events").read_text().splitlines()
        return (part.path / "freezer.state").read_text().strip() == "FROZEN"
    except OSError:
        return False


def _pids(folder: Path) -> set[int]:
    """All processes in a group and the groups below it."""
    found: set[int] = set()
    for below, _, _ in os.walk(folder):
        try:
            found.update(int(line) for line in (Path(below) / "cgroup.procs").read_text().split())
        except OSError:
            continue  # removed while we looked
    return found


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (
            errno.ENOENT,
            errno.ENOTEMPTY,
            errno.EBUSY,
            errno.EACCES,
            errno.EPERM,
        ):
            raise


def _wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
