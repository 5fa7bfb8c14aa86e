"""What the pool knows, folded from the log. Pure."""

from typing import Literal

import msgspec

from shared.codec import Recorded
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    PoolResized,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmHealthCheckFailed,
    VmHealthCheckRecovered,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)
from shared.ids import OwnerId, PreviewId, VmId
from shared.reach import Reach

Status = Literal["booting", "ready", "acquired", "cleaning", "kept", "going"]
"""`cleaning`, `kept`: released, and being emptied or waiting for the owner's next preview. `going`: released, retired,
failed or lost; it will be destroyed and counts until the provider agrees."""
ANSWERING: tuple[Status, ...] = ("ready", "acquired", "cleaning", "kept")
"""Statuses of a VM whose agent has to answer."""


DEFAULT = "default"
"""The pool that there is where none is configured, and of every VM from before there were several."""
RELEASES_MAX = 1_000
"""Releases remembered, so that one that is heard again does nothing."""


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    """One VM that exists, or is being made or destroyed. `suspended`: it is to stand still, whether it does yet or not.

    `lease`: the log's sequence at which it was last acquired, which tells one holder's requests from the next one's.
    `woken`: it was to stand still when it was acquired, and has to be let go on. `woken_at`: when it last had to.
    `key`, `keep_job`: of the dependencies that it is kept for (see `ReleaseVm`), since `kept_at`.
    """

    vm_id: VmId
    status: Status
    created_at: float
    booted_at: float = 0.0
    host: str = ""
    port: int = 0
    reach: Reach = Reach()
    preview_id: PreviewId | None = None
    owner: OwnerId | None = None
    failures: int = 0
    checked_by: str = ""
    lease: int = 0
    key: str = ""
    keep_job: str = ""
    kept_at: float = 0.0
    suspended: bool = False
    pool: str = DEFAULT
    memory_mb: int = 0
    region: str = ""
    image: str = ""
    woken: bool = False
    woken_at: float = 0.0


class Need(msgspec.Struct, frozen=True):
    """What a VM has to be; 0 and empty: any."""

    memory_mb: int = 0
    region: str = ""
    image: str = ""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A preview that waits for a VM. `deadline`: seconds, UTC. `traceparent`: of the event that queued it."""

    preview_id: PreviewId
    owner: OwnerId
    queued_at: float
    deadline: float
    need: Need = Need()
    traceparent: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """VMs of one size, region and image. `vms`: how many there are of it, whatever their status; `boot_failures`: in a row,
    the last at `boot_failed_at`. `maximum` 0: it is no more, but for what is left of it."""

    name: str
    memory_mb: int = 0
    region: str = ""
    image: str = ""
    target: int = 3
    minimum: int = 1
    maximum: int = 5
    vms: int = 0
    boot_failures: int = 0
    boot_failed_at: float = 0.0


class State(msgspec.Struct, kw_only=True):
    """All VMs and waiting claims, the claims in the order in which they came.

    `ready`, `booting`, `doubled`, `cleaning` and `kept` are indexes into `vms`, in the order in which the VMs got there: a
    claim must not cost more because the pool is large. `doubled`: VMs of a preview that holds another one. `released_by`:
    the command that last released something of a preview, for the newest ones.
    """

    vms: dict[VmId, Vm] = {}
    ready: dict[VmId, None] = {}
    booting: dict[VmId, None] = {}
    doubled: dict[VmId, None] = {}
    cleaning: dict[VmId, None] = {}
    kept: dict[VmId, None] = {}
    claims: dict[PreviewId, Claim] = {}
    holders: dict[PreviewId, VmId] = {}
    released_by: dict[PreviewId, str] = {}
    created: int = 0
    pools: dict[str, Pool] = msgspec.field(default_factory=lambda: {DEFAULT: Pool(name=DEFAULT)})


def initial() -> State:
    """A pool before its first event."""
    return State()


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event. Deterministic; touches nothing but `state`."""
    event = recorded.event
    at = recorded.meta.at
    match event:
        case VmCreationStarted():
            _begin(state, event, at)
        case VmBooted(vm_id=vm_id, host=host, port=port, reach=reach):
            _note_boot(state, vm_id, None)
            _change(state, vm_id, status="ready", booted_at=at, host=host, port=port, reach=reach)
        case VmBootFailed(vm_id=vm_id):
            _note_boot(state, vm_id, at)
            _change(state, vm_id, status="going")
        case VmAcquired():
            _acquire(state, event, recorded.seq, at)
        case VmReleased(vm_id=vm_id, preview_id=preview_id, keep=keep, keep_job=keep_job):
            _note_release(state, preview_id, recorded.meta.causation_id)
            _let_go(state, vm_id)
            if keep:
                _change(state, vm_id, status="cleaning", preview_id=None, key=keep, keep_job=keep_job, kept_at=at)
            else:
                _change(state, vm_id, status="going")
        case VmCleaned(vm_id=vm_id):
            _change(state, vm_id, status="kept", kept_at=at)
        case VmRetired(vm_id=vm_id) | VmLost(vm_id=vm_id):
            _let_go(state, vm_id)
            _change(state, vm_id, status="going")
        case VmHealthCheckFailed(vm_id=vm_id, failures=failures):
            _change(state, vm_id, failures=failures, checked_by=recorded.meta.causation_id)
        case VmHealthCheckRecovered(vm_id=vm_id):
            _change(state, vm_id, failures=0)
        case VmSuspended(vm_id=vm_id):
            _change(state, vm_id, suspended=True)
        case VmResumed(vm_id=vm_id):
            _change(state, vm_id, suspended=False, woken_at=at)
        case VmDestroyed(vm_id=vm_id):
            _let_go(state, vm_id)
            _unindex(state, vm_id)
            vm = state.vms.pop(vm_id, None)
            if vm is not None:
                _change_pool(state, vm.pool, vms=state.pools[vm.pool].vms - 1)
        case ClaimQueued(preview_id=preview_id, owner=owner, deadline=deadline):
            need = Need(event.memory_mb, event.region, event.image)
            state.claims[preview_id] = Claim(
                preview_id=preview_id,
                owner=owner,
                queued_at=at,
                deadline=deadline,
                need=need,
                traceparent=recorded.meta.traceparent,
            )
        case ClaimExpired(preview_id=preview_id) | ClaimWithdrawn(preview_id=preview_id):
            state.claims.pop(preview_id, None)
        case PoolResized(pool=pool, target=target, minimum=minimum, maximum=maximum):
            shape = {"memory_mb": event.memory_mb, "region": event.region, "image": event.image}
            _change_pool(state, pool, target=target, minimum=minimum, maximum=maximum, **shape)
        case _:
            return  # another service's event


def _begin(state: State, event: VmCreationStarted, at: float) -> None:
    state.created = max(state.created, event.number)
    known = event.vm_id in state.vms
    state.vms[event.vm_id] = Vm(
        vm_id=event.vm_id,
        status="booting",
        created_at=at,
        pool=event.pool,
        memory_mb=event.memory_mb,
        region=event.region,
        image=event.image,
    )
    state.booting[event.vm_id] = None
    pool = _change_pool(state, event.pool)
    if not known:
        _change_pool(state, event.pool, vms=pool.vms + 1)


def _note_boot(state: State, vm_id: VmId, failed_at: float | None) -> None:
    """A row of failures goes on, or (None) ends."""
    vm = state.vms.get(vm_id)
    if vm is None:
        return
    failures = state.pools[vm.pool].boot_failures
    if failed_at is not None:
        _change_pool(state, vm.pool, boot_failures=failures + 1, boot_failed_at=failed_at)
    elif failures:
        _change_pool(state, vm.pool, boot_failures=0)


def _change_pool(state: State, name: str, **changes: object) -> Pool:
    pool = state.pools.get(name) or Pool(name=name, target=0, minimum=0, maximum=0)
    state.pools[name] = msgspec.structs.replace(pool, **changes) if changes else pool
    return state.pools[name]


def _acquire(state: State, event: VmAcquired, seq: int, at: float) -> None:
    vm_id, preview_id = event.vm_id, event.preview_id
    state.claims.pop(preview_id, None)
    _let_go(state, vm_id)  # a resident's
    vm = state.vms.get(vm_id)
    held = {
        "woken": vm is not None and vm.suspended,
        "woken_at": at if vm is not None and vm.suspended else 0.0,
        "preview_id": preview_id,
        "owner": event.owner,
        "lease": seq,
        "key": "",
        "keep_job": "",
    }
    _change(state, vm_id, status="acquired", suspended=False, **held)
    # Where two writers gave one preview two VMs, it keeps the first; `maintain` releases the other.
    if state.holders.setdefault(preview_id, vm_id) != vm_id:
        state.doubled[vm_id] = None


def _change(state: State, vm_id: VmId, **changes: object) -> None:
    vm = state.vms.get(vm_id)
    if vm is None:
        return
    changed = state.vms[vm_id] = msgspec.structs.replace(vm, **changes)
    if changed.status != vm.status:
        _unindex(state, vm_id)
        index = {"ready": state.ready, "cleaning": state.cleaning, "kept": state.kept}.get(changed.status)
        if index is not None:
            index[vm_id] = None


def _note_release(state: State, preview_id: PreviewId, command_id: str) -> None:
    state.released_by.pop(preview_id, None)
    state.released_by[preview_id] = command_id
    if len(state.released_by) > RELEASES_MAX:
        del state.released_by[next(iter(state.released_by))]


def _unindex(state: State, vm_id: VmId) -> None:
    state.ready.pop(vm_id, None)
    state.booting.pop(vm_id, None)
    state.doubled.pop(vm_id, None)
    state.cleaning.pop(vm_id, None)
    state.kept.pop(vm_id, None)


def _let_go(state: State, vm_id: VmId) -> None:
    vm = state.vms.get(vm_id)
    if vm is not None and vm.preview_id is not None and state.holders.get(vm.preview_id) == vm_id:
        del state.holders[vm.preview_id]
