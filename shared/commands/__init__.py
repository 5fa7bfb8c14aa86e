"""Every command, grouped by the service that it is addressed to. Names are imperative; the wire's verb is in `verb`.

`id` makes a command idempotent: the same id twice does its work once. `id` and `at` are stamped by the runtime that
receives the command where the sender left them empty, so that decisions read neither clock nor randomness.
"""

from shared.commands.base import (
    ClaimReply,
    Command,
    PreviewReply,
    ProjectReply,
    Reply,
)
from shared.commands.gateway import (
    CreateProject,
    DeleteProject,
    GatewayCommand,
    RecordErasure,
    RecordFiles,
    SetProjectEnv,
    SetProjectResidents,
)
from shared.commands.orchestrator import (
    ConfirmPreview,
    ExpireStep,
    FailPreview,
    HandleVmLost,
    MaintainResidents,
    OrchestratorCommand,
    PreviewWarning,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordFilesSynced,
    RecordHmr,
    RecordInstallCompleted,
    RecordInstallFailed,
    RecordProject,
    RequestPreview,
    RestartPreview,
    ResumePreview,
    StopPreview,
    SuspendPreview,
)
from shared.commands.pool import (
    AcquireVm,
    CheckVm,
    MaintainPool,
    PoolCommand,
    RecordReconciliation,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmDestroyed,
    RecordVmFrozen,
    RecordVmLost,
    ReleaseVm,
    ResizePool,
    ResumeVm,
    SuspendVm,
)
from shared.commands.telemetry import (
    EndSilence,
    EvaluateAlerts,
    Lag,
    RecordNotification,
    RecordResources,
    SilenceAlert,
    SilenceReply,
    TelemetryCommand,
)

__all__ = [
    "COMMAND_TYPES",
    "AcquireVm",
    "CheckVm",
    "ClaimReply",
    "Command",
    "ConfirmPreview",
    "CreateProject",
    "DeleteProject",
    "EndSilence",
    "EvaluateAlerts",
    "ExpireStep",
    "FailPreview",
    "GatewayCommand",
    "HandleVmLost",
    "Lag",
    "MaintainPool",
    "MaintainResidents",
    "OrchestratorCommand",
    "PoolCommand",
    "PreviewReply",
    "PreviewWarning",
    "ProjectReply",
    "RecordDevServerExited",
    "RecordDevServerReady",
    "RecordErasure",
    "RecordFiles",
    "RecordFilesSynced",
    "RecordHmr",
    "RecordInstallCompleted",
    "RecordInstallFailed",
    "RecordNotification",
    "RecordProject",
    "RecordReconciliation",
    "RecordResources",
    "RecordVmBootFailed",
    "RecordVmBooted",
    "RecordVmCleanFailed",
    "RecordVmCleaned",
    "RecordVmDestroyed",
    "RecordVmFrozen",
    "RecordVmLost",
    "ReleaseVm",
    "Reply",
    "RequestPreview",
    "ResizePool",
    "RestartPreview",
    "ResumePreview",
    "ResumeVm",
    "SetProjectEnv",
    "SetProjectResidents",
    "SilenceAlert",
    "SilenceReply",
    "StopPreview",
    "SuspendPreview",
    "SuspendVm",
    "TelemetryCommand",
    "commands_of",
]


def _leaves(kind: type[Command]) -> list[type[Command]]:
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in _leaves(sub)]


COMMAND_TYPES: tuple[type[Command], ...] = tuple(_leaves(Command))
"""Every command."""


def commands_of(service: str) -> tuple[type[Command], ...]:
    """The commands that are addressed to a service."""
    return tuple(kind for kind in COMMAND_TYPES if kind.service == service)
