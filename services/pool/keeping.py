"""Which released VMs wait for their owner's next preview, which preview gets one, and when they go; and whose turn
it is where several wait. Pure."""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from services.pool import placing
from services.pool.config import PoolConfig
from services.pool.state import Claim, Need, Pool, State, Vm
from shared.commands import AcquireVm, RecordVmCleaned, RecordVmCleanFailed, ReleaseVm
from shared.events import Event, VmCleaned, VmReleased, VmRetired


def kept_for(state: State, command: AcquireVm) -> Vm | None:
    """The VM that waits for this owner and these dependencies, the one used last; never another owner's, and none that
    another claim is taking at this moment."""
    if not command.key:
        return None
    need = Need(command.memory_mb, command.region, command.image)
    for vm in map(state.vms.__getitem__, reversed(state.kept)):
        mine = (vm.owner, vm.key) == (command.owner, command.key) and f"pool.vm.{vm.vm_id}" not in command.busy
        if mine and placing.serves(state, vm, need):
            return vm
    return None


def released(state: State, vm: Vm, command: ReleaseVm, config: PoolConfig) -> VmReleased:
    """To be emptied for its owner where it is worth that and nobody waits for its place, else to be destroyed. One that is
    to stand still can't be emptied."""
    stays = not vm.suspended and not placing.is_waited_for(state, vm.pool) and not placing.is_drained(state, vm)
    keeps = command.keep != "" and config.kept_max > 0 and stays
    return VmReleased(
        vm_id=vm.vm_id,
        preview_id=command.preview_id,
        reason=command.reason,
        keep=command.keep if keeps else "",
        keep_job=command.keep_job if keeps else "",
    )


def record_cleaned(state: State, command: RecordVmCleaned) -> Sequence[Event]:
    vm = _cleaning(state, command)
    return [VmCleaned(vm_id=vm.vm_id, owner=vm.owner, key=vm.key)] if vm is not None and vm.owner is not None else []


def record_clean_failed(state: State, command: RecordVmCleanFailed) -> Sequence[Event]:
    vm = _cleaning(state, command)
    return [VmRetired(vm_id=vm.vm_id, reason="unclean", detail=command.code[:200])] if vm is not None else []


def _cleaning(state: State, command: RecordVmCleaned | RecordVmCleanFailed) -> Vm | None:
    """The VM, unless the report is of an earlier hold or comes too late."""
    vm = state.vms.get(command.vm_id)
    return vm if vm is not None and vm.status == "cleaning" and vm.lease == command.lease else None


def retire_kept(state: State, wanted: dict[str, int], at: float, config: PoolConfig) -> list[Event]:
    """Kept VMs never stand in the way: as many of a pool go as the `wanted` new ones of it lack room, then those beyond the
    limit and the aged; the coldest first, and those that are still being emptied last."""
    idle = [state.vms[vm_id] for vm_id in (*state.kept, *state.cleaning)]
    lost = [vm for vm in idle if vm.status == "cleaning" and at - vm.kept_at > config.clean_lost_s]
    drained = [vm for vm in idle if vm.status == "kept" and placing.is_drained(state, vm)]
    needed: list[Vm] = []
    for name in {vm.pool: None for vm in idle}:
        ends = sum(vm.pool == name for vm in (*lost, *drained))
        stay = [vm for vm in idle if vm.pool == name and vm not in lost and vm not in drained]
        needed += stay[: max(0, _lacking(state, state.pools[name], wanted.get(name, 0)) - ends)]
    rest = [vm for vm in idle if vm not in lost and vm not in drained and vm not in needed]
    surplus = rest[: max(0, len(state.kept) - config.kept_max - len(needed) - len(drained))]
    aged = [vm for vm in rest[len(surplus) :] if vm.status == "kept" and at - vm.kept_at > config.kept_age_max_s]
    return [
        *(VmRetired(vm_id=vm.vm_id, reason="unclean", detail="clean_lost") for vm in lost),
        *(VmRetired(vm_id=vm.vm_id, reason="drained") for vm in drained),
        *(VmRetired(vm_id=vm.vm_id, reason="needed") for vm in needed),
        *(VmRetired(vm_id=vm.vm_id, reason="surplus") for vm in surplus),
        *(VmRetired(vm_id=vm.vm_id, reason="aged") for vm in aged),
    ]


def _lacking(state: State, pool: Pool, wanted: int) -> int:
    """How many of the wanted VMs have no room, also once those that go have gone."""
    going = sum(vm.status == "going" and vm.pool == pool.name for vm in state.vms.values())
    return wanted - (pool.maximum - pool.vms) - going


def in_turn(state: State, claims: Sequence[Claim]) -> list[Claim]:
    """The owner with the fewest VMs is next, among equals the claim that came first; an owner's own are served in their order. So
    one that asks for a hundred VMs at once is not a hundred places ahead of the next."""
    holds = Counter(state.vms[vm_id].owner for vm_id in state.holders.values() if vm_id in state.vms)
    turns: list[tuple[int, Claim]] = []
    for claim in claims:
        turns.append((holds[claim.owner], claim))
        holds[claim.owner] += 1
    return [claim for _, claim in sorted(turns, key=itemgetter(0))]
