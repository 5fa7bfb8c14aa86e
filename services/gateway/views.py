"""What front ends get to see. Pure. Field names here are the API's."""

from collections.abc import Sequence
from typing import Any

from services.gateway.state import ENDED, SHOWN, STEP_OF, Preview, Project, State
from shared.commands import Command, CreateProject, ProjectReply, RecordFiles, Reply
from shared.events import PreviewFailed, PreviewWarningRaised
from shared.ids import OwnerId, derive
from shared.ports import LogLine, Progress

Json = dict[str, Any]


def answer(state: State, command: Command) -> Reply:
    """What a granted command answers."""
    match command:
        case CreateProject(id=command_id):
            return ProjectReply(project_id=derive(command_id, "project"), files_version=0)
        case RecordFiles(project_id=project_id):
            return ProjectReply(project_id=project_id, files_version=state.projects[project_id].files_version)
        case _:
            return Reply()


def project_view(project: Project) -> Json:
    """A project as the API shows it."""
    return {
        "project_id": project.project_id,
        "name": project.name,
        "owner": project.owner,
        "version": project.files_version,
        "files": project.files,
        "bytes": project.size_bytes,
        "env": list(project.env_names),
    }


def preview_view(
    state: State,
    preview: Preview,
    progress: Progress | None,
    now: float,
    lines: Sequence[LogLine] = (),
    tail_max: int = 0,
) -> Json:
    """A preview as the API shows it. `progress`: the newest tick, if it is of this attempt and step. `lines`: what this
    attempt printed, of which the last `tail_max` are shown, and those that show why it failed."""
    project = state.projects.get(preview.project_id)
    end = preview.ended_at if preview.status in ENDED else now
    told = current(progress, preview)
    return {
        "preview_id": preview.preview_id,
        "project_id": preview.project_id,
        "project_name": project.name if project is not None else "",
        "owner": preview.owner,
        "status": preview.status,
        "step": STEP_OF[preview.status],
        "percent": percent_of(preview, told),
        "message": message_of(preview, told),
        "elapsed_s": preview.total_s if preview.total_s is not None else round(max(0.0, end - preview.attempt_at), 3),
        "url": preview.url or None,
        "framework": preview.framework,
        "version": preview.version,
        "package_manager": preview.package_manager,
        "warnings": [warning_view(warning) for warning in preview.warnings],
        "detail": preview.detail,
        "hmr": hmr_view(preview),
        "eta_s": told.eta_s if told is not None else None,
        "phase": told.details.get("phase", "") if told is not None else "",
        "quiet_s": told.details.get("quiet_s") if told is not None else None,
        "error": error_view(preview, lines),
        "log_tail": [line.text for line in (lines[-tail_max:] if tail_max else ())],
        "steps": preview.steps,
        "from_pool": preview.from_pool,
        "install": preview.install,
        "total_s": preview.total_s,
        "created_at": preview.created_at,
        "attempt": preview.attempt,
        "vm_id": preview.vm_id,
        "seq": preview.changed_seq,
    }


def current(progress: Progress | None, preview: Preview) -> Progress | None:
    """The tick, if it still says something about where the preview stands: a late one must not turn it back.

    A step that we do not know is a newer service's: it is shown as it is, for as long as the preview is under way.
    """
    if progress is None or progress.details.get("attempt") != preview.attempt:
        return None
    if progress.step not in KNOWN_STEPS:
        return progress if preview.status in START_OF else None
    return progress if progress.step == STEP_OF[preview.status] else None


KNOWN_STEPS = frozenset(STEP_OF.values())


START_OF: dict[str, float] = {
    "acquiring": 1.0,
    "syncing": 5.0,
    "installing": 10.0,
    "prepared": 85.0,
    "starting": 85.0,
    "waiting": 95.0,
}
"""Percent at the start of a status, until its first tick comes."""


def percent_of(preview: Preview, told: Progress | None) -> float:
    """0..100; 100 only for a preview that is ready."""
    if preview.status in (*SHOWN, "suspended"):
        return 100.0
    if preview.status in ENDED:
        return 0.0
    return min(99.0, told.percent) if told is not None else START_OF[preview.status]


def message_of(preview: Preview, told: Progress | None) -> str:
    """One line for a person."""
    if preview.error is not None:
        return preview.error.message
    if told is not None:
        return told.message
    words = {
        "acquiring": "Getting a machine",
        "syncing": "Bringing in the files",
        "installing": "Installing dependencies",
        "prepared": "Prepared; waiting to be opened",
        "starting": "Starting the dev server",
        "waiting": "Checking the preview through the gateway",
        "ready": "Ready",
        "ready_with_errors": f"Ready; the dev server shows an error of the project: {preview.detail}",
        "suspended": "Asleep; the next request wakes it",
        "stopped": "Stopped",
    }
    return words.get(preview.status, preview.status)


def error_view(preview: Preview, lines: Sequence[LogLine] = ()) -> Json | None:
    """Why it failed, with those of `lines` that show it, and the apps to choose from where that is the reason."""
    error = preview.error
    if error is None:
        return None
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "step": error.step,
        "evidence": evidence_of(error, lines),
        "choices": [{"path": c.path, "framework": c.framework, "name": c.name} for c in error.choices],
    }


def evidence_of(error: PreviewFailed, lines: Sequence[LogLine]) -> list[str]:
    """The texts of the lines that the failure names: of the last install where that failed, else of the dev server."""
    wanted = set(error.evidence)
    installing = error.step == "installing"
    steps = [line.step for line in lines if line.step.startswith("install") == installing]
    return [line.text for line in lines if steps and line.step == steps[-1] and line.offset in wanted]


def hmr_view(preview: Preview) -> Json | None:
    """Whether edits will show by themselves: the state of the socket that tells of them."""
    hmr = preview.hmr
    return {"state": hmr.state, "path": hmr.path, "detail": hmr.detail} if hmr is not None else None


def warning_view(warning: PreviewWarningRaised) -> Json:
    """A warning, in the shape that front ends know."""
    return {
        "type": warning.code,
        "version": warning.version,
        "message": warning.message,
        "recommendation": warning.recommendation,
        "link": warning.link,
    }


def progress_message(preview_id: str, progress: Progress, seq: int) -> Json:
    """`preview_progress`, in the shape that front ends know."""
    return {
        "type": "preview_progress",
        "preview_id": preview_id,
        "step": progress.step,
        "percent": progress.percent,
        "message": progress.message,
        "timestamp": progress.timestamp,
        "details": progress.details,
        "elapsed": progress.elapsed,
        "eta_s": progress.eta_s,
        "seq": seq,
    }


def ready_progress(preview: Preview, now: float) -> Progress:
    """The end of the bar, told by the fact itself."""
    elapsed = preview.total_s or 0.0
    return Progress(
        preview_id=preview.preview_id,
        step="server_ready",
        percent=100.0,
        message="Ready",
        timestamp=now,
        elapsed=elapsed,
        eta_s=0.0,
        details={"attempt": preview.attempt, "url": preview.url},
    )


def log_view(line: LogLine) -> Json:
    """A line of output as the API shows it."""
    return {"at": line.at, "step": line.step, "stream": line.stream, "text": line.text, "attempt": line.attempt}


def owned_projects(state: State, owner: OwnerId) -> list[Project]:
    """An owner's projects, newest last."""
    return [project for project in state.projects.values() if project.owner == owner]


def owned_previews(state: State, owner: OwnerId) -> list[Preview]:
    """An owner's previews, newest last."""
    return [preview for preview in state.previews.values() if preview.owner == owner]
