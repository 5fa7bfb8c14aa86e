"""The lock of a VM among processes: one at a time, let go of by the dead, waited for within a limit."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.pool.adapters import vm_locks
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.ports import ProviderError
from tests.deploy.waiting import eventually

HOLD = """
import asyncio, sys, pathlib
from services.pool.adapters import vm_locks
async def hold():
    async with vm_locks.locked(pathlib.Path(sys.argv[1]), "vm-1", 5):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""
ROOT = Path(__file__).parents[2]


def holder(vms_dir: Path) -> "subprocess.Popen[str]":
    """Another process that holds vm-1."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(vms_dir)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


async def test_another_process_is_waited_for_and_its_end_frees_the_vm(tmp_path: Path) -> None:
    process = holder(tmp_path / "vms")
    try:
        with pytest.raises(ProviderError) as caught:
            async with vm_locks.locked(tmp_path / "vms", "vm-1", 0.1):
                raise AssertionError("it is held")
        assert (caught.value.code, caught.value.retryable) == ("vm_busy", True)
        async with vm_locks.locked(tmp_path / "vms", "vm-2", 0.1):
            os.kill(process.pid, signal.SIGKILL)
        async with vm_locks.locked(tmp_path / "vms", "vm-1", 10):
            assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()


async def test_a_vm_is_not_destroyed_while_another_pool_is_at_work_on_it(tmp_path: Path) -> None:
    """And is once that one has ended; the lock goes with the VM."""
    (tmp_path / "vms" / "vm-1").mkdir(parents=True)
    process = holder(tmp_path / "vms")
    provider = LocalProvider(tmp_path / "vms", config=LocalConfig(sandbox="none", cgroups="none", lock_timeout_s=0.1))
    try:
        with pytest.raises(ProviderError, match="at work"):
            await provider.destroy("vm-1")
        assert (tmp_path / "vms" / "vm-1").is_dir()
        process.kill()
        process.communicate()
        await provider.destroy("vm-1")
        assert list((tmp_path / "vms").iterdir()) == list(vm_locks.folder_of(tmp_path / "vms").iterdir()) == []
    finally:
        process.kill()
        await provider.close()


async def test_who_waits_while_the_lock_goes_with_its_vm_takes_a_new_one(tmp_path: Path) -> None:
    """Two that wait for the lock of a VM that is destroyed never hold it both."""
    holding = 0

    async def hold() -> None:
        nonlocal holding
        async with vm_locks.locked(tmp_path / "vms", "vm-1", 10):
            holding += 1
            assert holding == 1
            await asyncio.sleep(0)
            vm_locks.forget(tmp_path / "vms", "vm-1")
            holding -= 1

    await asyncio.gather(*(hold() for _ in range(5)))
    await eventually(lambda: not list(vm_locks.folder_of(tmp_path / "vms").iterdir()))
