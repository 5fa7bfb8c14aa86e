"""Performs the pool's effects through its ports. What goes wrong at the provider comes back as a command."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from msgspec.structs import replace

from services.pool.config import PoolConfig
from services.pool.ports import Provider, ProviderError, VmAddress, VmSpec
from services.pool.react import CheckHealth, CleanVm, CreateVm, DestroyVm, ForgetProject, Reconcile, SettleVm
from services.pool.reaping import Reaper
from services.pool.sizing import pools_of
from services.pool.state import State, Vm
from services.pool.suspending import Suspender
from shared.commands import (
    CheckVm,
    Command,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmDestroyed,
)
from shared.definition import Effect
from shared.errors import Unavailable
from shared.ids import ProjectId, VmId, derive
from shared.ports import Cause
from shared.reach import Reach
from shared.secrets import agent_token

log = logging.getLogger("drape.pool")

VM_BUSY = "vm_busy"
"""Another replica is at work on the VM: no failure of the VM, the effect comes again."""

Send = Callable[[Command, Cause], Awaitable[bytes]]


class HealthProbe(Protocol):
    """Asks a VM's agent whether it lives. Gives what is wrong; empty when nothing is."""

    @property
    def clock_skews(self) -> Mapping[VmId, float]:
        """By VM, how many seconds its clock is ahead of ours, where that is too many. It changes as VMs are asked."""

    async def __call__(self, vm_id: VmId, host: str, port: int, reach: Reach) -> str: ...

    async def meet(self, vm_id: VmId, address: VmAddress) -> None:
        """A VM that has just booted: raises `ProviderError` where its agent and we don't understand each other."""


class VmCleaner(Protocol):
    """Empties a VM of all but dependencies. Gives the code of what is wrong; empty when the VM is clean. What was done
    already is not done again, so that a late call does no harm to the next holder."""

    async def __call__(self, vm: CleanVm) -> str: ...


class PoolEffects:
    """One provider, one health probe, one cleaner; commands go through `send`."""

    def __init__(
        self,
        provider: Provider,
        probe: HealthProbe,
        cleaner: VmCleaner,
        send: Send,
        state: Callable[[], State],
        *,
        forget: Callable[[ProjectId], Awaitable[None]],
        config: PoolConfig,
        secret: str,
        clock: Callable[[], float] = time.time,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        """`catch_up`: returns once the state holds all that the log holds."""
        self._provider = provider
        self._probe = probe
        self._cleaner = cleaner
        self._forget = forget
        self._send_command = send
        self._state = state
        self._config = config
        self._secret = secret
        self._clock = clock
        self._suspender = Suspender(provider, send, state, catch_up)
        self._reaper = Reaper(
            provider,
            self._suspender,
            send,
            state,
            catch_up,
            grace_s=config.orphan_grace_s,
            clock=clock,
            clock_skews=probe.clock_skews,
        )
        self.inventory = self._reaper.inventory

    async def perform(self, effect: Effect, cause: Cause) -> None:
        """Do what the effect says; idempotent, since an effect may come again after a crash."""
        match effect:
            case CreateVm(vm_id):
                await self._create(vm_id, cause)
            case DestroyVm(vm_id):
                await self._destroy(vm_id, cause)
            case CleanVm():
                await self._clean(effect, cause)
            case SettleVm(vm_id):
                await self._suspender.settle(vm_id, cause)
            case ForgetProject(project_id):
                await self._forget(project_id)
            case CheckHealth(vms):
                await self._check_health(vms, cause)
            case Reconcile():
                await self._reaper.run(cause)
            case _:
                raise AssertionError(f"not an effect of the pool: {type(effect).__name__}")

    async def _create(self, vm_id: VmId, cause: Cause) -> None:
        vm = self._state().vms.get(vm_id)
        if vm is None or vm.status != "booting":
            return  # another replica has made it, and told so: making it anew would end what runs in it
        spec = self._spec(vm)
        begun = self._clock()
        try:
            async with asyncio.timeout(self._config.boot_timeout_s):
                address = await self._provider.create(spec)
                await self._probe.meet(vm_id, address)
        except ProviderError as error:
            if error.code == VM_BUSY:
                raise Unavailable(error.code, error.message) from error
            await self._send(
                RecordVmBootFailed(vm_id=vm_id, code=error.code, message=error.message),
                cause,
            )
            return
        except TimeoutError:
            message = f"It had not booted after {self._config.boot_timeout_s:g} s."
            await self._send(
                RecordVmBootFailed(vm_id=vm_id, code="boot_timeout", message=message),
                cause,
            )
            return
        boot_s = round(self._clock() - begun, 3)
        await self._send(
            RecordVmBooted(vm_id=vm_id, host=address.host, port=address.port, boot_s=boot_s, reach=address.reach),
            cause,
        )

    def _spec(self, vm: Vm) -> VmSpec:
        """What the log says that it is; the rest as its pool is configured, here."""
        shape = pools_of(self._config).get(vm.pool)
        return VmSpec(
            vm_id=vm.vm_id,
            token=agent_token(self._secret, vm.vm_id),
            cpu_cores=shape.cpu_cores if shape is not None else self._config.vm_cpu_cores,
            memory_mb=vm.memory_mb or self._config.vm_memory_mb,
            pids_max=shape.pids_max if shape is not None else self._config.vm_pids_max,
            orphan_timeout_s=self._config.orphan_timeout_s,
            disk_mb=shape.disk_mb if shape is not None else 0,
            image=vm.image,
            region=vm.region,
        )

    async def _destroy(self, vm_id: VmId, cause: Cause, *names: str) -> None:
        for attempt in range(1, self._config.destroy_attempts_max + 1):
            try:
                await self._provider.destroy(vm_id)
                break
            except ProviderError as error:
                log.warning(
                    "destroy_failed",
                    extra={"vm_id": vm_id, "attempt": attempt, "error": error.message},
                )
                if attempt == self._config.destroy_attempts_max:
                    # The event comes again later, and again, until the provider agrees.
                    raise Unavailable(
                        "destroy_failed",
                        f"{vm_id} could not be destroyed: {error.message}",
                    ) from error
        await self._send(RecordVmDestroyed(vm_id=vm_id), cause, *names)

    async def _clean(self, effect: CleanVm, cause: Cause) -> None:
        try:
            async with asyncio.timeout(self._config.clean_timeout_s):
                wrong = await self._cleaner(effect)
        except TimeoutError:
            wrong = "clean_timeout"
        if not wrong:
            await self._send(RecordVmCleaned(vm_id=effect.vm_id, lease=effect.lease), cause)
            return
        log.info("vm_not_kept", extra={"vm_id": effect.vm_id, "code": wrong})
        await self._send(RecordVmCleanFailed(vm_id=effect.vm_id, lease=effect.lease, code=wrong), cause)

    async def _check_health(self, vms: tuple[tuple[VmId, str, int, Reach], ...], cause: Cause) -> None:
        gate = asyncio.Semaphore(self._config.health_concurrency_max)

        async def check(vm_id: VmId, host: str, port: int, reach: Reach) -> None:
            async with gate:
                wrong = await self._probe(vm_id, host, port, reach)
            vm = self._state().vms.get(vm_id)
            if wrong or (vm is not None and vm.failures):
                await self._send(CheckVm(vm_id=vm_id, healthy=not wrong, detail=wrong), cause, vm_id)

        # Each on its own: a report that can't be stored keeps no other VM from being checked, and is raised as what it is.
        outcomes = await asyncio.gather(*(check(*vm) for vm in vms), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _send(self, command: Command, cause: Cause, *names: str) -> None:
        command_id = derive(cause.causation_id, type(command).__name__, *names)
        await self._send_command(replace(command, id=command_id), cause)
