"""The machines of a stage: the simulated provider's VMs, and what runs in them. They outlive the services."""

import asyncio
from collections.abc import Callable
from typing import Any

from services.orchestrator.adapters.simulated import SimulatedWorkspace
from services.orchestrator.model import Vm
from services.pool.adapters.simulated import SimulatedProvider
from shared.agent.protocol import FileSync, JobSpec, JobStatus, SyncResult

DESTROY_S = 0.3
FREEZE_S, THAW_S = 0.02, 0.01


class Machines(SimulatedProvider):
    """The provider's VMs; what runs in one ends with it."""

    def __init__(self, workspace: SimulatedWorkspace, boot_s: float, clock: Callable[[], float]) -> None:
        super().__init__(boot_s, clock)
        self.freeze_s = FREEZE_S
        self._workspace = workspace

    async def destroy(self, vm_id: str) -> None:
        await asyncio.sleep(DESTROY_S)
        await super().destroy(vm_id)
        self._workspace.end(vm_id)

    async def suspend(self, vm_id: str) -> int:
        await asyncio.sleep(self.freeze_s)
        held = await super().suspend(vm_id)
        self._workspace.freeze(vm_id)
        return held

    async def resume(self, vm_id: str) -> None:
        await asyncio.sleep(THAW_S)
        await super().resume(vm_id)
        self._workspace.thaw(vm_id)

    async def close(self) -> None:
        """The next service that starts finds the same machines."""

    def lose(self, vm_id: str) -> None:
        """The VM goes without anybody's doing."""
        self.vms.pop(vm_id, None)
        self._workspace.end(vm_id)


class Workspace(SimulatedWorkspace):
    """Notes what truly happened in the VMs: `runs` of jobs, their `specs`, and `versions` of files written, each with its VM."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.runs: list[tuple[str, str]] = []
        self.specs: list[JobSpec] = []
        self.versions: list[tuple[str, int]] = []

    async def start_job(self, vm: Vm, job_id: str, spec: JobSpec) -> JobStatus:
        known = job_id in self.jobs(vm.vm_id)
        status = await super().start_job(vm, job_id, spec)
        if not known:
            self.runs.append((vm.vm_id, job_id))
            self.specs.append(spec)
        return status

    async def sync(self, vm: Vm, files: FileSync, contents: Any) -> SyncResult:
        result = await super().sync(vm, files, contents)
        if not result.stale:
            self.versions.append((vm.vm_id, result.version))
        return result

    def installs_run(self) -> list[tuple[str, str]]:
        return [run for run in self.runs if run[1].startswith("install")]
