"""How long VMs ran and stood still, and for whom: each VM's life, folded from the log, cut into intervals and those into
hours. Pure; knows nothing of SQL.

A VM counts from the wish to make it until its provider agrees that it is gone. Times are whole milliseconds, UTC, so
that the hours of a life add up to its length, in whatever order they are added.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from services.telemetry.prices import Size
from shared.codec import Recorded
from shared.events import (
    VmAcquired,
    VmBooted,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmEvent,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)
from shared.ids import OwnerId, PreviewId, VmId

HOUR_MS = 3_600_000
POOL = ""
"""The owner of what serves nobody: VMs that boot, are warm, or are on their way out. The pool's overhead."""

_VM_KEY = f"{VmEvent.service}.{VmEvent.aggregate}."


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A VM's last interval, which is open: it has been like this since `since_ms`. `rev`: the VM's last revision in here;
    `owner` and `preview_id` empty: nobody's; `suspended`: it stands still."""

    vm_id: VmId
    rev: int
    since_ms: int
    pool: str
    provider: str
    memory_mb: int
    region: str
    owner: OwnerId = POOL
    preview_id: PreviewId = ""
    suspended: bool = False


class Bucket(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What is added up: an hour (`hour_ms`: its beginning), and what a VM was and for whom in it."""

    hour_ms: int
    pool: str
    provider: str
    memory_mb: int
    region: str
    owner: OwnerId
    preview_id: PreviewId

    @property
    def size(self) -> Size:
        """What its price depends on."""
        return Size(provider=self.provider, memory_mb=self.memory_mb, region=self.region)


class Spent(msgspec.Struct, frozen=True):
    """Milliseconds of VMs."""

    running_ms: int = 0
    suspended_ms: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.running_ms + other.running_ms, self.suspended_ms + other.suspended_ms)


class Folded(msgspec.Struct, frozen=True):
    """What events change: intervals that are open now, VMs that have none any more, and what is to be added to buckets."""

    opened: dict[VmId, Interval]
    ended: set[VmId]
    added: dict[Bucket, Spent]


def vm_of(recorded: Recorded) -> VmId | None:
    """The VM whose life the event is part of; None: no VM's."""
    return recorded.key[len(_VM_KEY) :] if recorded.key.startswith(_VM_KEY) else None


def fold(known: Mapping[VmId, Interval], events: Iterable[Recorded]) -> Folded:
    """What these events (in the log's order) change. `known`: the open interval of each VM that they name, where it has
    one."""
    current = dict(known)
    touched: set[VmId] = set()
    added: dict[Bucket, Spent] = {}
    for recorded in events:
        vm_id = vm_of(recorded)
        if vm_id is None:
            continue
        before = current.get(vm_id)
        if before is None:
            if isinstance(recorded.event, VmCreationStarted):
                current[vm_id] = _begun(recorded.event, recorded)
                touched.add(vm_id)
            continue
        if recorded.meta.rev <= before.rev:
            continue  # two writers got through: the lower sequence won, here as in every fold
        touched.add(vm_id)
        until_ms = max(before.since_ms, _ms(recorded.meta.at))  # clocks of replicas differ
        after = _after(before, recorded)
        if after is not None and _alike(before, after):
            current[vm_id] = after
            continue
        for bucket, spent in spread(before, until_ms):
            added[bucket] = added.get(bucket, Spent()) + spent
        if after is None:
            del current[vm_id]
        else:
            current[vm_id] = replace(after, since_ms=until_ms)
    return Folded({vm_id: current[vm_id] for vm_id in touched if vm_id in current}, touched - set(current), added)


def spread(interval: Interval, until_ms: int) -> Iterator[tuple[Bucket, Spent]]:
    """The interval's hours, and how much of it is in each; they add up to its length."""
    begin_ms = interval.since_ms
    while begin_ms < until_ms:
        hour_ms = begin_ms - begin_ms % HOUR_MS
        length_ms = min(hour_ms + HOUR_MS, until_ms) - begin_ms
        yield _bucket(interval, hour_ms), Spent(0, length_ms) if interval.suspended else Spent(length_ms, 0)
        begin_ms += length_ms


def _bucket(interval: Interval, hour_ms: int) -> Bucket:
    return Bucket(
        hour_ms=hour_ms,
        pool=interval.pool,
        provider=interval.provider,
        memory_mb=interval.memory_mb,
        region=interval.region,
        owner=interval.owner,
        preview_id=interval.preview_id,
    )


def _begun(event: VmCreationStarted, recorded: Recorded) -> Interval:
    return Interval(
        vm_id=event.vm_id,
        rev=recorded.meta.rev,
        since_ms=_ms(recorded.meta.at),
        pool=event.pool,
        provider=event.provider,
        memory_mb=event.memory_mb,
        region=event.region,
    )


def _after(before: Interval, recorded: Recorded) -> Interval | None:
    """What the VM is after one event of its own; None: it is gone."""
    event, rev = recorded.event, recorded.meta.rev
    match event:
        case VmDestroyed():
            return None
        case VmBooted() | VmResumed():
            return replace(before, rev=rev, suspended=False)
        case VmSuspended():
            # From the decision on: what it costs until the provider has frozen it is a second or two, and of warm VMs the
            # log does not say when that was. One that can't be frozen is told to go on (`VmResumed`).
            return replace(before, rev=rev, suspended=True)
        case VmAcquired(owner=owner, preview_id=preview_id):
            # A warm VM that stands still is woken for it.
            return replace(before, rev=rev, suspended=False, owner=owner, preview_id=preview_id)
        case VmReleased(keep=keep):
            kept_for = before.owner if keep else POOL
            return replace(before, rev=rev, owner=kept_for, preview_id="")
        case VmCleaned(owner=owner):
            return replace(before, rev=rev, owner=owner)
        case VmRetired() | VmLost():
            # It may stand still to its end: nobody wakes a VM to destroy it.
            return replace(before, rev=rev, owner=POOL, preview_id="")
        case _:
            return replace(before, rev=rev)


def _alike(before: Interval, after: Interval) -> bool:
    return replace(after, rev=before.rev) == before


def _ms(at: float) -> int:
    return round(at * 1000)
