"""What the alerts and the resources' snapshots need to know, folded from the log. Pure."""

from typing import Literal

import msgspec

from services.telemetry.model import (
    DEFAULT,
    INSTALL_SLOW,
    TARGET_AT_FIRST,
    TOLD_MAX,
    Alert,
    Pool,
    Silence,
    Stuck,
    Told,
    silenced,
)
from services.telemetry.windows import (
    OTHER,
    Installs,
    Outcomes,
    held,
    note_count,
    note_install,
    note_outcome,
)
from shared.codec import Meta, Recorded
from shared.events import (
    AlertCleared,
    AlertNotified,
    AlertRaised,
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    Event,
    InstallCompleted,
    NotificationFailed,
    PoolReconciled,
    PoolResized,
    PreviewEvent,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    ProjectDetected,
    ResourcesMeasured,
    SilenceEnded,
    SilenceStarted,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmRetired,
)
from shared.ids import EventId, PreviewId, VmId

ENDED_MAX = 100
"""Alerts, and silences, that are over and still shown."""
PREVIEWS_MAX = 20_000
"""Previews whose framework is remembered."""
FRAMEWORKS_MAX = 50
"""Frameworks whose installs are compared; others count as one."""


PreviewStatus = Literal["starting", "ready", "suspended"]


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """The newest snapshot, of `at` (seconds, UTC)."""

    at: float
    measured: ResourcesMeasured


class State(msgspec.Struct, kw_only=True):
    """`vms`: the pool of each that boots or is warm; `waiting`: of each claim, where it waited at first; `alerts`: those that
    are raised, by name; `ended`: those that were, by the id of their `AlertRaised`; `previews`: those that live, residents
    among them; `frameworks`: of each preview; `outcomes`, `reaped`: by slice of time."""

    vms: dict[VmId, str] = {}
    booting: set[VmId] = set()
    warm: set[VmId] = set()
    waiting: dict[PreviewId, str] = {}
    pools: dict[str, Pool] = msgspec.field(default_factory=lambda: {DEFAULT: Pool(target=TARGET_AT_FIRST)})
    alerts: dict[str, Alert] = {}
    previews: dict[PreviewId, PreviewStatus] = {}
    resources: Resources | None = None
    ended: dict[EventId, Alert] = {}
    silences: dict[str, Silence] = {}
    silences_ended: dict[str, Silence] = {}
    outcomes: dict[str, Outcomes] = {}
    frameworks: dict[PreviewId, str] = {}
    installs: dict[str, Installs] = {}
    reaped: dict[str, int] = {}
    stuck: Stuck = Stuck()


def initial() -> State:
    """Telemetry before its first event."""
    return State()


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event. Deterministic; touches nothing but `state`."""
    event = recorded.event
    at = recorded.meta.at
    match event:
        case AlertRaised():
            _raised(state, event, recorded)
        case AlertCleared():
            _cleared(state, event, recorded)
        case AlertNotified(channel=channel, kind=kind, notice=notice, attempts=attempts):
            _told(state, event.alert, notice, Told(channel=channel, kind=kind, at=at, attempts=attempts))
        case NotificationFailed(channel=channel, kind=kind, notice=notice, attempts=attempts, code=code):
            _told(state, event.alert, notice, Told(channel=channel, kind=kind, at=at, attempts=attempts, code=code))
        case SilenceStarted() | SilenceEnded():
            _evolve_silence(state, event, recorded.meta)
        case ResourcesMeasured():
            state.resources = Resources(at=at, measured=event)
        case PoolReconciled():
            _reconciled(state, event, at)
        case PreviewEvent():
            _evolve_preview(state, event, at)
        case _:
            if _evolve_pool(state, event, at):
                _note_shortage(state, at)


def _evolve_preview(state: State, event: PreviewEvent, at: float) -> None:
    match event:
        case PreviewRequested(preview_id=preview_id) | PreviewRestarted(preview_id=preview_id):
            state.previews[preview_id] = "starting"
        case PreviewReady(preview_id=preview_id):
            state.previews[preview_id] = "ready"
            note_outcome(state.outcomes, at, None)
        case PreviewResumed(preview_id=preview_id):
            state.previews[preview_id] = "ready"
        case PreviewSuspended(preview_id=preview_id):
            state.previews[preview_id] = "suspended"
        case PreviewFailed(preview_id=preview_id, code=code):
            state.previews.pop(preview_id, None)
            note_outcome(state.outcomes, at, code)
        case PreviewStopped(preview_id=preview_id):
            state.previews.pop(preview_id, None)
            state.frameworks.pop(preview_id, None)
        case ProjectDetected(preview_id=preview_id, framework=framework):
            state.frameworks[preview_id] = framework
            _bound(state.frameworks, PREVIEWS_MAX)
        case InstallCompleted(preview_id=preview_id, install_s=install_s):
            framework = state.frameworks.get(preview_id, OTHER)
            name = framework if framework in state.installs or len(state.installs) < FRAMEWORKS_MAX else OTHER
            state.installs[name] = note_install(state.installs.get(name, Installs()), at, install_s)


def _raised(state: State, event: AlertRaised, recorded: Recorded) -> None:
    at = recorded.meta.at
    state.alerts[event.alert] = Alert(
        alert=event.alert,
        since=event.since,
        raised_at=at,
        message=event.message,
        severity=event.severity,
        value=event.value,
        threshold=event.threshold,
        id=recorded.meta.id,
        seq=recorded.seq,
        announced="" if silenced(state.silences.values(), event.alert, at) else recorded.meta.id,
    )
    if event.alert == INSTALL_SLOW:  # what is slow now must not become what is usual
        for name, installs in state.installs.items():
            state.installs[name] = held(installs)


def _cleared(state: State, event: AlertCleared, recorded: Recorded) -> None:
    alert = state.alerts.pop(event.alert, None)
    if alert is None:
        return
    state.ended[alert.id] = msgspec.structs.replace(
        alert,
        cleared=recorded.meta.id,
        cleared_seq=recorded.seq,
        cleared_at=recorded.meta.at,
        lasted_s=event.lasted_s,
    )
    _bound(state.ended, ENDED_MAX)
    if event.alert == INSTALL_SLOW:
        for name, installs in state.installs.items():
            state.installs[name] = msgspec.structs.replace(installs, baseline=None)


def _told(state: State, name: str, notice: EventId, told: Told) -> None:
    raised = state.alerts.get(name)
    if raised is not None and raised.id == notice:
        state.alerts[name] = msgspec.structs.replace(raised, told=(*raised.told, told)[-TOLD_MAX:])
        return
    for key, alert in state.ended.items():
        if notice in (alert.id, alert.cleared):
            state.ended[key] = msgspec.structs.replace(alert, told=(*alert.told, told)[-TOLD_MAX:])
            return


def _evolve_silence(state: State, event: SilenceStarted | SilenceEnded, meta: Meta) -> None:
    if isinstance(event, SilenceStarted):
        state.silences[event.silence_id] = Silence(
            silence_id=event.silence_id,
            pattern=event.pattern,
            until=event.until,
            reason=event.reason,
            by=event.by,
            since=meta.at,
        )
        return
    silence = state.silences.pop(event.silence_id, None)
    if silence is None:
        return
    state.silences_ended[event.silence_id] = msgspec.structs.replace(silence, ended_at=meta.at)
    _bound(state.silences_ended, ENDED_MAX)
    for name, alert in state.alerts.items():
        if not alert.announced and not silenced(state.silences.values(), name, meta.at):
            state.alerts[name] = msgspec.structs.replace(alert, announced=meta.id)


def _reconciled(state: State, event: PoolReconciled, at: float) -> None:
    if event.orphans:
        note_count(state.reaped, at, event.orphans)
    before = state.stuck
    if event.stuck:
        since = at if before.since is None else before.since
        state.stuck = Stuck(count=event.stuck, since=since, vms=event.vms)
    else:
        state.stuck = Stuck(until=at if before.count else before.until, vms=event.vms)


def _bound(remembered: dict[str, Alert] | dict[str, Silence] | dict[str, str], most: int) -> None:
    while len(remembered) > most:
        del remembered[next(iter(remembered))]


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
