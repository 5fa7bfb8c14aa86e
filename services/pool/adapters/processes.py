"""Processes of a local VM, told apart from others that later got the same number: identity, trees, signals.

Used by the local provider to know whether a VM lives, and to stop or kill all of it. It starts nothing and decides
nothing. Calls read /proc and block for milliseconds: use a thread.
"""

import functools
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import psutil

KILL, CONTINUE = signal.SIGKILL, signal.SIGCONT
STOP_ROUNDS_MAX = 100
STOP_ROUND_S = 0.005


class ProcessRef(msgspec.Struct, frozen=True):
    """A process, for ever: `identity` differs for any other process that gets the same `pid`."""

    pid: int
    identity: str


def refer(pid: int) -> ProcessRef | None:
    """The living process with that number; None when there is none, or only a zombie."""
    identity = _identity(pid)
    return ProcessRef(pid, identity) if identity else None


def is_alive(process: ProcessRef) -> bool:
    return _identity(process.pid) == process.identity


def is_stopped(process: ProcessRef) -> bool:
    """Whether SIGSTOP holds the process."""
    try:
        return is_alive(process) and psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def tree(roots: Iterable[ProcessRef]) -> set[ProcessRef]:
    """The living roots and all their descendants, whatever session or process group these are in."""
    found: set[ProcessRef] = set()
    for root in roots:
        if not is_alive(root):
            continue
        found.add(root)
        try:
            children = psutil.Process(root.pid).children(recursive=True)
        except psutil.Error:
            continue
        found.update(ref for child in children if (ref := refer(child.pid)))
    return found


def strays(folder: Path) -> set[ProcessRef]:
    """Living processes that belong to the VM folder though no parent leads to them.

    Those are processes whose HOME is the VM's home (a job that was orphaned), and sandboxes that were started for this
    folder. This process and its ancestors never count.
    """
    home, root = str(folder / "root" / "home"), str(folder / "root")
    us = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: set[ProcessRef] = set()
    for process in psutil.process_iter():
        if process.pid in us:
            continue
        try:
            argv = process.cmdline()
            ours = bool(argv) and Path(argv[0]).name == "bwrap" and root in argv
            if (ours or process.environ().get("HOME") == home) and (ref := refer(process.pid)):
                found.add(ref)
        except (psutil.Error, OSError):
            continue  # another user's, or gone: not ours
    return found


def signal_all(processes: Iterable[ProcessRef], number: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for process in processes:
        if is_alive(process):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def memory_bytes(processes: Iterable[ProcessRef]) -> int:
    """What they hold together; what several share counts for each."""
    held = 0
    for process in processes:
        try:
            held += psutil.Process(process.pid).memory_info().rss
        except psutil.Error:
            continue  # it has ended, and holds nothing
    return held


def stop_tree(roots: Iterable[ProcessRef]) -> bool:
    """SIGSTOP a whole tree, also what it forks meanwhile. False: it grew faster than it could be stopped."""
    roots = tuple(roots)
    for _ in range(STOP_ROUNDS_MAX):
        moving = {process for process in tree(roots) if not is_stopped(process)}
        if not moving:
            return True
        signal_all(moving, signal.SIGSTOP)
        time.sleep(STOP_ROUND_S)
    return False


def _identity(pid: int) -> str | None:
    """Start time as the kernel keeps it; psutil's wall-clock value moves when the clock is set."""
    if not sys.platform.startswith("linux"):
        return _identity_by_psutil(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X", b"x") else f"{_boot_id()}:{int(fields[19])}"


def _identity_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


@functools.cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
