"""What follows from where a preview stands, and the events that end or begin an attempt. Pure."""

from collections.abc import Sequence
from typing import Literal

from services.orchestrator.model import INSTALL_RETRY, Failure, Preview, Project, step_of
from services.orchestrator.rules.progress import DEFAULT_S
from shared.events import (
    AppChoice,
    DevServerStarted,
    Event,
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewPrepared,
    PreviewRestarted,
)

RestartReason = Literal["asked", "vm_lost", "edited", "out_of_memory"]


def restarted(
    preview: Preview, project: Project, reason: RestartReason, *, in_place: bool = False, app: str = ""
) -> PreviewRestarted:
    return PreviewRestarted(
        preview_id=preview.preview_id,
        attempt=preview.attempt + 1,
        reason=reason,
        files_version=project.files_version,
        in_place=in_place,
        app=app,
    )


def advance(preview: Preview) -> Sequence[Event]:
    """What follows from where the preview stands, without anybody asking."""
    found = preview.found
    if found is None:
        return []
    match preview.status:
        case "synced" if not found.install_command:
            return [InstallSkipped(preview_id=preview.preview_id, attempt=preview.attempt, reason="no_dependencies")]
        case "synced" if found.deps and found.deps == preview.installed:
            return [_kept(preview, found.deps)]
        case "synced":
            return [
                InstallStarted(
                    preview_id=preview.preview_id,
                    attempt=preview.attempt,
                    job_id=f"install-{preview.attempt}",
                    command=found.install_command,
                )
            ]
        case "installed" if not preview.wanted:
            return [PreviewPrepared(preview_id=preview.preview_id, attempt=preview.attempt)]
        case "prepared" if not preview.wanted:
            return []
        case "installed" | "prepared":
            return [
                DevServerStarted(
                    preview_id=preview.preview_id,
                    attempt=preview.attempt,
                    job_id=f"dev-{preview.attempt}",
                    command=found.dev_command,
                )
            ]
        case "install_failed" | "exited":
            return [failed(preview, preview.failure)]
        case _:
            return []


def worth_restoring(preview: Preview) -> bool:
    """An install that held on to its lockfile, left everything in `node_modules`, and with which the project runs."""
    held_on = preview.install == "completed" and not preview.install_job.endswith(INSTALL_RETRY)
    return held_on and preview.found is not None and preview.found.keeps and not preview.with_errors


def _kept(preview: Preview, key: str) -> InstallSkipped:
    """The dependencies are there; what an install took before is what that saves."""
    install_s = preview.expected_s.get("installing", DEFAULT_S["installing"])
    return InstallSkipped(
        preview_id=preview.preview_id,
        attempt=preview.attempt,
        reason="resident" if preview.template is not None else "restored" if preview.restored else "preserved",
        key=key,
        saved_s=round(max(0.0, install_s - preview.restore_s), 3),
    )


def failed(preview: Preview, failure: Failure, choices: tuple[AppChoice, ...] = ()) -> PreviewFailed:
    step = {"install_failed": "installing", "exited": "waiting_server"}.get(preview.status, step_of(preview))
    return PreviewFailed(
        preview_id=preview.preview_id,
        attempt=preview.attempt,
        code=failure.code,
        message=failure.message,
        hint=failure.hint,
        step=step,
        evidence=failure.evidence,
        choices=choices,
        fingerprint=failure.fingerprint,
    )
