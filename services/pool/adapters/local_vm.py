"""One local VM as its folder tells it: whether it lives, how it is held and let go, and how it is ended.

Blocking code; `local` runs it in threads and keeps the order, `local_launch` starts VMs. The record on disk, not this
process's memory, says which VMs exist.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from services.pool.adapters import processes
from services.pool.adapters.cgroups import Group, Part
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec, VmState

HOST = "127.0.0.1"
RECORD = "vm.json"
PORT_FILE = Path("root/state/agent.json")
GONE_POLL_S = 0.002
KILL_ROUND_S = 0.25
LOG_TAIL_BYTES = 2000
RETRY_S = 0.05


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """vm.json. `pid` is the process whose end is the end of the agent; `created` is its start, in epoch seconds.

    `identity` and `init_identity` tell these processes from later ones with the same number. `init_pid` is the first
    process inside the sandbox: when it dies, the kernel kills everything in there.
    """

    vm_id: str
    pid: int
    created: float
    identity: str
    port: int | None
    labels: dict[str, str]
    sandbox: Literal["bubblewrap", "process_group"]
    init_pid: int | None = None
    init_identity: str | None = None
    cgroup: tuple[Part, ...] = ()


class Vm(msgspec.Struct, frozen=True):
    """A VM as its folder describes it."""

    folder: Path
    record: Record

    @property
    def main(self) -> processes.ProcessRef:
        return processes.ProcessRef(self.record.pid, self.record.identity)

    @property
    def init(self) -> processes.ProcessRef:
        """The process that holds all others."""
        if self.record.init_pid is None or self.record.init_identity is None:
            return self.main
        return processes.ProcessRef(self.record.init_pid, self.record.init_identity)

    @property
    def group(self) -> Group:
        return Group(self.record.cgroup)

    def state(self) -> VmState:
        if not processes.is_alive(self.main):
            return "stopped"
        return "suspended" if self.group.frozen() or processes.is_stopped(self.init) else "running"

    def address(self) -> VmAddress | None:
        port = self.record.port or read_port(self.folder)
        return VmAddress(HOST, port) if port else None


def load(folder: Path) -> Vm | None:
    """The VM of a folder; None when there is no folder, or no record that can be read."""
    try:
        return Vm(folder, msgspec.json.decode((folder / RECORD).read_bytes(), type=Record, dec_hook=_decode_path))
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def listing(folder: Path, booting: VmSpec | None, log_bytes_max: int) -> VmListing:
    """What `list` says of a folder. One without a record is `stopped`, unless it is being made right now."""
    _trim(folder / "agent.log", log_bytes_max)
    vm = load(folder)
    if vm is None:
        return VmListing(
            vm_id=folder.name,
            state="running" if booting else "stopped",
            created_at=folder.stat().st_mtime,
            address=None,
            labels=booting.labels if booting else {},
        )
    state = vm.state()
    return VmListing(
        vm_id=folder.name,
        state=state,
        created_at=vm.record.created,
        address=None if state == "stopped" else vm.address(),
        labels=vm.record.labels,
    )


def suspend(vm: Vm, timeout_s: float) -> int:
    """Freeze by cgroup, else stop the tree; gives the bytes that it holds. Raises ProviderError; the VM then still runs."""
    group = vm.group
    if group.can_freeze:
        try:
            group.freeze(timeout_s)
        except (OSError, TimeoutError) as error:
            raise ProviderError("suspend_failed", f"VM {vm.folder.name}: {error}", retryable=True) from error
    elif not processes.stop_tree([vm.init]):
        processes.signal_all(processes.tree([vm.init]), processes.CONTINUE)
        raise ProviderError(
            "suspend_failed",
            f"VM {vm.folder.name} starts processes too fast to stop",
            retryable=True,
        )
    return group.memory_bytes() or processes.memory_bytes(processes.tree([vm.init]))


def resume(vm: Vm, timeout_s: float) -> None:
    group = vm.group
    if not group.can_freeze:
        processes.signal_all(processes.tree([vm.init]), processes.CONTINUE)
        return
    try:
        group.thaw(timeout_s)
    except (OSError, TimeoutError) as error:
        raise ProviderError("resume_failed", f"VM {vm.folder.name}: {error}", retryable=True) from error


def destroy(folder: Path, group: Group, *, timeout_s: float, tries_max: int) -> None:
    """End and remove all of a VM. `group` is where its cgroup would be now; the record may name another.

    Raises ProviderError `destroy_failed` naming what is left after `tries_max` tries.
    """
    left = ""
    for attempt in range(tries_max):
        if attempt:
            time.sleep(RETRY_S)
        vm = load(folder)
        groups = [
            group,
            *([vm.group] if vm and vm.record.cgroup != group.parts else []),
        ]
        if not _end_processes(folder, vm, groups, timeout_s):
            left = "processes that do not die"
        elif (problem := _remove_folder(folder)) is not None:
            left = f"files: {problem}"
        elif not _remove_all(groups):
            left = "its cgroup"
        else:
            return
    raise ProviderError(
        "destroy_failed",
        f"VM {folder.name} is not wholly gone; what is left: {left}. Try again later",
        retryable=True,
    )


def read_port(folder: Path) -> int | None:
    """The port from the agent's port file, once it is there (it is renamed into place, so never half written)."""
    try:
        port = json.loads((folder / PORT_FILE).read_bytes())["port"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return port if isinstance(port, int) and 0 < port < 65536 else None


def log_tail(folder: Path) -> str:
    """The end of the agent's log on one line, for an error message."""
    try:
        with (folder / "agent.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return " | ".join(line.strip() for line in text.splitlines() if line.strip()) or "(the log is empty)"


def write_record(folder: Path, record: Record) -> None:
    temporary = folder / f"{RECORD}.new"
    temporary.write_bytes(msgspec.json.encode(record, enc_hook=str))
    temporary.rename(folder / RECORD)


def _decode_path(kind: type[Any], value: Any) -> Any:
    return kind(value)


def _end_processes(folder: Path, vm: Vm | None, groups: list[Group], timeout_s: float) -> bool:
    """SIGKILL all of a VM and wait until it is gone. False: the time was not enough."""
    deadline = time.monotonic() + timeout_s
    # A sandbox dies with its first process. Without one, or without a record, look for what escaped the tree.
    search = folder.exists() and (vm is None or vm.record.sandbox == "process_group")
    while True:
        alive = processes.tree([vm.main, vm.init]) if vm else set()
        alive |= processes.strays(folder) if search else set()
        processes.signal_all(alive, processes.KILL)
        emptied = True
        for group in groups:
            emptied &= group.kill(max(0.0, deadline - time.monotonic()))
        round_ends = min(deadline, time.monotonic() + KILL_ROUND_S)
        while any(processes.is_alive(process) for process in alive) and time.monotonic() < round_ends:
            time.sleep(GONE_POLL_S)
        if not alive and emptied:
            return True
        if time.monotonic() >= deadline:
            return False


def _remove_all(groups: list[Group]) -> bool:
    left = [group for group in groups if not group.remove()]
    return not left


def _remove_folder(folder: Path) -> str | None:
    """Remove a tree, also where a project took away its own write permission. Returns what stood in the way."""
    problems: list[str] = []

    def note(_: object, path: str, error: Any) -> None:
        if not isinstance(error[1], FileNotFoundError):
            problems.append(f"{path}: {error[1].strerror}")

    for insist in (False, True):
        if insist:
            _allow_removal(folder)
        problems.clear()
        shutil.rmtree(folder, onerror=note)
        if not os.path.lexists(folder):
            return None
    return problems[0] if problems else "files that came back"


def _allow_removal(folder: Path) -> None:
    for parent, names, _ in os.walk(folder):  # from the top, so that each folder is opened before it is entered
        for path in [Path(parent, name) for name in names]:
            if not path.is_symlink():
                with contextlib.suppress(OSError):  # rmtree then says what is wrong
                    path.chmod(0o700)


def _trim(path: Path, bytes_max: int) -> None:
    """Cut a log back to its last half. The writer appends, so it goes on at the new end; a line may be lost between."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) <= bytes_max:
            return
        file.seek(-(bytes_max // 2), os.SEEK_END)
        tail = file.read(bytes_max // 2)
        file.truncate(0)
        file.seek(0)
        file.write(b"[cut by Drape]\n" + tail)
