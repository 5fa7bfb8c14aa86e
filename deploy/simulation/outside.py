"""What the services can't trust: a provider that is slow, refuses and lies, agents that go silent, a gateway to look through."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from deploy.simulation.machines import Machines, Workspace
from deploy.simulation.replica import Replica, current
from services.orchestrator.adapters.simulated import JobScript
from services.orchestrator.model import Vm
from services.orchestrator.ports import SocketAnswer
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec
from services.pool.react import CleanVm
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import FileSync, JobSpec, JobStatus, SyncResult
from shared.errors import DrapeError, Unavailable
from shared.ids import PreviewId
from shared.reach import Reach

CREATE_ON_ITS_WAY_S = 0.5
"""A request for a VM is under way so long at most; it arrives also where who asked is dead by then."""
PROBE_TRY_S = 2.0


class Trouble(msgspec.Struct, kw_only=True):
    """How bad the outside is. Chances are 0..1, times in seconds. It can be made fair while a simulation runs."""

    boot_fails: float = 0.0
    boot_slow: float = 0.0
    destroy_fails: float = 0.0
    destroy_lies: float = 0.0
    """That a destroy is answered as done, and nothing is."""
    list_fails: float = 0.0
    list_s: float = 0.0
    """The longest that a listing takes; it is as old as that when it comes."""
    freeze_fails: float = 0.0
    agent_silent: float = 0.0
    clean_fails: float = 0.0
    job_fails: float = 0.0
    job_hangs: float = 0.0
    job_dies: float = 0.0
    """That a dev server which answered ends some time later."""

    def fair(self) -> None:
        """Nothing goes wrong from here on."""
        for name in self.__struct_fields__:
            setattr(self, name, 0.0)


class TroubledProvider(Machines):
    """VMs that go on booting when whoever asked for them has died, as real ones do."""

    def __init__(
        self, workspace: Workspace, trouble: Trouble, random: Random, clock: Callable[[], float], slow_boot_s: float
    ) -> None:
        super().__init__(workspace, 0.3, clock)
        self._trouble = trouble
        self._random = random
        self._slow_boot_s = slow_boot_s
        self._boots: dict[str, asyncio.Future[VmAddress]] = {}

    async def create(self, spec: VmSpec) -> VmAddress:
        """Asked again for a VM that is there or on its way, it gives that one."""
        loop = asyncio.get_running_loop()
        boot = self._boots.get(spec.vm_id)
        if boot is None:
            boot = self._boots[spec.vm_id] = loop.create_future()
            boot_s = self.boot_s * (0.5 + self._random.random())
            if self._random.random() < self._trouble.boot_slow:
                boot_s = self._slow_boot_s * self._random.random()
            on_its_way_s = CREATE_ON_ITS_WAY_S * self._random.random() ** 3
            loop.call_later(on_its_way_s + boot_s, self._booted, spec, boot)
        try:
            await asyncio.wait({boot})
        except asyncio.CancelledError:
            replica = current()
            if replica is not None and replica.alive:  # it gives up; one that was killed can't
                self._boots.pop(spec.vm_id, None)
                self.vms.pop(spec.vm_id, None)
            raise
        return boot.result()

    def _booted(self, spec: VmSpec, boot: "asyncio.Future[VmAddress]") -> None:
        if self._boots.get(spec.vm_id) is not boot:
            return  # given up
        if self._random.random() < self._trouble.boot_fails:
            del self._boots[spec.vm_id]
            boot.set_exception(ProviderError("boot_failed", "A simulated boot failed.", retryable=True))
            boot.exception()  # whoever asked may be dead
            return
        address = VmAddress("127.0.0.1", 1)
        self.vms[spec.vm_id] = VmListing(
            vm_id=spec.vm_id, state="running", created_at=self._clock(), address=address, labels=spec.labels
        )
        boot.set_result(address)

    async def suspend(self, vm_id: str) -> int:
        self._maybe(self._trouble.freeze_fails, "suspend_failed")
        return await super().suspend(vm_id)

    async def resume(self, vm_id: str) -> None:
        self._maybe(self._trouble.freeze_fails, "resume_failed")
        await super().resume(vm_id)

    async def destroy(self, vm_id: str) -> None:
        self._maybe(self._trouble.destroy_fails, "destroy_failed")
        if self._random.random() < self._trouble.destroy_lies:
            await asyncio.sleep(0.1)
            return
        self._boots.pop(vm_id, None)
        await super().destroy(vm_id)

    async def list(self) -> Sequence[VmListing]:
        self._maybe(self._trouble.list_fails, "provider_unavailable")
        listed = list(self.vms.values())
        if self._trouble.list_s:
            await asyncio.sleep(self._trouble.list_s * self._random.random())
        return listed

    def _maybe(self, chance: float, code: str) -> None:
        if self._random.random() < chance:
            raise ProviderError(code, f"A simulated failure: {code}.", retryable=True)


class TroubledAgents(Workspace):
    """Agents that don't answer now and then, and whose jobs fail, hang and die. They refuse a lease that is over.
    `answered`: the jobs that have answered, and when."""

    def __init__(self, trouble: Trouble, random: Random, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._trouble = trouble
        self._random = random
        self._leases: dict[str, int] = {}

    def _script(self, job_id: str) -> JobScript:
        chance, at_s = self._random.random(), self._random.random()
        trouble = self._trouble
        if job_id.startswith("install"):
            if chance < trouble.job_fails:
                return JobScript(lasts_s=2 * at_s, exit_code=1, lines=((at_s, "npm error code E404"),))
            hangs = chance < trouble.job_fails + trouble.job_hangs
            return JobScript(lasts_s=None if hangs else 0.2 + 3 * at_s, lines=((0.1, "resolving"),))
        if chance < trouble.job_fails / 2:
            return JobScript(lasts_s=at_s, exit_code=134, lines=((0.1, "JavaScript heap out of memory"),))
        if chance < trouble.job_fails:
            return JobScript(lasts_s=at_s, exit_code=1, lines=((0.1, "Error: it broke"),))
        if chance < trouble.job_fails + trouble.job_hangs:
            return JobScript(listens_s=0.3, lines=((0.1, "starting"),))
        dies_s = 30 * self._random.random() if self._random.random() < trouble.job_dies else None
        return JobScript(listens_s=0.2 + at_s, answers_s=0.4 + 2 * at_s, lasts_s=dies_s, lines=((0.1, "starting"),))

    def answers(self, vm_id: str, job_id: str) -> bool:
        """Whether this dev server would answer a request now."""
        machine = self._machines.get(vm_id)
        job = machine.jobs.get(job_id) if machine is not None else None
        if machine is None or job is None or job.over.done() or machine.gone.done() or not machine.awake.is_set():
            return False
        return job.script.answers_s is not None and self._clock() - job.started_at >= job.script.answers_s - 1e-6

    def cleaned(self, vm: CleanVm) -> str:
        """The VM is emptied for its next holder, once a lease."""
        if vm.lease >= self._leases.get(vm.vm_id, 0):
            self._leases[vm.vm_id] = vm.lease + 1
            self.clean(vm.vm_id)
        return ""

    async def sync(self, vm: Vm, files: FileSync, contents: Any) -> SyncResult:
        self._check(vm)
        return await super().sync(vm, files, contents)

    async def start_job(self, vm: Vm, job_id: str, spec: JobSpec) -> JobStatus:
        self._check(vm)
        return await super().start_job(vm, job_id, spec)

    async def wait_job(self, vm: Vm, job_id: str, wait_s: float) -> JobStatus:
        self._check(vm)
        return await super().wait_job(vm, job_id, wait_s)

    async def stop_job(self, vm: Vm, job_id: str) -> None:
        self._check(vm)
        await super().stop_job(vm, job_id)

    def _check(self, vm: Vm) -> None:
        if vm.lease and vm.lease < self._leases.get(vm.vm_id, 0):
            raise AgentError("lease_over", "This VM is no longer held by who asks.", 409)
        if self._random.random() < self._trouble.agent_silent:
            raise AgentUnreachable("The simulated agent does not answer.")


class TroubledHealth:
    """A `HealthProbe`: a VM that the provider has is well, mostly."""

    clock_skews: Mapping[str, float] = {}

    def __init__(self, provider: Machines, trouble: Trouble, random: Random) -> None:
        self._provider = provider
        self._trouble = trouble
        self._random = random

    async def meet(self, vm_id: str, address: VmAddress) -> None:
        """All are of one version."""

    async def __call__(self, vm_id: str, host: str, port: int, reach: Reach) -> str:
        await asyncio.sleep(0.01)
        if vm_id not in self._provider.vms:
            return "nobody answers"
        return "no answer in time" if self._random.random() < self._trouble.agent_silent else ""


class TroubledCleaner:
    """A `VmCleaner` over the agents."""

    def __init__(self, agents: TroubledAgents, trouble: Trouble, random: Random) -> None:
        self._agents = agents
        self._trouble = trouble
        self._random = random

    async def __call__(self, vm: CleanVm) -> str:
        await asyncio.sleep(0.3 * self._random.random())
        if self._random.random() < self._trouble.clean_fails:
            return "folder_busy"
        return self._agents.cleaned(vm)


class GatewayLook:
    """A `GatewayProbe`: through any gateway that runs, to the dev server that it has for the preview. `seen`: previews and
    attempts that were answered, which is what ready has to rest on."""

    def __init__(self, gateways: Callable[[], list[Replica]], agents: TroubledAgents, random: Random) -> None:
        self.seen: set[tuple[PreviewId, int]] = set()
        self._gateways = gateways
        self._agents = agents
        self._random = random

    async def page(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int:
        await asyncio.sleep(0.01)
        up = self._gateways()
        if not up:
            raise Unavailable("gateway_silent", "no simulated gateway runs")
        runtime = self._random.choice(up).runtime
        try:
            await runtime.until(min_seq, timeout_s=min(timeout_s, PROBE_TRY_S))
        except DrapeError as error:
            raise Unavailable("gateway_behind", error.message) from error
        preview = runtime.state.previews.get(preview_id)
        if preview is None or not self._agents.answers(preview.vm_id, f"dev-{preview.attempt}"):
            return 502
        self.seen.add((preview_id, preview.attempt))
        return 200

    async def socket(
        self, preview_id: PreviewId, url: str, min_seq: int, paths: Sequence[str], protocol: str, timeout_s: float
    ) -> SocketAnswer:
        await asyncio.sleep(0.01)
        return SocketAnswer(state="open", path=paths[0] if paths else "")
