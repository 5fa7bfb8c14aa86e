"""What a folded state depends on beside the log: the shapes that it is made of, and the code that folds.

A snapshot of another fingerprint is of no use: it may lack a field, or hold what today's fold would have made otherwise.
"""

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import msgspec

from shared.events import EVENT_TYPES, Event

FORMAT = "1"
"""Counts up when the layout of snapshots changes."""
FOLDING = ("shared.codec", "shared.events", "shared.ids")
"""What turns bytes into events: part of every fold."""


def fingerprint_of(evolve: Callable[..., object], state: type) -> str:
    """16 hex digits. Another for every change of the state's fields, of an event's, or of the code behind `evolve`."""
    return _fingerprint(evolve, state)


@functools.cache
def _fingerprint(evolve: Callable[..., object], state: type) -> str:
    parts = [FORMAT, msgspec.__version__, *_shapes(state)]
    parts += [_shape for name in sorted(EVENT_TYPES) for _shape in _shapes(EVENT_TYPES[name])]
    for module in [*rooms_of(evolve), *_loaded(FOLDING)]:
        parts += [module.__name__, inspect.getsource(module)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def folded_types(evolve: Callable[..., object]) -> frozenset[str]:
    """The events that the fold can tell apart, by name: those that its modules import, or a base of which they do.

    Nothing that a fold does not name can change its state, so these are all whose content a replay has to read.
    """
    named = tuple(
        value
        for module in rooms_of(evolve)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    )
    return frozenset(name for name, kind in EVENT_TYPES.items() if issubclass(kind, named))


def passed_over(types: frozenset[str] | None) -> frozenset[str]:
    """The events of aggregates that have none of `types`: not even their revisions matter to who folds those."""
    if types is None:
        return frozenset()
    heeded = {(EVENT_TYPES[name].service, EVENT_TYPES[name].aggregate) for name in types if name in EVENT_TYPES}
    return frozenset(name for name, kind in EVENT_TYPES.items() if (kind.service, kind.aggregate) not in heeded)


def rooms_of(evolve: Callable[..., object]) -> list[ModuleType]:
    """The modules of the fold's own service that it is made of: its own, and those that these import from."""
    first = sys.modules[evolve.__module__]
    own = ".".join(first.__name__.split(".")[:2]) + "."
    found = {first.__name__: first}
    waiting = [first]
    while waiting:
        for value in vars(waiting.pop()).values():
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name.startswith(own) and name not in found and name in sys.modules:
                found[name] = sys.modules[name]
                waiting.append(sys.modules[name])
    return [found[name] for name in sorted(found)]


def _loaded(names: tuple[str, ...]) -> Iterator[ModuleType]:
    for name in sorted(sys.modules):
        if name in names or name.startswith(tuple(f"{each}." for each in names)):
            yield sys.modules[name]


def _shapes(kind: type, seen: set[type] | None = None) -> Iterator[str]:
    """Each Struct that the type is made of, with its fields' names, types and defaults."""
    seen = set() if seen is None else seen
    if kind in seen:
        return
    seen.add(kind)
    for field in msgspec.structs.fields(kind):
        yield f"{kind.__name__}.{field.encode_name}: {field.type!r} = {field.default!r}"
        for inner in _structs_in(field.type):
            yield from _shapes(inner, seen)


def _structs_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _structs_in(inner)
