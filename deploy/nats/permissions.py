"""Which identity may publish and subscribe to what, made from the names that the code itself uses.

The server knows wildcards for whole tokens only, so consumers are named one by one. What is not allowed is denied: a
line that is missing here shows as the error `nats_denied`, which names the subject and the identity.
"""

from collections.abc import Iterable, Iterator

import msgspec

from shared.commands import (
    AcquireVm,
    CheckVm,
    Command,
    ConfirmPreview,
    CreateProject,
    DeleteProject,
    EndSilence,
    EvaluateAlerts,
    ExpireStep,
    FailPreview,
    HandleVmLost,
    MaintainPool,
    MaintainResidents,
    RecordDevServerExited,
    RecordDevServerReady,
    RecordErasure,
    RecordFiles,
    RecordFilesSynced,
    RecordHmr,
    RecordInstallCompleted,
    RecordInstallFailed,
    RecordNotification,
    RecordProject,
    RecordReconciliation,
    RecordResources,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmDestroyed,
    RecordVmFrozen,
    RecordVmLost,
    ReleaseVm,
    RequestPreview,
    ResizePool,
    RestartPreview,
    ResumePreview,
    ResumeVm,
    SetProjectEnv,
    SetProjectResidents,
    SilenceAlert,
    StopPreview,
    SuspendPreview,
    SuspendVm,
)
from shared.jetstream import topology as names
from shared.jetstream.archive import ARCHIVED
from shared.jetstream.commands import COMMAND_ROOT, QUERY_ROOT
from shared.jetstream.connection import inbox_prefix

SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
PROVISION = "provision"
OPERATOR = "operator"
OBSERVER = "observer"
ARCHIVIST = "archivist"
IDENTITIES = (*SERVICES, PROVISION, OPERATOR, OBSERVER, ARCHIVIST)
"""`operator`: the person at this machine, through `drape` or `nats`. `observer`: only reads, for dashboards. `archivist`:
copies whole streams, and makes them from copies where they are not there."""

SNAPSHOTS = "drape_snap"

SENDS: dict[str, frozenset[type[Command]]] = {
    "pool": frozenset(),
    "orchestrator": frozenset({AcquireVm, ReleaseVm, SuspendVm, ResumeVm, CheckVm}),
    "gateway": frozenset({RequestPreview, StopPreview, RestartPreview, ResumePreview, SilenceAlert, EndSilence}),
    "telemetry": frozenset(),
    OPERATOR: frozenset(
        {
            *(AcquireVm, ReleaseVm, SuspendVm, ResumeVm, CheckVm, MaintainPool, ResizePool),
            *(RequestPreview, StopPreview, RestartPreview, SuspendPreview, ResumePreview, MaintainResidents),
            *(
                CreateProject,
                SetProjectEnv,
                SetProjectResidents,
                DeleteProject,
                EvaluateAlerts,
                SilenceAlert,
                EndSilence,
            ),
        }
    ),
}
"""The commands that an identity sends to another service. A service's commands to itself do not go over NATS."""

OWN: frozenset[type[Command]] = frozenset(
    {
        *(RecordVmBooted, RecordVmBootFailed, RecordVmCleaned, RecordVmCleanFailed, RecordVmDestroyed),
        *(RecordVmFrozen, RecordVmLost, RecordProject, RecordFilesSynced, RecordInstallCompleted, RecordInstallFailed),
        *(RecordDevServerReady, RecordDevServerExited, RecordHmr, ConfirmPreview, FailPreview, ExpireStep),
        *(HandleVmLost, RecordFiles, RecordErasure, RecordResources, RecordReconciliation, RecordNotification),
    }
)
"""Reports and the like, which a service makes of what it has seen itself: nobody sends them to it, no person either."""

ASKS: dict[str, tuple[str, ...]] = {
    "pool": (),
    "orchestrator": ("pool.restore_deps", "pool.publish_deps"),
    "gateway": (
        *("pool.summary", "telemetry.stats", "telemetry.errors", "telemetry.timing"),
        *("telemetry.costs", "telemetry.resources", "telemetry.alerts"),
    ),
    "telemetry": ("pool.usage",),
    OPERATOR: (">",),
    OBSERVER: (
        *(f"{service}.{query}" for service in SERVICES for query in ("status", "status.each", "digest")),
        *("pool.summary", "pool.inventory", "pool.usage"),
        *("telemetry.stats", "telemetry.errors", "telemetry.timing", "telemetry.costs", "telemetry.resources"),
        *("telemetry.projections", "telemetry.alerts"),
    ),
}
"""Queries, `<service>.<name>`. The operator may ask anything, the observer what changes nothing: `pool.restore_deps` and
`publish_deps` copy files."""

ASKS_EACH: dict[str, tuple[str, ...]] = {"telemetry": SERVICES}
"""Services that are asked how each of their replicas is."""

READS: dict[str, tuple[str, ...]] = {
    "pool": (names.EVENTS,),
    "orchestrator": (names.EVENTS, names.LOGS),
    "gateway": (names.EVENTS, names.LOGS, names.PARKED),
    "telemetry": (names.EVENTS, names.PARKED),
}
"""Streams that a service follows or looks into. Its durable consumers are its own beside that."""

_STREAM_WRITES: dict[str, tuple[str, ...]] = {
    "pool": (),
    "orchestrator": (f"{names.LOG_ROOT}.*", f"{names.PROGRESS_ROOT}.*"),
    "gateway": (f"{names.ACTIVITY_ROOT}.*",),
    "telemetry": (),
}
"""What a service publishes beside its events, timers and parked reactions."""

_HEARS: dict[str, tuple[str, ...]] = {
    "pool": (),
    "orchestrator": (f"{names.ACTIVITY_ROOT}.*",),
    "gateway": (f"{names.PROGRESS_ROOT}.*",),
    "telemetry": (),
}

BUCKETS: dict[str, dict[str, str]] = {
    names.FILES_BUCKET: {"gateway": "write", "orchestrator": "read", OPERATOR: "read"},
    names.KEYS_BUCKET: {**dict.fromkeys(SERVICES, "read"), "gateway": "write", "orchestrator": "add", OPERATOR: "read"},
    SNAPSHOTS: dict.fromkeys(SERVICES, "own"),
}
"""Who reads and writes a bucket; `own`: only the keys that begin with the service's name; `add`: writes, removes nothing.
The orchestrator adds the keys of projects that are older than keys."""

_ERASES: dict[str, tuple[str, ...]] = {
    "gateway": (names.LOGS, names.PARKED, names.KEYS, f"OBJ_{names.FILES_BUCKET}"),
    OPERATOR: (names.PARKED,),
}
"""Streams from which an identity takes single messages: what was a deleted project's, and what is parked no more."""

OBJECT_BUCKETS = (names.FILES_BUCKET,)

_OBSERVED = (names.EVENTS, names.TIMERS, names.PARKED, names.SNAPSHOTS_STREAM)
"""Not what projects print, their files, or the keys: those may hold secrets, or open them. A snapshot holds what events told,
personal texts sealed."""

_API = "$JS.API"
_MICRO = ("PING", "INFO", "STATS")


class Permissions(msgspec.Struct, frozen=True):
    """Subjects of one identity. `replies`: it may answer whoever asked it, on the inbox that came with the request."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    publish_denied: tuple[str, ...] = ()
    replies: bool = False


def permissions_of(identity: str) -> Permissions:
    """The permissions of one of `IDENTITIES`."""
    match identity:
        case "provision":
            return _provision()
        case "operator":
            return _operator()
        case "observer":
            return _observer()
        case "archivist":
            return _archivist()
    if identity not in SERVICES:
        raise ValueError(f"{identity} is no identity")
    return Permissions(
        publish=tuple(sorted(set(_publishes(identity)))),
        subscribe=tuple(sorted(set(_subscribes(identity)))),
        publish_denied=_durables(identity),
        replies=True,
    )


def _publishes(service: str) -> Iterator[str]:
    """A service appends its own events only, and moves its own timers, consumers and keys only."""
    yield f"drape.evt.{service}.>"
    yield f"{names.TIMER_AT}.{service}.>"
    yield f"{names.TIMER_EVERY}.{service}.>"
    yield f"{names.PARKED_ROOT}.{service}.>"
    yield from _STREAM_WRITES[service]
    for command in SENDS[service]:
        yield f"{COMMAND_ROOT}.{command.service}.{command.verb}"
    for query in ASKS[service]:
        yield f"{QUERY_ROOT}.{query}"
    for asked in ASKS_EACH.get(service, ()):
        yield f"{QUERY_ROOT}.{asked}.status.each"
    for stream, consumer in _consumers(service):
        yield f"{_API}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        yield f"{_API}.CONSUMER.INFO.{stream}.{consumer}"
        yield f"$JS.ACK.{stream}.{consumer}.>"
    for stream in READS[service]:
        yield from _follow(stream)
    for stream in _ERASES.get(service, ()):
        yield f"{_API}.STREAM.MSG.DELETE.{stream}"
    for bucket, users in BUCKETS.items():
        if service in users:
            yield from _bucket(bucket, users[service], service)


def _subscribes(service: str) -> Iterator[str]:
    yield f"{inbox_prefix(service)}.>"
    yield f"{COMMAND_ROOT}.{service}.>"
    yield f"{QUERY_ROOT}.{service}.>"
    for verb in _MICRO:
        yield from (f"$SRV.{verb}", f"$SRV.{verb}.drape-{service}", f"$SRV.{verb}.drape-{service}.*")
    yield from _HEARS[service]


def _follow(stream: str) -> Iterator[str]:
    """Look into a stream, and read it in order, with a consumer whose name is in the subject (`shared.jetstream.naming`)."""
    yield f"{_API}.STREAM.INFO.{stream}"
    yield f"{_API}.STREAM.MSG.GET.{stream}"
    yield f"{_API}.DIRECT.GET.{stream}"
    yield f"{_API}.DIRECT.GET.{stream}.>"
    yield f"{_API}.CONSUMER.CREATE.{stream}.*.>"
    yield f"{_API}.CONSUMER.INFO.{stream}.*"
    yield f"$JS.FC.{stream}.>"


def _bucket(bucket: str, access: str, identity: str) -> Iterator[str]:
    objects = bucket in OBJECT_BUCKETS
    stream, root = (f"OBJ_{bucket}", f"$O.{bucket}") if objects else (f"KV_{bucket}", f"$KV.{bucket}")
    if access == "own":
        # A plain read by sequence would show the keys of the others.
        yield f"{_API}.STREAM.INFO.{stream}"
        yield f"{_API}.CONSUMER.CREATE.{stream}.*.{root}.{identity}.>"
        yield f"$JS.FC.{stream}.>"
        yield f"{_API}.DIRECT.GET.{stream}.{root}.{identity}.>"
        yield f"{root}.{identity}.>"
        return
    yield from _follow(stream)
    if objects:
        yield f"{_API}.STREAM.NAMES"  # nats-py asks for the bucket's own where it lists objects, or reads a large one
    if access in ("add", "write"):
        yield f"{root}.>"
    if access == "write":
        yield f"{_API}.STREAM.PURGE.{stream}"


def _consumers(service: str) -> tuple[tuple[str, str], ...]:
    return (names.EVENTS, names.reactor_name(service)), (names.TIMERS, names.timer_consumer_name(service))


def _provision() -> Permissions:
    """Makes and changes streams and consumers; reads no message, deletes and purges nothing."""
    verbs = (
        *("STREAM.CREATE.*", "STREAM.UPDATE.*", "STREAM.INFO.*", "STREAM.NAMES", "STREAM.LIST"),
        *("CONSUMER.CREATE.*.>", "CONSUMER.DURABLE.CREATE.*.*", "CONSUMER.DELETE.*.*"),
        *("CONSUMER.INFO.*.*", "CONSUMER.NAMES.*", "CONSUMER.LIST.*", "INFO"),
    )
    return Permissions(tuple(f"{_API}.{verb}" for verb in verbs), (f"{inbox_prefix(PROVISION)}.>", "_INBOX.>"))


def _archivist() -> Permissions:
    """Copies what can't be recomputed, and restores it: a stream that is there is refused by the server, whoever asks."""
    publish = {f"{_API}.INFO", f"{_API}.STREAM.NAMES", f"{_API}.DIRECT.GET.{names.EVENTS}"}
    for stream in ARCHIVED:
        publish |= {f"{_API}.STREAM.{verb}.{stream}" for verb in ("INFO", "SNAPSHOT", "RESTORE")}
        # Of a piece of the snapshot: the request, its size and its number.
        publish |= {f"$JS.SNAPSHOT.ACK.{stream}.*.*.*", f"$JS.SNAPSHOT.RESTORE.{stream}.*"}
    return Permissions(tuple(sorted(publish)), (f"{inbox_prefix(ARCHIVIST)}.>", "_INBOX.>"))


def _operator() -> Permissions:
    publish = {
        *_looking("*"),
        *_tried(OPERATOR),
        f"{_API}.CONSUMER.DELETE.*.*",
        # Simple tools make their consumers there. It is also a way around the denials below: the operator is trusted.
        f"{_API}.CONSUMER.CREATE.*",
        f"{COMMAND_ROOT}.>",
        *(f"{QUERY_ROOT}.{query}" for query in ASKS[OPERATOR]),
        # `drape parked replay` and `drop`; the doctor's message, which shows whether anything is stored.
        f"{names.TIMER_DUE}.>",
        f"{names.TIMER_AT}.doctor.probe",
        *(f"{_API}.STREAM.MSG.DELETE.{stream}" for stream in _ERASES[OPERATOR]),
    }
    reports = {f"{COMMAND_ROOT}.{command.service}.{command.verb}" for command in OWN}
    return Permissions(
        publish=tuple(sorted(publish)),
        subscribe=_inboxes(OPERATOR, *_public(), f"{names.LOG_ROOT}.>"),
        publish_denied=tuple(sorted({*_durables(OPERATOR), *reports})),
    )


def _observer() -> Permissions:
    publish = {*_looking(_OBSERVED), *(f"{QUERY_ROOT}.{query}" for query in ASKS[OBSERVER]), *_tried(OBSERVER)}
    return Permissions(
        publish=tuple(sorted(publish)),
        subscribe=_inboxes(OBSERVER, *_public()),
        publish_denied=_durables(OBSERVER),
    )


def _tried(identity: str) -> Iterator[str]:
    """`nats server check connection` sends a message to itself; `nats kv` removes the consumer that it has read a bucket with.
    Of other streams an observer removes none: services follow them with consumers that have no fixed names."""
    yield f"{inbox_prefix(identity)}.>"
    yield f"{_API}.CONSUMER.DELETE.{names.SNAPSHOTS_STREAM}.*"


def _looking(streams: Iterable[str]) -> Iterator[str]:
    """Reading these streams, with consumers of one's own, and the figures of all; changes nothing that is there."""
    for verb in ("INFO", "STREAM.LIST", "STREAM.NAMES", "STREAM.INFO.*"):
        yield f"{_API}.{verb}"
    for verb in ("CONSUMER.LIST.*", "CONSUMER.NAMES.*", "CONSUMER.INFO.*.*"):
        yield f"{_API}.{verb}"
    for stream in streams:
        yield f"{_API}.STREAM.MSG.GET.{stream}"
        yield from (f"{_API}.DIRECT.GET.{stream}", f"{_API}.DIRECT.GET.{stream}.>")
        yield f"{_API}.CONSUMER.CREATE.{stream}.>"
        yield f"{_API}.CONSUMER.MSG.NEXT.{stream}.*"
        yield f"$JS.FC.{stream}.>"
        yield f"$JS.ACK.{stream}.>"  # of consumers of one's own: `nats stream view` acknowledges what it has shown
    yield "$SYS.REQ.USER.INFO"
    for verb in _MICRO:
        yield from (f"$SRV.{verb}", f"$SRV.{verb}.>")


def _durables(identity: str) -> tuple[str, ...]:
    """The services' consumers: who may make consumers may still not change or delete these, or take their messages. To
    take its own messages each service is allowed by name; to change them, provisioning alone."""
    denied = []
    for service in SERVICES:
        for stream, consumer in _consumers(service):
            denied += [f"{_API}.CONSUMER.CREATE.{stream}.{consumer}", f"{_API}.CONSUMER.CREATE.{stream}.{consumer}.>"]
            if identity not in SERVICES:
                denied += [f"{_API}.CONSUMER.{verb}.{stream}.{consumer}" for verb in ("MSG.NEXT", "DELETE")]
                denied.append(f"$JS.ACK.{stream}.{consumer}.>")
    return tuple(sorted(denied))


def _public() -> tuple[str, ...]:
    return (
        *("drape.evt.>", f"{names.PROGRESS_ROOT}.>", f"{names.ACTIVITY_ROOT}.>"),
        *("drape.timer.>", f"{names.PARKED_ROOT}.>"),
        *("$JS.EVENT.ADVISORY.>", "$JS.EVENT.METRIC.>"),
    )


def _inboxes(identity: str, *more: str) -> tuple[str, ...]:
    """The `nats` command and other tools use `_INBOX`, which no service does."""
    return tuple(sorted(("_INBOX.>", f"{inbox_prefix(identity)}.>", *more)))
