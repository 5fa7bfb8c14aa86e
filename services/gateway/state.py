"""What the gateway shows, folded from the log. Pure."""

from typing import Any, Literal

import msgspec

from shared.codec import Recorded
from shared.events import (
    DevServerReady,
    DevServerStarted,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallSkipped,
    InstallStarted,
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
    VmAcquired,
)
from shared.ids import OwnerId, PreviewId, ProjectId

Status = Literal[
    "acquiring",
    "syncing",
    "installing",
    "prepared",
    "starting",
    "waiting",
    "ready",
    "ready_with_errors",
    "suspended",
    "failed",
    "stopped",
]
STEP_OF: dict[str, str] = {
    "acquiring": "acquiring_vm",
    "syncing": "syncing_files",
    "installing": "installing",
    "prepared": "prepared",
    "starting": "waiting_server",
    "waiting": "confirming",
    "ready": "server_ready",
    "ready_with_errors": "server_ready",
    "suspended": "server_ready",
    "failed": "failed",
    "stopped": "stopped",
}
ENDED = ("failed", "stopped")
SHOWN = ("ready", "ready_with_errors")
"""Statuses in which the dev server's own answers are what browsers get."""
FORGET_AFTER_S = 3600.0
"""An ended preview is shown so long after its end (by the log's time)."""
REPLACED_MAX = 100
"""Replaced manifests that are remembered; their collection is planned within seconds."""
REMOVED_MAX = 1_000
"""Deleted projects whose last manifest is remembered."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project and its newest version. `env` names the object with its variables, whose names are `env_names`."""

    project_id: ProjectId
    owner: OwnerId
    name: str
    env: str = ""
    env_names: tuple[str, ...] = ()
    files_version: int = 0
    manifest: str = ""
    replaced: dict[str, str] = {}
    """By version, the manifest that it replaced; the newest ones."""
    files: int = 0
    size_bytes: int = 0


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a preview. Times are seconds, UTC."""

    preview_id: PreviewId
    project_id: ProjectId
    owner: OwnerId
    wanted: bool = True
    status: Status = "acquiring"
    attempt: int = 1
    created_at: float
    attempt_at: float
    ended_at: float = 0.0
    status_at: float
    changed_seq: int = 0
    framework: str = ""
    version: str = ""
    package_manager: str = ""
    warnings: tuple[PreviewWarningRaised, ...] = ()
    vm_id: str = ""
    in_place: bool = False
    from_pool: bool | None = None
    install: Literal["skipped", "completed"] | None = None
    host: str = ""
    port: int = 0
    url: str = ""
    total_s: float | None = None
    steps: dict[str, float] = {}
    error: PreviewFailed | None = None
    detail: str = ""
    hmr: HmrProbed | None = None


class State(msgspec.Struct, kw_only=True):
    """Projects and previews by id; `ended` in the order in which they ended; `removed`: deleted projects' last
    manifests, the newest ones, so that their files can be collected; `removed_env`: by the sequence of the event that
    did it, the objects with variables that were replaced or deleted."""

    projects: dict[ProjectId, Project] = {}
    previews: dict[PreviewId, Preview] = {}
    ended: dict[PreviewId, float] = {}
    removed: dict[ProjectId, str] = {}
    removed_env: dict[str, str] = {}


def initial() -> State:
    """A gateway before its first event."""
    return State()


def evolve(state: State, recorded: Recorded) -> None:
    """Fold one event. Deterministic; touches nothing but `state`."""
    event = recorded.event
    match event:
        case ProjectCreated(project_id=project_id, owner=owner, name=name):
            state.projects[project_id] = Project(project_id=project_id, owner=owner, name=name)
        case ProjectFilesChanged():
            _change_files(state, event)
        case ProjectEnvChanged():
            _change_env(state, event, recorded)
        case ProjectDeleted(project_id=project_id):
            _remove(state, project_id, recorded)
        case PreviewRequested():
            _forget(state, recorded.meta.at)
            state.previews[event.preview_id] = Preview(
                preview_id=event.preview_id,
                project_id=event.project_id,
                owner=event.owner,
                wanted=not event.prepare,
                created_at=recorded.meta.at,
                attempt_at=recorded.meta.at,
                status_at=recorded.meta.at,
                changed_seq=recorded.seq,
            )
        case PreviewEvent(preview_id=preview_id) | VmAcquired(preview_id=preview_id):
            preview = state.previews.get(preview_id)
            if preview is not None:
                _evolve_preview(state, preview, recorded)
        case _:
            return


def _evolve_preview(state: State, preview: Preview, recorded: Recorded) -> None:
    event = recorded.event
    match event:
        case VmAcquired(vm_id=vm_id, from_pool=from_pool):
            if preview.status == "acquiring":
                _enter(state, preview, recorded, "syncing", done="acquiring_vm", vm_id=vm_id, from_pool=from_pool)
        case ProjectDetected(framework=framework, version=version, package_manager=manager):
            _set(state, preview, recorded, framework=framework, version=version, package_manager=manager)
            if preview.in_place and preview.status == "acquiring":
                # Its VM is held already, and no VmAcquired will come.
                _enter(state, state.previews[preview.preview_id], recorded, "syncing", done="acquiring_vm")
        case PreviewWarningRaised():
            _set(state, preview, recorded, warnings=(*preview.warnings, event))
        case FilesSynced():
            if preview.status == "syncing":
                _enter(state, preview, recorded, "syncing", done="syncing_files")
        case InstallStarted():
            _enter(state, preview, recorded, "installing")
        case InstallSkipped():
            _enter(state, preview, recorded, "starting", install="skipped")
        case InstallCompleted():
            _enter(state, preview, recorded, "starting", done="installing", install="completed")
        case PreviewPrepared():
            _enter(state, preview, recorded, "prepared")
        case PreviewWanted():
            _set(state, preview, recorded, wanted=True, attempt_at=recorded.meta.at)
        case DevServerStarted():
            _enter(state, preview, recorded, "starting")
        case DevServerReady() if preview.status in SHOWN:
            _set(state, preview, recorded, status=_shown(event.with_errors), detail=event.detail)
        case DevServerReady(host=host, port=port, detail=detail):
            _enter(state, preview, recorded, "waiting", done="waiting_server", host=host, port=port, detail=detail)
        case PreviewReady(url=url, total_s=total_s, steps=steps):
            _enter(state, preview, recorded, _shown(event.with_errors), url=url, total_s=total_s, steps=steps)
        case HmrProbed():
            _set(state, preview, recorded, hmr=event)
        case PreviewSuspended():
            _enter(state, preview, recorded, "suspended")
        case PreviewResumed():
            _enter(state, preview, recorded, "ready")
        case PreviewRestarted():
            _restart(state, preview, recorded, event)
        case PreviewFailed():
            _end(state, preview, recorded, "failed", error=event)
        case PreviewStopped():
            _end(state, preview, recorded, "stopped")
        case _:
            return


def _shown(with_errors: bool) -> Status:
    return "ready_with_errors" if with_errors else "ready"


def _change_files(state: State, event: ProjectFilesChanged) -> None:
    project = state.projects.get(event.project_id)
    if project is None:
        return
    state.projects[event.project_id] = msgspec.structs.replace(
        project,
        files_version=event.files_version,
        manifest=event.manifest,
        replaced=_newest({**project.replaced, str(event.files_version): project.manifest}),
        files=event.files,
        size_bytes=event.size_bytes,
    )


def _newest(replaced: dict[str, str]) -> dict[str, str]:
    return {version: replaced[version] for version in list(replaced)[-REPLACED_MAX:] if replaced[version]}


def _change_env(state: State, event: ProjectEnvChanged, recorded: Recorded) -> None:
    project = state.projects.get(event.project_id)
    if project is None:
        return
    _replace_env(state, project, recorded)
    state.projects[event.project_id] = msgspec.structs.replace(project, env=event.env, env_names=event.names)


def _remove(state: State, project_id: ProjectId, recorded: Recorded) -> None:
    project = state.projects.pop(project_id, None)
    if project is None:
        return
    _replace_env(state, project, recorded)
    if project.manifest:
        state.removed[project_id] = project.manifest
    while len(state.removed) > REMOVED_MAX:
        del state.removed[next(iter(state.removed))]


def _replace_env(state: State, project: Project, recorded: Recorded) -> None:
    if project.env:
        state.removed_env[str(recorded.seq)] = project.env
    while len(state.removed_env) > REMOVED_MAX:
        del state.removed_env[next(iter(state.removed_env))]


def _restart(state: State, preview: Preview, recorded: Recorded, event: PreviewRestarted) -> None:
    state.ended.pop(preview.preview_id, None)
    state.previews[preview.preview_id] = Preview(
        preview_id=preview.preview_id,
        project_id=preview.project_id,
        owner=preview.owner,
        wanted=preview.wanted,
        attempt=event.attempt,
        in_place=event.in_place,
        vm_id=preview.vm_id if event.in_place else "",
        from_pool=preview.from_pool if event.in_place else None,
        created_at=preview.created_at,
        attempt_at=recorded.meta.at,
        status_at=recorded.meta.at,
        changed_seq=recorded.seq,
    )


def _end(state: State, preview: Preview, recorded: Recorded, status: Status, **changes: Any) -> None:
    _enter(state, preview, recorded, status, ended_at=recorded.meta.at, **changes)
    state.ended[preview.preview_id] = recorded.meta.at


def _enter(
    state: State, preview: Preview, recorded: Recorded, status: Status, *, done: str = "", **changes: Any
) -> None:
    at = recorded.meta.at
    if done:
        changes["steps"] = {**preview.steps, done: round(at - preview.status_at, 4)}
    _set(state, preview, recorded, status=status, status_at=at, **changes)


def _set(state: State, preview: Preview, recorded: Recorded, **changes: Any) -> None:
    state.previews[preview.preview_id] = msgspec.structs.replace(preview, changed_seq=recorded.seq, **changes)


def _forget(state: State, at: float) -> None:
    for preview_id, ended_at in list(state.ended.items()):
        if at - ended_at < FORGET_AFTER_S:
            break
        del state.ended[preview_id]
        state.previews.pop(preview_id, None)
