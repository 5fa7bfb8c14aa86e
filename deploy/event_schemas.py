"""`python -m deploy.event_schemas`: writes docs/schemas, a JSON Schema of each event's `data`, from the types.

A change after which an event that is in some log could not be read any more is refused, whether it writes or checks
(`--check`): such a change needs another version of the event, and an upcaster from the one before.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from shared.codec import SUBJECT_ROOT, UPCASTERS
from shared.events import EVENT_TYPES, Event
from shared.sealed import PERSONAL

TARGET = Path(__file__).parents[1] / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Json = dict[str, Any]


def schema_of(kind: type[Event]) -> Json:
    """The schema of an event's `data`. `x-subject`, `x-version`, `x-personal`: where it is stored, which version this is,
    and which fields' texts are sealed in the log."""
    (_,), parts = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    own = parts.pop(kind.__name__)
    schema: Json = {
        "$schema": DIALECT,
        **own,
        "x-subject": f"{SUBJECT_ROOT}.{kind.service}.{kind.aggregate}.<id>.{kind.__name__}",
        "x-version": kind.schema_version,
        "x-personal": sorted(PERSONAL.get(kind, ())),
    }
    whole = {**schema, "$defs": parts} if parts else schema
    # As it is read again: lists, where defaults are tuples.
    read: Json = msgspec.json.decode(msgspec.json.encode(whole))
    return read


def present() -> dict[str, Json]:
    """The schemas that the code makes, by event."""
    return {name: schema_of(kind) for name, kind in sorted(EVENT_TYPES.items())}


def stored(folder: Path) -> dict[str, Json]:
    """The schemas that are checked in, by event."""
    return {path.stem: msgspec.json.decode(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


def broken(before: Mapping[str, Json], after: Mapping[str, Json]) -> list[str]:
    """What of the events that `before` describes could not be read as `after` says, in words; empty: everything can."""
    return [f"{name}: {words}" for name, old in before.items() for words in _broken_event(name, old, after.get(name))]


def _broken_event(name: str, old: Json, new: Json | None) -> Iterator[str]:
    if new is None:
        yield "the event was removed; logs hold it. Keep the type, also where nothing writes it any more."
        return
    if old["x-subject"] != new["x-subject"]:
        yield f"it was moved from {old['x-subject']} to {new['x-subject']}; logs hold it under the first."
    versions = range(old["x-version"], new["x-version"])
    if new["x-version"] < old["x-version"]:
        yield f"its version went back from {old['x-version']} to {new['x-version']}."
    elif not versions:
        yield from _refuses(name, new, old, new, old)
    for version in versions:
        if (name, version) not in UPCASTERS:
            yield f"version {version} has no upcaster: add UPCASTERS[({name!r}, {version})] in shared/codec.py."


def _refuses(path: str, new: Json, old: Json, news: Json, olds: Json) -> Iterator[str]:
    """Why `new` does not take everything that `old` did. `news`, `olds`: the schemas that hold their `$defs`."""
    candidates = list(_alternatives(new, news))
    for each in _alternatives(old, olds):
        reasons = [list(_refuses_one(path, candidate, each, news, olds)) for candidate in candidates]
        if not any(not found for found in reasons):
            # Of several alternatives the one that is nearest says it best.
            yield from min(reasons, key=len) if len(reasons) == 1 else [f"{path} no longer takes {_words(each)}"]


def _alternatives(schema: Json, whole: Json) -> Iterator[Json]:
    if "$ref" in schema:
        yield from _alternatives(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    elif "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _alternatives(each, whole)
    else:
        yield schema


def _refuses_one(path: str, new: Json, old: Json, news: Json, olds: Json) -> Iterator[str]:
    kinds = (old.get("type"), new.get("type"))
    if "enum" in new:
        lost = [each for each in old.get("enum", [...]) if each not in new["enum"]]
        if lost:
            yield f"{path} no longer takes {'just any value' if lost == [...] else ', '.join(map(repr, lost))}"
    elif "enum" in old and new.get("type") == "string":
        return
    elif kinds[0] != kinds[1] and kinds not in (("integer", "number"),):
        yield f"{path} was {_words(old)} and is {_words(new)}"
    elif kinds[0] == "array":
        yield from _refuses_items(path, new, old, news, olds)
    elif kinds[0] == "object" and "properties" in old:
        yield from _refuses_fields(path, new, old, news, olds)
    elif kinds[0] == "object":
        yield from _refuses(
            f"{path}{{}}", new.get("additionalProperties", {}), old.get("additionalProperties", {}), news, olds
        )


def _refuses_items(path: str, new: Json, old: Json, news: Json, olds: Json) -> Iterator[str]:
    """Of a list; or of a tuple of so many values (`prefixItems`), each of which has a place and a type of its own."""
    befores, afters = old.get("prefixItems"), new.get("prefixItems")
    if befores is None and afters is None:
        yield from _refuses(f"{path}[]", new.get("items", {}), old.get("items", {}), news, olds)
    elif befores is None or afters is None or len(befores) != len(afters):
        yield f"{path} had {_count(befores)} and has {_count(afters)}"
    else:
        for place, (before, after) in enumerate(zip(befores, afters, strict=True)):
            yield from _refuses(f"{path}[{place}]", after, before, news, olds)


def _count(values: list[Json] | None) -> str:
    return "any number of values" if values is None else f"{len(values)} values"


def _refuses_fields(path: str, new: Json, old: Json, news: Json, olds: Json) -> Iterator[str]:
    fields: Json = new.get("properties", {})
    for name, before in old["properties"].items():
        if name not in fields:
            yield f"{path}.{name} was removed"
        else:
            yield from _refuses(f"{path}.{name}", fields[name], before, news, olds)
    for name in new.get("required", []):
        if name not in old["properties"]:
            yield f"{path}.{name} is new and has no default"
        elif name not in old.get("required", []):
            yield f"{path}.{name} had a default and has none any more"


def _words(schema: Json) -> str:
    if "enum" in schema:
        return f"one of {schema['enum']}"
    return f"of type {schema.get('type', 'any')}"


def text_of(schema: Json) -> bytes:
    """The file."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=1) + b"\n"


def main() -> int:
    """Write the schemas, or with `--check` compare them. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.event_schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is stale too")
    check = parser.parse_args().check
    before, after = stored(TARGET), present()
    if wrong := broken(before, after):
        print("events that logs hold could not be read any more:", *wrong, sep="\n  ", file=sys.stderr)
        advice = (
            "Old events are read for ever: give back what was taken, give a new field a default, or raise the event's "
            "schema_version and write an upcaster in shared/codec.py and a golden file (tests/shared/golden)."
        )
        print(advice, file=sys.stderr)
        return 1
    stale = sorted(name for name in after if before.get(name) != after[name])
    if check and stale:
        names = ", ".join(stale)
        print(f"docs/schemas is stale ({names}): run `python -m deploy.event_schemas`.", file=sys.stderr)
        return 1
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (TARGET / f"{name}.json").write_bytes(text_of(after[name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
