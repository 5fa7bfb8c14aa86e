"""The commands to the gateway."""

from typing import ClassVar

from shared.commands.base import Command
from shared.ids import OwnerId, ProjectId


class GatewayCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "gateway"


class CreateProject(GatewayCommand, frozen=True, kw_only=True):
    """A project without files; its id follows from the command's."""

    verb: ClassVar[str] = "create-project"
    owner: OwnerId
    name: str


class RecordFiles(GatewayCommand, frozen=True, kw_only=True):
    """A new version of the files is in the object store."""

    verb: ClassVar[str] = "record-files"
    project_id: ProjectId
    owner: OwnerId
    base_version: int
    manifest: str
    files: int
    size_bytes: int
    changed: int
    deleted: int


class SetProjectEnv(GatewayCommand, frozen=True, kw_only=True):
    """The project's variables are in the object `env`, encrypted; empty: there are none. `base`: the object that they
    were made from, where that matters; refused once there is another."""

    verb: ClassVar[str] = "set-project-env"
    project_id: ProjectId
    owner: OwnerId
    env: str
    names: tuple[str, ...]
    base: str | None = None


class SetProjectResidents(GatewayCommand, frozen=True, kw_only=True):
    """Make the project a template of which `count` VMs run the dev server ahead of need; 0: no longer."""

    verb: ClassVar[str] = "set-project-residents"
    project_id: ProjectId
    owner: OwnerId
    count: int


class DeleteProject(GatewayCommand, frozen=True, kw_only=True):
    """End its previews, then erase all that it has stored."""

    verb: ClassVar[str] = "delete-project"
    project_id: ProjectId
    owner: OwnerId


class RecordErasure(GatewayCommand, frozen=True, kw_only=True):
    """Everything of a deleted project was removed; counts of what there was."""

    verb: ClassVar[str] = "record-erasure"
    project_id: ProjectId
    previews: int
    output_batches: int
    objects: int
    reactions: int
