"""VMs that are only said to exist: for benches and journeys, where the pool is what counts. Nothing can run in one."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import count

import msgspec

from services.pool.adapters.specs import check_spec, check_vm_id
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec, VmState

PORTS_MAX = 65535


class SimulatedBackend:
    """The VMs, which several providers may share, and those that boot just now."""

    def __init__(self) -> None:
        self.vms: dict[str, VmListing] = {}
        self.booting: set[str] = set()
        self._numbers = count()

    def address(self) -> VmAddress:
        """One that nobody has had lately. Nothing listens there."""
        return VmAddress("127.0.0.1", next(self._numbers) % PORTS_MAX + 1)

    def set(self, vm_id: str, state: VmState) -> None:
        """The VM is in that state from now on; one that is stopped has no address."""
        vm = self.vms[vm_id]
        address = None if state == "stopped" else vm.address
        self.vms[vm_id] = msgspec.structs.replace(vm, state=state, address=address)


class SimulatedProvider:
    """Boots after `boot_s`. `…_faults` may be set to make verbs fail: codes are taken from the front. So many next
    destroys as `ignored_destroys` says are answered and do nothing. `fault` is what is wrong with its backend, all the
    time: `down`, `rate_limited`, `slow` (no answer within `answer_timeout_s`) or `rubbish`."""

    name = "simulated"

    def __init__(
        self,
        boot_s: float = 0.05,
        clock: Callable[[], float] = time.time,
        *,
        backend: SimulatedBackend | None = None,
        boot_timeout_s: float = 30.0,
    ) -> None:
        self.boot_s = boot_s
        self.boot_timeout_s = boot_timeout_s
        self.answer_timeout_s = 10.0
        self.memory_bytes = 200 << 20
        self.boot_faults: list[str] = []
        self.suspend_faults: list[str] = []
        self.resume_faults: list[str] = []
        self.destroy_faults: list[str] = []
        self.list_faults: list[str] = []
        self.ignored_destroys = 0
        self.fault = ""
        self.backend = backend or SimulatedBackend()
        self._clock = clock
        self._closed = False

    @property
    def vms(self) -> dict[str, VmListing]:
        """Those that have booted, by id."""
        return self.backend.vms

    async def create(self, spec: VmSpec) -> VmAddress:
        check_vm_id(spec.vm_id)
        check_spec(spec)
        await self._asked(self.boot_faults, "boot")
        self.vms.pop(spec.vm_id, None)
        self.backend.booting.add(spec.vm_id)
        try:
            await asyncio.sleep(min(self.boot_s, self.boot_timeout_s))
        finally:
            self.backend.booting.discard(spec.vm_id)
        if self.boot_s > self.boot_timeout_s:
            message = f"VM {spec.vm_id} did not boot within {self.boot_timeout_s:g} s."
            raise ProviderError("boot_timeout", message, retryable=True)
        address = self.backend.address()
        self.vms[spec.vm_id] = VmListing(
            vm_id=spec.vm_id,
            state="running",
            created_at=self._clock(),
            address=address,
            labels=spec.labels,
        )
        return address

    async def suspend(self, vm_id: str) -> int:
        check_vm_id(vm_id)
        await self._asked(self.suspend_faults, "freeze")
        self._set(vm_id, "suspended")
        return self.memory_bytes

    async def resume(self, vm_id: str) -> None:
        check_vm_id(vm_id)
        await self._asked(self.resume_faults, "thaw")
        self._set(vm_id, "running")

    async def destroy(self, vm_id: str) -> None:
        check_vm_id(vm_id)
        await self._asked(self.destroy_faults, "destroy")
        if self.ignored_destroys and vm_id in self.vms:
            self.ignored_destroys -= 1
            return
        self.vms.pop(vm_id, None)

    async def close(self) -> None:
        self._closed = True

    async def _asked(self, faults: list[str], what: str) -> None:
        """What stands before every verb: whether there is a backend that answers."""
        if self._closed:
            raise ProviderError("provider_closed", "This provider has been closed; make a new one.")
        if faults:
            raise ProviderError(faults.pop(0), f"A simulated {what} failed.", retryable=True)
        if self.fault == "slow":
            await asyncio.sleep(self.answer_timeout_s)
        if self.fault:
            code = "provider_rate_limited" if self.fault == "rate_limited" else "provider_unavailable"
            raise ProviderError(code, f"A simulated {what} failed: the backend is {self.fault}.", retryable=True)

    def _set(self, vm_id: str, state: VmState) -> None:
        vm = self.vms.get(vm_id)
        if vm is None:
            raise ProviderError("vm_not_found", f"There is no VM {vm_id}.")
        if vm.state == "stopped":
            raise ProviderError("vm_stopped", f"VM {vm_id} has ended; destroy it.")
        self.backend.set(vm_id, state)

    async def list(self) -> Sequence[VmListing]:
        await self._asked(self.list_faults, "list")
        return list(self.vms.values())
