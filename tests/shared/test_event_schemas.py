"""A change of an event's schema that logs could not be read with is refused, in words; any other only wants the files
written anew."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import event_schemas
from deploy.event_schemas import Json, broken, present, stored
from shared import codec
from shared.events import EVENT_TYPES

Change = Callable[[dict[str, Json]], object]


def changed(change: Change) -> list[str]:
    """What is said of this change of the present schemas."""
    after = copy.deepcopy(present())
    change(after)
    return broken(present(), after)


def fields(schemas: dict[str, Json], name: str) -> dict[str, Json]:
    properties: dict[str, Json] = schemas[name]["properties"]
    return properties


def set_field(name: str, field: str, schema: Json) -> Change:
    return lambda schemas: fields(schemas, name).__setitem__(field, schema)


def require(schemas: dict[str, Json], name: str, field: str) -> None:
    fields(schemas, name).setdefault(field, {"type": "string"})
    schemas[name]["required"].append(field)


def pair(schemas: dict[str, Json]) -> list[Json]:
    """The places of a header of a VM's reach."""
    found: list[Json] = schemas["VmBooted"]["$defs"]["Reach"]["properties"]["headers"]["items"]["prefixItems"]
    return found


INCOMPATIBLE: dict[str, tuple[Change, str]] = {
    "event removed": (lambda s: s.pop("VmBooted"), "VmBooted: the event was removed"),
    "event moved": (lambda s: s["VmBooted"].update({"x-subject": "drape.evt.pool.machine.<id>.VmBooted"}), "was moved"),
    "field removed": (lambda s: fields(s, "VmBooted").pop("host"), "VmBooted: VmBooted.host was removed"),
    "optional field removed": (lambda s: fields(s, "VmRetired").pop("detail"), "VmRetired.detail was removed"),
    "type changed": (set_field("VmBooted", "port", {"type": "string"}), "VmBooted.port was of type integer and is"),
    "number narrowed": (set_field("VmBooted", "boot_s", {"type": "integer"}), "VmBooted.boot_s was of type number"),
    "null no longer": (set_field("VmLost", "preview_id", {"type": "string"}), "VmLost.preview_id"),
    "list's items changed": (
        set_field("InstallStarted", "command", {"type": "array", "items": {"type": "integer"}}),
        "InstallStarted.command[] was of type string",
    ),
    "map's values changed": (
        set_field("PreviewReady", "steps", {"type": "object", "additionalProperties": {"type": "string"}}),
        "PreviewReady.steps{} was of type number",
    ),
    "a place of a tuple changed": (
        lambda s: pair(s).__setitem__(1, {"type": "integer"}),
        "VmBooted.reach.headers[][1] was of type string",
    ),
    "tuple longer": (lambda s: pair(s).append({"type": "string"}), "VmBooted.reach.headers[] had 2 values and has 3"),
    "enum narrowed": (set_field("HmrProbed", "state", {"enum": ["open"]}), "HmrProbed.state no longer takes"),
    "text became an enum": (set_field("VmLost", "detail", {"enum": ["silent"]}), "no longer takes just any value"),
    "new required field": (lambda s: require(s, "VmDestroyed", "why"), "VmDestroyed.why is new and has no default"),
    "default taken": (lambda s: require(s, "VmRetired", "detail"), "VmRetired.detail had a default"),
    "inner field removed": (
        lambda s: s["PreviewFailed"]["$defs"]["AppChoice"]["properties"].pop("name"),
        "PreviewFailed.choices[].name was removed",
    ),
    "version lowered": (lambda s: s["VmBooted"].update({"x-version": 0}), "its version went back from 1 to 0"),
    "version without upcaster": (lambda s: s["VmBooted"].update({"x-version": 2}), "version 1 has no upcaster"),
}

COMPATIBLE: dict[str, Change] = {
    "nothing": lambda _: None,
    "new event": lambda s: s.update({"VmPainted": s["VmBooted"]}),
    "new optional field": set_field("VmBooted", "colour", {"type": "string", "default": ""}),
    "words": lambda s: s["VmBooted"].update({"description": "Other words."}),
    "enum widened": set_field("HmrProbed", "state", {"enum": ["none", "open", "refused", "silent", "late"]}),
    "enum became a text": set_field("HmrProbed", "state", {"type": "string"}),
    "null as well": set_field("VmBooted", "port", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    "integer became a number": set_field("VmBooted", "port", {"type": "number"}),
    "default given": lambda s: s["VmBooted"]["required"].remove("host"),
}


@pytest.mark.parametrize("name", INCOMPATIBLE)
def test_what_could_not_be_read_is_refused(name: str) -> None:
    change, words = INCOMPATIBLE[name]
    said = changed(change)
    assert any(words in each for each in said), said


@pytest.mark.parametrize("name", COMPATIBLE)
def test_what_can_be_read_is_not(name: str) -> None:
    assert changed(COMPATIBLE[name]) == []


def test_another_version_with_an_upcaster_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def rewrite(schemas: dict[str, Json]) -> None:
        schemas["VmBooted"].update({"x-version": 3, "properties": {}, "required": []})

    monkeypatch.setitem(codec.UPCASTERS, ("VmBooted", 1), dict)
    assert [each for each in changed(rewrite) if "version 2 has no upcaster" not in each] == []
    monkeypatch.setitem(codec.UPCASTERS, ("VmBooted", 2), dict)
    assert changed(rewrite) == []


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["event_schemas", *arguments])
    return event_schemas.main()


def test_the_files_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/schemas is what `python -m deploy.event_schemas` would write now."""
    assert run(monkeypatch, "--check") == 0
    assert set(stored(event_schemas.TARGET)) == set(EVENT_TYPES)


def test_a_stale_file_is_noticed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(event_schemas, "TARGET", tmp_path)
    assert run(monkeypatch) == 0
    path = tmp_path / "VmBooted.json"
    fresh = path.read_bytes()
    path.write_bytes(fresh.replace(b"warm", b"cold"))
    assert run(monkeypatch, "--check") == 1
    assert "stale (VmBooted): run `python -m deploy.event_schemas`" in capsys.readouterr().err
    assert path.read_bytes() != fresh
    assert run(monkeypatch) == 0
    assert path.read_bytes() == fresh


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_an_incompatible_change_can_t_be_written_over(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else whoever writes the files anew, as a stale one asks, would have hidden it."""
    monkeypatch.setattr(event_schemas, "TARGET", tmp_path)
    assert run(monkeypatch) == 0
    before: dict[str, Any] = stored(tmp_path)
    before["VmBooted"]["properties"]["colour"] = {"type": "string"}
    path = tmp_path / "VmBooted.json"
    path.write_bytes(event_schemas.text_of(before["VmBooted"]))
    kept = path.read_bytes()
    assert run(monkeypatch, *arguments) == 1
    said = capsys.readouterr().err
    assert "VmBooted.colour was removed" in said
    assert "upcaster in shared/codec.py" in said
    assert path.read_bytes() == kept
