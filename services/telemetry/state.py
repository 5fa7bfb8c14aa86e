"""What the alerts and the resources' snapshots need to know, folded from the log. Pure."""

from typing import Literal

import msgspec

from shared.codec import Recorded
from shared.events import (
    AlertCleared,
    AlertRaised,
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    Event,
    PoolResized,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    ResourcesMeasured,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmRetired,
)
from shared.ids import PreviewId, VmId

DEFAULT = "default"
"""The pool that there is where none is configured."""
TARGET_AT_FIRST = 3
"""Its own target before its first `PoolResized`."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is raised. Its condition holds `since` (seconds, UTC)."""

    since: float
    raised_at: float
    message: str


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """One of the pools. Times are seconds, UTC; None where it never was so.

    `short_since`: no VM is warm although one is wanted; None: not so now. `boot_failures`: in a row, up to now;
    `boots_failed_until`: the boot that ended the last row of failures.
    """

    target: int = 0
    short_since: float | None = None
    short_until: float | None = None
    boot_failures: int = 0
    boots_fail_since: float | None = None
    boots_failed_until: float | None = None


PreviewStatus = Literal["starting", "ready", "suspended"]


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """The newest snapshot, of `at` (seconds, UTC)."""

    at: float
    measured: ResourcesMeasured


class State(msgspec.Struct, kw_only=True):
    """`vms`: the pool of each that boots or is warm; `waiting`: of each claim, where it waited at first; `previews`: those
    that live, residents among them."""

    vms: dict[VmId, str] = {}
    booting: set[VmId] = set()
    warm: set[VmId] = set()
    waiting: dict[PreviewId, str] = {}
    pools: dict[str, Pool] = msgspec.field(default_factory=lambda: {DEFAULT: Pool(target=TARGET_AT_FIRST)})
    alerts: dict[str, Alert] = {}
    previews: dict[PreviewId, PreviewStatus] = {}
    resources: Resources | None = None


def initial() -> State:
    """Telemetry before its first event."""
    return State()


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event. Deterministic; touches nothing but `state`."""
    event = recorded.event
    at = recorded.meta.at
    match event:
        case AlertRaised(alert=alert, message=message, since=since):
            state.alerts[alert] = Alert(since=since, raised_at=at, message=message)
        case AlertCleared(alert=alert):
            state.alerts.pop(alert, None)
        case ResourcesMeasured():
            state.resources = Resources(at=at, measured=event)
        case PreviewRequested(preview_id=preview_id) | PreviewRestarted(preview_id=preview_id):
            state.previews[preview_id] = "starting"
        case PreviewReady(preview_id=preview_id) | PreviewResumed(preview_id=preview_id):
            state.previews[preview_id] = "ready"
        case PreviewSuspended(preview_id=preview_id):
            state.previews[preview_id] = "suspended"
        case PreviewFailed(preview_id=preview_id) | PreviewStopped(preview_id=preview_id):
            state.previews.pop(preview_id, None)
        case _:
            if _evolve_pool(state, event, at):
                _note_shortage(state, at)


def _evolve_pool(state: State, event: Event | None, at: float) -> bool:
    """True when the event may have changed how many VMs are warm or wanted."""
    match event:
        case VmCreationStarted(vm_id=vm_id, pool=pool):
            state.booting.add(vm_id)
            state.vms[vm_id] = pool
            _change(state, pool)
        case VmBooted(vm_id=vm_id):
            _booted(state, vm_id, at)
        case VmBootFailed(vm_id=vm_id):
            pool = state.vms.get(vm_id, DEFAULT)
            _forget(state, vm_id)
            before = _change(state, pool)
            since = at if before.boots_fail_since is None else before.boots_fail_since
            _change(state, pool, boot_failures=before.boot_failures + 1, boots_fail_since=since)
        case VmAcquired(vm_id=vm_id, preview_id=preview_id):
            _forget(state, vm_id)
            state.waiting.pop(preview_id, None)
        case VmReleased(vm_id=vm_id) | VmRetired(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
            _forget(state, vm_id)
        case ClaimQueued(preview_id=preview_id, pool=pool):
            state.waiting[preview_id] = pool
        case ClaimExpired(preview_id=preview_id) | ClaimWithdrawn(preview_id=preview_id):
            state.waiting.pop(preview_id, None)
        case PoolResized(pool=pool, target=target):
            _change(state, pool, target=target)
        case _:
            return False
    return True


def _booted(state: State, vm_id: VmId, at: float) -> None:
    if vm_id in state.booting:  # else it was given up before
        state.booting.discard(vm_id)
        state.warm.add(vm_id)
    pool = state.vms.get(vm_id, DEFAULT)
    if _change(state, pool).boot_failures:
        _change(state, pool, boot_failures=0, boots_fail_since=None, boots_failed_until=at)


def _forget(state: State, vm_id: VmId) -> None:
    state.booting.discard(vm_id)
    state.warm.discard(vm_id)
    state.vms.pop(vm_id, None)


def _note_shortage(state: State, at: float) -> None:
    warm = {state.vms.get(vm_id, DEFAULT) for vm_id in state.warm}
    wanted = set(state.waiting.values())
    for name, pool in state.pools.items():
        short = name not in warm and (name in wanted or pool.target > 0)
        if short and pool.short_since is None:
            _change(state, name, short_since=at)
        elif not short and pool.short_since is not None:
            _change(state, name, short_since=None, short_until=at)


def _change(state: State, name: str, **changes: object) -> Pool:
    pool = state.pools.get(name) or Pool()
    state.pools[name] = msgspec.structs.replace(pool, **changes) if changes else pool
    return state.pools[name]
