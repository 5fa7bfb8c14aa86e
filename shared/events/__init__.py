"""Every event of the system, grouped by the one service that writes it.

These names and fields ARE the storage format. A field may be added with a default; nothing is ever renamed, removed or
given another type: a new meaning is a new event, or a new version with an upcaster in `shared.codec`.
Times are seconds since 1970 (UTC). No event carries a secret or a line of a project's log.
"""

from shared.events.base import (
    Event,
    aggregate_key,
)
from shared.events.gateway import (
    ProjectCreated,
    ProjectDeleted,
    ProjectEnvChanged,
    ProjectErased,
    ProjectEvent,
    ProjectFilesChanged,
    ProjectResidentsChanged,
)
from shared.events.orchestrator import (
    AppChoice,
    DevServerExited,
    DevServerReady,
    DevServerStarted,
    FilesSynced,
    HmrProbed,
    InstallCompleted,
    InstallFailed,
    InstallSkipped,
    InstallStarted,
    PreviewEvent,
    PreviewFailed,
    PreviewPrepared,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    PreviewResumed,
    PreviewStopped,
    PreviewSuspended,
    PreviewWanted,
    PreviewWarningRaised,
    ProjectDetected,
)
from shared.events.pool import (
    ClaimEvent,
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    PoolEvent,
    PoolResized,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmEvent,
    VmFrozen,
    VmHealthCheckFailed,
    VmHealthCheckRecovered,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)
from shared.events.telemetry import (
    AlertCleared,
    AlertEvent,
    AlertRaised,
    PoolUsage,
    ResourcesEvent,
    ResourcesMeasured,
)

__all__ = [
    "EVENT_TYPES",
    "AlertCleared",
    "AlertEvent",
    "AlertRaised",
    "AppChoice",
    "ClaimEvent",
    "ClaimExpired",
    "ClaimQueued",
    "ClaimWithdrawn",
    "DevServerExited",
    "DevServerReady",
    "DevServerStarted",
    "Event",
    "FilesSynced",
    "HmrProbed",
    "InstallCompleted",
    "InstallFailed",
    "InstallSkipped",
    "InstallStarted",
    "PoolEvent",
    "PoolResized",
    "PoolUsage",
    "PreviewEvent",
    "PreviewFailed",
    "PreviewPrepared",
    "PreviewReady",
    "PreviewRequested",
    "PreviewRestarted",
    "PreviewResumed",
    "PreviewStopped",
    "PreviewSuspended",
    "PreviewWanted",
    "PreviewWarningRaised",
    "ProjectCreated",
    "ProjectDeleted",
    "ProjectDetected",
    "ProjectEnvChanged",
    "ProjectErased",
    "ProjectEvent",
    "ProjectFilesChanged",
    "ProjectResidentsChanged",
    "ResourcesEvent",
    "ResourcesMeasured",
    "VmAcquired",
    "VmBootFailed",
    "VmBooted",
    "VmCleaned",
    "VmCreationStarted",
    "VmDestroyed",
    "VmEvent",
    "VmFrozen",
    "VmHealthCheckFailed",
    "VmHealthCheckRecovered",
    "VmLost",
    "VmReleased",
    "VmResumed",
    "VmRetired",
    "VmSuspended",
    "aggregate_key",
]


def _leaves(kind: type[Event]) -> list[type[Event]]:
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in _leaves(sub)]


EVENT_TYPES: dict[str, type[Event]] = {kind.__name__: kind for kind in _leaves(Event)}
"""Every event by its name on the wire."""
