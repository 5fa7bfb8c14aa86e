"""What the gateway shows, folded from the log. Pure."""

from typing import Any, Literal

import msgspec

from shared.codec import Recorded
from shared.events import (
    AppChoice,
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
    ProjectErased,
    ProjectFilesChanged,
    ProjectResidentsChanged,
    VmAcquired,
)
from shared.ids import OwnerId, PreviewId, ProjectId
from shared.reach import Reach

Status = Literal[
    "acquiring",
    "syncing",
    "installing",
    "prepared",  # nobody has asked for it yet
    "starting",
    "waiting",
    "ready",
    "ready_with_errors",  # its dev server runs, and shows an error in the project
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
SERVED = ("ready", "ready_with_errors")
"""Statuses in which browsers reach the dev server; one that is suspended they wake."""
FORGET_AFTER_S = 3600.0
"""An ended preview is shown so long after its end (by the log's time)."""
REPLACED_MAX = 100
"""Replaced manifests, and variables, that are remembered; their collection is planned within seconds."""
REMOVED_MAX = 1_000
"""Deleted projects that are remembered until everything of them is gone, and for a while after."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project, its newest version, and which variables it has."""

    project_id: ProjectId
    owner: OwnerId
    name: str
    files_version: int = 0
    manifest: str = ""
    replaced: dict[str, str] = {}
    """By version, the manifest that it replaced; the newest ones."""
    files: int = 0
    size_bytes: int = 0
    env: str = ""
    """The object that holds its variables, encrypted; empty: it has none."""
    env_names: tuple[str, ...] = ()
    env_replaced: dict[str, str] = {}
    """By the sequence of the change, the object that it replaced; the newest ones."""
    residents: int = 0
    """VMs that are to run it ahead of need."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted project: what it had left in the object store, and, once nothing is left anywhere, what was removed."""

    manifest: str = ""
    env: str = ""
    owner: OwnerId = ""
    erased: ProjectErased | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a preview failed. `evidence`: offsets of lines in the log of `step`; `choices`: apps to choose from."""

    code: str
    message: str
    hint: str
    step: str
    evidence: tuple[int, ...] = ()
    choices: tuple[AppChoice, ...] = ()


class Agent(msgspec.Struct, frozen=True):
    """Where the agent of a preview's VM listens. `lease`: the log's sequence since which the preview holds the VM."""

    host: str
    port: int
    lease: int
    reach: Reach


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a preview. Times are seconds, UTC. `wanted`: somebody has asked to see it; `files_version`: of
    the project's files, what its VM holds or will begin with; `detected`: in this attempt; `install_job`: the attempt's
    newest install; `with_errors`: what its dev server shows is an error in the project, `detail`: which request shows it.
    """

    preview_id: PreviewId
    project_id: ProjectId
    owner: OwnerId
    app: str = ""
    wanted: bool = True
    private: bool = False
    """Only who has a signed link may see it."""
    resident: bool = False
    """Made ahead of need for a template, and shown nowhere."""
    files_version: int = 0
    status: Status = "acquiring"
    attempt: int = 1
    created_at: float
    attempt_at: float
    ended_at: float = 0.0
    status_at: float
    changed_seq: int = 0
    detected: bool = False
    framework: str = ""
    version: str = ""
    package_manager: str = ""
    warnings: tuple[PreviewWarningRaised, ...] = ()
    vm_id: str = ""
    agent: Agent | None = None
    from_pool: bool | None = None
    install: Literal["skipped", "completed"] | None = None
    install_job: str = ""
    host: str = ""
    port: int = 0
    url: str = ""
    total_s: float | None = None
    steps: dict[str, float] = {}
    with_errors: bool = False
    detail: str = ""
    hmr: HmrProbed | None = None
    error: Failure | None = None


class State(msgspec.Struct, kw_only=True):
    """Projects and previews by id; `ended` in the order in which they ended; `removed`: what deleted projects have left,
    the newest ones, so that it can be collected."""

    projects: dict[ProjectId, Project] = {}
    previews: dict[PreviewId, Preview] = {}
    ended: dict[PreviewId, float] = {}
    removed: dict[ProjectId, Removed] = {}


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
            _change_env(state, event, recorded.seq)
        case ProjectResidentsChanged(project_id=project_id, count=count):
            project = state.projects.get(project_id)
            if project is not None:
                state.projects[project_id] = msgspec.structs.replace(project, residents=count)
        case ProjectDeleted(project_id=project_id):
            _remove(state, project_id)
        case ProjectErased(project_id=project_id) if project_id in state.removed:
            state.removed[project_id] = msgspec.structs.replace(state.removed[project_id], erased=event)
        case PreviewRequested():
            _forget(state, recorded.meta.at)
            state.previews[event.preview_id] = Preview(
                preview_id=event.preview_id,
                project_id=event.project_id,
                owner=event.owner,
                app=event.app,
                wanted=not event.prepare,
                private=event.private,
                resident=event.resident,
                files_version=event.files_version,
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
            if preview.status == "acquiring" and not preview.vm_id:  # of two VMs the first is the preview's
                agent = Agent(event.host, event.port, recorded.seq, event.reach)
                _join(state, preview, recorded, vm_id=vm_id, agent=agent, from_pool=from_pool)
        case ProjectDetected(framework=framework, version=version, package_manager=manager):
            found = {"framework": framework, "version": version, "package_manager": manager}
            _join(state, preview, recorded, detected=True, **found)
        case PreviewWarningRaised():
            _set(state, preview, recorded, warnings=(*preview.warnings, event))
        case FilesSynced(files_version=version) if preview.status == "syncing":
            _enter(state, preview, recorded, "syncing", done="syncing_files", files_version=version)
        case FilesSynced(files_version=version):
            _set(state, preview, recorded, files_version=version)
        case InstallStarted(job_id=job_id):
            _enter(state, preview, recorded, "installing", install_job=job_id)
        case InstallSkipped():
            _enter(state, preview, recorded, "starting", install="skipped")
        case InstallCompleted():
            _enter(state, preview, recorded, "starting", done="installing", install="completed")
        case PreviewPrepared():
            _enter(state, preview, recorded, "prepared")
        case PreviewWanted(private=private):
            changes = {"wanted": True, "private": preview.private or private, "attempt_at": recorded.meta.at}
            _set(state, preview, recorded, **changes)
        case (
            DevServerStarted() | DevServerReady() | PreviewReady() | HmrProbed() | PreviewSuspended() | PreviewResumed()
        ):
            _evolve_server(state, preview, recorded)
        case PreviewRestarted():
            _restart(state, preview, recorded, event)
        case PreviewFailed():
            _end(state, preview, recorded, "failed", error=_failure(event))
        case PreviewStopped():
            _end(state, preview, recorded, "stopped")
        case _:
            return


def _evolve_server(state: State, preview: Preview, recorded: Recorded) -> None:
    event = recorded.event
    match event:
        case DevServerStarted():
            _enter(state, preview, recorded, "starting")
        case DevServerReady(host=host, port=port, with_errors=with_errors, detail=detail):
            where: dict[str, Any] = {"host": host, "port": port, "with_errors": with_errors}
            where["detail"] = detail if with_errors else ""
            if preview.status in SERVED:  # it is the same server: its project was mended, or broken
                _enter(state, preview, recorded, _served(with_errors), **where)
            else:
                _enter(state, preview, recorded, "waiting", done="waiting_server", **where)
        case PreviewReady(url=url, total_s=total_s, steps=steps, with_errors=with_errors):
            shown: dict[str, Any] = {"url": url, "total_s": total_s, "steps": steps, "with_errors": with_errors}
            _enter(state, preview, recorded, _served(with_errors), **shown)
        case HmrProbed():
            _set(state, preview, recorded, hmr=event)
        case PreviewSuspended():
            _enter(state, preview, recorded, "suspended")
        case PreviewResumed() if preview.status == "suspended":
            _enter(state, preview, recorded, _served(preview.with_errors))


def _served(with_errors: bool) -> Status:
    return "ready_with_errors" if with_errors else "ready"


def _join(state: State, preview: Preview, recorded: Recorded, **changes: Any) -> None:
    """Once the project is known and a VM is held, whichever came last, the files can go in."""
    detected, vm_id = changes.get("detected", preview.detected), changes.get("vm_id", preview.vm_id)
    if preview.status == "acquiring" and detected and vm_id:
        _enter(state, preview, recorded, "syncing", done="acquiring_vm", **changes)
    else:
        _set(state, preview, recorded, **changes)


def _failure(event: PreviewFailed) -> Failure:
    return Failure(
        code=event.code,
        message=event.message,
        hint=event.hint,
        step=event.step,
        evidence=event.evidence,
        choices=event.choices,
    )


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


def _change_env(state: State, event: ProjectEnvChanged, seq: int) -> None:
    project = state.projects.get(event.project_id)
    if project is None:
        return
    replaced = _newest({**project.env_replaced, str(seq): project.env})
    state.projects[event.project_id] = msgspec.structs.replace(
        project, env=event.env, env_names=event.names, env_replaced=replaced
    )


def _remove(state: State, project_id: ProjectId) -> None:
    project = state.projects.pop(project_id, None)
    if project is not None:
        state.removed[project_id] = Removed(manifest=project.manifest, env=project.env, owner=project.owner)
    while len(state.removed) > REMOVED_MAX:
        del state.removed[next(iter(state.removed))]


def _restart(state: State, preview: Preview, recorded: Recorded, event: PreviewRestarted) -> None:
    """The next attempt. In place it keeps its VM; what it found there is shown until it is found anew."""
    state.ended.pop(preview.preview_id, None)
    fresh = Preview(
        preview_id=preview.preview_id,
        project_id=preview.project_id,
        owner=preview.owner,
        app=event.app or preview.app,
        wanted=preview.wanted or event.reason == "asked",
        private=preview.private,
        files_version=event.files_version,
        attempt=event.attempt,
        created_at=preview.created_at,
        attempt_at=recorded.meta.at,
        status_at=recorded.meta.at,
        changed_seq=recorded.seq,
    )
    if event.in_place:
        fresh = msgspec.structs.replace(
            fresh,
            framework=preview.framework,
            version=preview.version,
            package_manager=preview.package_manager,
            vm_id=preview.vm_id,
            agent=preview.agent,
            from_pool=preview.from_pool,
            url=preview.url,
        )
    if event.reason == "out_of_memory":  # the warning says why it begins anew
        fresh = msgspec.structs.replace(fresh, warnings=preview.warnings)
    state.previews[preview.preview_id] = fresh


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
    while state.ended:
        preview_id, ended_at = next(iter(state.ended.items()))  # the first to have ended
        if at - ended_at < FORGET_AFTER_S:
            break
        del state.ended[preview_id]
        state.previews.pop(preview_id, None)
