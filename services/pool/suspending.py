"""Freezes VMs and lets them go on, as the state says. Effects of different events may run in any order, and on different
replicas: each does what the state says when it begins, and looks again when it has ended."""

import logging
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from services.pool.ports import Provider, ProviderError
from services.pool.state import State, Vm
from shared.commands import Command, RecordVmFrozen, RecordVmLost, ResumeVm
from shared.ids import VmId, derive
from shared.ports import Cause

log = logging.getLogger("drape.pool")

ROUNDS_MAX = 10
"""Changes of mind that one effect follows; each has an effect of its own."""
THAW_TRIES_MAX = 3


class Suspender:
    """The VMs of one provider that stand still."""

    def __init__(
        self,
        provider: Provider,
        send: Callable[[Command, Cause], Awaitable[bytes]],
        state: Callable[[], State],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._provider = provider
        self._catch_up = catch_up
        self._send = send
        self._state = state

    async def settle(self, vm_id: VmId, cause: Cause) -> None:
        """Returns once the VM is as the state has it; a provider that can't do that is reported."""
        for _ in range(ROUNDS_MAX):
            vm = self._holding(vm_id)
            if vm is None:
                return
            if vm.suspended:
                await self._freeze(vm, cause)
            else:
                await self._thaw(vm, cause)
            # Another replica may have decided otherwise meanwhile, and done so before this one froze or thawed the VM.
            await self._catch_up()
            now = self._holding(vm_id)
            if now is None or now.suspended == vm.suspended:
                return

    def _holding(self, vm_id: VmId) -> Vm | None:
        """The VM, as long as it is not on its way out."""
        vm = self._state().vms.get(vm_id)
        return vm if vm is not None and vm.status in ("ready", "acquired") else None

    async def _freeze(self, vm: Vm, cause: Cause) -> None:
        try:
            held_bytes = await self._provider.suspend(vm.vm_id)
        except ProviderError as error:
            if self._holding(vm.vm_id) is None:
                return
            log.warning("suspend_failed", extra={"vm_id": vm.vm_id, "error": error.message})
            await self._report(vm, ResumeVm(preview_id=vm.preview_id or ""), cause)
        else:
            await self._report(vm, RecordVmFrozen(vm_id=vm.vm_id, memory_mb=held_bytes >> 20), cause)

    async def _thaw(self, vm: Vm, cause: Cause) -> None:
        for tries in range(1, THAW_TRIES_MAX + 1):
            try:
                await self._provider.resume(vm.vm_id)
            except ProviderError as error:
                if self._holding(vm.vm_id) is None:
                    return
                log.warning("resume_failed", extra={"vm_id": vm.vm_id, "tries": tries, "error": error.message})
                if tries == THAW_TRIES_MAX or not error.retryable:
                    detail = f"It could not be woken: {error.message}"
                    await self._report(vm, RecordVmLost(vm_id=vm.vm_id, detail=detail), cause)
                    return
            else:
                return

    async def _report(self, vm: Vm, command: Command, cause: Cause) -> None:
        command_id = derive(cause.causation_id, type(command).__name__, vm.vm_id)
        await self._send(replace(command, id=command_id), cause)
