"""Command and state to events. Pure. Asked again after its event is stored, a decision gives nothing more."""

from collections.abc import Sequence

from services.gateway.config import GatewayConfig
from services.gateway.state import Project, State
from shared.commands import (
    Command,
    CreateProject,
    DeleteProject,
    RecordErasure,
    RecordFiles,
    SetProjectEnv,
    SetProjectResidents,
)
from shared.errors import Invalid, NotFound, Refused
from shared.events import (
    Event,
    ProjectCreated,
    ProjectDeleted,
    ProjectEnvChanged,
    ProjectErased,
    ProjectFilesChanged,
    ProjectResidentsChanged,
)
from shared.ids import derive

NAME_CHARS_MAX = 200


def decide(state: State, command: Command, config: GatewayConfig) -> Sequence[Event]:
    """The events that the command leads to in this state; raises `Refused` where it is not granted."""
    match command:
        case CreateProject():
            return create_project(state, command, config)
        case RecordFiles():
            return record_files(state, command)
        case SetProjectEnv():
            return set_project_env(state, command)
        case SetProjectResidents():
            return set_project_residents(state, command, config)
        case DeleteProject():
            return delete_project(state, command)
        case RecordErasure():
            return record_erasure(state, command)
        case _:
            raise AssertionError(f"not a command of the gateway: {type(command).__name__}")


def project_id_of(command: CreateProject) -> str:
    """The id of the project that this command creates, however often it is tried."""
    return derive(command.id, "project")


def create_project(state: State, command: CreateProject, config: GatewayConfig) -> Sequence[Event]:
    name = command.name.strip()
    if not name or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise Invalid("bad_project_name", f"A project's name has 1 to {NAME_CHARS_MAX} printable characters.")
    project_id = project_id_of(command)
    if project_id in state.projects:
        return []
    if sum(each.owner == command.owner for each in state.projects.values()) >= config.projects_per_owner_max:
        raise Refused(
            "too_many_projects",
            f"There are {config.projects_per_owner_max} projects already.",
            "Delete one that is not needed.",
            status=429,
            retry_after_s=60.0,
        )
    return [ProjectCreated(project_id=project_id, owner=command.owner, name=name)]


def record_files(state: State, command: RecordFiles) -> Sequence[Event]:
    """A new version, if nobody stored another since the one that it was made from."""
    project = owned(state, command.project_id, command.owner)
    if project.files_version == command.base_version + 1 and project.manifest == command.manifest:
        return []
    if project.files_version != command.base_version:
        raise Refused(
            "files_version_conflict",
            f"The project is at version {project.files_version} by now, not {command.base_version}.",
            "Somebody else changed it at the same time: send the files again.",
        )
    return [
        ProjectFilesChanged(
            project_id=project.project_id,
            files_version=command.base_version + 1,
            manifest=command.manifest,
            files=command.files,
            size_bytes=command.size_bytes,
            changed=command.changed,
            deleted=command.deleted,
        )
    ]


def set_project_env(state: State, command: SetProjectEnv) -> Sequence[Event]:
    """Other variables, if nobody set some since those that they were made from."""
    project = owned(state, command.project_id, command.owner)
    if project.env == command.env:
        return []
    if command.base not in (None, project.env):
        raise Refused(
            "env_conflict", "The project's variables were changed at the same time.", "Set the variable once more."
        )
    return [ProjectEnvChanged(project_id=project.project_id, env=command.env, names=command.names)]


def set_project_residents(state: State, command: SetProjectResidents, config: GatewayConfig) -> Sequence[Event]:
    project = owned(state, command.project_id, command.owner)
    if not 0 <= command.count <= config.residents_max:
        raise Invalid("bad_count", f"A template has 0 to {config.residents_max} residents, not {command.count}.")
    if command.count and project.env:
        raise Refused(
            "template_with_env",
            "A project with variables is no template: its dev server would have read them before it serves another.",
            "Set the variables in the projects that need them; they start a server of their own.",
        )
    if project.residents == command.count:
        return []
    return [ProjectResidentsChanged(project_id=project.project_id, count=command.count)]


def delete_project(state: State, command: DeleteProject) -> Sequence[Event]:
    project = state.projects.get(command.project_id)
    if project is None:
        return []
    return [ProjectDeleted(project_id=owned(state, command.project_id, command.owner).project_id)]


def record_erasure(state: State, command: RecordErasure) -> Sequence[Event]:
    """Once a project; what a later look finds is what came while the first one was at work."""
    removed = state.removed.get(command.project_id)
    if removed is None or removed.erased is not None:
        return []
    return [
        ProjectErased(
            project_id=command.project_id,
            previews=command.previews,
            output_batches=command.output_batches,
            objects=command.objects,
            reactions=command.reactions,
        )
    ]


def owned(state: State, project_id: str, owner: str) -> Project:
    """The owner's project. Raises `NotFound` for another's too: the two must look the same."""
    project = state.projects.get(project_id)
    if project is None or project.owner != owner:
        raise NotFound("project_not_found", f"There is no project {project_id[:64]}.")
    return project
