"""The frame of every projection: its position, and its rows written in one transaction with it.

Exactly once: rows and position are written in one transaction that holds the position's row, and events at or below the
position are left out. So it does not matter who projects, how often, or where it was interrupted.

A projection's rows name their log and generation (`log_id`: `<first event id>`, later `<first event id>#2` …): while
one generation serves, another can be made beside it.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from services.telemetry.adapters.migrations import migrate, migrations
from services.telemetry.adapters.postgres import answers
from services.telemetry.config import TelemetryConfig
from shared.codec import Recorded

log = logging.getLogger("drape.telemetry")

_SERVING = (
    "SELECT log_id, seq, event_id FROM drape.projection_position WHERE name = $1 AND base = $2 AND state = 'serving'"
)
_ENSURE = (
    "INSERT INTO drape.projection_position (name, log_id, base, seq, event_id) VALUES ($1, $2, $3, 0, '') "
    "ON CONFLICT DO NOTHING"
)
_LOCK = "SELECT seq, state FROM drape.projection_position WHERE name = $1 AND log_id = $2 FOR UPDATE"
_MOVE = (
    "UPDATE drape.projection_position SET seq = $3, event_id = $4, updated_at = now() WHERE name = $1 AND log_id = $2"
)
_FORGET = (
    "DELETE FROM drape.projection_position WHERE name = $1 AND log_id = $2 AND seq = $3 AND event_id = $4 RETURNING seq"
)


class Projection(Protocol):
    """Tables that are folded from the log.

    `tables`: without schema; each has a column `log_id text`, by which the rows of a log (and generation) are deleted.
    """

    @property
    def name(self) -> str:
        """Under which its position is kept."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """All that it writes."""
        ...

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """Write what these events change, in the transaction that moves the position. The events are new, in the log's
        order, without a gap. `log_id` goes into every row, and into every look at earlier rows."""
        ...


class Position(msgspec.Struct, frozen=True):
    """The last event that the rows hold; 0 and empty before the first. `log_id`: what the rows that serve are named."""

    seq: int = 0
    event_id: str = ""
    log_id: str = ""


class GapError(Exception):
    """The batch does not follow on the stored position: read the log again from there."""


def base_of(log_id: str) -> str:
    """The log of a generation's name."""
    return log_id.partition("#")[0]


async def serving(connection: Any, name: str, base: str) -> Position:
    """Which rows of a projection answer for this log (`base`: its first event's id), and up to where they hold. To be
    asked in the transaction that reads the rows."""
    row = await connection.fetchrow(_SERVING, name, base)
    return Position(row["seq"], row["event_id"], row["log_id"]) if row is not None else Position(log_id=base)


class ProjectionStore:
    """One projection's rows and the position up to which they hold. What fails raises one of `OUTAGES`."""

    def __init__(self, pool: Any, projection: Projection, config: TelemetryConfig) -> None:
        self.name = projection.name
        self._pool = pool
        self._projection = projection
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
        return await answers(self._pool, timeout_s)

    async def position(self, base: str) -> Position:
        """Up to where the rows that serve for this log hold."""
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection:
            return await serving(connection, self.name, base)

    async def forget(self, expected: Position) -> None:
        """Delete the rows of `expected.log_id`, to project it anew; nothing where another replica has done so already."""
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection, connection.transaction():
            asked = (self.name, expected.log_id, expected.seq, expected.event_id)
            if await connection.fetchrow(_FORGET, *asked) is None:
                return
            for table in self._projection.tables:
                await connection.execute(f"DELETE FROM drape.{table} WHERE log_id = $1", expected.log_id)  # noqa: S608

    async def apply(self, log_id: str, batch: Sequence[Recorded]) -> list[Recorded]:
        """Write what these events change, and the position, in one transaction. Gives the events that were new.

        The events follow on each other. Raises `GapError` where they do not follow on the position, or where these rows
        serve no longer.
        """
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection, connection.transaction():
            await connection.execute(_ENSURE, self.name, log_id, base_of(log_id))
            row = await connection.fetchrow(_LOCK, self.name, log_id)
            if row is None or row["state"] == "retired":
                raise GapError(f"the rows of {log_id} have been replaced by others")
            fresh = [recorded for recorded in batch if recorded.seq > row["seq"]]
            if fresh:
                await self._write(connection, log_id, row["seq"], fresh)
        return fresh

    async def _write(self, connection: Any, log_id: str, seq: int, fresh: Sequence[Recorded]) -> None:
        if fresh[0].seq != seq + 1:
            raise GapError(f"the rows hold up to {seq}, the batch begins at {fresh[0].seq}")
        await self._projection.apply(connection, log_id, fresh)
        await connection.execute(_MOVE, self.name, log_id, fresh[-1].seq, fresh[-1].meta.id)
