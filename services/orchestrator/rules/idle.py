"""When a preview is frozen, what wakes it, and which of the frozen ones go first. Pure."""

from collections.abc import Sequence

from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview, Project
from services.orchestrator.state import State
from shared.commands import (
    Command,
    FailPreview,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordFilesSynced,
    RestartPreview,
    ResumePreview,
    StopPreview,
    SuspendPreview,
)
from shared.events import Event, PreviewResumed, PreviewSuspended

WAKING: dict[type[Command], str] = {
    RestartPreview: "restart",
    RecordFilesSynced: "edit",
    RecordDevServerReady: "dev_server",
    RecordDevServerExited: "dev_server",
    FailPreview: "failure",
}
"""Commands that have a suspended preview woken before they are carried out, and the reason that is given."""


def suspend(state: State, command: SuspendPreview) -> Sequence[Event]:
    """Only what is ready, and has the newest files: a VM is not frozen in the middle of an edit. A resident never: nobody
    looks at it, and whoever takes it over wants it awake."""
    preview = state.previews.get(command.preview_id)
    if preview is None or preview.status != "ready" or preview.attempt != command.attempt:
        return []
    if preview.resident or is_behind(state, preview):
        return []
    idle_s = round(command.idle_s, 3)
    return [PreviewSuspended(preview_id=preview.preview_id, attempt=preview.attempt, idle_s=idle_s)]


def resume(preview: Preview, command: ResumePreview) -> Sequence[Event]:
    return [resumed(preview, command.at, command.reason[:200])] if preview.status == "suspended" else []


def woken_by(state: State, command: Command) -> Sequence[Event]:
    """That the preview is woken, where it sleeps and the command needs it awake."""
    reason = WAKING.get(type(command))
    preview = state.previews.get(getattr(command, "preview_id", ""))
    if reason is None or preview is None or preview.status != "suspended":
        return []
    if getattr(command, "attempt", preview.attempt) != preview.attempt:
        return []
    return [resumed(preview, command.at, reason)]


def resumed(preview: Preview, at: float, reason: str) -> PreviewResumed:
    suspended_s = round(max(0.0, at - preview.status_at), 3)
    return PreviewResumed(
        preview_id=preview.preview_id, attempt=preview.attempt, reason=reason, suspended_s=suspended_s
    )


def is_behind(state: State, preview: Preview) -> bool:
    """Whether its VM lacks a version of the project's files."""
    project: Project | None = state.projects.get(preview.project_id)
    return project is not None and preview.files_version < project.files_version


def coldest_first(state: State) -> list[Preview]:
    """The suspended previews, the one that has been so longest first."""
    asleep = (preview for preview in state.previews.values() if preview.status == "suspended")
    return sorted(asleep, key=lambda preview: preview.status_at)


def too_cold(state: State, config: OrchestratorConfig) -> list[StopPreview]:
    """Stops for as many of the coldest as are more, or hold more memory, than may stay."""
    asleep = coldest_first(state)
    held_mb = sum(preview.frozen_mb for preview in asleep)
    stops: list[StopPreview] = []
    for count, preview in zip(range(len(asleep), 0, -1), asleep, strict=True):
        if count <= config.suspended_max and held_mb <= config.suspended_mb_max:
            break
        held_mb -= preview.frozen_mb
        stops.append(stop_cold(preview, "memory"))
    return stops


def stop_cold(preview: Preview, reason: str) -> StopPreview:
    """Unless it has been woken meanwhile."""
    return StopPreview(preview_id=preview.preview_id, reason=reason, if_suspended=True)
