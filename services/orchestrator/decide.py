"""Command and state to events. Pure. A decision names what is still missing: asked again after its first event is
stored, it gives the rest, and in the end nothing. Reports of an attempt that is over are ignored."""

from collections.abc import Sequence

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.rules.warnings import warnings_for
from services.orchestrator.state import ENDED, Preview, State, losses_in_a_row, step_of
from shared.commands import (
    Command,
    ConfirmPreview,
    ExpireStep,
    FailPreview,
    HandleVmLost,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordFilesSynced,
    RecordInstallCompleted,
    RecordInstallFailed,
    RecordProject,
    RequestPreview,
    RestartPreview,
    StopPreview,
)
from shared.errors import Invalid, NotFound, Refused
from shared.events import (
    DevServerExited,
    DevServerReady,
    DevServerStarted,
    Event,
    FilesSynced,
    InstallCompleted,
    InstallFailed,
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewStopped,
    PreviewWarningRaised,
    ProjectDetected,
)
from shared.ids import derive

TIMED_BY: dict[str, tuple[str, ...]] = {
    "synced": ("syncing",),
    "installed": ("syncing", "installing"),
    "install_failed": ("installing",),
    "exited": ("booting", "confirming"),
}
"""Statuses that last for one append, and whose timer runs on meanwhile: should the replica die in one, it counts."""


def decide(state: State, command: Command, config: OrchestratorConfig) -> Sequence[Event]:
    """The events that the command leads to in this state; raises `Refused` where it is not granted."""
    match command:
        case RequestPreview():
            return request(state, command)
        case StopPreview():
            return stop(state, command)
        case RestartPreview():
            return restart(state, command)
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
        case ConfirmPreview():
            return confirm(state, command)
        case FailPreview():
            return fail(state, command)
        case ExpireStep():
            return expire_step(state, command)
        case HandleVmLost():
            return handle_vm_lost(state, command, config)
        case _:
            raise AssertionError(f"not a command of the orchestrator: {type(command).__name__}")


def request(state: State, command: RequestPreview) -> Sequence[Event]:
    """One live preview a project: whoever asks again shares it. The id follows from the project and a count, so that
    two replicas asked at once mean the same preview."""
    project = state.projects.get(command.project_id)
    if project is None or project.owner != command.owner:
        raise NotFound("project_not_found", f"There is no project {command.project_id[:64]}.")
    if project.files_version == 0:
        raise Invalid("project_without_files", "The project has no files yet.", "Upload its files first.")
    if project.live is not None or any(each.requested_by == command.id for each in state.previews.values()):
        return []
    return [
        PreviewRequested(
            preview_id=derive(project.project_id, "preview", project.previews + 1),
            project_id=project.project_id,
            owner=project.owner,
            files_version=project.files_version,
        )
    ]


def stop(state: State, command: StopPreview) -> Sequence[Event]:
    preview = _known(state, command.preview_id)
    if preview.status in ENDED:
        return []
    return [PreviewStopped(preview_id=preview.preview_id, reason=command.reason[:200])]


def restart(state: State, command: RestartPreview) -> Sequence[Event]:
    """Whatever state it is in, the preview begins anew with the newest files."""
    preview = _known(state, command.preview_id)
    project = state.projects.get(preview.project_id)
    if project is None:
        raise NotFound("project_not_found", "The preview's project has been deleted.")
    if project.live not in (None, preview.preview_id):
        raise Refused(
            "other_preview_live", f"The project's preview {project.live} is live.", "Use that one, or stop it first."
        )
    return [
        PreviewRestarted(
            preview_id=preview.preview_id,
            attempt=preview.attempt + 1,
            reason="asked",
            files_version=project.files_version,
        )
    ]


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
        for warning in warnings_for(command.framework, command.version)
        if warning.code not in preview.warned
    ]


def record_synced(state: State, command: RecordFilesSynced) -> Sequence[Event]:
    """The first sync of an attempt moves it on; later ones (edits) are only noted."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    if preview.status == "syncing" or command.files_version > preview.files_version:
        return [
            FilesSynced(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                files_version=command.files_version,
                written=command.written,
                deleted=command.deleted,
                sync_s=command.sync_s,
            )
        ]
    return _advance(preview)


def record_installed(state: State, command: RecordInstallCompleted) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    if preview.status == "installing":
        return [InstallCompleted(preview_id=preview.preview_id, attempt=preview.attempt, install_s=command.install_s)]
    return _advance(preview)


def record_install_failed(state: State, command: RecordInstallFailed) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None:
        return []
    if preview.status == "installing":
        return [
            InstallFailed(
                preview_id=preview.preview_id,
                attempt=preview.attempt,
                exit_code=command.exit_code,
                code=command.code,
                message=command.message,
                hint=command.hint,
            )
        ]
    return _advance(preview)


def record_dev_server_ready(state: State, command: RecordDevServerReady) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or preview.status != "booting":
        return []
    return [
        DevServerReady(
            preview_id=preview.preview_id,
            attempt=preview.attempt,
            host=command.host,
            port=command.port,
            status=command.status,
            boot_s=command.boot_s,
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
            )
        ]
    return _advance(preview)


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
        )
    ]


def fail(state: State, command: FailPreview) -> Sequence[Event]:
    preview = _running(state, command.preview_id, command.attempt)
    return [] if preview is None else [_failed(preview, command.code, command.message, command.hint)]


def expire_step(state: State, command: ExpireStep) -> Sequence[Event]:
    """The backstop: a step's own replica keeps its limit, unless it has died."""
    preview = _running(state, command.preview_id, command.attempt)
    if preview is None or command.step not in TIMED_BY.get(preview.status, (preview.status,)):
        return []
    if preview.status in ("install_failed", "exited"):
        return _advance(preview)
    waited_s = command.at - preview.status_at
    return [
        _failed(
            preview,
            f"{step_of(preview)}_timeout",
            f"The step {step_of(preview)!r} had not ended after {waited_s:.0f} s.",
            "Restart the preview; its log says how far it came.",
        )
    ]


def handle_vm_lost(state: State, command: HandleVmLost, config: OrchestratorConfig) -> Sequence[Event]:
    preview = state.previews.get(command.preview_id)
    if preview is None or preview.status in ENDED or preview.vm is None or preview.vm.vm_id != command.vm_id:
        return []
    project = state.projects.get(preview.project_id)
    if project is not None and losses_in_a_row(preview, command.at) < config.vm_losses_max:
        return [
            PreviewRestarted(
                preview_id=preview.preview_id,
                attempt=preview.attempt + 1,
                reason="vm_lost",
                files_version=project.files_version,
            )
        ]
    message = f"Its VM was lost: {command.detail or 'the agent no longer answers'}"
    return [_failed(preview, "vm_lost", message[:300], "Restart the preview.")]


def _advance(preview: Preview) -> Sequence[Event]:
    """What follows from where the preview stands, without anybody asking."""
    found = preview.found
    if found is None:
        return []
    match preview.status:
        case "synced" if not found.install_command:
            return [InstallSkipped(preview_id=preview.preview_id, attempt=preview.attempt, reason="no_dependencies")]
        case "synced":
            return [
                InstallStarted(
                    preview_id=preview.preview_id,
                    attempt=preview.attempt,
                    job_id=f"install-{preview.attempt}",
                    command=found.install_command,
                )
            ]
        case "installed":
            return [
                DevServerStarted(
                    preview_id=preview.preview_id,
                    attempt=preview.attempt,
                    job_id=f"dev-{preview.attempt}",
                    command=found.dev_command,
                )
            ]
        case "install_failed" | "exited":
            return [_failed(preview, *preview.failure)]
        case _:
            return []


def _failed(preview: Preview, code: str, message: str, hint: str) -> PreviewFailed:
    step = {"install_failed": "installing", "exited": "waiting_server"}.get(preview.status, step_of(preview))
    return PreviewFailed(
        preview_id=preview.preview_id, attempt=preview.attempt, code=code, message=message, hint=hint, step=step
    )


def _known(state: State, preview_id: str) -> Preview:
    preview = state.previews.get(preview_id)
    if preview is None:
        raise NotFound("preview_not_found", f"There is no preview {preview_id[:64]}.")
    return preview


def _running(state: State, preview_id: str, attempt: int) -> Preview | None:
    """The preview, if this is still the attempt that runs."""
    preview = state.previews.get(preview_id)
    if preview is None or preview.status in ENDED or preview.attempt != attempt:
        return None
    return preview
