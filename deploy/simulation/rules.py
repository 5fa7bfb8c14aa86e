"""The rules of the design that always hold, read off the log, the states and the provider, once the dust has settled."""

import logging
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from deploy.simulation.machines import Machines, Workspace
from deploy.simulation.replica import Replica
from deploy.simulation.sizes import none_too_small
from services.pool.state import ANSWERING
from shared.codec import Recorded
from shared.definition import digest, replay
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    PoolResized,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    VmAcquired,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
)
from shared.memory import MemoryBroker

TRACE_CHARS = 1_500
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__)
"""What every record has: where it was logged, and when."""


class World(Protocol):
    """Where the services play."""

    @property
    def broker(self) -> MemoryBroker: ...
    @property
    def replicas(self) -> Mapping[str, Replica]: ...
    @property
    def provider(self) -> Machines: ...
    @property
    def workspace(self) -> Workspace: ...
    @property
    def complaints(self) -> "Complaints": ...


class Complaints(logging.Handler):
    """Keeps what our own code logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def broken_rules(world: World, *, parked: int = 0) -> list[str]:
    """The rules that do not hold, each with what was found. `parked`: reactions that may be. The log is replayed, which
    takes longest, only where all else holds."""
    records = world.broker.records
    broken = [
        *lasting_rules(records),
        *_one_vm_each(records),
        *_all_previews_end(records),
        *_no_claim_is_left(records),
        *_provider_agrees(world),
        *_ready_ones_hold_their_vm(world),
        *_sleep_together(world),
        *_nothing_broke(world, parked),
    ]
    return broken or _replay_gives_the_same(world)


def lasting_rules(records: Sequence[Recorded]) -> list[str]:
    """Those that once broken no time mends."""
    return [
        *_held_once(records),
        *_never_above_max(records),
        *none_too_small(records),
        *_revisions_count_up(records),
        *_stored_once(records),
    ]


def idle_rules(world: World, broker: MemoryBroker) -> list[str]:
    """What must hold where nobody wants anything any more: no hold, no claim, no work under way."""
    broken: list[str] = []
    for name, replica in world.replicas.items():
        if replica.service == "pool" and replica.alive:
            state = replica.runtime.state
            broken += [
                f"{name}: {preview_id} has ended and holds {vm_id}" for preview_id, vm_id in state.holders.items()
            ]
            broken += [f"{name}: {preview_id} has ended and waits for a VM" for preview_id in state.claims]
            for pool in state.pools.values():
                warm = sum(state.vms[vm_id].pool == pool.name for vm_id in state.ready)
                if warm != pool.target:
                    broken.append(f"{name}: {warm} VMs of {pool.name} are warm, {pool.target} are wanted")
    for service, queue in broker.event_queues.items():
        broken += [f"{service}: {item.type} seq {item.seq} waits for its reaction" for item, _ in queue.waiting]
    return broken


def _held_once(records: Iterable[Recorded]) -> list[str]:
    """No VM has two previews, ever, but one that was emptied for the same owner and key, or that a resident gave up to its
    owner's preview."""
    holder: dict[str, str] = {}
    used: dict[str, str] = {}
    kept: dict[str, tuple[str, str]] = {}
    broken: list[str] = []
    for recorded in records:
        match recorded.event:
            case VmCleaned(vm_id=vm_id, owner=owner, key=key):
                kept[vm_id] = (owner, key)
            case VmAcquired(vm_id=vm_id, preview_id=preview_id, owner=owner, key=key, resident=resident):
                given_up = bool(resident) and holder.get(vm_id) == resident and used[vm_id] == owner
                if (vm_id in used or key) and not given_up and kept.pop(vm_id, None) != (owner, key):
                    broken.append(f"seq {recorded.seq}: {vm_id} is given away for the second time, or to another")
                used[vm_id] = owner
                holder[vm_id] = preview_id
            case VmReleased(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
                holder.pop(vm_id, None)
    return broken


def _one_vm_each(records: Iterable[Recorded]) -> list[str]:
    """No preview keeps two VMs: where two replicas each gave it one, the later one goes back."""
    held: dict[str, list[str]] = defaultdict(list)
    for recorded in records:
        match recorded.event:
            case VmAcquired(vm_id=vm_id, preview_id=preview_id):
                _forget(held, vm_id)
                held[preview_id].append(vm_id)
            case VmReleased(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
                _forget(held, vm_id)
    return [f"{preview_id} holds {', '.join(vms)}" for preview_id, vms in held.items() if len(vms) > 1]


def _forget(held: dict[str, list[str]], vm_id: str) -> None:
    for vms in held.values():
        if vm_id in vms:
            vms.remove(vm_id)


def _never_above_max(records: Iterable[Recorded]) -> list[str]:
    alive: dict[str, str] = {}
    maximum = {"default": 5}
    broken: list[str] = []
    for recorded in records:
        match recorded.event:
            case PoolResized(pool=pool, maximum=new):
                maximum[pool] = new
            case VmCreationStarted(vm_id=vm_id, pool=pool):
                alive[vm_id] = pool
                count = sum(each == pool for each in alive.values())
                if count > maximum[pool]:
                    broken.append(f"seq {recorded.seq}: {count} VMs of {pool}, {maximum[pool]} are allowed")
            case VmDestroyed(vm_id=vm_id):
                alive.pop(vm_id, None)
    return broken


def _all_previews_end(records: Iterable[Recorded]) -> list[str]:
    """Ready, failed or stopped: nothing is stuck."""
    open_since: dict[str, int] = {}
    for recorded in records:
        match recorded.event:
            case PreviewRequested(preview_id=preview_id) | PreviewRestarted(preview_id=preview_id):
                open_since[preview_id] = recorded.seq
            case (
                PreviewReady(preview_id=preview_id)
                | PreviewFailed(preview_id=preview_id)
                | PreviewStopped(preview_id=preview_id)
            ):
                open_since.pop(preview_id, None)
    return [f"preview {preview_id}, begun at seq {seq}, has no end" for preview_id, seq in open_since.items()]


def _no_claim_is_left(records: Iterable[Recorded]) -> list[str]:
    waiting: set[str] = set()
    for recorded in records:
        match recorded.event:
            case ClaimQueued(preview_id=preview_id):
                waiting.add(preview_id)
            case VmAcquired(preview_id=p) | ClaimExpired(preview_id=p) | ClaimWithdrawn(preview_id=p):
                waiting.discard(p)
    return [f"the claim of {preview_id} has no end" for preview_id in waiting]


def _revisions_count_up(records: Iterable[Recorded]) -> list[str]:
    last: dict[str, int] = {}
    broken: list[str] = []
    for recorded in records:
        if recorded.meta.rev != last.get(recorded.key, 0) + 1:
            broken.append(f"seq {recorded.seq}: {recorded.key} goes from rev {last.get(recorded.key, 0)} to another")
        last[recorded.key] = recorded.meta.rev
    return broken


def _stored_once(records: Iterable[Recorded]) -> list[str]:
    """However often a command is tried, its event is in the log once."""
    seen: dict[str, int] = {}
    broken: list[str] = []
    for recorded in records:
        before = seen.setdefault(recorded.meta.id, recorded.seq)
        if before != recorded.seq:
            broken.append(f"seq {recorded.seq}: {recorded.type} of {recorded.key} is stored already, as seq {before}")
    return broken


def _replay_gives_the_same(world: World) -> list[str]:
    broken: list[str] = []
    for name, replica in world.replicas.items():
        if not replica.alive:
            continue
        if replica.runtime.crashed.done():
            broken.append(f"{name}: folding crashed")
        if replica.runtime.seq != len(world.broker.records):
            broken.append(f"{name}: is at seq {replica.runtime.seq} of {len(world.broker.records)}")
        elif digest(replay(replica.runtime.definition, world.broker.records)) != digest(replica.runtime.state):
            broken.append(f"{name}: the replayed state is another than the live one")
    return broken


def _provider_agrees(world: World) -> list[str]:
    """After the dust has settled, the log and the provider know the same VMs."""
    pools = [r.runtime.state for r in world.replicas.values() if r.service == "pool" and r.alive]
    known = {vm_id for state in pools for vm_id, vm in state.vms.items() if vm.status in ANSWERING}
    if not pools or known == set(world.provider.vms):
        return []
    return [f"the log has the VMs {sorted(known)}, the provider {sorted(world.provider.vms)}"]


def _ready_ones_hold_their_vm(world: World) -> list[str]:
    """A preview that is said to be ready has a VM, the pool says the same, and the VM exists."""
    broken: list[str] = []
    pools = [r.runtime.state for r in world.replicas.values() if r.service == "pool" and r.alive]
    for name, replica in world.replicas.items():
        if replica.service != "orchestrator" or not replica.alive:
            continue
        for preview in replica.runtime.state.previews.values():
            held = preview.vm.vm_id if preview.vm is not None else None
            agreed = all(pool.holders.get(preview.preview_id) == held for pool in pools)
            if preview.status != "ready":
                continue
            if not (agreed and held in world.provider.vms):
                broken.append(f"{name}: {preview.preview_id} is ready in {held}, which it does not hold")
            elif f"dev-{preview.attempt}" not in world.workspace.jobs(held):
                broken.append(f"{name}: {preview.preview_id} is ready, but {held} has no dev server")
    return broken


def _sleep_together(world: World) -> list[str]:
    """A preview is suspended exactly where its VM is, for the pool and at the provider; gateway and orchestrator agree."""
    frozen = {vm_id for vm_id, vm in world.provider.vms.items() if vm.state == "suspended"}
    states = [(name, replica) for name, replica in world.replicas.items() if replica.alive]
    pools = [replica.runtime.state for _, replica in states if replica.service == "pool"]
    warm = {vm_id for state in pools for vm_id in state.ready}
    broken: list[str] = []
    for name, replica in states:
        state = replica.runtime.state
        known = frozen if replica.service == "pool" else frozen - warm  # of warm VMs the pool alone knows
        if replica.service == "pool":
            asleep = {vm_id for vm_id, vm in state.vms.items() if vm.suspended}
        elif replica.service == "orchestrator":
            asleep = {each.vm.vm_id for each in state.previews.values() if each.status == "suspended"}
        elif replica.service == "gateway":
            asleep = {each.vm_id for each in state.previews.values() if each.status == "suspended"}
        else:
            continue
        if asleep != known:
            broken.append(f"{name}: {sorted(asleep)} are asleep, the provider has frozen {sorted(known)}")
    return broken


def complaints_of(world: World) -> list[str]:
    """What our own code has logged as an error, with the end of its traceback."""
    return [f"logged as an error: {_told(record)}" for record in world.complaints.records]


def _told(record: logging.LogRecord) -> str:
    extra = {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
    trace = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
    return f"{record.getMessage()} {extra} {trace[-TRACE_CHARS:]}".rstrip()


def _nothing_broke(world: World, parked: int) -> list[str]:
    broken = complaints_of(world)
    if len(world.broker.parked.items) != parked:
        broken.append(f"parked: {world.broker.parked.items}")
    return broken
