"""What the orchestrator knows, folded from the log. Pure."""

from typing import Any

import msgspec

from services.orchestrator.model import (
    ENDED,
    INSTALL_RETRY,
    KEPT_AFTER,
    Failure,
    Found,
    Left,
    Preview,
    Project,
    Size,
    Status,
    Template,
    Vm,
)
from shared.codec import Recorded
from shared.events import (
    ClaimQueued,
    DevServerExited,
    DevServerReady,
    DevServerStarted,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallFailed,
    InstallSkipped,
    InstallStarted,
    PoolResized,
    PreviewEvent,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    PreviewWanted,
    PreviewWarningRaised,
    ProjectCreated,
    ProjectDeleted,
    ProjectDetected,
    ProjectEnvChanged,
    ProjectFilesChanged,
    ProjectResidentsChanged,
    VmAcquired,
    VmCleaned,
    VmDestroyed,
    VmFrozen,
    VmLost,
    VmReleased,
    VmRetired,
)
from shared.ids import OwnerId, PreviewId, ProjectId, VmId

FORGET_AFTER_S = 3600.0
"""An ended preview can be restarted for so long after its end (by the log's time), which is as long as the gateway shows
it; the log and PostgreSQL keep its history."""
PROVEN_AFTER_S = 60.0
"""A preview that was ready for so long starts counting lost VMs anew."""
HISTORY_WEIGHT = 0.3
"""Weight of the newest duration in a step's running mean."""


class State(msgspec.Struct, kw_only=True):
    """Projects, their previews, and how long steps take by framework. `kept`: VMs that wait for their owner's next preview;
    `residents`: an index into `previews`, for each request looks for one that fits; `sizes`: what VMs there are, by pool."""

    projects: dict[ProjectId, Project] = {}
    previews: dict[PreviewId, Preview] = {}
    ended: dict[PreviewId, float] = {}
    history_s: dict[str, dict[str, float]] = {}
    kept: dict[VmId, OwnerId] = {}
    residents: dict[PreviewId, None] = {}
    sizes: dict[str, Size] = {}


def initial() -> State:
    """An orchestrator before its first event."""
    return State()


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event. Deterministic; touches nothing but `state`."""
    event = recorded.event
    match event:
        case PreviewRequested():
            _request(state, event, recorded)
        case PreviewEvent(preview_id=preview_id):
            preview = state.previews.get(preview_id)
            if preview is not None:
                _evolve_preview(state, preview, recorded)
        case ProjectCreated(project_id=project_id, owner=owner):
            state.projects[project_id] = Project(project_id=project_id, owner=owner)
        case ProjectFilesChanged(project_id=project_id, files_version=version, manifest=manifest):
            _change_project(state, project_id, files_version=version, manifest=manifest)
        case ProjectEnvChanged(project_id=project_id, env=env):
            _change_project(state, project_id, env=env)
        case ProjectResidentsChanged(project_id=project_id, count=count):
            _change_project(state, project_id, residents=count)
        case ProjectDeleted(project_id=project_id):
            state.projects.pop(project_id, None)
        case VmCleaned(vm_id=vm_id, owner=owner):
            state.kept[vm_id] = owner
        case VmRetired(vm_id=vm_id) | VmDestroyed(vm_id=vm_id):
            state.kept.pop(vm_id, None)
        case PoolResized(pool=pool, maximum=maximum):
            state.sizes.pop(pool, None)
            if maximum and event.memory_mb:
                state.sizes[pool] = Size(event.memory_mb, event.region, event.image)
        case ClaimQueued(preview_id=claimant) if claimant in state.previews:
            _set(state, state.previews[claimant], queued=True)
        case VmAcquired() | VmReleased() | VmLost() | VmFrozen():
            state.kept.pop(event.vm_id, None)
            _evolve_vm(state, event, recorded)
        case _:
            return


def _request(state: State, event: PreviewRequested, recorded: Recorded) -> None:
    at = recorded.meta.at
    _forget(state, at)
    state.previews[event.preview_id] = Preview(
        preview_id=event.preview_id,
        project_id=event.project_id,
        owner=event.owner,
        app=event.app,
        wanted=not event.prepare,
        private=event.private,
        resident=event.resident,
        requested_by=recorded.meta.causation_id,
        requested_at=at,
        status_at=at,
        attempt_at=at,
        files_version=event.files_version,
        traceparent=recorded.meta.traceparent,
        asked=Size(event.memory_mb, event.region, event.image),
    )
    if event.resident:
        state.residents[event.preview_id] = None
    project = state.projects.get(event.project_id)
    if project is not None and event.resident:
        _change_project(state, event.project_id, residents_made=project.residents_made + 1)
    elif project is not None:
        _change_project(
            state, event.project_id, previews=project.previews + 1, live=event.preview_id, newest=event.preview_id
        )


def _evolve_vm(state: State, event: VmAcquired | VmReleased | VmLost | VmFrozen, recorded: Recorded) -> None:
    preview = state.previews.get(event.preview_id or "")
    if preview is None:
        return
    match event:
        case VmAcquired(vm_id=vm_id, from_pool=from_pool, key=key):
            gave = _take_over(state, event) or {"installed": key, "installed_by": ""}
            if preview.vm is None and preview.status not in ENDED:
                vm = Vm(vm_id, event.host, event.port, recorded.seq, event.reach, event.memory_mb)
                changed = msgspec.structs.replace(preview, vm=vm, from_pool=from_pool, queued=False, **gave)
                state.previews[preview.preview_id] = _join(changed, recorded)
        case VmFrozen(memory_mb=memory_mb):
            if preview.status == "suspended":
                _set(state, preview, frozen_mb=memory_mb)
        case VmReleased(vm_id=vm_id) | VmLost(vm_id=vm_id):
            # One that runs is told by a command, which decides whether it begins anew.
            if preview.status in ENDED and preview.vm is not None and preview.vm.vm_id == vm_id:
                _set(state, preview, vm=None)


def _take_over(state: State, event: VmAcquired) -> dict[str, Any]:
    """What a preview has from the resident that gave its VM up, which holds none from here on."""
    resident = state.previews.get(event.resident)
    if resident is None or resident.found is None:
        return {}
    _set(state, resident, vm=None)
    template = Template(resident.project_id, resident.manifest)
    return {"installed": resident.found.deps, "installed_by": resident.installed_by, "template": template}


def _evolve_preview(state: State, preview: Preview, recorded: Recorded) -> None:
    event = recorded.event
    match event:
        case ProjectDetected():
            # As known now: what others' previews teach meanwhile would turn this one's progress back.
            expected_s = dict(state.history_s.get(event.framework, {}))
            changed = msgspec.structs.replace(preview, found=_found(event), expected_s=expected_s)
            state.previews[preview.preview_id] = _join(changed, recorded)
            _change_project(state, preview.project_id, needs_mb=event.memory_mb)
        case PreviewWarningRaised(code=code):
            _set(state, preview, warned=(*preview.warned, code))
        case FilesSynced(files_version=version, restored=restored, restore_s=restore_s):
            _set(
                state,
                preview,
                files_version=max(version, preview.files_version),
                manifest=_manifest_of(state, preview, version),
            )
            if preview.status == "syncing":
                put = {"installed": restored, "restored": True, "restore_s": restore_s} if restored else {}
                _enter(state, preview, "synced", recorded, done="syncing_files", **put)
        case InstallStarted() | InstallSkipped() | InstallCompleted() | InstallFailed():
            _evolve_install(state, preview, event, recorded)
        case PreviewPrepared():
            _enter(state, preview, "prepared", recorded)
        case PreviewWanted(private=private):
            _set(state, preview, wanted=True, private=preview.private or private, attempt_at=recorded.meta.at)
        case DevServerStarted():
            _enter(state, preview, "booting", recorded)
        case DevServerReady(with_errors=with_errors) if preview.status == "ready":
            _set(state, preview, with_errors=with_errors)
        case DevServerReady(host=host, port=port, with_errors=with_errors):
            changes = {"dev_host": host, "dev_port": port, "with_errors": with_errors}
            _enter(state, preview, "confirming", recorded, done="waiting_server", **changes)
        case DevServerExited():
            _enter(state, preview, "exited", recorded, failure=_exit_failure(preview, event))
        case PreviewReady():
            _enter(state, preview, "ready", recorded, done="confirming")
        case PreviewSuspended():
            _enter(state, preview, "suspended", recorded)
        case PreviewResumed() if preview.status == "suspended":
            _enter(state, preview, "ready", recorded, frozen_mb=0)
        case HmrProbed(state=hmr):
            _set(state, preview, hmr=hmr)
        case PreviewRestarted():
            _restart(state, preview, event, recorded)
        case PreviewFailed():
            _end(state, preview, "failed", recorded, keeps_vm=_keeps_vm(event) and not preview.resident)
        case PreviewStopped():
            _end(state, preview, "stopped", recorded)
        case _:
            return


def _manifest_of(state: State, preview: Preview, version: int) -> str:
    """The name of that version's manifest, unless another has replaced it."""
    project = state.projects.get(preview.project_id)
    return project.manifest if project is not None and project.files_version == version else ""


def _found(event: ProjectDetected) -> Found:
    return Found(
        framework=event.framework,
        version=event.version,
        package_manager=event.package_manager,
        app_root=event.app_root,
        install_root=event.install_root,
        dev_command=event.dev_command,
        dev_env=event.dev_env,
        install_command=event.install_command,
        install_retry_command=event.install_retry_command,
        install_env=event.install_env,
        deps=event.deps,
        keeps=event.keeps,
        ready_path=event.ready_path,
        restart_on=event.restart_on,
        memory_mb=event.memory_mb,
    )


def _evolve_install(
    state: State,
    preview: Preview,
    event: InstallStarted | InstallSkipped | InstallCompleted | InstallFailed,
    recorded: Recorded,
) -> None:
    match event:
        case InstallStarted(job_id=job_id):
            # What an install that breaks off leaves behind is nothing to build on.
            _enter(state, preview, "installing", recorded, install_job=job_id, installed="", restored=False)
        case InstallSkipped():
            _enter(state, preview, "installed", recorded, install="skipped")
        case InstallCompleted():
            gave = {
                "installed": preview.found.deps if preview.found is not None else "",
                "installed_by": preview.install_job,
                "installed_at": recorded.meta.at,
            }
            _enter(state, preview, "installed", recorded, done="installing", install="completed", **gave)
        case InstallFailed(code=code, message=message, hint=hint, evidence=evidence):
            failure = Failure(code=code, message=message, hint=hint, evidence=evidence)
            _enter(state, preview, "install_failed", recorded, failure=failure)


def _exit_failure(preview: Preview, event: DevServerExited) -> Failure:
    if event.code:
        return Failure(code=event.code, message=event.message, hint=event.hint, evidence=event.evidence)
    # Written by an earlier version, which left the cause to be read from how it ended.
    when = "while it ran" if preview.status == "ready" else "before it answered"
    hint = "Its last lines say why; mend the project and restart."
    return Failure(code="dev_server_exited", message=f"The dev server ended {when}.", hint=hint)


def _join(preview: Preview, recorded: Recorded) -> Preview:
    """Once the project is known and a VM is held, whichever came last, the files can go in."""
    if preview.status != "preparing" or preview.vm is None or preview.found is None:
        return preview
    steps = {**preview.steps, "acquiring_vm": round(recorded.meta.at - preview.attempt_at, 4)}
    return msgspec.structs.replace(
        preview, status="syncing", status_at=recorded.meta.at, joined_seq=recorded.seq, steps=steps
    )


def _enter(
    state: State, preview: Preview, status: Status, recorded: Recorded, *, done: str = "", **changes: object
) -> None:
    """The next status; `done` names the step that this ends, whose duration is noted."""
    at = recorded.meta.at
    steps = preview.steps
    if done:
        duration_s = round(at - preview.status_at, 4)
        steps = {**steps, done: duration_s}
        _note_duration(state, preview, done, duration_s)
    _set(state, preview, status=status, status_at=at, steps=steps, **changes)


def _note_duration(state: State, preview: Preview, step: str, duration_s: float) -> None:
    if preview.template is not None:
        return  # its dev server ran before it began
    framework = preview.found.framework if preview.found is not None else "unknown"
    known = state.history_s.setdefault(framework, {})
    before = known.get(step, duration_s)
    known[step] = round(before + HISTORY_WEIGHT * (duration_s - before), 4)


def _restart(state: State, preview: Preview, event: PreviewRestarted, recorded: Recorded) -> None:
    """The next attempt. In place it keeps the VM and what is installed there."""
    at = recorded.meta.at
    state.ended.pop(preview.preview_id, None)
    kept = event.in_place
    state.previews[preview.preview_id] = Preview(
        preview_id=preview.preview_id,
        project_id=preview.project_id,
        owner=preview.owner,
        app=event.app or preview.app,
        wanted=preview.wanted or event.reason == "asked",
        private=preview.private,
        attempt=event.attempt,
        requested_by=preview.requested_by,
        requested_at=preview.requested_at,
        status_at=at,
        attempt_at=at,
        in_place=kept,
        vm=preview.vm if kept else None,
        from_pool=preview.from_pool and kept,
        # An earlier preview's install that a try has failed with is not trusted again.
        installed=preview.installed if kept and (preview.installed_by or preview.status != "failed") else "",
        installed_by=preview.installed_by if kept else "",
        left=_left(preview) if not kept and event.reason != "vm_lost" else Left(),
        files_version=event.files_version,
        vm_losses=_losses(preview, event, at),
        traceparent=recorded.meta.traceparent or preview.traceparent,
        traced_before=preview.traceparent,
        asked=preview.asked,
        grown_mb=max(preview.grown_mb, event.memory_mb),
    )
    _change_project(state, preview.project_id, live=preview.preview_id)
    project = state.projects.get(preview.project_id)
    if project is not None and event.memory_mb > project.grown_mb:
        _change_project(state, preview.project_id, grown_mb=event.memory_mb)


def newest_of(state: State, project: Project) -> Preview | None:
    """The project's latest preview, as long as it is remembered."""
    return state.previews.get(project.newest)


def _losses(preview: Preview, event: PreviewRestarted, at: float) -> int:
    return losses_in_a_row(preview, at) + 1 if event.reason == "vm_lost" else 0


def losses_in_a_row(preview: Preview, at: float) -> int:
    """VMs lost without a success in between: one that served for a while has proven that the preview as such can live."""
    proven = preview.status in ("ready", "suspended") and at - preview.status_at >= PROVEN_AFTER_S
    return 0 if proven else preview.vm_losses


def _keeps_vm(event: PreviewFailed) -> bool:
    """Whether the next try may go on in the VM: the files are in it, and it answers. Any other is released at once."""
    return event.step in KEPT_AFTER and event.code != "vm_lost" and not event.code.startswith("agent_")


def _end(state: State, preview: Preview, status: Status, recorded: Recorded, *, keeps_vm: bool = False) -> None:
    vm = preview.vm if keeps_vm else None
    left = _left(preview) if status == "stopped" else Left()
    _set(state, preview, status=status, status_at=recorded.meta.at, vm=vm, left=left)
    state.ended[preview.preview_id] = recorded.meta.at
    project = state.projects.get(preview.project_id)
    if project is not None and project.live == preview.preview_id:
        _change_project(state, preview.project_id, live=None)


def _left(preview: Preview) -> Left:
    """The dependencies of an attempt that came to its end: as an install that held on to its lockfile gave them, and in
    `node_modules` alone. Whether the project has changed them since is seen by the agent."""
    found = preview.found
    whole = found is not None and found.keeps and preview.installed == found.deps != ""
    proven = preview.status in ("ready", "prepared") and not preview.with_errors
    if preview.vm is None or not whole or not proven or preview.installed_by.endswith(INSTALL_RETRY):
        return Left()
    return Left(preview.installed, preview.installed_by)


def _forget(state: State, at: float) -> None:
    while state.ended:
        preview_id, ended_at = next(iter(state.ended.items()))  # the first to have ended
        if at - ended_at < FORGET_AFTER_S:
            break
        del state.ended[preview_id]
        state.residents.pop(preview_id, None)
        state.previews.pop(preview_id, None)


def _set(state: State, preview: Preview, **changes: object) -> None:
    current = state.previews[preview.preview_id]
    state.previews[preview.preview_id] = msgspec.structs.replace(current, **changes)


def _change_project(state: State, project_id: ProjectId, **changes: object) -> None:
    project = state.projects.get(project_id)
    if project is not None:
        state.projects[project_id] = msgspec.structs.replace(project, **changes)
