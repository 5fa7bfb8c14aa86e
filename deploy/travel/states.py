"""Services' states as plain values: what of them belongs to a preview, and what differs between two. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

Plain = dict[str, Any]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. `place`: "vms", or empty for a field of the state itself; `key`: of the thing, or the field's name.
    `fields`: of one that changed, by path: what it was and what it is."""

    service: str
    kind: Literal["added", "removed", "changed"]
    place: str
    key: str
    value: Any = None
    fields: dict[str, tuple[Any, Any]] = {}


SINGLE = frozenset({"stuck", "resources"})
"""Members of a state that are one thing, not many."""


def plain(state: object) -> Plain:
    """The state as JSON would have it; sets as sorted lists."""
    found: Plain = msgspec.to_builtins(state, order="deterministic")
    return found


def counts(state: Plain) -> dict[str, int]:
    """How many there are of each kind of thing."""
    many = {name: value for name, value in state.items() if isinstance(value, dict | list | tuple)}
    return {name: len(value) for name, value in many.items() if name not in SINGLE}


def statuses(things: object) -> dict[str, int]:
    """How many have each status, in the order in which they come; empty where they have none."""
    found: dict[str, int] = {}
    for each in things.values() if isinstance(things, dict) else ():
        status = each.get("status") if isinstance(each, dict) else None
        if isinstance(status, str):
            found[status] = found.get(status, 0) + 1
    return found


def previews_in(states: Mapping[str, Plain]) -> list[str]:
    """The ids of all previews that any service knows."""
    return sorted({preview for state in states.values() for preview in state.get("previews", {})})


def ids_around(states: Mapping[str, Plain], preview_id: str) -> frozenset[str]:
    """The preview, its project, and the VMs that are its; only itself where nobody knows it."""
    found: set[Any] = {preview_id}
    for state in states.values():
        preview = state.get("previews", {}).get(preview_id)
        if isinstance(preview, dict):
            vm = preview.get("vm")
            found |= {
                preview.get("project_id"),
                preview.get("vm_id"),
                vm.get("vm_id") if isinstance(vm, dict) else None,
            }
        vms = state.get("vms", {})
        found |= {vm_id for vm_id, vm in vms.items() if isinstance(vm, dict) and vm.get("preview_id") == preview_id}
    return frozenset(each for each in found if isinstance(each, str) and each)


def around(state: Plain, ids: frozenset[str], preview_id: str) -> Plain:
    """Of a state only what has one of these ids, or is of the preview."""
    kept: Plain = {}
    for name, value in state.items():
        if isinstance(value, dict):
            entries = {key: each for key, each in value.items() if key in ids or _is_of(each, preview_id)}
            if entries:
                kept[name] = entries
        elif isinstance(value, list | tuple):
            items = [each for each in value if each in ids or _is_of(each, preview_id)]
            if items:
                kept[name] = items
    return kept


def _is_of(value: object, preview_id: str) -> bool:
    return isinstance(value, dict) and any(value.get(name) == preview_id for name in ("preview_id", "resident"))


def differences(service: str, before: Plain, after: Plain) -> Iterator[Change]:
    """All that differs, field by field, things in the order of their ids."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _things(service, name, old, new)
        elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
            yield from _items(service, name, old, new)
        else:
            yield Change(service=service, kind="changed", place="", key=name, fields={name: (old, new)})


def _things(service: str, place: str, old: Plain, new: Plain) -> Iterator[Change]:
    for key in sorted({*old, *new}):
        if key not in old:
            yield Change(service=service, kind="added", place=place, key=key, value=new[key])
        elif key not in new:
            yield Change(service=service, kind="removed", place=place, key=key, value=old[key])
        elif old[key] != new[key]:
            fields = dict(_fields("", old[key], new[key]))
            yield Change(service=service, kind="changed", place=place, key=key, fields=fields)


def _items(service: str, place: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Change]:
    for each in new:
        if each not in old:
            yield Change(service=service, kind="added", place=place, key=_name(each), value=each)
    for each in old:
        if each not in new:
            yield Change(service=service, kind="removed", place=place, key=_name(each), value=each)


def _name(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _fields(path: str, old: Any, new: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield path, (old, new)
        return
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield from _fields(f"{path}.{name}" if path else name, old.get(name), new.get(name))
