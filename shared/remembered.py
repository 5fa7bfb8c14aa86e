"""What is remembered of the newest things, by key, within a bound. Pure."""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """Never more than `most` entries, and always the newest half of that; an entry that is set again is new again.

    Two plain dictionaries, of which the older is thrown away whole: nothing is ever deleted from one, so that a copy of
    both is one of memory, not one entry after another as an `OrderedDict`'s.
    """

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._new: dict[str, V] = {}
        self._old: dict[str, V] = {}

    def get(self, key: str) -> V | None:
        found = self._new.get(key)
        return found if found is not None else self._old.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._new or key in self._old

    def __setitem__(self, key: str, value: V) -> None:
        self._new[key] = value
        if len(self._new) >= self._half:
            self._old, self._new = self._new, {}

    def copy(self) -> tuple[dict[str, V], dict[str, V]]:
        """The older and the newer entries, apart from what comes later."""
        return self._old.copy(), self._new.copy()

    def adopt(self, older: Mapping[str, V], newer: Mapping[str, V]) -> None:
        """Remember exactly what `copy` gave, elsewhere or earlier."""
        self._old, self._new = dict(older), dict(newer)

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._old if key not in self._new)
        yield from self._new
