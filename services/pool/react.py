"""Event and state to effects, as data. Pure."""

from collections.abc import Sequence

import msgspec

from services.pool import placing
from services.pool.state import ANSWERING, State, Vm
from shared.codec import Recorded
from shared.commands import MaintainPool
from shared.effects import Send
from shared.events import (
    ClaimQueued,
    Event,
    PoolResized,
    ProjectDeleted,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)
from shared.ids import ProjectId, VmId
from shared.ports import TimerFired
from shared.reach import Reach


class CreateVm(msgspec.Struct, frozen=True):
    """Ask the provider for this VM and report what came of it."""

    vm_id: VmId


class DestroyVm(msgspec.Struct, frozen=True):
    """Have the provider destroy this VM, until it agrees."""

    vm_id: VmId


class CleanVm(msgspec.Struct, frozen=True, kw_only=True):
    """Have the VM's agent empty it of all but dependencies, and report what came of it. `keep_job`: the install that gave
    them; empty: they were there before any job ran."""

    vm_id: VmId
    host: str
    port: int
    lease: int
    keep_job: str
    reach: Reach = Reach()


class SettleVm(msgspec.Struct, frozen=True):
    """Freeze this VM or let it run, whichever the state says by now."""

    vm_id: VmId


class ForgetProject(msgspec.Struct, frozen=True):
    """Remove what is kept of this project alone."""

    project_id: ProjectId


class CheckHealth(msgspec.Struct, frozen=True):
    """Ask these agents whether they live: (vm, host, port, reach)."""

    vms: tuple[tuple[VmId, str, int, Reach], ...]


class Reconcile(msgspec.Struct, frozen=True):
    """Compare the provider's list with the state."""


Effect = Send | CreateVm | DestroyVm | CleanVm | SettleVm | ForgetProject | CheckHealth | Reconcile

REACTS_TO: tuple[type[Event], ...] = (
    VmCreationStarted,
    VmBooted,
    VmBootFailed,
    VmAcquired,
    VmReleased,
    VmRetired,
    VmLost,
    VmDestroyed,
    VmSuspended,
    VmResumed,
    ClaimQueued,
    PoolResized,
    ProjectDeleted,
)


def react(state: State, recorded: Recorded) -> Sequence[Effect]:
    """What has to happen because of this event."""
    match recorded.event:
        case VmCreationStarted(vm_id=vm_id):
            vm = state.vms.get(vm_id)
            return [CreateVm(vm_id)] if vm is not None and vm.status == "booting" else []
        case VmBootFailed(vm_id=vm_id) | VmReleased(vm_id=vm_id) | VmRetired(vm_id=vm_id) | VmLost(vm_id=vm_id):
            return _let_go(state.vms.get(vm_id))
        case VmSuspended(vm_id=vm_id) | VmResumed(vm_id=vm_id):
            return [SettleVm(vm_id)] if vm_id in state.vms else []
        case ProjectDeleted(project_id=project_id):
            return [ForgetProject(project_id)]
        case VmBooted(vm_id=vm_id) if not state.claims and not _is_surplus(state, vm_id):
            return []
        case VmAcquired(vm_id=vm_id) if (vm := state.vms.get(vm_id)) is not None and vm.woken:
            return [SettleVm(vm_id), Send(MaintainPool())]
        case VmBooted() | VmAcquired() | VmDestroyed() | ClaimQueued() | PoolResized():
            return [Send(MaintainPool())]
        case _:
            return []


def _is_surplus(state: State, vm_id: VmId) -> bool:
    vm = state.vms.get(vm_id)
    if vm is None:
        return False
    pool = state.pools[vm.pool]
    return placing.is_drained(state, vm) or sum(1 for _ in placing.warm(state, pool)) > pool.target


def _let_go(vm: Vm | None) -> Sequence[Effect]:
    """By what the VM is now: where it was kept, a release that is heard again must not touch what came after it."""
    match vm:
        case Vm(status="going"):
            return [DestroyVm(vm.vm_id)]
        case Vm(status="cleaning"):
            clean = CleanVm(vm_id=vm.vm_id, host=vm.host, port=vm.port, lease=vm.lease, keep_job=vm.keep_job)
            return [msgspec.structs.replace(clean, reach=vm.reach)]
        case _:
            return []


def on_timer(state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    match fired.name:
        case "maintain":
            return [Send(MaintainPool())]
        case "health":
            awake = (vm for vm in state.vms.values() if vm.status in ANSWERING and not vm.suspended)
            asked = tuple((vm.vm_id, vm.host, vm.port, vm.reach) for vm in awake)
            return [CheckHealth(asked)] if asked else []
        case "reconcile":
            return [Reconcile()]
        case _:
            return []  # a timer of another version of this service
