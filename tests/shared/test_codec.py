"""Every event goes to bytes and back unchanged, in a shape that others can read and that old and new readers share."""

import json
from typing import Any

import msgspec
import pytest

from shared import codec
from shared.codec import Meta, decode, encode, event_id, filter_of, filter_of_type, key_of, subject_of
from shared.events import (
    EVENT_TYPES,
    AlertRaised,
    ClaimQueued,
    Event,
    PoolResized,
    ProjectCreated,
    VmAcquired,
    VmBooted,
    aggregate_key,
)
from shared.ids import is_token
from tests.builders import claim_queued, pool_resized, project_created, story, vm_acquired, vm_booted, vm_lost

META = Meta(id="id-1", at=1.5, rev=3, correlation_id="preview-1", causation_id="command-1", actor="pool/0")


def sample(kind: type[Event]) -> Event:
    """An event of this type with a plain value in each field."""
    plain: dict[Any, Any] = {str: "x-1", int: 7, float: 1.5, bool: True, dict: {"a": "b"}, tuple: ["a", "b"]}
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        text = str(field.type)
        if "Literal" in text:
            values[field.name] = field.type.__args__[0]
        elif "dict[str, float]" in text:
            values[field.name] = {"a": 1.5}
        elif "Reach" in text:
            values[field.name] = {"tunnel": True, "headers": [["a", "b"]]}
        elif "AppChoice" in text:
            values[field.name] = [{"path": "apps/a", "framework": "vite", "name": "a"}]
        elif "PoolUsage" in text:
            counts = ("memory_mb", "booting", "available", "in_use", "suspended", "kept", "going")
            values[field.name] = [{"name": "large", "provider": "fly", "region": "ams", **dict.fromkeys(counts, 7)}]
        elif "tuple[int" in text:
            values[field.name] = [1, 2]
        else:
            origin = getattr(field.type, "__origin__", None) or getattr(field.type, "__args__", [field.type])[0]
            values[field.name] = plain[origin if origin in plain else field.type]
    return msgspec.convert(values, kind)


def wire(event: Event, **changes: object) -> bytes:
    """The event's bytes with some of the envelope's members changed."""
    return json.dumps({**json.loads(encode(event, META)), **changes}).encode()


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_event_survives(kind: type[Event]) -> None:
    """Content, envelope and place, to the last field."""
    event = sample(kind)
    meta = msgspec.structs.replace(META, traceparent="00-a-b-01")
    recorded = decode(encode(event, meta), seq=42, subject=subject_of(event), traceparent="00-a-b-01")
    assert (recorded.seq, recorded.key, recorded.type) == (42, aggregate_key(event), kind.__name__)
    assert (recorded.meta, recorded.event) == (meta, event)


@pytest.mark.parametrize("event", [*story("ready"), vm_lost(preview=None)], ids=lambda event: type(event).__name__)
def test_real_events_survive(event: Event) -> None:
    assert decode(encode(event, META), seq=1, subject=subject_of(event)).event == event


def test_the_wire_reads_well() -> None:
    """`type` comes first, content is apart, and the trace is a header, not a member."""
    assert json.loads(encode(vm_booted(), META)) == {
        "type": "VmBooted",
        "id": "id-1",
        "at": 1.5,
        "rev": 3,
        "v": 1,
        "correlation_id": "preview-1",
        "causation_id": "command-1",
        "actor": "pool/0",
        "data": {"vm_id": "vm-000001", "host": "127.0.0.1", "port": 9001, "boot_s": 0.5, "reach": {}},
    }
    assert encode(vm_booted(), META).startswith(b'{"type":"VmBooted",')


@pytest.mark.parametrize(
    ("event", "subject"),
    [
        (vm_acquired(), "drape.evt.pool.vm.vm-000001.VmAcquired"),
        (claim_queued(), "drape.evt.pool.claim.preview-1.ClaimQueued"),
        (pool_resized(), "drape.evt.pool.pool.default.PoolResized"),
        (project_created(), "drape.evt.gateway.project.project-1.ProjectCreated"),
        (AlertRaised(alert="pool-empty", message="m", since=1.0), "drape.evt.telemetry.alert.pool-empty.AlertRaised"),
    ],
)
def test_subjects(event: Event, subject: str) -> None:
    """Service, aggregate, id, type; the key is what is between; one filter an aggregate."""
    assert subject_of(event) == subject
    assert key_of(subject) == aggregate_key(event)
    assert filter_of(aggregate_key(event)) == f"{subject.rpartition('.')[0]}.>"


def test_the_filter_of_a_type() -> None:
    assert filter_of_type(VmAcquired) == "drape.evt.pool.vm.*.VmAcquired"


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_event_has_one_owner_and_a_place(kind: type[Event]) -> None:
    event = sample(kind)
    assert kind.service in ("pool", "orchestrator", "gateway", "telemetry")
    assert is_token(kind.aggregate)
    assert (event.aggregate_id, kind.__name__ in EVENT_TYPES) == ("x-1", True)
    assert kind.__doc__


# --- ids ----------------------------------------------------------------------------------------------------------


def test_a_retried_command_makes_the_same_ids() -> None:
    assert event_id("c", vm_acquired()) == event_id("c", vm_acquired(preview="another"))


def test_ids_differ_by_command_type_and_aggregate() -> None:
    events = [vm_acquired(1), vm_acquired(2), vm_booted(1), claim_queued()]
    ids = {event_id(command, event) for command in ("c", "d") for event in events}
    assert len(ids) == 8


# --- other versions -----------------------------------------------------------------------------------------------


def test_an_unknown_type_is_skipped_but_keeps_its_place() -> None:
    """A newer service wrote it."""
    payload = wire(vm_booted(), type="VmPolished", data={"shine": 9})
    recorded = decode(payload, seq=5, subject="drape.evt.pool.vm.vm-000001.VmPolished")
    assert (recorded.event, recorded.type, recorded.meta.rev) == (None, "VmPolished", 3)
    assert recorded.key == "pool.vm.vm-000001"


def test_fields_of_a_newer_version_are_ignored() -> None:
    """In the content and in the envelope."""
    data = {**msgspec.to_builtins(vm_booted()), "new": 1}
    payload = wire(vm_booted(), data=data, v=9, shard=3)
    assert decode(payload, seq=1, subject=subject_of(vm_booted())).event == vm_booted()


def test_an_older_version_goes_through_every_upcaster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 to 2 to 3, in this order; a version without an upcaster only gained fields with defaults."""

    def to_2(data: dict[str, Any]) -> dict[str, Any]:
        return {"vm_id": data["vm"], "address": data["address"]}

    def to_4(data: dict[str, Any]) -> dict[str, Any]:
        host, _, port = data.pop("address").partition(":")
        return {**data, "host": host, "port": int(port), "boot_s": 0.5}

    monkeypatch.setattr(VmBooted, "schema_version", 4)
    monkeypatch.setattr(codec, "UPCASTERS", {("VmBooted", 1): to_2, ("VmBooted", 3): to_4})
    old = wire(vm_booted(), v=1, data={"vm": "vm-000001", "address": "127.0.0.1:9001"})
    assert decode(old, seq=1, subject=subject_of(vm_booted())).event == vm_booted()
    new = encode(vm_booted(), META)
    assert json.loads(new)["v"] == 4
    assert decode(new, seq=1, subject=subject_of(vm_booted())).event == vm_booted()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"type": "VmBooted"}',
        b"\xff\xfe",
        wire(vm_booted(), rev="x"),
        wire(vm_booted(), data={}),
        wire(vm_booted(), data=[]),
        wire(vm_booted(), data={"vm_id": 7, "host": "h", "port": 1, "boot_s": 1}),
    ],
)
def test_what_is_no_event_is_an_error(payload: bytes) -> None:
    """Never a half-filled event."""
    with pytest.raises(msgspec.DecodeError):
        decode(payload, seq=1, subject="drape.evt.pool.vm.vm-000001.VmBooted")


def test_names_of_event_types_do_not_clash() -> None:
    """The name on the wire is the class's: two services may not both have it."""
    assert {ClaimQueued, PoolResized, ProjectCreated} <= set(EVENT_TYPES.values())
    assert all(name == kind.__name__ for name, kind in EVENT_TYPES.items())
