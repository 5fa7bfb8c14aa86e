"""PostgreSQL: the connections, and the tables that the projection writes. The only file that knows their columns.

Exactly once: rows and position are written in one transaction that holds the position's row, and events at or below the
position are left out. So it does not matter who projects, how often, or where it was interrupted.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from services.telemetry.adapters.migrations import migrate, migrations
from services.telemetry.config import TelemetryConfig
from services.telemetry.rows import Attempt, preview_of, project
from shared.codec import Recorded
from shared.errors import Invalid
from shared.events import ProjectDeleted
from shared.ids import PreviewId
from shared.sealed import ERASED

log = logging.getLogger("drape.telemetry")

PROJECTION = "previews"

OUTAGES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What PostgreSQL being away, restarting or overloaded looks like; trying again later helps."""

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
_ENSURE_POSITION = (
    "INSERT INTO drape.projection_position (name, log_id, seq, event_id) VALUES ($1, $2, 0, '') ON CONFLICT DO NOTHING"
)
_LOCK_POSITION = "SELECT seq FROM drape.projection_position WHERE name = $1 AND log_id = $2 FOR UPDATE"
_MOVE_POSITION = (
    "UPDATE drape.projection_position SET seq = $3, event_id = $4, updated_at = now() WHERE name = $1 AND log_id = $2"
)
_ERASE = "UPDATE drape.preview_attempts SET message = $3 WHERE log_id = $1 AND project_id = $2 AND message IS NOT NULL"
"""New messages are sealed, and can't be read any more; those of a log from before that were not."""


class Position(msgspec.Struct, frozen=True):
    """The last event that the rows hold; 0 and empty before the first."""

    seq: int = 0
    event_id: str = ""


class GapError(Exception):
    """The batch does not follow on the stored position: read the log again from there."""


async def open_pool(url: str, config: TelemetryConfig) -> Any:
    """asyncpg's pool, not yet connected: that happens when it is used. Raises `Invalid` where the URL is none."""
    if not url:
        raise Invalid(
            "settings_missing", "DATABASE_URL is not set.", "`drape up` sets it; by hand, give postgresql://…"
        )
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in ("postgres", "postgresql"):
        raise Invalid("bad_database_url", "DATABASE_URL is not a PostgreSQL URL.", "It begins with postgresql://")
    statement_ms = str(int(config.statement_timeout_s * 1000))
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=config.connections_max,
        timeout=config.connect_timeout_s,
        # Longer than the server's own limit, which leaves the connection usable: this one is for a silent network.
        command_timeout=config.statement_timeout_s + 1,
        server_settings={
            "application_name": "drape-telemetry",
            "statement_timeout": statement_ms,
            # A replica that hangs in a transaction must not keep the position from the others.
            "idle_in_transaction_session_timeout": statement_ms,
        },
    )


async def close_pool(pool: Any, timeout_s: float) -> None:
    """Close politely, then not."""
    try:
        await asyncio.wait_for(pool.close(), timeout_s)
    except OUTAGES:
        pool.terminate()


def describe(error: BaseException) -> str:
    """An outage in a few words, without the values that some of PostgreSQL's messages quote."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} ({error.sqlstate})"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__


class PreviewStore:
    """The rows of previews and the position up to which they hold. What fails raises one of `OUTAGES`."""

    def __init__(self, pool: Any, config: TelemetryConfig) -> None:
        self._pool = pool
        self._config = config
        self._migrations = migrations()

    async def migrate(self) -> None:
        """Bring the schema up to date."""
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection:
            applied = await migrate(connection, self._migrations, timeout_s=self._config.migration_timeout_s)
        if applied:
            log.info("migrated", extra={"migrations": applied})

    async def answers(self, timeout_s: float = 0.5) -> bool:
        """Whether PostgreSQL answers now; never raises."""
        try:
            async with asyncio.timeout(timeout_s), self._pool.acquire() as connection:
                await connection.fetchval("SELECT 1")
        except OUTAGES:
            return False
        return True

    async def position(self, log_id: str) -> Position:
        """Up to where the rows of this log hold."""
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection:
            row = await connection.fetchrow(
                "SELECT seq, event_id FROM drape.projection_position WHERE name = $1 AND log_id = $2",
                PROJECTION,
                log_id,
            )
        return Position(row["seq"], row["event_id"]) if row is not None else Position()

    async def forget(self, log_id: str, expected: Position) -> None:
        """Delete the rows of this log, to project it anew; nothing where another replica has done so already."""
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection, connection.transaction():
            deleted = await connection.fetchrow(
                "DELETE FROM drape.projection_position WHERE name = $1 AND log_id = $2 AND seq = $3 AND event_id = $4 "
                "RETURNING seq",
                *(PROJECTION, log_id, expected.seq, expected.event_id),
            )
            if deleted is not None:
                await connection.execute("DELETE FROM drape.preview_attempts WHERE log_id = $1", log_id)

    async def apply(self, log_id: str, batch: Sequence[Recorded]) -> list[Recorded]:
        """Write what these events change, and the position, in one transaction. Gives the events that were new.

        The events follow on each other. Raises `GapError` where they do not follow on the position.
        """
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection, connection.transaction():
            await connection.execute(_ENSURE_POSITION, PROJECTION, log_id)
            seq = await connection.fetchval(_LOCK_POSITION, PROJECTION, log_id)
            fresh = [recorded for recorded in batch if recorded.seq > seq]
            if not fresh:
                return []
            if fresh[0].seq != seq + 1:
                raise GapError(f"the rows hold up to {seq}, the batch begins at {fresh[0].seq}")
            rows = project(await self._newest(connection, log_id, fresh), fresh)
            if rows:
                await connection.executemany(_UPSERT, [_values(log_id, row) for row in rows])
            for recorded in fresh:
                if isinstance(recorded.event, ProjectDeleted):
                    await connection.execute(_ERASE, log_id, recorded.event.project_id, ERASED)
            await connection.execute(_MOVE_POSITION, PROJECTION, log_id, fresh[-1].seq, fresh[-1].meta.id)
        return fresh

    async def _newest(self, connection: Any, log_id: str, events: Iterable[Recorded]) -> Mapping[PreviewId, Attempt]:
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
