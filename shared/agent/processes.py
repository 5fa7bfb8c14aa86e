"""Process trees as they really are: who belongs to a job, and how to end all of it.

A tree is more than its children: a process may leave its session, or lose its parent. On Linux the agent adopts
those that lose their parent (it is a "subreaper"), knows them by the mark in their environment, and reaps them.
Never: decides when a job is to end. The functions that scan processes block for milliseconds; call them in a thread.
"""

import contextlib
import ctypes
import logging
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable

import psutil

log = logging.getLogger("drape.agent.processes")

JOB_MARK = "DRAPE_JOB"
"""The variable in a job's environment that says which job a process without a parent came from."""
KILL_ROUNDS_MAX = 50
KILL_WAIT_S = 0.02
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_DUMPABLE = 4


def adopt_orphans() -> bool:
    """Makes this process the parent of descendants that lose theirs. True when the system can do that (Linux)."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> bool:
    """Keeps other processes of the same user from reading this one's memory (it holds the token). Linux only."""
    return _prctl(_PR_SET_DUMPABLE, 0)


def forbid_message_queues() -> None:
    """Lets no process of this VM make a POSIX message queue: one outlives its maker, and can't be found. Linux only."""
    limit = getattr(resource, "RLIMIT_MSGQUEUE", None)
    if limit is not None:
        resource.setrlimit(limit, (0, 0))


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)) == 0


def reap_adopted(is_ours: Callable[[int], bool]) -> bool:
    """Collects ended processes that were adopted, never those that `is_ours`. True when one of ours stood in the way.

    Only peeks until it knows whose process it is: an exit code taken from asyncio's watcher would be lost.
    """
    if not sys.platform.startswith("linux"):
        return False
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if info is None:
            return False
        if is_ours(info.si_pid):
            return True
        os.waitpid(info.si_pid, os.WNOHANG)


def job_members(job_id: str, root_pid: int | None, known: Iterable[psutil.Process] = ()) -> list[psutil.Process]:
    """All living processes of a job.

    `root_pid`: its first process while that has not been reaped (so that its number can't be another's), else None.
    `known`: members found earlier; they count as long as they are the same processes still.
    """
    own_pid = os.getpid()
    processes = {process.pid: process for process in psutil.process_iter()}
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        try:
            children.setdefault(process.ppid(), []).append(pid)
        except psutil.Error:
            continue
    roots = {process.pid for process in known if process.is_running()}
    if root_pid is not None:
        roots.add(root_pid)
        roots.update(pid for pid in processes if pid != own_pid and _session_of(pid) == root_pid)
    roots.update(pid for pid in children.get(own_pid, ()) if _marked(processes[pid], job_id))
    found: dict[int, psutil.Process] = {}
    queue = [pid for pid in roots if pid in processes]
    while queue:
        pid = queue.pop()
        if pid not in found and pid != own_pid:
            found[pid] = processes[pid]
            queue.extend(children.get(pid, ()))
    return [process for process in found.values() if _alive(process)]


def all_descendants() -> list[psutil.Process]:
    """Every living process below this one."""
    return [process for process in psutil.Process().children(recursive=True) if _alive(process)]


def childless() -> bool:
    """True when this process has no child, living or ended. Where it adopts orphans nothing runs below it then, for
    certain: a scan could miss what forks while it scans."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def strangers() -> list[int]:
    """The processes that this one can see and that are neither it nor above it."""
    own = psutil.Process()
    known = {own.pid, *(process.pid for process in own.parents())}
    return [pid for pid in psutil.pids() if pid not in known]


def end_processes(find: Callable[[], list[psutil.Process]], grace_s: float) -> int:
    """SIGTERM to all that `find` gives, SIGKILL to what is left after `grace_s`. Gives the number still alive.

    Looks again and again, because a dying tree may still fork.
    """
    deadline = time.monotonic() + grace_s
    if grace_s > 0:
        asked: set[int] = set()
        while (alive := find()) and time.monotonic() < deadline:
            for process in alive:
                if process.pid not in asked:
                    asked.add(process.pid)
                    _send(process, signal.SIGTERM)
            _until_one_ends(alive)
    for _ in range(KILL_ROUNDS_MAX):
        alive = find()
        if not alive:
            return 0
        for process in alive:
            _send(process, signal.SIGKILL)
        _until_one_ends(alive)
    left = find()
    if left:
        log.error("processes survived SIGKILL", extra={"pids": [process.pid for process in left]})
    return len(left)


def _until_one_ends(processes: list[psutil.Process]) -> None:
    """At once when one of them ends, where the system can tell that, and never longer than `KILL_WAIT_S`."""
    if not hasattr(os, "pidfd_open"):
        time.sleep(KILL_WAIT_S)
        return
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for process in processes:
            try:
                fd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                return
            except OSError:
                continue  # no more descriptors, or a kernel without them: the time-out is enough
            stack.callback(os.close, fd)
            poll.register(fd, select.POLLIN)
        poll.poll(KILL_WAIT_S * 1000)


def rss_bytes(members: Iterable[psutil.Process]) -> int:
    """The resident memory of the processes together; shared pages count once for each."""
    total = 0
    for process in members:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _marked(process: psutil.Process, job_id: str) -> bool:
    try:
        return bool(process.environ().get(JOB_MARK) == job_id)
    except (psutil.Error, OSError):
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        log.warning("a process may not be signalled", extra={"pid": process.pid})
