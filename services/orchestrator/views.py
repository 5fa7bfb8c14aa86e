"""What others may read of the orchestrator. Pure."""

import math
from collections.abc import Mapping

from services.orchestrator.model import Preview, step_of
from services.orchestrator.rules import progress
from services.orchestrator.state import State, newest_of
from shared.codec import Recorded
from shared.commands import Command, PreviewReply, Reply, RequestPreview
from shared.definition import STORY_S, Traced, trace_id_of
from shared.errors import NotFound
from shared.events import ClaimExpired, Event, PreviewRestarted, ProjectEvent, VmAcquired, VmLost
from shared.ids import ProjectId
from shared.ports import Progress


def answer(state: State, command: Command) -> Reply:
    """What a granted command answers."""
    if isinstance(command, RequestPreview):
        mine = (each for each in state.previews.values() if each.requested_by == command.id)
        preview = next(mine, None)
        created = preview is not None
        if preview is None:
            project = state.projects.get(command.project_id)
            if project is None:  # deleted since the decision
                raise NotFound("project_not_found", f"There is no project {command.project_id[:64]}.")
            preview = state.previews.get(project.live or "") or newest_of(state, project)
            if preview is None:  # asked again with the same id, long after its end
                return PreviewReply(preview_id=project.newest, status="stopped")
        return PreviewReply(preview_id=preview.preview_id, status=preview.status, created=created)
    preview = state.previews.get(getattr(command, "preview_id", ""))
    if preview is not None:
        return PreviewReply(preview_id=preview.preview_id, status=preview.status)
    return Reply()


def trace_of(state: State, recorded: Recorded) -> Traced:
    """A start is one trace, also where a VM came to it by another's end; an edit, a restart or a wake-up later is a trace of
    its own that links to it."""
    own, event = recorded.meta.traceparent, recorded.event
    preview = _told_of(state, event)
    if preview is None or not preview.traceparent:
        return Traced(own)
    if isinstance(event, PreviewRestarted):
        return Traced(own, _others(own, preview.traced_before))
    if not own or (isinstance(event, VmAcquired | VmLost | ClaimExpired) and _under_way(preview, recorded.meta.at)):
        return Traced(preview.traceparent, _others(preview.traceparent, own))
    return Traced(own, _others(own, preview.traceparent))


def _told_of(state: State, event: Event | None) -> Preview | None:
    if isinstance(event, ProjectEvent):
        project = state.projects.get(event.project_id)
        return state.previews.get(project.live or "") if project is not None else None
    return state.previews.get(getattr(event, "preview_id", None) or "")


def _under_way(preview: Preview, at: float) -> bool:
    """Whether its start is what is being told."""
    return at - preview.attempt_at <= STORY_S


def _others(own: str, *traceparents: str) -> tuple[str, ...]:
    """Those that name another trace than `own` does."""
    return tuple(each for each in traceparents if trace_id_of(each) not in ("", trace_id_of(own)))


def project_of(state: State, message: Event | Command) -> ProjectId:
    """The project that a message is about; empty where there is none, or none any more."""
    preview = state.previews.get(getattr(message, "preview_id", ""))
    project_id = getattr(message, "project_id", preview.project_id if preview is not None else "")
    return project_id if project_id in state.projects else ""


def progress_of(preview: Preview, now: float, noted: Mapping[str, str | int | float | bool | None]) -> Progress:
    """How far the preview is at `now` (seconds, UTC). `noted`: what is known of the step's inside, as its phase."""
    step = step_of(preview)
    in_step_s = max(0.0, now - preview.status_at)
    # These two last for one append: the step has ended, the next has not begun.
    ended = preview.status in ("synced", "installed")
    phase, quiet_s = str(noted.get("phase", "")), float(noted.get("quiet_s") or 0.0)
    return Progress(
        preview_id=preview.preview_id,
        step=step,
        percent=progress.percent(step, math.inf if ended else in_step_s, preview.expected_s),
        message=progress.message(step, in_step_s, phase=phase, quiet_s=quiet_s),
        timestamp=now,
        elapsed=round(max(0.0, now - preview.attempt_at), 3),
        eta_s=progress.eta_s(step, math.inf if ended else in_step_s, preview.expected_s),
        details={"attempt": preview.attempt, "step_elapsed_s": round(in_step_s, 3), **noted},
    )
