"""Event and state to effects, as data. Pure."""

from collections.abc import Sequence

import msgspec

from services.gateway.state import State
from shared.codec import Recorded
from shared.effects import SetTimer
from shared.events import Event, ProjectDeleted, ProjectEnvChanged, ProjectFilesChanged
from shared.ids import ProjectId
from shared.ports import TimerFired

COLLECT_AFTER_S = 120.0
"""A version that has been replaced may still be on its way into a VM for so long."""
COLLECT_TIMER = "collect"


class CollectFiles(msgspec.Struct, frozen=True):
    """Remove the objects of this manifest that the project's present one does not refer to."""

    project_id: ProjectId
    manifest: str


class RemoveObject(msgspec.Struct, frozen=True):
    """Remove an object that nothing refers to any more."""

    name: str


Effect = SetTimer | CollectFiles | RemoveObject

REACTS_TO: tuple[type[Event], ...] = (ProjectFilesChanged, ProjectEnvChanged, ProjectDeleted)


def react(state: State, recorded: Recorded) -> Sequence[Effect]:
    """What has to happen because of this event."""
    match recorded.event:
        case ProjectFilesChanged(project_id=project_id, files_version=version):
            project = state.projects.get(project_id)
            earlier = project.replaced.get(str(version)) if project is not None else None
            return [_collect_later(f"{project_id}-{version}", project_id, earlier)] if earlier else []
        case ProjectEnvChanged():
            return _remove_env_later(state, recorded)
        case ProjectDeleted(project_id=project_id):
            manifest = state.removed.get(project_id)
            files = [_collect_later(f"{project_id}-deleted", project_id, manifest)] if manifest else []
            return [*files, *_remove_env_later(state, recorded)]
        case _:
            return []


def on_timer(_state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    if fired.name != COLLECT_TIMER:
        return []  # a timer of another version of this service
    if "object" in fired.data:
        return [RemoveObject(str(fired.data["object"]))]
    return [CollectFiles(str(fired.data["project_id"]), str(fired.data["manifest"]))]


def _collect_later(timer_id: str, project_id: ProjectId, manifest: str) -> SetTimer:
    return SetTimer(COLLECT_TIMER, timer_id, COLLECT_AFTER_S, {"project_id": project_id, "manifest": manifest})


def _remove_env_later(state: State, recorded: Recorded) -> Sequence[SetTimer]:
    """A job that begins just now may still be given the old variables."""
    name = state.removed_env.get(str(recorded.seq))
    return [SetTimer(COLLECT_TIMER, f"env-{recorded.seq}", COLLECT_AFTER_S, {"object": name})] if name else []
