"""The projection `previews`: one row an attempt of a preview. The only file that knows the columns of its table."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.rows import Attempt, preview_of, project
from shared.codec import Recorded
from shared.events import ProjectDeleted
from shared.ids import PreviewId
from shared.sealed import ERASED

PREVIEWS = "previews"

_KEY = ("log_id", "preview_id", "attempt")
_FIELDS = tuple(field.name for field in msgspec.structs.fields(Attempt))
_TIMES = frozenset(name for name in _FIELDS if name.endswith("_at"))
_COLUMNS = ("log_id", *_FIELDS)

_SELECT_NEWEST = (
    f"SELECT DISTINCT ON (preview_id) {', '.join(_FIELDS)} FROM drape.preview_attempts "  # noqa: S608 - our own names
    "WHERE log_id = $1 AND preview_id = ANY($2::text[]) ORDER BY preview_id, attempt DESC"
)
_UPSERT = (
    f"INSERT INTO drape.preview_attempts ({', '.join(_COLUMNS)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join(f'${n}' for n in range(1, len(_COLUMNS) + 1))}) ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS if name not in _KEY)
)
_ERASE = "UPDATE drape.preview_attempts SET message = $3 WHERE log_id = $1 AND project_id = $2 AND message IS NOT NULL"
"""New messages are sealed, and can't be read any more; those of a log from before that were not."""


class PreviewsProjection:
    """Every attempt of every preview."""

    name = PREVIEWS
    tables = ("preview_attempts",)

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """Write the rows that these events make or change; what a deleted project said is erased."""
        rows = project(await newest(connection, log_id, events), events)
        if rows:
            await connection.executemany(_UPSERT, [_values(log_id, row) for row in rows])
        for recorded in events:
            if isinstance(recorded.event, ProjectDeleted):
                await connection.execute(_ERASE, log_id, recorded.event.project_id, ERASED)


async def newest(connection: Any, log_id: str, events: Iterable[Recorded]) -> Mapping[PreviewId, Attempt]:
    """The newest attempt of each preview that these events name, where it has one."""
    wanted = {preview_id for preview_id in map(preview_of, events) if preview_id is not None}
    if not wanted:
        return {}
    records = await connection.fetch(_SELECT_NEWEST, log_id, sorted(wanted))
    return {record["preview_id"]: _attempt(record) for record in records}


def _values(log_id: str, row: Attempt) -> tuple[object, ...]:
    return (log_id, *(_to_column(name, getattr(row, name)) for name in _FIELDS))


def _to_column(name: str, value: object) -> object:
    if name in _TIMES and isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    return list(value) if isinstance(value, tuple) else value


def _attempt(record: Mapping[str, Any]) -> Attempt:
    values = {name: record[name] for name in _FIELDS}
    for name in _TIMES:
        values[name] = values[name].timestamp() if values[name] is not None else None
    return msgspec.convert(values, Attempt)
