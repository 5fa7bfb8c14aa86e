"""Why an event is in the log: the event that was reacted to, and the command that decided. Pure.

An event names the command that made it, by an id that the reaction derived from its own event's. So what was reacted to is
found by deriving the same ids again from the events that came before.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shared.codec import Recorded
from shared.commands import COMMAND_TYPES
from shared.events import FilesSynced
from shared.ids import derive

EFFECTS_MAX = 6
"""So many effects of one reaction are tried; none has more."""
TRIES_MAX = 20
"""Claims for a VM that one reaction makes, one after another; later ones are not resolved."""

OF_A_VM = ("CheckVm", "RecordVmDestroyed", "RecordVmFrozen", "RecordVmLost", "ResumeVm")
"""Commands whose ids the pool derives with the VM's."""

ASKED: Mapping[str, str] = {
    "PreviewRequested": "RequestPreview",
    "PreviewWanted": "RequestPreview",
    "PreviewRestarted": "RestartPreview",
    "PreviewStopped": "StopPreview",
    "PreviewSuspended": "SuspendPreview",
    "PreviewResumed": "ResumePreview",
    "PreviewFailed": "ExpireStep",
    "ProjectFilesChanged": "RecordFiles",
    "ProjectEnvChanged": "SetProjectEnv",
    "ProjectResidentsChanged": "SetProjectResidents",
    "ProjectDeleted": "DeleteProject",
    "ClaimExpired": "MaintainPool",
    "VmCreationStarted": "MaintainPool",
    "VmHealthCheckFailed": "CheckVm",
    "VmHealthCheckRecovered": "CheckVm",
    "VmLost": "CheckVm",
}
"""The command that makes such an event where nothing in the story set it off: a person's, or a tick's."""


class Because(msgspec.Struct, frozen=True, kw_only=True):
    """Why: the command that decided (empty: unknown), and the event that it was sent because of (0 and empty: none here)."""

    command: str = ""
    seq: int = 0
    event: str = ""


def reasons(events: Sequence[Recorded]) -> dict[int, Because]:
    """By sequence, for each of these events (in the log's order)."""
    wanted = {recorded.meta.causation_id for recorded in events}
    made: dict[str, Because] = {}
    found: dict[int, Because] = {}
    for recorded in events:
        because = made.get(recorded.meta.causation_id)
        found[recorded.seq] = because or Because(command=ASKED.get(recorded.type, ""))
        for command_id, command in _commands(recorded, events):
            if command_id in wanted:
                made.setdefault(command_id, Because(command=command, seq=recorded.seq, event=recorded.type))
    return found


def _commands(recorded: Recorded, events: Sequence[Recorded]) -> Iterator[tuple[str, str]]:
    """The ids of all commands that a reaction to this event may have sent, with their names."""
    versions = sorted({each.event.files_version for each in events if isinstance(each.event, FilesSynced)})
    vms = sorted({key[2] for each in events if (key := each.key.split("."))[1] == "vm"})
    for index in range(EFFECTS_MAX):
        cause = derive(recorded.meta.id, "effect", index)
        for kind in COMMAND_TYPES:
            yield derive(cause, kind.__name__), kind.__name__
        for vm in vms:
            for name in OF_A_VM:
                yield derive(cause, name, vm), name
        for version in versions:
            yield derive(cause, "synced", version), "RecordFilesSynced"
        for tries in range(1, TRIES_MAX + 1):
            yield derive(cause, "AcquireVm", tries), "AcquireVm"
