"""The events that the gateway service writes."""

from typing import ClassVar

from shared.events.base import Event
from shared.ids import OwnerId, ProjectId


class ProjectEvent(Event, frozen=True, kw_only=True):
    """Of one project's files."""

    service: ClassVar[str] = "gateway"
    aggregate: ClassVar[str] = "project"
    project_id: ProjectId

    @property
    def aggregate_id(self) -> str:
        return self.project_id


class ProjectCreated(ProjectEvent, frozen=True, kw_only=True):
    """An owner has a project; it has no files yet."""

    owner: OwnerId
    name: str


class ProjectFilesChanged(ProjectEvent, frozen=True, kw_only=True):
    """A version of the files is stored. `manifest` names the object that lists them."""

    files_version: int
    manifest: str
    files: int
    size_bytes: int
    changed: int
    deleted: int


class ProjectEnvChanged(ProjectEvent, frozen=True, kw_only=True):
    """The variables of the project's environment were set. `env` names the object that holds them, encrypted; empty:
    there are none. Their values are never here."""

    env: str
    names: tuple[str, ...]


class ProjectResidentsChanged(ProjectEvent, frozen=True, kw_only=True):
    """The project is a template: so many VMs shall run its dev server ahead of need, for the owner's other projects."""

    count: int


class ProjectDeleted(ProjectEvent, frozen=True, kw_only=True):
    """The project is gone: its previews end, and everything of it is removed."""


class ProjectErased(ProjectEvent, frozen=True, kw_only=True):
    """Nothing of the deleted project can be read any more: its key was dropped, after the output of all `previews` that it
    ever had, its stored objects and parked reactions were removed. Counts of what there was."""

    previews: int
    output_batches: int
    objects: int
    reactions: int
