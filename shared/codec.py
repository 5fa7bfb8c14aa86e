"""Events to bytes and back. The envelope is one flat JSON object, `type` first, the event's own fields under `data`.

A reader skips event types that it does not know (a newer service wrote them) but still counts their revision.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from shared.events import EVENT_TYPES, Event
from shared.ids import EventId, derive

SUBJECT_ROOT = "drape.evt"
ALL_EVENTS = f"{SUBJECT_ROOT}.>"


class Meta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the log knows of an event beside its content. `rev`: 1, 2, 3 … in its aggregate; `at`: seconds, UTC."""

    id: EventId
    at: float
    rev: int
    correlation_id: str
    causation_id: str
    actor: str
    traceparent: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the log holds it. `event` is None where its type is unknown here. `key` names its aggregate."""

    seq: int
    key: str
    type: str
    meta: Meta
    event: Event | None


class _Wire(msgspec.Struct, kw_only=True):
    type: str
    id: str
    at: float
    rev: int
    v: int
    correlation_id: str
    causation_id: str
    actor: str
    data: msgspec.Raw


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(event type, version) -> what turns that version's `data` into the next version's. Old events are read for ever."""

_encoder = msgspec.json.Encoder()
_wire = msgspec.json.Decoder(_Wire)
_data = {name: msgspec.json.Decoder(kind) for name, kind in EVENT_TYPES.items()}
_meta = msgspec.json.Decoder(Meta)


def _whole(name: str, kind: type[Event]) -> msgspec.json.Decoder[Any]:
    """Reads envelope and content of one type in one go: half of the time of one after the other."""
    texts = ("id", "correlation_id", "causation_id", "actor")
    fields = [*((each, str) for each in texts), ("at", float), ("rev", int), ("v", int), ("data", kind)]
    shape = msgspec.defstruct(f"_{name}", fields, tag_field="type", tag=name, kw_only=True, gc=False)
    return msgspec.json.Decoder(shape)


_newest = {name: (_whole(name, kind).decode, kind) for name, kind in EVENT_TYPES.items()}


def event_id(command_id: str, event: Event) -> EventId:
    """The id that this command's event has, however often the command is tried."""
    return derive(command_id, event.service, event.aggregate, event.aggregate_id, type(event).__name__)


def subject_of(event: Event) -> str:
    """`drape.evt.<service>.<aggregate>.<id>.<EventType>`"""
    return f"{SUBJECT_ROOT}.{event.service}.{event.aggregate}.{event.aggregate_id}.{type(event).__name__}"


def filter_of(key: str) -> str:
    """The one filter string of an aggregate: every optimistic append uses this one and no other (see ARCHITECTURE.md)."""
    return f"{SUBJECT_ROOT}.{key}.>"


def filter_of_type(kind: type[Event]) -> str:
    """The subjects of all events of a type."""
    return f"{SUBJECT_ROOT}.{kind.service}.{kind.aggregate}.*.{kind.__name__}"


def key_of(subject: str) -> str:
    """The aggregate's key, from an event's subject."""
    return subject[len(SUBJECT_ROOT) + 1 : subject.rindex(".")]


def encode(event: Event, meta: Meta) -> bytes:
    """The event as the log stores it."""
    return _encoder.encode(
        _Wire(
            type=type(event).__name__,
            id=meta.id,
            at=meta.at,
            rev=meta.rev,
            v=event.schema_version,
            correlation_id=meta.correlation_id,
            causation_id=meta.causation_id,
            actor=meta.actor,
            data=msgspec.Raw(_encoder.encode(event)),
        )
    )


def decode(payload: bytes, *, seq: int, subject: str, traceparent: str = "") -> Recorded:
    """The event that the log stored; its content is None where this code does not know the type.

    Raises `msgspec.ValidationError` for what is not an event at all, or contradicts its schema.
    """
    return decode_as(subject[subject.rindex(".") + 1 :], payload, seq, key_of(subject), traceparent)


def decode_as(name: str, payload: bytes, seq: int, key: str, traceparent: str) -> Recorded:
    """The same for an event whose subject was taken apart: it ends with the type's name."""
    known = _newest.get(name)
    if known is None:
        return _decode_any(payload, seq, key, traceparent)
    decode_whole, kind = known
    try:
        wire = decode_whole(payload)
    except msgspec.ValidationError:
        return _decode_any(payload, seq, key, traceparent)
    if wire.v < kind.schema_version:
        return _decode_any(payload, seq, key, traceparent)
    meta = Meta(
        id=wire.id,
        at=wire.at,
        rev=wire.rev,
        correlation_id=wire.correlation_id,
        causation_id=wire.causation_id,
        actor=wire.actor,
        traceparent=traceparent,
    )
    return Recorded(seq=seq, key=key, type=name, meta=meta, event=wire.data)


def decode_meta(name: str, payload: bytes, seq: int, key: str) -> Recorded:
    """The event without its content, and without the trace that it belongs to."""
    return Recorded(seq=seq, key=key, type=name, meta=_meta.decode(payload), event=None)


def _decode_any(payload: bytes, seq: int, key: str, traceparent: str) -> Recorded:
    """Of any version, of an unknown type, or wrong."""
    wire = _wire.decode(payload)
    decoder = _data.get(wire.type)
    meta = Meta(
        id=wire.id,
        at=wire.at,
        rev=wire.rev,
        correlation_id=wire.correlation_id,
        causation_id=wire.causation_id,
        actor=wire.actor,
        traceparent=traceparent,
    )
    event = decoder.decode(_upcast(wire)) if decoder is not None else None
    return Recorded(seq=seq, key=key, type=wire.type, meta=meta, event=event)


def _upcast(wire: _Wire) -> bytes | msgspec.Raw:
    newest = EVENT_TYPES[wire.type].schema_version
    if wire.v >= newest:
        return wire.data
    data: dict[str, Any] = msgspec.json.decode(wire.data)
    for version in range(wire.v, newest):
        upcast = UPCASTERS.get((wire.type, version))
        data = upcast(data) if upcast is not None else data
    return _encoder.encode(data)
