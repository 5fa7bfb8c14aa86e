"""What all commands and their answers have in common."""

from typing import ClassVar

import msgspec

from shared.ids import CommandId, PreviewId, ProjectId, VmId


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wish that a service may grant or refuse. `at`: seconds since 1970 (UTC), by the receiver's clock."""

    service: ClassVar[str] = ""
    verb: ClassVar[str] = ""
    coalesced: ClassVar[bool] = False
    """True where one run does the work of all that were asked for before it began."""
    id: CommandId = ""
    at: float = 0.0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a granted command answers. `seq`: the log's sequence at which the answer holds."""

    seq: int = 0


class PreviewReply(Reply, frozen=True, kw_only=True):
    """Answer of the commands about a preview."""

    preview_id: PreviewId
    status: str
    created: bool = False


class ProjectReply(Reply, frozen=True, kw_only=True):
    """Answer of the commands about a project."""

    project_id: ProjectId
    files_version: int


class ClaimReply(Reply, frozen=True, kw_only=True):
    """Answer to `AcquireVm`: the VM, or the place in the queue (1 is next)."""

    vm_id: VmId | None
    position: int = 0
