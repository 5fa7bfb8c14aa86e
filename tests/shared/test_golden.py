"""What a log of any age holds is read: a file for every version of every event, as it was first written."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import codec
from shared.codec import decode, subject_of
from shared.events import EVENT_TYPES, Event
from shared.events.base import aggregate_key
from tests.shared.examples import EXAMPLES
from tests.shared.golden import __main__ as golden

FILES = sorted(golden.FOLDER.glob("*.json"))


def read(path: Path, **changes: object) -> Event | None:
    """The event of a file, with some members of its envelope or (`data`) fields added."""
    wire = msgspec.json.decode(path.read_bytes())
    wire["data"] |= changes.pop("data", {})
    example = EXAMPLES[wire["type"]]
    return decode(msgspec.json.encode(wire | changes), seq=1, subject=subject_of(example)).event


def fields_of(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(path.read_bytes())["data"]
    return data


def expected(path: Path) -> Event:
    """The example; of a file from before a field was added, with that field's default."""
    example = EXAMPLES[path.name.partition(".")[0]]
    missing = [each for each in msgspec.structs.fields(example) if each.encode_name not in fields_of(path)]
    assert all(not each.required for each in missing), f"{path.name} lacks a field that has no default"
    defaults = {
        each.name: each.default if each.default is not msgspec.NODEFAULT else each.default_factory() for each in missing
    }
    return msgspec.structs.replace(example, **defaults)


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_event_has_an_example(name: str) -> None:
    """Each field with a value of its own, so that one which is lost on the way shows."""
    example = EXAMPLES[name]
    for each in msgspec.structs.fields(example):
        if each.default is not msgspec.NODEFAULT:
            assert getattr(example, each.name) != each.default, f"{name}.{each.name}"
        elif each.default_factory is not msgspec.NODEFAULT:
            assert getattr(example, each.name) != each.default_factory(), f"{name}.{each.name}"


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_every_version_has_its_file(name: str) -> None:
    """`python -m tests.shared.golden` writes what is missing; older versions' files are only ever added."""
    for version in range(1, EVENT_TYPES[name].schema_version + 1):
        assert (golden.FOLDER / f"{name}.v{version}.json").exists(), f"{name} v{version}"


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_what_is_written_now_is_in_its_file(name: str) -> None:
    """A field that was added needs the file written anew: keep the old one as `<Event>.v<N>.<when>.json`."""
    example = EXAMPLES[name]
    assert golden.path_of(example).read_bytes() == golden.text_of(example)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_read_as_the_event_of_today(path: Path) -> None:
    event = read(path)
    assert event == expected(path)
    assert event is not None
    assert aggregate_key(event) == aggregate_key(EXAMPLES[type(event).__name__])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_newer_service_adds_is_ignored(path: Path) -> None:
    """A version that is not known yet keeps the meaning of the fields that are: it is read as far as it is understood."""
    newest = EVENT_TYPES[path.name.partition(".")[0]].schema_version
    assert read(path, data={"later": {"a": [1]}}) == expected(path)
    if newest == msgspec.json.decode(path.read_bytes())["v"]:
        assert read(path, v=newest + 1, data={"later": 1}) == expected(path)


def test_a_type_that_is_not_known_is_skipped() -> None:
    """Its revision still counts."""
    wire = msgspec.json.decode((golden.FOLDER / "VmDestroyed.v1.json").read_bytes()) | {"type": "VmPainted"}
    recorded = decode(msgspec.json.encode(wire), seq=9, subject="drape.evt.pool.vm.vm-000042.VmPainted")
    assert (recorded.event, recorded.type, recorded.meta.rev, recorded.seq) == (None, "VmPainted", 16, 9)


def test_old_versions_are_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through each upcaster in turn, and only those that lie between."""
    monkeypatch.setattr(EVENT_TYPES["PreviewStopped"], "schema_version", 3)
    monkeypatch.setitem(codec.UPCASTERS, ("PreviewStopped", 1), lambda data: {**data, "why": data.pop("reason")})
    monkeypatch.setitem(codec.UPCASTERS, ("PreviewStopped", 2), lambda data: {**data, "reason": data["why"] + "!"})
    path = golden.FOLDER / "PreviewStopped.v1.json"
    assert read(path) == msgspec.structs.replace(EXAMPLES["PreviewStopped"], reason="asked!")
    assert read(path, v=3) == EXAMPLES["PreviewStopped"]
    with pytest.raises(msgspec.ValidationError, match="reason"):
        decode(
            path.read_bytes().replace(b'"v": 1', b'"v": 3').replace(b'"reason"', b'"why"'),
            seq=1,
            subject=subject_of(EXAMPLES["PreviewStopped"]),
        )


def test_a_missing_file_is_written_and_none_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    kept = tmp_path / "VmDestroyed.v1.json"
    kept.write_bytes(b"as it was")
    assert golden.main() == 0
    assert kept.read_bytes() == b"as it was"
    assert len([*tmp_path.iterdir()]) == len(EVENT_TYPES)
    assert "wrote VmBooted.v1.json" in capsys.readouterr().out
