"""What front ends get to see. Pure. Field names here are the API's."""

from collections.abc import Iterable, Sequence
from typing import Any

from services.gateway.state import ENDED, SERVED, STEP_OF, Failure, Preview, Project, Removed, State
from shared.commands import Command, CreateProject, ProjectReply, RecordFiles, Reply
from shared.events import PreviewWarningRaised
from shared.ids import OwnerId, ProjectId, derive
from shared.output import LogBatch, LogLine
from shared.ports import Progress

Json = dict[str, Any]
LOG_STEPS = ("install", "install_retry", "dev_server")
"""Steps of which the log holds output."""
LOG_LIMITS = "24 hours, 5000 batches of a preview, 256 MiB of all"
"""What the log's stream keeps (`shared/jetstream/topology.py`), in words."""


def answer(_state: State, command: Command) -> Reply:
    """What a granted command answers."""
    match command:
        case CreateProject(id=command_id):
            return ProjectReply(project_id=derive(command_id, "project"), files_version=0)
        case RecordFiles(project_id=project_id, base_version=base_version):
            # What was stored, whatever has become of the project since: the next version, or its end.
            return ProjectReply(project_id=project_id, files_version=base_version + 1)
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
        "residents": project.residents,
    }


def residents_view(state: State, project: Project) -> Json:
    """A template's residents. `error`: why the newest one failed, while fewer run than there are to be."""
    mine = [each for each in state.previews.values() if each.resident and each.project_id == project.project_id]
    ready = sum(each.status == "ready" for each in mine)
    starting = sum(each.status not in ("ready", *ENDED) for each in mine)
    newest = mine[-1] if mine else None
    failed = newest is not None and newest.status == "failed" and ready < project.residents
    return {
        "project_id": project.project_id,
        "count": project.residents,
        "ready": ready,
        "starting": starting,
        "error": error_view(newest.error) if failed and newest is not None else None,
    }


def env_view(project: Project) -> Json:
    """A project's variables: their names only."""
    return {"project_id": project.project_id, "names": list(project.env_names)}


def erasure_view(project_id: ProjectId, removed: Removed) -> Json:
    """How far a deleted project is gone. `erased`: nothing of it can be read any more; the counts say what was removed."""
    done = removed.erased
    return {
        "project_id": project_id,
        "erased": done is not None,
        "previews": done.previews if done is not None else None,
        "output_batches": done.output_batches if done is not None else None,
        "objects": done.objects if done is not None else None,
        "reactions": done.reactions if done is not None else None,
    }


def preview_view(
    state: State,
    preview: Preview,
    progress: Progress | None,
    now: float,
    log_tail: Sequence[LogLine] = (),
    evidence: Sequence[LogLine] = (),
) -> Json:
    """A preview as the API shows it. `progress`: the newest tick, if it is of this attempt and step; `evidence`: the
    log's lines that the error names."""
    project = state.projects.get(preview.project_id)
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
        "elapsed_s": elapsed_of(preview, now),
        "eta_s": 0.0 if preview.status in SERVED else told.eta_s if told is not None else None,
        "phase": told.details.get("phase", "") if told is not None else "",
        "quiet_s": told.details.get("quiet_s") if told is not None else None,
        "last_line": told.details.get("last_line", "") if told is not None else "",
        "url": preview.url or None,
        "detail": preview.detail,
        "app": preview.app,
        "wanted": preview.wanted,
        "private": preview.private,
        "files_version": preview.files_version,
        "framework": preview.framework,
        "version": preview.version,
        "package_manager": preview.package_manager,
        "warnings": [warning_view(warning) for warning in preview.warnings],
        "error": error_view(preview.error, evidence),
        "log_tail": [line.text for line in log_tail],
        "hmr": hmr_view(preview),
        "steps": preview.steps,
        "from_pool": preview.from_pool,
        "install": preview.install,
        "total_s": preview.total_s,
        "created_at": preview.created_at,
        "attempt": preview.attempt,
        "vm_id": preview.vm_id,
        "seq": preview.changed_seq,
    }


def elapsed_of(preview: Preview, now: float) -> float:
    """Seconds since somebody asked for this attempt, to its end; of one that nobody asked for yet, what it took."""
    if preview.total_s is not None:
        return preview.total_s
    end = preview.ended_at if preview.status in ENDED else preview.status_at if preview.status == "prepared" else now
    return round(max(0.0, end - preview.attempt_at), 3)


def current(progress: Progress | None, preview: Preview) -> Progress | None:
    """The tick, if it still says something about where the preview stands: a late one must not turn it back.

    A step that we do not know is a newer service's: it is shown as it is, for as long as the preview is under way.
    """
    if progress is None or progress.details.get("attempt") != preview.attempt:
        return None
    if progress.step not in KNOWN_STEPS:
        return progress if preview.status in START_OF and preview.status != "prepared" else None
    return progress if progress.step == STEP_OF[preview.status] else None


KNOWN_STEPS = frozenset(STEP_OF.values())


START_OF: dict[str, float] = {
    "acquiring": 0.01,
    "syncing": 5.0,
    "installing": 10.0,
    "prepared": 85.0,
    "starting": 85.0,
    "waiting": 95.0,
}
"""Percent at the start of a status, until its first tick comes."""


FAILED_AT = {STEP_OF[status]: percent for status, percent in START_OF.items()}
"""How far a preview was when it failed, by the step that it failed in."""


def percent_of(preview: Preview, told: Progress | None) -> float:
    """0..100; 100 only for a preview that is ready. Where one failed, the start of that step."""
    if preview.status in SERVED or preview.status == "suspended":
        return 100.0
    if preview.status in ENDED:
        return 0.0 if preview.error is None else FAILED_AT.get(preview.error.step, 0.0)
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
        "ready_with_errors": preview.detail or "The dev server runs, and shows an error in the project",
        "suspended": "Asleep; the next request wakes it",
        "stopped": "Stopped",
    }
    return words.get(preview.status, preview.status)


def error_view(error: Failure | None, evidence: Sequence[LogLine] = ()) -> Json | None:
    """Why it failed. `evidence`: texts of the log's lines that show it, where they were looked up."""
    if error is None:
        return None
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "step": error.step,
        "evidence": [line.text for line in evidence],
        "choices": [
            {"path": choice.path, "framework": choice.framework, "name": choice.name} for choice in error.choices
        ],
    }


def evidence_step(preview: Preview) -> str:
    """The step of the log whose lines the preview's error names: of several installs the attempt's last."""
    if preview.error is None or preview.error.step != "installing":
        return "dev_server"
    return "install_retry" if preview.install_job.endswith("-retry") else "install"


def evidence_lines(preview: Preview, lines: Iterable[LogLine]) -> list[LogLine]:
    """Those of the log's lines that the preview's error names, in order."""
    if preview.error is None:
        return []
    wanted, step = set(preview.error.evidence), evidence_step(preview)
    return [line for line in lines if line.attempt == preview.attempt and line.step == step and line.offset in wanted]


def hmr_view(preview: Preview) -> Json | None:
    """What the socket for edits answered, once it was tried."""
    if preview.hmr is None:
        return None
    return {"state": preview.hmr.state, "path": preview.hmr.path, "detail": preview.hmr.detail}


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
        message=message_of(preview, None),
        timestamp=now,
        elapsed=elapsed,
        eta_s=0.0,
        details={"attempt": preview.attempt, "url": preview.url},
    )


def log_view(line: LogLine) -> Json:
    """A line of output as the API shows it. `offset`: its number among the lines of its step and attempt."""
    return {
        "at": line.at,
        "step": line.step,
        "stream": line.stream,
        "text": line.text,
        "attempt": line.attempt,
        "offset": line.offset,
    }


def cut_view(preview: Preview, oldest: LogBatch | None, after: int) -> Json | None:
    """What of the log is gone that a reader asks for, who has read up to `after`; None where nothing is.

    `oldest`: the oldest batch that is kept. `lines`: how many at least; None where that can't be told.
    """
    if oldest is None or not oldest.lines:
        return None
    first = oldest.lines[0]
    behind = 0 < after < oldest.seq
    # An install that has run has printed something; its output being gone is no reason to say that there was none.
    install_gone = first.step == "dev_server" and first.attempt == preview.attempt and preview.install == "completed"
    if not behind and (after > 0 or not (first.offset > 0 or install_gone)):
        return None
    lines = first.offset if after == 0 and first.offset > 0 else None
    return {
        "type": "cut",
        "preview_id": preview.preview_id,
        "lines": lines,
        "reason": f"Earlier output was dropped (limit: {LOG_LIMITS}).",
    }


def owned_projects(state: State, owner: OwnerId) -> list[Project]:
    """An owner's projects, newest last."""
    return [project for project in state.projects.values() if project.owner == owner]


def owned_previews(state: State, owner: OwnerId) -> list[Preview]:
    """An owner's previews, newest last."""
    return [each for each in state.previews.values() if each.owner == owner and not each.resident]
