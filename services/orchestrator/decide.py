"""Command and state to events. Pure. A decision names what is still missing: asked again after its first event is
stored, it gives the rest, and in the end nothing. Reports of an attempt that is over are ignored."""

from collections.abc import Sequence

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import ENDED, INSTALL_RETRY, Failure, Preview, Project, step_of
from services.orchestrator.rules import limits, memory, residents
from services.orchestrator.rules.idle import resume, resumed, suspend, woken_by
from services.orchestrator.rules.steps import RestartReason, failed, restarted
from services.orchestrator.state import State, losses_in_a_row, newest_of
from shared.commands import (
    Command,
    ConfirmPreview,
    ExpireStep,
    FailPreview,
    HandleVmLost,
    MaintainResidents,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordFilesSynced,
    RecordHmr,
    RecordInstallCompleted,
    RecordInstallFailed,
    RecordProject,
    RequestPreview,
    RestartPreview,
    ResumePreview,
    StopPreview,
    SuspendPreview,
)
from shared.errors import Invalid, NotFound, Refused
from shared.events import (
    DevServerExited,
    DevServerReady,
    Event,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallFailed,
    InstallStarted,
    PreviewReady,
    PreviewRequested,
    PreviewStopped,
    PreviewWanted,
    PreviewWarningRaised,
    ProjectDetected,
)
from shared.ids import derive_keyed

TIMED_BY: dict[str, tuple[str, ...]] = {
    "synced": ("syncing",),
    "installed": ("syncing", "installing"),
    "install_failed": ("installing",),
    "exited": ("booting", "confirming"),
}
"""Statuses that last for one append, and whose timer runs on meanwhile: should the replica die in one, it counts."""
RESTARTABLE = ("installing", "install_failed", "installed", "prepared", "booting", "exited", "confirming", "ready")
"""Statuses in which what an install or a dev server has begun with may be out of date: it has to begin anew."""


def decide(state: State, command: Command, config: OrchestratorConfig, key: bytes) -> Sequence[Event]:
    """The events that the command leads to in this state; raises `Refused` where it is not granted. `key`: of the ids."""
    if first := woken_by(state, command):
        return first
    match command:
        case RequestPreview():
            return request(state, command, config, key)
        case StopPreview():
            return stop(state, command)
        case RestartPreview():
            return restart(state, command, config)
        case RecordProject():
            return record_project(state, command)
        case RecordFilesSynced():
            return record_synced(state, command)
        case RecordInstallCompleted():
            return record_installed(state, command)
        case RecordInstallFailed():
            return record_install_failed(state, command)
        case RecordDevServerReady():
            return record_dev_server_ready(state, command)
        case RecordDevServerExited():
            return record_dev_server_exited(state, command)
        case RecordHmr():
            return record_hmr(state, command)
        case ConfirmPreview():
            return confirm(state, command)
        case FailPreview():
            return fail(state, command)
        case ExpireStep():
            return expire_step(state, command)
        case HandleVmLost():
            return handle_vm_lost(state, command, config)
        case MaintainResidents():
            return residents.maintain(state, command.at, config.resident_retry_s, key)
        case SuspendPreview():
            return suspend(state, command)
        case ResumePreview():
            return resume(_known(state, command.preview_id), command)
        case _:
            raise AssertionError(f"not a command of the orchestrator: {type(command).__name__}")


def request(state: State, command: RequestPreview, config: OrchestratorConfig, key: bytes) -> Sequence[Event]:
    """One live preview a project: whoever asks again shares it. One that failed and holds its VM still is tried again.
    The id of a new one follows from the project and a count, so that two replicas asked at once mean the same preview;
    it is keyed, so that nobody else can tell it."""
    project = state.projects.get(command.project_id)
    if project is None or project.owner != command.owner:
        raise NotFound("project_not_found", f"There is no project {command.project_id[:64]}.")
    if project.files_version == 0:
        raise Invalid("project_without_files", "The project has no files yet.", "Upload its files first.")
    live = state.previews.get(project.live) if project.live is not None else None
    if live is not None:
        return _share(state, project, live, command)
    if project.live is not None or any(each.requested_by == command.id for each in state.previews.values()):
        return []
    limits.check(state, command.owner, config)
    failed = newest_of(state, project)
    if failed is not None and failed.vm is not None and not command.prepare and failed.private == command.private:
        return [restarted(failed, project, "asked", in_place=True, app=command.app)]
    return [
        PreviewRequested(
            preview_id=derive_keyed(key, project.project_id, "preview", project.previews + 1),
            project_id=project.project_id,
            owner=project.owner,
            files_version=project.files_version,
            app=command.app,
            prepare=command.prepare,
            private=command.private,
            memory_mb=command.memory_mb,
            region=command.region,
            image=command.image,
        )
    ]


def _share(state: State, project: Project, live: Preview, command: RequestPreview) -> Sequence[Event]:
    """What the wish changes about the preview that lives already: awake, another app, or that somebody wants to see it."""
    if command.private and not live.private and live.wanted:
        raise Refused(
            "preview_is_public",
            "The project's live preview is open to who has its address.",
            "Stop it, then ask again.",
        )
    if live.status == "suspended" and not command.prepare:
        return [resumed(live, command.at, "request")]
    if command.app and command.app != live.app:
        return [restarted(live, project, "asked", in_place=live.vm is not None, app=command.app)]
    if command.prepare:
        return []
    if not live.wanted:
        return [PreviewWanted(preview_id=live.preview_id, attempt=live.attempt, private=command.private)]
    return (
        memory.go_on(state, live) if live.status == "prepared" else []
    )  # it was stored that it is wanted, and no more


def stop(state: State, command: StopPreview) -> Sequence[Event]:
    preview = _known(state, command.preview_id)
    if preview.status in ENDED or (command.if_suspended and preview.status != "suspended"):
        return []
    return [PreviewStopped(preview_id=preview.preview_id, reason=command.reason[:200])]


def restart(state: State, command: RestartPreview, config: OrchestratorConfig) -> Sequence[Event]:
    """Whatever state it is in, the preview begins anew with the newest files."""
    preview = _known(state, command.preview_id)
    if preview.resident:
        raise Refused(
            "resident_preview", "A resident is not restarted: it is replaced.", "Stop it, or change its template."
        )
    project = state.projects.get(preview.project_id)
    if project is None:
        raise NotFound("project_not_found", "The preview's project has been deleted.")
    if project.live not in (None, preview.preview_id):
        raise Refused(
            "other_preview_live", f"The project's preview {project.live} is live.", "Use that one, or stop it first."
        )
    if preview.status in ENDED and project.live is None:
        limits.check(state, preview.owner, config)
    in_place = preview.vm is not None and (command.in_place or preview.status == "failed")
    reason: RestartReason = "edited" if command.in_place else "asked"
    return [restarted(preview, project, reason, in_place=in_place, app=command.app)]


def record_project(state: State, command: RecordProject) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    if preview.found is None:
        return [
            ProjectDetected(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                framework=command.framework,
                version=command.version,
                package_manager=command.package_manager,
                app_root=command.app_root,
                dev_command=command.dev_command,
                dev_env=command.dev_env,
                install_command=command.install_command,
                evidence=command.evidence,
                install_retry_command=command.install_retry_command,
                install_env=command.install_env,
                install_root=command.install_root,
                package_manager_version=command.package_manager_version,
                node_version=command.node_version,
                deps=command.deps,
                keeps=command.keeps,
                ready_path=command.ready_path,
                restart_on=command.restart_on,
                memory_mb=command.memory_mb,
            )
        ]
    return [
        PreviewWarningRaised(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            code=warning.code,
            message=warning.message,
            version=warning.version,
            recommendation=warning.recommendation,
            link=warning.link,
        )
        for warning in command.warnings
        if warning.code not in preview.warned
    ]


def record_synced(state: State, command: RecordFilesSynced) -> Sequence[Event]:
    """The first sync of an attempt moves it on; later ones (edits) are noted, or begin the next attempt."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    project = state.projects.get(preview.project_id)
    restartable = preview.status in RESTARTABLE or preview.template is not None
    if command.needs_restart and project is not None and preview.vm is not None and restartable:
        return [restarted(preview, project, "edited", in_place=True)]
    if command.needs_restart and project is not None and preview.status == "syncing":
        # Edited since it was detected: the dependencies that were put into the VM are the version's before.
        return [restarted(preview, project, "edited", in_place=preview.in_place)]
    if preview.status == "syncing" and (warned := memory.too_small(state, preview)):
        return warned
    if preview.status == "syncing" or command.files_version > preview.files_version:
        return [
            FilesSynced(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                files_version=command.files_version,
                written=command.written,
                deleted=command.deleted,
                sync_s=command.sync_s,
                restored=command.restored,
                restore_s=command.restore_s,
                build=command.build,
            )
        ]
    return memory.go_on(state, preview)


def record_installed(state: State, command: RecordInstallCompleted) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or command.job_id not in ("", preview.install_job):
        return []
    if preview.status == "installing":
        return [InstallCompleted(preview_id=preview.preview_id, attempt=preview.attempt, install_s=command.install_s)]
    return memory.go_on(state, preview)


def record_install_failed(state: State, command: RecordInstallFailed) -> Sequence[Event]:
    """A lockfile that does not fit is no end: one more try does not hold on to it, and a warning says so."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or command.job_id not in ("", preview.install_job):
        return []
    if preview.status != "installing":
        return memory.go_on(state, preview)
    retry = preview.found.install_retry_command if preview.found is not None else ()
    if command.code == "lockfile_mismatch" and retry and not preview.install_job.endswith(INSTALL_RETRY):
        return _retry_install(preview, command, retry)
    return [
        InstallFailed(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            exit_code=command.exit_code,
            code=command.code,
            message=command.message,
            hint=command.hint,
            evidence=command.evidence,
            fingerprint=command.fingerprint,
        )
    ]


def _retry_install(preview: Preview, command: RecordInstallFailed, retry: tuple[str, ...]) -> Sequence[Event]:
    if command.code not in preview.warned:
        return [
            PreviewWarningRaised(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                code=command.code,
                message=f"{command.message} It is installed without the lockfile's word, so versions may differ."[:300],
                recommendation=command.hint,
            )
        ]
    return [
        InstallStarted(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            job_id=f"install-{preview.attempt}{INSTALL_RETRY}",
            command=retry,
        )
    ]


def record_dev_server_ready(state: State, command: RecordDevServerReady) -> Sequence[Event]:
    """It answers; or, after it had shown an error, it answers as it should."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    mended = preview.status == "ready" and preview.with_errors and not command.with_errors
    if preview.status != "booting" and not mended:
        return []
    return [
        DevServerReady(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            host=command.host,
            port=command.port,
            status=command.status,
            boot_s=command.boot_s,
            with_errors=command.with_errors,
            detail=command.detail,
        )
    ]


def record_dev_server_exited(state: State, command: RecordDevServerExited) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    if preview.status in ("booting", "confirming", "ready"):
        return [
            DevServerExited(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                exit_code=command.exit_code,
                signal=command.signal,
                code=command.code,
                message=command.message,
                hint=command.hint,
                evidence=command.evidence,
                fingerprint=command.fingerprint,
            )
        ]
    return memory.go_on(state, preview)


def record_hmr(state: State, command: RecordHmr) -> Sequence[Event]:
    """Once an attempt."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or preview.hmr:
        return []
    return [
        HmrProbed(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            state=command.state,
            path=command.path,
            detail=command.detail[:200],
        )
    ]


def confirm(state: State, command: ConfirmPreview) -> Sequence[Event]:
    """Ready, and what it took: `steps` in seconds, in the order in which they ended."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or preview.status != "confirming":
        return []
    return [
        PreviewReady(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            url=command.url,
            total_s=round(command.at - preview.attempt_at, 4),
            from_pool=preview.from_pool,
            install="completed" if preview.install == "completed" else "skipped",
            steps={**preview.steps, "confirming": round(command.at - preview.status_at, 4)},
            with_errors=preview.with_errors,
        )
    ]


def fail(state: State, command: FailPreview) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    return [failed(preview, Failure.told_by(command), command.choices)]


def expire_step(state: State, command: ExpireStep) -> Sequence[Event]:
    """The backstop: a step's own replica keeps its limit, unless it has died."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or command.step not in TIMED_BY.get(preview.status, (preview.status,)):
        return []
    if preview.status in ("install_failed", "exited"):
        return memory.go_on(state, preview)
    if preview.status == "prepared":
        return [PreviewStopped(preview_id=preview.preview_id, reason="not_opened")]
    waited_s = command.at - preview.status_at
    failure = Failure(
        code=f"{step_of(preview)}_timeout",
        message=f"The step {step_of(preview)!r} had not ended after {waited_s:.0f} s.",
        hint="Restart the preview; its log says how far it came.",
    )
    return [failed(preview, failure)]


def handle_vm_lost(state: State, command: HandleVmLost, config: OrchestratorConfig) -> Sequence[Event]:
    preview = state.previews.get(command.preview_id)
    if preview is None or preview.status in ENDED or preview.vm is None or preview.vm.vm_id != command.vm_id:
        return []
    if preview.resident:
        return [PreviewStopped(preview_id=preview.preview_id, reason="vm_lost")]
    project = state.projects.get(preview.project_id)
    if project is not None and losses_in_a_row(preview, command.at) < config.vm_losses_max:
        return [restarted(preview, project, "vm_lost")]
    message = f"Its VM was lost: {command.detail or 'the agent no longer answers'}"
    return [failed(preview, Failure(code="vm_lost", message=message[:300], hint="Restart the preview."))]


def _known(state: State, preview_id: str) -> Preview:
    preview = state.previews.get(preview_id)
    if preview is None:
        raise NotFound("preview_not_found", f"There is no preview {preview_id[:64]}.")
    return preview


def _running(state: State, preview_id: str, attempt: int) -> Preview | None:
    """The preview, if this is still the attempt that runs. A resident that gave its VM up has nothing to report."""
    preview = state.previews.get(preview_id)
    if preview is None or preview.status in ENDED or preview.attempt != attempt:
        return None
    if preview.resident and preview.status == "ready" and preview.vm is None:
        return None
    return preview
