"""What the alerts need to know, folded from the log. Pure."""

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

TARGET_AT_FIRST = 3
"""The pool's own target before its first `PoolResized`."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that is raised. Its condition holds `since` (seconds, UTC)."""

    since: float
    raised_at: float
    message: str


class State(msgspec.Struct, kw_only=True):
    """Times are seconds, UTC; None where it never was so."""

    booting: set[VmId] = set()
    warm: set[VmId] = set()
    waiting: set[PreviewId] = set()
    target: int = TARGET_AT_FIRST
    short_since: float | None = None
    """No VM is warm although one is wanted. None: not so now, or nothing was ever heard of the pool."""
    short_until: float | None = None
    boot_failures: int = 0
    """In a row, up to now."""
    boots_fail_since: float | None = None
    boots_failed_until: float | None = None
    """The boot that ended the last row of failures."""
    alerts: dict[str, Alert] = {}


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
        case _:
            if _evolve_pool(state, event, at):
                _note_shortage(state, at)


def _evolve_pool(state: State, event: Event | None, at: float) -> bool:
    """True when the event may have changed how many VMs are warm or wanted."""
    match event:
        case VmCreationStarted(vm_id=vm_id):
            state.booting.add(vm_id)
        case VmBooted(vm_id=vm_id):
            _booted(state, vm_id, at)
        case VmBootFailed(vm_id=vm_id):
            _forget(state, vm_id)
            state.boot_failures += 1
            state.boots_fail_since = at if state.boots_fail_since is None else state.boots_fail_since
        case VmAcquired(vm_id=vm_id, preview_id=preview_id):
            _forget(state, vm_id)
            state.waiting.discard(preview_id)
        case VmReleased(vm_id=vm_id) | VmRetired(vm_id=vm_id) | VmLost(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
            _forget(state, vm_id)
        case ClaimQueued(preview_id=preview_id):
            state.waiting.add(preview_id)
        case ClaimExpired(preview_id=preview_id) | ClaimWithdrawn(preview_id=preview_id):
            state.waiting.discard(preview_id)
        case PoolResized(target=target):
            state.target = target
        case _:
            return False
    return True


def _booted(state: State, vm_id: VmId, at: float) -> None:
    if vm_id in state.booting:  # else it was given up before
        state.booting.discard(vm_id)
        state.warm.add(vm_id)
    if state.boot_failures:
        state.boot_failures = 0
        state.boots_fail_since = None
        state.boots_failed_until = at


def _forget(state: State, vm_id: VmId) -> None:
    state.booting.discard(vm_id)
    state.warm.discard(vm_id)


def _note_shortage(state: State, at: float) -> None:
    short = not state.warm and (bool(state.waiting) or state.target > 0)
    if short and state.short_since is None:
        state.short_since = at
    elif not short and state.short_since is not None:
        state.short_since = None
        state.short_until = at
