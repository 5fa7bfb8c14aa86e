"""Records of PostgreSQL and structs: fields are columns, times (`at`, `…_at`) are seconds here and timestamps there."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


def fields_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The columns that hold it."""
    return tuple(field.name for field in msgspec.structs.fields(kind))


def upsert(table: str, kind: type[msgspec.Struct], key: Sequence[str]) -> str:
    """Writes one, of a log's, or what it has become: `$1` is the log, then `to_columns`. `key`: without the log's."""
    names = fields_of(kind)
    changed = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name not in key)
    return f"{insert(table, kind)} ON CONFLICT (log_id, {', '.join(key)}) DO UPDATE SET {changed}"


def insert(table: str, kind: type[msgspec.Struct]) -> str:
    """Writes one, of a log's."""
    names = fields_of(kind)
    values = ", ".join(f"${number}" for number in range(1, len(names) + 2))
    return f"INSERT INTO drape.{table} (log_id, {', '.join(names)}) VALUES ({values})"  # noqa: S608 - our own names


def to_columns(row: msgspec.Struct) -> tuple[object, ...]:
    """Its values, in the order of `fields_of`."""
    return tuple(_to_column(name, getattr(row, name)) for name in fields_of(type(row)))


def from_record(record: Mapping[str, Any], kind: type[S]) -> S:
    """The struct that was written."""
    return msgspec.convert({name: _from_column(record[name]) for name in fields_of(kind)}, kind)


def _to_column(name: str, value: object) -> object:
    if isinstance(value, int | float) and (name == "at" or name.endswith("_at")):
        return datetime.fromtimestamp(value, UTC)
    return list(value) if isinstance(value, tuple) else value


def _from_column(value: object) -> object:
    return value.timestamp() if isinstance(value, datetime) else value
