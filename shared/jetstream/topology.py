"""Streams, consumers and buckets: their names, settings and descriptions. Made by `provision`, never by a service."""

from collections.abc import Mapping, Sequence
from functools import partial

from nats.aio.client import Client
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from shared.codec import ALL_EVENTS, filter_of_type
from shared.events import Event
from shared.jetstream.outages import settled

EVENTS = "DRAPE_EVENTS"
TIMERS = "DRAPE_TIMERS"
LOGS = "DRAPE_LOGS"
PARKED = "DRAPE_PARKED"
FILES_BUCKET = "drape_files"
KEYS_BUCKET = "drape_keys"
KEYS = f"KV_{KEYS_BUCKET}"
KEYS_ROOT = f"$KV.{KEYS_BUCKET}"
SNAPSHOTS_STREAM = "KV_drape_snap"
SNAPSHOTS_SUBJECT = "$KV.drape_snap"

TIMER_AT = "drape.timer.at"
TIMER_EVERY = "drape.timer.every"
TIMER_DUE = "drape.timer.due"
LOG_ROOT = "drape.log"
PROGRESS_ROOT = "drape.progress"
ACTIVITY_ROOT = "drape.activity"
PARKED_ROOT = "drape.parked"

ACK_WAIT_S = 10.0
"""A replica that dies or hangs has its work given to another after this; long effects report progress every third of it."""
ACK_PENDING_MAX = 20_000
"""Reactions under way for one service: each live preview keeps one open, which watches its dev server."""


def reactor_name(service: str) -> str:
    """The durable consumer from which a service reacts to events."""
    return f"{service}-reactor"


def timer_consumer_name(service: str) -> str:
    """The durable consumer from which a service hears its timers."""
    return f"{service}-timers"


MONITOR = "io.nats.monitor"
"""What `nats server check stream` reads of a stream's metadata, and `nats audit` of a consumer's too."""
PEER_LAG_CRITICAL = 1_000
PEER_SEEN_CRITICAL = "10s"
UNPROCESSED_CRITICAL = 1_000
"""Messages that no replica has taken yet: services take 200 at a time, so that some wait only where none takes any."""
REDELIVERED_CRITICAL = 100
WAITING_CRITICAL = 500
"""Pulls that are open: each replica has one, and the server takes 512."""
LAST_ACK_CRITICAL = "2m"
"""Ticks come at least every 30 s, where nothing else is set."""
TICKING = frozenset({"pool", "orchestrator", "telemetry"})
"""Services with ticks: whose timers are never silent for long."""


def _monitored(replicas: int) -> dict[str, str]:
    alone = {f"{MONITOR}.enabled": "1"}
    if replicas == 1:
        return alone
    return {
        **alone,
        f"{MONITOR}.peer-expect": str(replicas),
        f"{MONITOR}.peer-lag-critical": str(PEER_LAG_CRITICAL),
        f"{MONITOR}.peer-seen-critical": PEER_SEEN_CRITICAL,
    }


def _watched(*, ticking: bool = False) -> dict[str, str]:
    """A consumer's metadata."""
    limits = {
        "enabled": "1",
        "outstanding-ack-critical": str(ACK_PENDING_MAX),
        "unprocessed-critical": str(UNPROCESSED_CRITICAL),
        "redelivery-critical": str(REDELIVERED_CRITICAL),
        "waiting-critical": str(WAITING_CRITICAL),
        **({"last-ack-critical": LAST_ACK_CRITICAL} if ticking else {}),
    }
    return {f"{MONITOR}.{name}": limit for name, limit in limits.items()}


def _streams(replicas: int) -> list[api.StreamConfig]:
    monitored = _monitored(replicas)
    return [
        api.StreamConfig(
            name=EVENTS,
            description="Drape's events, the only source of truth: drape.evt.<service>.<aggregate>.<id>.<EventType>",
            subjects=[ALL_EVENTS],
            retention=api.RetentionPolicy.LIMITS,
            discard=api.DiscardPolicy.NEW,
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=10 * 60,
            deny_delete=True,
            deny_purge=True,
            allow_direct=True,
            metadata=monitored,
        ),
        api.StreamConfig(
            name=TIMERS,
            description="Timers and ticks: schedules under drape.timer.at and .every, what is due under .due",
            subjects=[f"{TIMER_AT}.>", f"{TIMER_EVERY}.>", f"{TIMER_DUE}.>"],
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            max_age=7 * 24 * 3600,
            max_bytes=64 * 1024 * 1024,
            allow_msg_schedules=True,
            allow_msg_ttl=True,
            metadata=monitored,
        ),
        api.StreamConfig(
            name=LOGS,
            description="What previews print (install, dev server), a batch a message: drape.log.<preview>",
            subjects=[f"{LOG_ROOT}.>"],
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            max_age=24 * 3600,
            max_bytes=256 * 1024 * 1024,
            max_msgs_per_subject=5_000,
            allow_direct=True,
            metadata=monitored,
        ),
        api.StreamConfig(
            name=PARKED,
            description="Events whose reaction failed too often: drape.parked.<service>.<kind>.<seq>",
            subjects=[f"{PARKED_ROOT}.>"],
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            max_age=30 * 24 * 3600,
            max_bytes=64 * 1024 * 1024,
            # One that is parked is worth a look; at a hundred something is broken.
            metadata={**monitored, f"{MONITOR}.subjects-warn": "1", f"{MONITOR}.subjects-critical": "100"},
        ),
        _keys(replicas),
        _snapshots(replicas),
    ]


def _keys(replicas: int) -> api.StreamConfig:
    """A bucket as `nats kv` knows it, but for `deny_delete`: a key's bytes must be able to leave the disk."""
    return api.StreamConfig(
        name=KEYS,
        description="Projects' keys, wrapped by the platform's secret: <project>; an empty one is erased",
        subjects=[f"{KEYS_ROOT}.>"],
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=1,
        max_msg_size=1024,
        discard=api.DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        metadata=_monitored(replicas),
    )


def _snapshots(replicas: int) -> api.StreamConfig:
    """A key-value bucket, but one in which the oldest goes when it is full: what former versions of the code have left."""
    return api.StreamConfig(
        name=SNAPSHOTS_STREAM,
        description="The services' states, so that a start need not replay the whole log: <service>.<fingerprint>",
        subjects=[f"{SNAPSHOTS_SUBJECT}.>"],
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=1,
        max_bytes=512 * 1024 * 1024,
        discard=api.DiscardPolicy.OLD,
        allow_direct=True,
        allow_rollup_hdrs=True,
        deny_delete=True,
        metadata=_monitored(replicas),
    )


async def provision(client: Client, reacts_to: Mapping[str, Sequence[type[Event]]], *, replicas: int = 1) -> None:
    """Make or update everything that the services need. Idempotent. `reacts_to`: the event types each service acts on."""
    js = client.jetstream(timeout=10)
    for config in _streams(replicas):
        await settled(partial(_make_stream, js, config))
    for service, kinds in reacts_to.items():
        await settled(partial(js.add_consumer, EVENTS, _reactor(service, kinds)))
        await settled(partial(js.add_consumer, TIMERS, _timer_consumer(service)))
    await settled(partial(_make_files_bucket, js, replicas))


async def _make_stream(js: JetStreamContext, config: api.StreamConfig) -> None:
    # No compression, on any stream: after a disk had been full, compressed blocks could not be read any more.
    try:
        await js.stream_info(config.name or "")
        await js.update_stream(config)
    except NotFoundError:
        await js.add_stream(config)


async def _make_files_bucket(js: JetStreamContext, replicas: int) -> None:
    try:
        await js.object_store(FILES_BUCKET)
    except NotFoundError:
        await js.create_object_store(
            FILES_BUCKET,
            config=api.ObjectStoreConfig(
                description="Projects' files: manifests, bundles of contents, variables (encrypted)",
                replicas=replicas,
                storage=api.StorageType.FILE,
                max_bytes=8 * 1024**3,
            ),
        )
    stored = (await js.stream_info(f"OBJ_{FILES_BUCKET}")).config
    wanted = _monitored(replicas)
    # The server adds members of its own.
    if stored.num_replicas != replicas or not wanted.items() <= (stored.metadata or {}).items():
        await js.update_stream(stored, num_replicas=replicas, metadata=wanted)


def _reactor(service: str, kinds: Sequence[type[Event]]) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=reactor_name(service),
        description=f"Events that {service} reacts to, shared by its replicas",
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=ACK_PENDING_MAX,
        deliver_policy=api.DeliverPolicy.ALL,
        filter_subjects=[filter_of_type(kind) for kind in kinds] or [f"drape.evt.none.{service}"],
        metadata=_watched(),
    )


def _timer_consumer(service: str) -> api.ConsumerConfig:
    return api.ConsumerConfig(
        durable_name=timer_consumer_name(service),
        description=f"Timers and ticks that are due for {service}, shared by its replicas",
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=ACK_PENDING_MAX,
        deliver_policy=api.DeliverPolicy.ALL,
        filter_subject=f"{TIMER_DUE}.{service}.>",
        metadata=_watched(ticking=service in TICKING),
    )
