"""Event and state to effects, as data. Pure."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import ENDED, Preview
from services.orchestrator.rules.builds import build_cache
from services.orchestrator.rules.idle import coldest_first, is_behind, stop_cold, too_cold
from services.orchestrator.state import State
from shared.codec import Recorded
from shared.commands import (
    ExpireStep,
    FailPreview,
    HandleVmLost,
    MaintainResidents,
    ReleaseVm,
    RestartPreview,
    ResumePreview,
    ResumeVm,
    StopPreview,
    SuspendVm,
)
from shared.effects import Send, SetTimer
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    DevServerReady,
    DevServerStarted,
    Event,
    InstallStarted,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    ProjectDeleted,
    ProjectDetected,
    ProjectEnvChanged,
    ProjectFilesChanged,
    ProjectResidentsChanged,
    VmAcquired,
    VmFrozen,
    VmLost,
    VmReleased,
    VmResumed,
    VmSuspended,
)
from shared.ids import PreviewId, VmId
from shared.ports import TimerFired


class PreviewEffect(msgspec.Struct, frozen=True):
    """Of one attempt of one preview."""

    preview_id: PreviewId
    attempt: int


class Prepare(PreviewEffect, frozen=True):
    """Find out what the project is and ask the pool for a VM, side by side; tell progress until there is one."""


class ClaimVm(PreviewEffect, frozen=True):
    """Ask the pool for a VM once more: what an earlier attempt held or waited for was taken from this one."""


class SyncFiles(PreviewEffect, frozen=True):
    """Bring the VM up to the newest version of the project's files."""


class RunInstall(PreviewEffect, frozen=True):
    """Run the install job, or attach to it, until it ends."""

    lasting: ClassVar[bool] = True
    job_id: str


class RunDevServer(PreviewEffect, frozen=True):
    """Run the dev server's job, or attach to it; report readiness, output and its end."""

    lasting: ClassVar[bool] = True
    endless: ClassVar[bool] = True
    job_id: str


class Confirm(PreviewEffect, frozen=True):
    """Ask for the preview through the gateway."""


class ProbeHmr(PreviewEffect, frozen=True):
    """Try the socket over which the dev server tells of edits, through the gateway."""


class KeepDeps(PreviewEffect, frozen=True):
    """Keep what the install fetched, and what it gave if that is fit for the next VM that needs the same."""


class KeepBuild(PreviewEffect, frozen=True):
    """Keep what the framework has stored beside the dependencies, for this project's next VM."""


class SuspendIdle(msgspec.Struct, frozen=True):
    """Have the previews suspended that nobody has used for a while."""


Effect = (
    Send
    | SetTimer
    | Prepare
    | ClaimVm
    | SyncFiles
    | RunInstall
    | RunDevServer
    | Confirm
    | ProbeHmr
    | KeepDeps
    | KeepBuild
    | SuspendIdle
)

REACTS_TO: tuple[type[Event], ...] = (
    PreviewRequested,
    PreviewRestarted,
    ProjectDetected,
    VmAcquired,
    VmReleased,
    VmLost,
    ClaimQueued,
    ClaimExpired,
    ClaimWithdrawn,
    InstallStarted,
    PreviewPrepared,
    DevServerStarted,
    DevServerReady,
    PreviewReady,
    PreviewFailed,
    PreviewStopped,
    PreviewSuspended,
    PreviewResumed,
    VmSuspended,
    VmFrozen,
    VmResumed,
    ProjectFilesChanged,
    ProjectEnvChanged,
    ProjectResidentsChanged,
    ProjectDeleted,
)
IDLE_TICK = "idle"
RESIDENTS_TICK = "residents"
STEP_TIMER = "step"
KEEP_TIMER = "keep"
"""Ends the time in which a failed preview holds its VM."""
BUILD_TIMER = "build"
"""Comes when a dev server has had the time to write its cache."""


def react(state: State, recorded: Recorded, config: OrchestratorConfig) -> Sequence[Effect]:
    """What has to happen because of this event."""
    return [*_keep_residents(state, recorded.event), *_react(state, recorded, config)]


def _keep_residents(state: State, event: Event | None) -> Sequence[Effect]:
    """One that gave its VM up is over, and missed; what a template is has changed."""
    match event:
        case VmAcquired(resident=resident) if resident:
            return [Send(StopPreview(preview_id=resident, reason="taken")), Send(MaintainResidents())]
        case ProjectResidentsChanged():
            return [Send(MaintainResidents())]
        case ProjectFilesChanged(project_id=project_id) | ProjectEnvChanged(project_id=project_id):
            project = state.projects.get(project_id)
            return [Send(MaintainResidents())] if project is not None and project.residents else []
        case _:
            return []


def _react(state: State, recorded: Recorded, config: OrchestratorConfig) -> Sequence[Effect]:
    event = recorded.event
    match event:
        case PreviewFailed(preview_id=preview_id) if _holds_on(state, event):
            data: dict[str, str | int] = {"attempt": event.attempt}
            return [SetTimer(KEEP_TIMER, preview_id, config.failed_keep_s, data)]
        case PreviewFailed(preview_id=preview_id) | PreviewStopped(preview_id=preview_id):
            return _release(state, preview_id)
        case ClaimQueued(preview_id=preview_id):
            return _make_way(state, preview_id)
        case (
            VmReleased(preview_id=preview_id)
            | VmLost(preview_id=str(preview_id))
            | ClaimWithdrawn(preview_id=preview_id)
        ) if _has_no_claim(state, preview_id):
            # An earlier attempt's, let go only now: the pool took this attempt's claim for one that had it already.
            return [ClaimVm(preview_id, state.previews[preview_id].attempt)]
        case VmLost(preview_id=str(preview_id), vm_id=vm_id, detail=detail):
            return [Send(HandleVmLost(preview_id=preview_id, vm_id=vm_id, detail=detail))]
        case VmReleased(preview_id=preview_id, vm_id=vm_id) if _holds(state, preview_id, vm_id):
            # Let go while it was held for the next try, which has begun meanwhile.
            return [Send(HandleVmLost(preview_id=preview_id, vm_id=vm_id, detail="it was released"))]
        case ClaimExpired(preview_id=preview_id, waited_s=waited_s):
            return _no_vm(state, preview_id, waited_s)
        case VmAcquired(preview_id=preview_id) if _is_over(state, preview_id):
            return [Send(ReleaseVm(preview_id=preview_id, reason="ended"))]
        case ProjectFilesChanged(project_id=project_id):
            return _sync_live(state, project_id)
        case ProjectEnvChanged(project_id=project_id):
            return _apply_env(state, project_id)
        case ProjectDeleted(project_id=project_id):
            return _delete(state, project_id)
        case VmSuspended() | VmFrozen() | VmResumed() | PreviewSuspended() | PreviewResumed():
            return _asleep_or_awake(state, event, config)
        case _:
            preview = state.previews.get(getattr(event, "preview_id", ""))
            if preview is None or preview.status in ENDED:
                return []
            if getattr(event, "attempt", preview.attempt) != preview.attempt:
                return []
            return _go_on(preview, recorded, config)


def _go_on(preview: Preview, recorded: Recorded, config: OrchestratorConfig) -> Sequence[Effect]:
    """The next effect of an attempt that runs, with the timer that ends it should its replica die."""
    preview_id, attempt = preview.preview_id, preview.attempt
    match recorded.event:
        case PreviewRequested():
            limit = _limit(preview, "preparing", config.acquire_limit_s, config)
            return [*limit, Prepare(preview_id, attempt)]
        case PreviewRestarted():
            limit = _limit(preview, "preparing", config.acquire_limit_s, config)
            # Kept, or heard again after a crash: the VM that is held now is this attempt's.
            release = [_let_go(preview, "restarted")] if preview.vm is None else []
            return [*release, *limit, Prepare(preview_id, attempt)]
        case ProjectDetected() | VmAcquired() if preview.joined_seq == recorded.seq and _misfits(preview):
            return [_give_back(preview)]
        case ProjectDetected() | VmAcquired() if preview.joined_seq == recorded.seq:
            return [*_limit(preview, "syncing", config.sync_limit_s, config), SyncFiles(preview_id, attempt)]
        case InstallStarted(job_id=job_id):
            limit = _limit(preview, "installing", config.install_limit_s, config)
            return [*limit, RunInstall(preview_id, attempt, job_id)]
        case DevServerStarted(job_id=job_id):
            limit = _limit(preview, "booting", config.boot_limit_s, config)
            return [*limit, RunDevServer(preview_id, attempt, job_id)]
        case PreviewPrepared():
            return _limit(preview, "prepared", config.prepared_keep_s, config)
        case DevServerReady() if preview.status == "confirming":
            limit = _limit(preview, "confirming", config.confirm_limit_s, config)
            return [*limit, Confirm(preview_id, attempt)]
        case PreviewReady():
            keep = [KeepDeps(preview_id, attempt)] if preview.install == "completed" else []
            later = [_build_timer(preview, config)] if build_cache(preview) is not None else []
            return [*later, *([] if preview.hmr else [ProbeHmr(preview_id, attempt)]), *keep]
        case _:
            return []


def _misfits(preview: Preview) -> bool:
    """Its VM was kept for other dependencies: the project has changed since the claim went out. An install would begin
    on what another has left."""
    return not preview.in_place and preview.found is not None and preview.installed not in ("", preview.found.deps)


def _give_back(preview: Preview) -> Send:
    vm_id = preview.vm.vm_id if preview.vm is not None else ""
    return Send(HandleVmLost(preview_id=preview.preview_id, vm_id=vm_id, detail="it holds other dependencies"))


def _let_go(preview: Preview, reason: str) -> Send:
    """The VM that the preview had, with what its last attempt has left in it."""
    left = preview.left
    return Send(ReleaseVm(preview_id=preview.preview_id, reason=reason, keep=left.key, keep_job=left.job))


def _asleep_or_awake(
    state: State,
    event: VmSuspended | VmFrozen | VmResumed | PreviewSuspended | PreviewResumed,
    config: OrchestratorConfig,
) -> Sequence[Effect]:
    """The VM follows the preview. Commands to the pool may overtake one another: what the VM's own events say against
    the preview is put right."""
    preview = state.previews.get(event.preview_id)
    if preview is None or preview.vm is None:
        return []
    preview_id, suspended = preview.preview_id, preview.status == "suspended"
    match event:
        case PreviewSuspended() if suspended and is_behind(state, preview):
            return [Send(ResumePreview(preview_id=preview_id, reason="edit"))]
        case PreviewSuspended() if suspended:
            waiting = next(
                (each for each in state.previews.values() if each.queued and each.status == "preparing"), None
            )
            room = _make_way(state, waiting.preview_id) if waiting is not None else []
            return [Send(SuspendVm(preview_id=preview_id)), *map(Send, too_cold(state, config)), *room]
        case PreviewResumed() if not suspended:
            behind = preview.status == "ready" and is_behind(state, preview)
            sync = [SyncFiles(preview_id, preview.attempt)] if behind else []
            return [Send(ResumeVm(preview_id=preview_id)), *sync]
        case VmFrozen() if suspended:
            return [Send(stop) for stop in too_cold(state, config)]
        case VmResumed() if suspended:
            # It can't be frozen.
            return [Send(ResumePreview(preview_id=preview_id, reason="vm"))]
        case VmSuspended() if not suspended:
            return [Send(ResumeVm(preview_id=preview_id))]
        case _:
            return []


def on_timer(state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    if fired.name == IDLE_TICK:
        return [SuspendIdle()]
    attempt = int(fired.data.get("attempt", 0))
    if fired.name == RESIDENTS_TICK:
        return [Send(MaintainResidents())]
    if fired.name == STEP_TIMER:
        preview_id = str(fired.data.get("preview", fired.id))  # set by an earlier version: the id alone
        return [Send(ExpireStep(preview_id=preview_id, attempt=attempt, step=str(fired.data["step"])))]
    if fired.name == BUILD_TIMER:
        return [KeepBuild(fired.id, attempt)]
    if fired.name == KEEP_TIMER:
        preview = state.previews.get(fired.id)
        if preview is None or (preview.status in ENDED and preview.attempt == attempt):
            return [Send(ReleaseVm(preview_id=fired.id, reason="ended"))]
    return []  # too late, or a timer of another version of this service


def _build_timer(preview: Preview, config: OrchestratorConfig) -> SetTimer:
    return SetTimer(BUILD_TIMER, preview.preview_id, config.keep_build_after_s, {"attempt": preview.attempt})


def _limit(preview: Preview, status: str, limit_s: float, config: OrchestratorConfig) -> Sequence[SetTimer]:
    """One timer a step, which counts only while that lasts. None replaces another: one that is set late, by a replica that
    has not heard of the next step, must not take that one's place."""
    if preview.status != status:
        return []
    data: dict[str, str | int] = {"preview": preview.preview_id, "attempt": preview.attempt, "step": status}
    timer_id = f"{preview.preview_id}-{preview.attempt}-{status}"
    return [SetTimer(STEP_TIMER, timer_id, limit_s + config.limit_grace_s, data)]


def _is_over(state: State, preview_id: PreviewId) -> bool:
    preview = state.previews.get(preview_id)
    return preview is None or preview.status in ENDED


def _has_no_claim(state: State, preview_id: PreviewId) -> bool:
    preview = state.previews.get(preview_id)
    return preview is not None and preview.status == "preparing" and preview.vm is None


def _holds(state: State, preview_id: PreviewId, vm_id: VmId) -> bool:
    preview = state.previews.get(preview_id)
    return preview is not None and preview.status not in ENDED and preview.vm is not None and preview.vm.vm_id == vm_id


def _release(state: State, preview_id: PreviewId) -> Sequence[Effect]:
    # A restart may have been quicker: then the VM that is held now is the new attempt's.
    if not _is_over(state, preview_id):
        return []
    preview = state.previews.get(preview_id)
    return [
        _let_go(preview, "ended") if preview is not None else Send(ReleaseVm(preview_id=preview_id, reason="ended"))
    ]


def _holds_on(state: State, event: PreviewFailed) -> bool:
    """Whether it has kept its VM for the next try, which has not begun."""
    preview = state.previews.get(event.preview_id)
    return preview is not None and preview.vm is not None and preview.attempt == event.attempt


def _make_way(state: State, preview_id: PreviewId) -> Sequence[Effect]:
    """Somebody waits for a VM: the failed preview that has held one longest lets it go, else the oldest preparation
    or resident that nobody has asked for, else the suspended one that is coldest, unless what waits is another such."""
    for failed_id in state.ended:
        failed = state.previews.get(failed_id)
        if failed is not None and failed.vm is not None and failed_id != preview_id:
            return [Send(ReleaseVm(preview_id=failed_id, reason="needed"))]
    waiting = state.previews.get(preview_id)
    if waiting is None or not waiting.wanted or waiting.resident:
        return []
    ahead = [each for each in state.previews.values() if each.status not in ENDED and each.preview_id != preview_id]
    # Claims are served in order: a resident that waits too would get the VM that the next one gives up.
    in_the_way = [each for each in ahead if each.resident and each.vm is None and each.status == "preparing"]
    idle = [each for each in ahead if each.vm is not None and (each.resident or not each.wanted)][:1]
    stops = [StopPreview(preview_id=each.preview_id, reason="needed") for each in (*in_the_way, *idle)]
    if not idle:
        stops += [stop_cold(each, "needed") for each in coldest_first(state)[:1]]
    return [Send(stop) for stop in stops]


def _apply_env(state: State, project_id: str) -> Sequence[Effect]:
    """Variables count from a process's start on: what runs with the old ones begins anew, in its VM."""
    project = state.projects.get(project_id)
    preview = state.previews.get(project.live) if project is not None and project.live is not None else None
    if preview is None or preview.status in ("preparing", "syncing", "synced", *ENDED):
        return []
    return [Send(RestartPreview(preview_id=preview.preview_id, in_place=True))]


def _delete(state: State, project_id: str) -> Sequence[Effect]:
    effects: list[Effect] = []
    for preview in state.previews.values():
        if preview.project_id == project_id and preview.status in ENDED and preview.vm is not None:
            effects.append(Send(ReleaseVm(preview_id=preview.preview_id, reason="project_deleted")))
        elif preview.project_id == project_id:
            effects.append(Send(StopPreview(preview_id=preview.preview_id, reason="project_deleted")))
    return effects


def _no_vm(state: State, preview_id: PreviewId, waited_s: float) -> Sequence[Effect]:
    preview = state.previews.get(preview_id)
    if preview is None or preview.vm is not None:
        return []
    return [
        Send(
            FailPreview(
                preview_id=preview_id,
                attempt=preview.attempt,
                code="no_vm_available",
                message=f"No VM came free within {waited_s:.0f} s.",
                hint="Stop a preview that is not needed, or raise the pool's maximum (DRAPE_POOL_MAXIMUM, `drape pool resize`). "
                "Where VMs do not boot, `drape doctor` says why.",
            )
        )
    ]


def _sync_live(state: State, project_id: str) -> Sequence[Effect]:
    project = state.projects.get(project_id)
    preview = state.previews.get(project.live) if project is not None and project.live is not None else None
    if preview is None or preview.status in ("preparing", *ENDED):
        return []  # the first sync will take the newest version
    if preview.status == "suspended":
        return [Send(ResumePreview(preview_id=preview.preview_id, reason="edit"))]
    return [SyncFiles(preview.preview_id, preview.attempt)]
