"""A service's whole state at one place of the log, as bytes and back. Pure.

A snapshot is a cache: whatever about it is not as expected, it is left alone and the log is replayed.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

S = TypeVar("S")

SLICE = 200
"""Entries of a dictionary that are encoded at a time: some tenths of a millisecond, in which nothing else runs."""
BODY_BYTES_MAX = 512 * 1024 * 1024
"""A larger state is not kept: its service replays."""
HEADS, RECENT = "~heads", "~recent"

_encoder = msgspec.msgpack.Encoder()


class SnapshotUnfit(Exception):
    """The snapshot is not one of this state, or is damaged; the message says how."""


class SnapshotHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of. `log`: which log, by the time at which it was made; `seq`: the last event that it holds, and
    `event_id` that event's id; `pieces`: name and bytes of each part of the body, in order; `sha256`: of the body."""

    service: str
    fingerprint: str
    log: str
    seq: int
    event_id: str
    at: float
    pieces: tuple[tuple[str, int], ...]
    sha256: str


class Snapshot(msgspec.Struct, frozen=True):
    """One as it is stored."""

    head: SnapshotHead
    body: bytes


class Snapshots(Protocol):
    """Where snapshots are kept: the newest of each service and fingerprint."""

    async def log_id(self) -> str:
        """Which log it is: another one where it was made anew."""
        ...

    async def head(self, service: str, fingerprint: str) -> SnapshotHead | None:
        """What the newest is of, without its body."""
        ...

    async def load(self, service: str, fingerprint: str) -> Snapshot | None:
        """The newest. Raises `SnapshotUnfit` where it is damaged."""
        ...

    async def store(self, snapshot: Snapshot, *, over_any: bool = False) -> bool:
        """Keep it, unless one that is as new is there (`over_any`: also then): False."""
        ...


class Kept(msgspec.Struct, Generic[S]):
    """All of a replica that the log alone could give again. `heads` and `recent`: of older and newer entries each."""

    state: S
    seq: int
    event_id: str
    heads: tuple[Mapping[str, Any], Mapping[str, Any]]
    recent: tuple[Mapping[str, int], Mapping[str, int]]


def frozen(state: S) -> S:
    """The state as it is now, apart from what later events make of it.

    Values in it are replaced, never changed, so copying the containers is enough.
    """
    kind: Any = type(state)
    return cast(S, kind(**{name: _copy(getattr(state, name)) for name in kind.__struct_fields__}))


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        first = next(iter(value.values()), None)
        return {key: _copy(each) for key, each in value.items()} if _mutable(first) else value.copy()
    return value.copy() if _mutable(value) else value


def _mutable(value: object) -> bool:
    return isinstance(value, dict | set | list)


def pieces(kept: Kept[Any]) -> Iterator[tuple[str, bytes]]:
    """The body's parts, each of which takes well under a millisecond to make."""
    for name in kept.state.__struct_fields__:
        value = getattr(kept.state, name)
        if isinstance(value, dict):
            yield from _sliced(name, value)
        else:
            yield name, _encoder.encode(value)
    for name, (older, newer) in ((HEADS, kept.heads), (RECENT, kept.recent)):
        yield from _sliced(f"{name}.0", older)
        yield from _sliced(f"{name}.1", newer)


def _sliced(name: str, value: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    items = iter(value.items())
    while part := dict(itertools.islice(items, SLICE)):
        yield name, _encoder.encode(part)


class Assembly:
    """Puts the parts of `kept` together, one after another."""

    def __init__(self, kept: Kept[Any]) -> None:
        self._kept = kept
        self._parts: list[bytes] = []
        self._names: list[tuple[str, int]] = []
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def add(self, name: str, part: bytes) -> None:
        """The next part. Raises `SnapshotUnfit` where the whole would be too large."""
        self._parts.append(part)
        self._names.append((name, len(part)))
        self._hash.update(part)
        self.size_bytes += len(part)
        if self.size_bytes > BODY_BYTES_MAX:
            raise SnapshotUnfit(f"the state is larger than {BODY_BYTES_MAX} bytes")

    def snapshot(self, *, service: str, fingerprint: str, log: str, at: float) -> Snapshot:
        """All of them."""
        head = SnapshotHead(
            service=service,
            fingerprint=fingerprint,
            log=log,
            seq=self._kept.seq,
            event_id=self._kept.event_id,
            at=at,
            pieces=tuple(self._names),
            sha256=self._hash.hexdigest(),
        )
        return Snapshot(head, b"".join(self._parts))


def check(snapshot: Snapshot, *, service: str, fingerprint: str, log: str, last_seq: int) -> None:
    """Raise `SnapshotUnfit` unless it is of this service, code and log, and whole."""
    head = snapshot.head
    wrong = {
        "of another service": head.service != service,
        "of another version of the code": head.fingerprint != fingerprint,
        "of a log that was made anew since": head.log != log,
        "ahead of the log": not 0 < head.seq <= last_seq,
        "damaged": hashlib.sha256(snapshot.body).hexdigest() != head.sha256,
        "cut": sum(size for _, size in head.pieces) != len(snapshot.body),
    }
    if reasons := [reason for reason, holds in wrong.items() if holds]:
        raise SnapshotUnfit(f"it is {', '.join(reasons)}")


def opened(snapshot: Snapshot, state: type[S], head: type) -> Kept[S]:
    """What was kept. `head`: the type of an aggregate's head. Raises `SnapshotUnfit` where it can't be read."""
    kinds: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(cast(Any, state))}
    for half in "01":
        kinds |= {f"{HEADS}.{half}": dict[str, head], f"{RECENT}.{half}": dict[str, int]}  # type: ignore[valid-type]
    decoders = {name: msgspec.msgpack.Decoder(kind) for name, kind in kinds.items()}
    found: dict[str, Any] = {}
    position = 0
    view = memoryview(snapshot.body)
    try:
        for name, size in snapshot.head.pieces:
            part = decoders[name].decode(view[position : position + size])
            position += size
            if isinstance(part, dict) and name in found:
                found[name].update(part)
            else:
                found[name] = part
    except (KeyError, msgspec.MsgspecError) as error:
        raise SnapshotUnfit(f"it can't be read: {error}") from error
    heads, recent = (tuple(found.pop(f"{name}.{half}", {}) for half in "01") for name in (HEADS, RECENT))
    return Kept(state(**found), snapshot.head.seq, snapshot.head.event_id, heads, recent)
