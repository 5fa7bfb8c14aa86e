"""One verb at a time for one VM, also among the pool's replicas on one machine: a locked file a VM.

The kernel lets go of a lock with the process that holds it. One that is stopped keeps it, so waiting has a limit.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.pool.ports import ProviderError

POLL_S = 0.02


@contextlib.asynccontextmanager
async def locked(vms_dir: Path, vm_id: str, timeout_s: float) -> AsyncIterator[None]:
    """Holds the VM. Raises ProviderError `vm_busy` when another process has held it for `timeout_s`."""
    descriptor = await _take(folder_of(vms_dir) / vm_id, timeout_s)
    try:
        yield
    finally:
        os.close(descriptor)


def forget(vms_dir: Path, vm_id: str) -> None:
    """Remove the file of a VM that is gone; to be called by whoever holds it. A process that waits for it notices."""
    (folder_of(vms_dir) / vm_id).unlink(missing_ok=True)


def folder_of(vms_dir: Path) -> Path:
    """Beside the VMs, for what is among them is a VM."""
    return vms_dir.with_name(f"{vms_dir.name}.locks")


async def _take(path: Path, timeout_s: float) -> int:
    deadline = asyncio.get_running_loop().time() + timeout_s
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _try_lock(descriptor) and _is(path, descriptor):
            return descriptor
        os.close(descriptor)
        if asyncio.get_running_loop().time() >= deadline:
            raise ProviderError(
                "vm_busy", f"another process has been at work on VM {path.name} for {timeout_s:g} s", retryable=True
            )
        await asyncio.sleep(POLL_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the file that was locked, and not to a later one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
