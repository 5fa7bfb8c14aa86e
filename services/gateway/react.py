"""Event and state to effects, as data. Pure."""

from collections.abc import Sequence

import msgspec

from services.gateway.state import State
from shared.codec import Recorded
from shared.effects import SetTimer
from shared.events import Event, ProjectDeleted, ProjectFilesChanged
from shared.ids import ProjectId
from shared.ports import TimerFired

COLLECT_AFTER_S = 120.0
"""A version that has been replaced may still be on its way into a VM for so long."""
COLLECT_TIMER = "collect"


class CollectFiles(msgspec.Struct, frozen=True):
    """Remove the objects of this manifest that the project's present one does not refer to."""

    project_id: ProjectId
    manifest: str


Effect = SetTimer | CollectFiles

REACTS_TO: tuple[type[Event], ...] = (ProjectFilesChanged, ProjectDeleted)


def react(state: State, recorded: Recorded) -> Sequence[Effect]:
    """What has to happen because of this event."""
    match recorded.event:
        case ProjectFilesChanged(project_id=project_id, files_version=version):
            project = state.projects.get(project_id)
            earlier = project.replaced.get(str(version)) if project is not None else None
            return [_collect_later(f"{project_id}-{version}", project_id, earlier)] if earlier else []
        case ProjectDeleted(project_id=project_id):
            manifest = state.removed.get(project_id)
            return [_collect_later(f"{project_id}-deleted", project_id, manifest)] if manifest else []
        case _:
            return []


def on_timer(_state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    if fired.name != COLLECT_TIMER:
        return []  # a timer of another version of this service
    return [CollectFiles(str(fired.data["project_id"]), str(fired.data["manifest"]))]


def _collect_later(timer_id: str, project_id: ProjectId, manifest: str) -> SetTimer:
    return SetTimer(COLLECT_TIMER, timer_id, COLLECT_AFTER_S, {"project_id": project_id, "manifest": manifest})
