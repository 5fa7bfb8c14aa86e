"""VMs that are only said to exist: for benches and journeys, where the pool is what counts. Nothing can run in one."""

import asyncio
import time
from collections.abc import Callable, Sequence

from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec


class SimulatedProvider:
    """Boots after `boot_s`. `…_faults` may be set to make verbs fail: codes are taken from the front. So many next
    destroys as `ignored_destroys` says are answered and do nothing. Nothing boots in `full_regions`; `specs`: of all VMs
    that were ever asked for."""

    name = "simulated"

    def __init__(self, boot_s: float = 0.05, clock: Callable[[], float] = time.time) -> None:
        self.boot_s = boot_s
        self.memory_bytes = 200 << 20
        self.boot_faults: list[str] = []
        self.suspend_faults: list[str] = []
        self.resume_faults: list[str] = []
        self.destroy_faults: list[str] = []
        self.list_faults: list[str] = []
        self.full_regions: set[str] = set()
        self.specs: dict[str, VmSpec] = {}
        self.ignored_destroys = 0
        self.vms: dict[str, VmListing] = {}
        self._clock = clock

    async def create(self, spec: VmSpec) -> VmAddress:
        await asyncio.sleep(self.boot_s)
        self.specs[spec.vm_id] = spec
        if spec.region in self.full_regions:
            raise ProviderError("region_full", f"There is no room in {spec.region}.", retryable=True)
        if self.boot_faults:
            raise ProviderError(self.boot_faults.pop(0), "A simulated boot failed.", retryable=True)
        address = VmAddress("127.0.0.1", 1)
        self.vms[spec.vm_id] = VmListing(
            vm_id=spec.vm_id,
            state="running",
            created_at=self._clock(),
            address=address,
            labels=spec.labels,
        )
        return address

    async def suspend(self, vm_id: str) -> int:
        if self.suspend_faults:
            raise ProviderError(self.suspend_faults.pop(0), "A simulated freeze failed.", retryable=True)
        self._set(vm_id, "suspended")
        return self.memory_bytes

    async def resume(self, vm_id: str) -> None:
        if self.resume_faults:
            raise ProviderError(self.resume_faults.pop(0), "A simulated thaw failed.", retryable=True)
        self._set(vm_id, "running")

    async def destroy(self, vm_id: str) -> None:
        if self.destroy_faults:
            raise ProviderError(
                self.destroy_faults.pop(0),
                "A simulated destroy failed.",
                retryable=True,
            )
        if self.ignored_destroys and vm_id in self.vms:
            self.ignored_destroys -= 1
            return
        self.vms.pop(vm_id, None)

    async def list(self) -> Sequence[VmListing]:
        if self.list_faults:
            raise ProviderError(self.list_faults.pop(0), "A simulated list failed.", retryable=True)
        return list(self.vms.values())

    async def close(self) -> None:
        return

    def _set(self, vm_id: str, state: str) -> None:
        vm = self.vms.get(vm_id)
        if vm is None:
            raise ProviderError("vm_not_found", f"There is no VM {vm_id}.")
        self.vms[vm_id] = VmListing(
            vm_id=vm_id,
            state="suspended" if state == "suspended" else "running",
            created_at=vm.created_at,
            address=vm.address,
            labels=vm.labels,
        )
