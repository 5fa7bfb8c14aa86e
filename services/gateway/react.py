"""Event and state to effects, as data. Pure."""

from collections.abc import Sequence

import msgspec

from services.gateway.state import State
from shared.codec import Recorded
from shared.effects import SetTimer
from shared.events import Event, ProjectDeleted, ProjectEnvChanged, ProjectFilesChanged
from shared.ids import OwnerId, ProjectId
from shared.ports import TimerFired

COLLECT_AFTER_S = 120.0
"""A version that has been replaced, or variables, may still be on their way into a VM for so long."""
COLLECT_TIMER = "collect"
COLLECT_ENV_TIMER = "collect-env"
ERASE_TIMER = "erase"


class CollectFiles(msgspec.Struct, frozen=True):
    """Remove the objects of this manifest that the project's present one does not refer to."""

    project_id: ProjectId
    manifest: str


class CollectEnv(msgspec.Struct, frozen=True):
    """Remove this object of variables, unless it holds the project's present ones."""

    project_id: ProjectId
    env: str


class EraseProject(msgspec.Struct, frozen=True):
    """Remove everything of a deleted project, its key last."""

    project_id: ProjectId
    owner: OwnerId


Effect = SetTimer | CollectFiles | CollectEnv | EraseProject

REACTS_TO: tuple[type[Event], ...] = (ProjectFilesChanged, ProjectEnvChanged, ProjectDeleted)


def react(state: State, recorded: Recorded) -> Sequence[Effect]:
    """What has to happen because of this event."""
    match recorded.event:
        case ProjectFilesChanged(project_id=project_id, files_version=version):
            project = state.projects.get(project_id)
            earlier = project.replaced.get(str(version)) if project is not None else None
            return [_collect_later(f"{project_id}-{version}", project_id, earlier)] if earlier else []
        case ProjectEnvChanged(project_id=project_id):
            project = state.projects.get(project_id)
            replaced = project.env_replaced.get(str(recorded.seq)) if project is not None else None
            return [_collect_env_later(recorded.seq, project_id, replaced)] if replaced else []
        case ProjectDeleted(project_id=project_id):
            return _erase(state, project_id)
        case _:
            return []


def on_timer(_state: State, fired: TimerFired) -> Sequence[Effect]:
    """What has to happen because time has passed."""
    if fired.name == COLLECT_TIMER:
        return [CollectFiles(str(fired.data["project_id"]), str(fired.data["manifest"]))]
    if fired.name == COLLECT_ENV_TIMER:
        return [CollectEnv(str(fired.data["project_id"]), str(fired.data["env"]))]
    if fired.name == ERASE_TIMER:
        return [EraseProject(str(fired.data["project_id"]), str(fired.data["owner"]))]
    return []  # a timer of another version of this service


def _erase(state: State, project_id: ProjectId) -> Sequence[Effect]:
    """Its variables at once: nothing may read them any more. The rest as soon as its previews have ended, and once more in
    a while, for an upload or a line of output may have been on its way."""
    left = state.removed.get(project_id)
    if left is None:
        return []
    data: dict[str, str | int] = {"project_id": project_id, "owner": left.owner}
    again = SetTimer(ERASE_TIMER, project_id, COLLECT_AFTER_S, data)
    variables = [CollectEnv(project_id, left.env)] if left.env else []
    return [again, *variables, EraseProject(project_id, left.owner)]


def _collect_later(timer_id: str, project_id: ProjectId, manifest: str) -> SetTimer:
    return SetTimer(COLLECT_TIMER, timer_id, COLLECT_AFTER_S, {"project_id": project_id, "manifest": manifest})


def _collect_env_later(seq: int, project_id: ProjectId, env: str) -> SetTimer:
    data: dict[str, str | int] = {"project_id": project_id, "env": env}
    return SetTimer(COLLECT_ENV_TIMER, f"{project_id}-env-{seq}", COLLECT_AFTER_S, data)
