"""Ends the VMs that the local provider left running. Only when everything stops: while Drape runs, VMs are the pool's.

A VM is disposable, so it is killed rather than asked. A suspended one is thawed after the kill signal, because cgroup v1
delivers no signal to what is frozen. Folders and empty cgroups stay: the pool's reaper removes them at the next start.
"""

import asyncio
import logging
import os
import signal
from pathlib import Path

import msgspec
import psutil

from deploy.local.paths import Home
from deploy.local.records import process_if

_log = logging.getLogger("drape.local")

_ROUNDS_MAX = 100
_ROUND_S = 0.05
"""A process that forks while it is being killed is caught in a later round: five seconds in all."""
_CGROUP_ROOTS = (Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


class _VmRecord(msgspec.Struct, frozen=True):
    """What is read of the provider's vm.json: process id and start time (seconds since the epoch)."""

    pid: int
    created: float


async def end_vms(home: Home) -> int:
    """Kills every VM with its whole process tree, all at once. Returns how many were alive."""
    alive = [folder for folder in home.vms.iterdir() if _root_process(folder)] if home.vms.is_dir() else []
    async with asyncio.TaskGroup() as group:
        for folder in alive:
            group.create_task(_end_vm(folder))
    return len(alive)


async def _end_vm(folder: Path) -> None:
    root = _root_process(folder)
    if root is None:
        return
    cgroups = _cgroups_of(root.pid, folder.name)
    seen: dict[int, psutil.Process] = {}
    for _ in range(_ROUNDS_MAX):
        for process in _members(root, cgroups):
            seen.setdefault(process.pid, process)
        living = [process for process in seen.values() if _kill(process)]
        if not living:
            return
        for cgroup in cgroups:
            _thaw(cgroup)
        await asyncio.sleep(_ROUND_S)
    _log.error("a VM could not be ended", extra={"vm": folder.name, "pids": [process.pid for process in living]})


def _root_process(folder: Path) -> psutil.Process | None:
    try:
        record = msgspec.json.decode((folder / "vm.json").read_bytes(), type=_VmRecord)
    except (OSError, msgspec.DecodeError):
        return None  # Not a VM, or one that never came to be.
    return process_if(record.pid, record.created)


def _members(root: psutil.Process, cgroups: list[Path]) -> list[psutil.Process]:
    """The tree under the VM's first process, and what its cgroup holds: orphans leave the tree, not the cgroup."""
    found: list[psutil.Process] = []
    try:
        found = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        found = []
    for cgroup in cgroups:
        for pid in _pids_in(cgroup):
            try:
                found.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
    return found


def _pids_in(cgroup: Path) -> list[int]:
    try:
        return [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    except OSError:
        return []  # The cgroup went with its last process.


def _kill(process: psutil.Process) -> bool:
    """Sends SIGKILL; False when there is nothing left to kill. psutil refuses a reused process id."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.send_signal(signal.SIGKILL)
        return True
    except psutil.NoSuchProcess:
        return False


def _cgroups_of(pid: int, vm_id: str) -> list[Path]:
    """The cgroups that belong to this VM alone: those named after it."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return []  # Not Linux, or gone.
    paths = {line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
    own = [path.lstrip("/") for path in paths if os.path.basename(path) == vm_id]
    return [root / path for root in _CGROUP_ROOTS for path in own if (root / path / "cgroup.procs").exists()]


def _thaw(cgroup: Path) -> None:
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        try:
            if (cgroup / name).exists():
                (cgroup / name).write_text(value)
        except OSError as error:
            _log.warning("a suspended VM could not be thawed", extra={"cgroup": str(cgroup), "error": error.strerror})
