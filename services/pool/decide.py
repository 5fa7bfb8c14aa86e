"""Command and state to events. Pure. A decision names what is still missing: asked again after its first event is
stored, it gives the rest, and in the end nothing."""

from collections.abc import Sequence
from itertools import takewhile

from msgspec.structs import replace

from services.pool import placing
from services.pool.config import PoolConfig
from services.pool.keeping import in_turn, kept_for, record_clean_failed, record_cleaned, released, retire_kept
from services.pool.sizing import resize
from services.pool.state import ANSWERING, Need, Pool, State, Vm
from services.pool.warming import freeze_warm
from shared.commands import (
    AcquireVm,
    CheckVm,
    Command,
    MaintainPool,
    RecordReconciliation,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmDestroyed,
    RecordVmFrozen,
    RecordVmLost,
    ReleaseVm,
    ResizePool,
    ResumeVm,
    SuspendVm,
)
from shared.errors import Invalid, Unavailable
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    Event,
    PoolReconciled,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmFrozen,
    VmHealthCheckFailed,
    VmHealthCheckRecovered,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)
from shared.ids import is_token

CLAIM_TIMEOUT_MAX_S = 600.0


def decide(state: State, command: Command, config: PoolConfig) -> Sequence[Event]:
    """The events that the command leads to in this state; raises `Refused` where it is not granted."""
    match command:
        case AcquireVm():
            return acquire(state, command, config)
        case ReleaseVm():
            return release(state, command, config)
        case MaintainPool():
            return maintain(state, command, config)
        case CheckVm():
            return check(state, command, config)
        case ResizePool():
            return resize(state, command)
        case RecordVmBooted():
            return record_booted(state, command)
        case RecordVmBootFailed():
            return record_boot_failed(state, command)
        case RecordVmLost():
            return record_lost(state, command)
        case RecordVmDestroyed():
            return record_destroyed(state, command)
        case RecordReconciliation():
            return record_reconciliation(state, command)
        case RecordVmCleaned():
            return record_cleaned(state, command)
        case RecordVmCleanFailed():
            return record_clean_failed(state, command)
        case SuspendVm() | ResumeVm():
            return suspend_or_resume(state, command)
        case RecordVmFrozen():
            return record_frozen(state, command)
        case _:
            raise AssertionError(f"not a command of the pool: {type(command).__name__}")


def acquire(state: State, command: AcquireVm, config: PoolConfig) -> Sequence[Event]:
    """A warm VM at once, or a place in the queue. Nobody overtakes a claim that waits: a VM that was kept for the owner
    could serve no other."""
    if not is_token(command.preview_id):
        raise Invalid("bad_id", "preview_id must be 1 to 64 characters of a-z, 0-9 and '-'.")
    if not 0 < command.timeout_s <= CLAIM_TIMEOUT_MAX_S:
        raise Invalid(
            "bad_timeout",
            f"timeout_s must be above 0 and at most {CLAIM_TIMEOUT_MAX_S:g}.",
        )
    if command.preview_id in state.holders or command.preview_id in state.claims:
        return []
    need = Need(command.memory_mb, command.region, command.image)
    placing.check(state, need)
    resident = state.vms.get(state.holders.get(command.resident, ""))
    if resident is not None and resident.owner == command.owner and placing.serves(state, resident, need):
        return [
            replace(
                _acquired(resident, command.preview_id, command.owner, from_pool=True, waited_s=0.0),
                resident=command.resident,
            )
        ]
    kept = kept_for(state, command)
    if kept is not None:
        return [_acquired(kept, command.preview_id, command.owner, from_pool=True, waited_s=0.0)]
    vm = placing.at_once(state, need, command.busy, command.at, config) if state.ready else None
    if vm is not None:
        return [_acquired(vm, command.preview_id, command.owner, from_pool=True, waited_s=0.0)]
    if len(state.claims) >= config.claims_max:
        raise Unavailable("claims_full", f"{config.claims_max} claims wait for a VM already.", retry_after_s=5.0)
    home = placing.homes(state, [*(claim.need for claim in state.claims.values()), need], command.at, config)[-1]
    return [
        ClaimQueued(
            preview_id=command.preview_id,
            owner=command.owner,
            deadline=command.at + command.timeout_s,
            memory_mb=need.memory_mb,
            region=need.region,
            image=need.image,
            pool=home.name if home is not None else "",
        )
    ]


def release(state: State, command: ReleaseVm, config: PoolConfig) -> Sequence[Event]:
    """Whatever the preview holds: a VM, a claim, or nothing any more."""
    if state.released_by.get(command.preview_id) == command.id:
        return []  # heard again: what the preview has now came after it
    vm_id = state.holders.get(command.preview_id)
    if vm_id is not None:
        return [released(state, state.vms[vm_id], command, config)]
    if command.preview_id in state.claims:
        return [ClaimWithdrawn(preview_id=command.preview_id, reason=command.reason)]
    return []


def maintain(state: State, command: MaintainPool, config: PoolConfig) -> Sequence[Event]:
    """Everything that the pool owes at this moment."""
    claims = placing.demand(state, command.at, config)
    pools = sorted(placing.active(state), key=lambda pool: not claims[pool.name])  # those that somebody waits for first
    wanted = {pool.name: _wanted(state, pool, claims[pool.name], command.at, config) for pool in pools}
    return [
        *_expire_claims(state, command.at),
        *_fail_lost_boots(state, command.at, config),
        *_release_doubles(state),
        *_hand_out(state, command.at, config),
        *_create(state, pools, wanted, config),
        *_drain(state),
        *(event for pool in pools for event in _retire(state, pool, command.at, config)),
        *retire_kept(state, wanted, command.at, config),
        *freeze_warm(state, config),
    ]


def _expire_claims(state: State, at: float) -> list[Event]:
    return [
        ClaimExpired(preview_id=claim.preview_id, waited_s=round(at - claim.queued_at, 3))
        for claim in state.claims.values()
        if claim.deadline <= at
    ]


def _fail_lost_boots(state: State, at: float, config: PoolConfig) -> list[Event]:
    return [
        VmBootFailed(
            vm_id=vm.vm_id,
            code="boot_lost",
            message=f"No word of it for {config.boot_lost_s:g} s.",
        )
        for vm in map(state.vms.__getitem__, state.booting)
        if at - vm.created_at > config.boot_lost_s
    ]


def _release_doubles(state: State) -> list[Event]:
    """Two replicas may each have given the same preview a VM: the later one goes back."""
    return [
        VmReleased(vm_id=vm.vm_id, preview_id=vm.preview_id, reason="double")
        for vm in map(state.vms.__getitem__, state.doubled)
        if vm.preview_id is not None
    ]


def _hand_out(state: State, at: float, config: PoolConfig) -> list[Event]:
    living = in_turn(state, [claim for claim in state.claims.values() if claim.deadline > at]) if state.ready else []
    return [
        _acquired(
            vm,
            claim.preview_id,
            claim.owner,
            from_pool=False,
            waited_s=round(at - claim.queued_at, 3),
        )
        for claim, vm in placing.hand_out(state, living, at, config)
    ]


def _create(state: State, pools: Sequence[Pool], wanted: dict[str, int], config: PoolConfig) -> list[Event]:
    """The next VM, by number: two replicas that create at once mean the same one, and one of them loses. One at a time, for
    of several the later may be stored first: who sees that counts on, and the earlier one comes beyond the maximum."""
    pool = next((each for each in pools if min(wanted[each.name], each.maximum - each.vms) > 0), None)
    if pool is None:
        return []
    number = state.created + 1
    return [
        VmCreationStarted(
            vm_id=vm_name(number),
            provider=config.provider,
            number=number,
            pool=pool.name,
            memory_mb=pool.memory_mb,
            region=pool.region,
            image=pool.image,
        )
    ]


def _wanted(state: State, pool: Pool, claims: int, at: float, config: PoolConfig) -> int:
    """How many VMs should be made now, whether or not there is room; below 0 where there are too many."""
    booting = sum(state.vms[vm_id].pool == pool.name for vm_id in state.booting)
    ready = list(placing.warm(state, pool))
    wanted = pool.target + claims - len(ready) - booting + _held_back(pool, ready, at, config)
    at_once = placing.boots_at_once(pool, at, config)
    return min(wanted, at_once - booting if at_once else 0) if pool.boot_failures else wanted


def _drain(state: State) -> list[Event]:
    """Warm VMs of a pool that is no more, or that makes others by now."""
    ready = map(state.vms.__getitem__, state.ready)
    return [VmRetired(vm_id=vm.vm_id, reason="drained") for vm in ready if placing.is_drained(state, vm)]


def _retire(state: State, pool: Pool, at: float, config: PoolConfig) -> list[Event]:
    """Surplus first, the oldest ones; then the aged, while enough stay warm to replace them."""
    if placing.is_waited_for(state, pool.name):
        return []
    ready = list(placing.warm(state, pool))
    surplus = ready[: max(0, len(ready) - pool.target)]
    room = max(0, len(ready) - len(surplus) - pool.minimum)
    aged = _aged(ready, at, config)[len(surplus) : len(surplus) + room]
    return [
        *(VmRetired(vm_id=vm.vm_id, reason="surplus") for vm in surplus),
        *(VmRetired(vm_id=vm.vm_id, reason="aged") for vm in aged),
    ]


def _aged(oldest_first: Sequence[Vm], at: float, config: PoolConfig) -> list[Vm]:
    """The warm VMs that are too old, oldest first."""
    return list(takewhile(lambda vm: at - vm.booted_at > config.warm_age_max_s, oldest_first))


def _held_back(pool: Pool, ready: Sequence[Vm], at: float, config: PoolConfig) -> int:
    """Aged VMs that can't go before their replacement is warm, since the minimum would not hold."""
    return min(len(_aged(ready, at, config)), max(0, pool.minimum - (len(ready) - 1)))


def check(state: State, command: CheckVm, config: PoolConfig) -> Sequence[Event]:
    """One failed check is a warning, so many in a row are the end. A held VM is lost to its preview.
    One that is suspended cannot answer, and need not. One that has booted anew is well, and of no more use to who held it."""
    vm = state.vms.get(command.vm_id)
    if vm is None or vm.status not in ANSWERING or vm.suspended:
        return []
    if command.anew:
        return [_given_up(vm, command.detail)]
    if command.healthy:
        return [VmHealthCheckRecovered(vm_id=vm.vm_id)] if vm.failures else []
    if vm.reach.tunnel and command.at - vm.woken_at < config.thaw_limit_s:
        return []  # nothing answers on its network before it is awake; what can't be woken is reported by who wakes it
    if vm.checked_by != command.id:
        return [VmHealthCheckFailed(vm_id=vm.vm_id, failures=vm.failures + 1, detail=command.detail[:500])]
    # Only the report that was counted last may end the VM: an older one that is delivered again may not.
    return [_given_up(vm, command.detail)] if vm.failures >= config.health_failures_max else []


def record_booted(state: State, command: RecordVmBooted) -> Sequence[Event]:
    vm = state.vms.get(command.vm_id)
    if vm is None or vm.status != "booting":
        return []
    return [VmBooted(vm_id=vm.vm_id, host=command.host, port=command.port, boot_s=command.boot_s, reach=command.reach)]


def record_boot_failed(state: State, command: RecordVmBootFailed) -> Sequence[Event]:
    vm = state.vms.get(command.vm_id)
    if vm is None or vm.status != "booting":
        return []
    return [VmBootFailed(vm_id=vm.vm_id, code=command.code, message=command.message[:500])]


def record_lost(state: State, command: RecordVmLost) -> Sequence[Event]:
    vm = state.vms.get(command.vm_id)
    if vm is None or vm.status not in ANSWERING:
        return []
    return [VmLost(vm_id=vm.vm_id, preview_id=vm.preview_id, detail=command.detail[:500])]


def record_destroyed(state: State, command: RecordVmDestroyed) -> Sequence[Event]:
    return [VmDestroyed(vm_id=command.vm_id)] if command.vm_id in state.vms else []


def record_reconciliation(state: State, command: RecordReconciliation) -> Sequence[Event]:
    """Said when there is news: an orphan is reaped once, and one that stays counts as stuck from then on."""
    if command.orphans < 0 or command.stuck < 0 or len(command.vms) > command.orphans + command.stuck:
        raise Invalid("bad_count", "Nobody finds fewer VMs than none, or names more than were found.")
    if not command.orphans and command.stuck == state.stuck:
        return []
    return [PoolReconciled(orphans=command.orphans, stuck=command.stuck, vms=command.vms)]


def suspend_or_resume(state: State, command: SuspendVm | ResumeVm) -> Sequence[Event]:
    """The event is the decision: the VM is frozen, or let go, because of it."""
    vm = state.vms.get(state.holders.get(command.preview_id, ""))
    wanted = isinstance(command, SuspendVm)
    if vm is None or vm.suspended == wanted:
        return []
    kind = VmSuspended if wanted else VmResumed
    return [kind(vm_id=vm.vm_id, preview_id=command.preview_id)]


def record_frozen(state: State, command: RecordVmFrozen) -> Sequence[Event]:
    vm = state.vms.get(command.vm_id)
    if vm is None or not vm.suspended or vm.preview_id is None:
        return []
    return [VmFrozen(vm_id=vm.vm_id, preview_id=vm.preview_id, memory_mb=command.memory_mb)]


def vm_name(number: int) -> str:
    """`vm-000042`: the numbers count up, so that the name of the next VM is known to every replica."""
    return f"vm-{number:06d}"


def _acquired(vm: Vm, preview_id: str, owner: str, *, from_pool: bool, waited_s: float) -> VmAcquired:
    return VmAcquired(
        vm_id=vm.vm_id,
        preview_id=preview_id,
        owner=owner,
        from_pool=from_pool,
        waited_s=waited_s,
        host=vm.host,
        port=vm.port,
        key=vm.key,
        reach=vm.reach,
        memory_mb=vm.memory_mb,
    )


def _given_up(vm: Vm, detail: str) -> Event:
    if vm.preview_id is not None:
        return VmLost(vm_id=vm.vm_id, preview_id=vm.preview_id, detail=detail[:500])
    return VmRetired(vm_id=vm.vm_id, reason="unhealthy")
