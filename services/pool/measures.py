"""What is measured of VMs and claims. Pure: an event's figures are taken right after it was folded."""

from collections import Counter
from collections.abc import Sequence

from services.pool import placing
from services.pool.config import PoolConfig
from services.pool.state import State, Vm
from shared.codec import Recorded
from shared.events import VmAcquired, VmBooted, VmBootFailed
from shared.ids import VmId
from shared.measures import Measure

VM_STATES = ("booting", "available", "in_use", "suspended", "kept", "going")
_STATE_OF = {"ready": "available", "acquired": "in_use", "cleaning": "kept"}


def measures(state: State, recorded: Recorded, config: PoolConfig) -> Sequence[Measure]:
    """What this event tells."""
    match recorded.event:
        case VmBooted(vm_id=vm_id, boot_s=boot_s):
            where = {**_pool_of(state, vm_id), "drape.provider": config.provider}
            return [Measure("drape.vm.boot.duration", boot_s, where)]
        case VmBootFailed(vm_id=vm_id, code=code):
            return [Measure("drape.vm.boots.failed", 1, {**_pool_of(state, vm_id), "error.type": code})]
        case VmAcquired(vm_id=vm_id, waited_s=waited_s, from_pool=from_pool):
            how = {**_pool_of(state, vm_id), "drape.warmth": "warm" if from_pool else "cold"}
            return [Measure("drape.pool.claim.duration", waited_s, how)]
        case _:
            return []


def figures(state: State, at: float, config: PoolConfig) -> Sequence[Measure]:
    """What is true now, at `at` (seconds, UTC). A state without VMs is 0, so that no series comes and goes."""
    vms = Counter((vm.pool, _state_of(vm)) for vm in state.vms.values())
    waiting = placing.demand(state, at, config)
    found: list[Measure] = []
    for pool in state.pools.values():
        if not pool.maximum and not pool.vms:
            continue
        name = {"drape.pool": pool.name}
        found.append(Measure("drape.pool.target", pool.target, name))
        found.append(Measure("drape.pool.claims.waiting", waiting[pool.name], name))
        for each in VM_STATES:
            labels = {**name, "drape.vm.state": each, "drape.provider": config.provider}
            found.append(Measure("drape.pool.vms", vms[pool.name, each], labels))
    return found


def _state_of(vm: Vm) -> str:
    if vm.status == "acquired" and vm.suspended:
        return "suspended"
    return _STATE_OF.get(vm.status, vm.status)


def _pool_of(state: State, vm_id: VmId) -> dict[str, str]:
    vm = state.vms.get(vm_id)
    return {"drape.pool": vm.pool} if vm is not None else {"drape.pool": "unknown"}
