"""Makes a projection anew while it serves.

Another generation of its rows (`<log>#2`) is written from the log's first event on, beside the one that is read and goes on
being written. Once it has come as far, one transaction has it serve and the old one retire, whose rows are then deleted
in small batches. What is to be done stands in `projection_position`, so that a replica that stops is followed by another
from where it was; an advisory lock sees to it that only one works at a projection.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from services.telemetry.adapters.postgres import OUTAGES, describe
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import GapError, ProjectionStore
from services.telemetry.config import TelemetryConfig
from shared.errors import Unavailable
from shared.ports import EventLog

log = logging.getLogger("drape.telemetry")

_ALL = (
    "SELECT log_id, state, version, seq, event_id, extract(epoch FROM started_at)::float8 AS started_at, "
    "extract(epoch FROM updated_at)::float8 AS updated_at, extract(epoch FROM event_at)::float8 AS event_at "
    "FROM drape.projection_position WHERE name = $1 AND base = $2 ORDER BY started_at, log_id"
)
_BEGIN = (
    "INSERT INTO drape.projection_position (name, log_id, base, state, version, seq, event_id) "
    "SELECT $1, $2 || '#' || 1 + max(CASE WHEN log_id = $2 THEN 1 ELSE split_part(log_id, '#', 2)::integer END), "
    "$2, 'building', $3, 0, '' FROM drape.projection_position WHERE name = $1 AND base = $2 HAVING count(*) > 0 "
    "ON CONFLICT DO NOTHING RETURNING log_id"
)
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('drape.rebuild.' || $1, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('drape.rebuild.' || $1, 0))"
_HOLD = "SELECT seq FROM drape.projection_position WHERE name = $1 AND base = $2 AND state = $3 FOR UPDATE"
_TURN = "UPDATE drape.projection_position SET state = $4 WHERE name = $1 AND base = $2 AND state = $3"
_GONE = "DELETE FROM drape.projection_position WHERE name = $1 AND log_id = $2"
_PARTS = "SELECT c.relname FROM pg_partition_tree($1::regclass) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a projection, and up to where they hold. `…_at`: seconds, UTC; `event_at`: of the last event in them."""

    log_id: str
    state: str
    version: int
    seq: int
    event_id: str
    started_at: float
    updated_at: float
    event_at: float | None


class Rebuilder:
    """One projection's rebuilds, as far as this replica does them."""

    def __init__(
        self, event_log: EventLog, store: ProjectionStore, projector: Projector, config: TelemetryConfig
    ) -> None:
        self.name = store.name
        self._log = event_log
        self._store = store
        self._projector = projector
        self._config = config
        self._waits = False

    async def run(self) -> NoReturn:
        """Look for work until cancelled. Outages are waited out; what else is raised is a bug."""
        while True:
            try:
                await self._look()
                self._waits = False
            except (*OUTAGES, Unavailable, GapError) as error:
                if not self._waits:
                    log.warning("rebuild_waits", extra={"projection": self.name, "error": describe(error)})
                self._waits = True
            await asyncio.sleep(self._config.rebuild_period_s)

    async def generations(self) -> list[Generation]:
        """All rows of this projection that there are for the log; the one that serves among them. Raises `OUTAGES`."""
        async with self._store.connection() as connection:
            return await self._generations(connection)

    async def begin(self) -> bool:
        """Have the projection made anew. False where that is under way already, or where nothing is projected yet.
        Raises `OUTAGES`."""
        async with self._store.connection() as connection:
            return await self._begin(connection)

    async def _begin(self, connection: Any) -> bool:
        asked = (self.name, self._projector.log_id, self._store.version)
        begun: str | None = await connection.fetchval(_BEGIN, *asked)
        if begun is not None:
            log.info("rebuild_begun", extra={"projection": self.name, "log_id": begun})
        return begun is not None

    async def _generations(self, connection: Any) -> list[Generation]:
        found = await connection.fetch(_ALL, self.name, self._projector.log_id)
        return [msgspec.convert(dict(row), Generation) for row in found]

    async def _look(self) -> None:
        if not self._projector.log_id:
            return  # no event yet, or PostgreSQL has not been reached
        async with self._store.connection() as connection:
            found = await self._generations(connection)
            states = {each.state for each in found}
            if "building" not in states and any(
                each.state == "serving" and each.version < self._store.version for each in found
            ):
                await self._begin(connection)
                found = await self._generations(connection)
            if not {each.state for each in found} - {"serving"} or not await connection.fetchval(_LOCK, self.name):
                return
            try:
                # Asked again: another replica may have done it all before the lock was ours.
                for each in await self._generations(connection):
                    await self._work(each)
            finally:
                if not connection.is_closed():
                    await connection.fetchval(_UNLOCK, self.name)

    async def _work(self, generation: Generation) -> None:
        if generation.state == "building":
            if await self._is_of_this_log(generation):
                await self._build(generation)
            else:
                await self._turn("building", "retired")
        elif generation.state == "retired":
            await self._clear(generation.log_id)

    async def _is_of_this_log(self, generation: Generation) -> bool:
        """Not where the log was restored from a backup since."""
        if not generation.seq:
            return True
        ids = [recorded.meta.id async for recorded in self._log.read(generation.seq - 1, generation.seq)]
        return ids == [generation.event_id]

    async def _build(self, generation: Generation) -> None:
        seq = generation.seq
        while not await self._switch(generation.log_id):
            batch = [recorded async for recorded in self._log.read(seq, seq + self._config.batch_events_max)]
            if not batch:
                raise GapError(f"the log ends at {seq}, and the rows that serve hold more")
            await self._store.apply(generation.log_id, batch)
            seq = batch[-1].seq

    async def _switch(self, log_id: str) -> bool:
        """Have the new rows serve, if they are near enough to the old ones to be brought level at once. True as well
        where there is nothing to be switched any more."""
        base = self._projector.log_id
        async with self._store.connection() as connection, connection.transaction():
            until = await connection.fetchval(_HOLD, self.name, base, "serving")
            seq = await connection.fetchval(_HOLD, self.name, base, "building")
            if until is None or seq is None:
                return True
            if until - seq > self._config.batch_events_max:
                return False
            # The old rows' position is held, so that nobody moves it meanwhile.
            rest = [recorded async for recorded in self._log.read(seq, until)] if until > seq else []
            if rest:
                await self._store.write(connection, log_id, seq, rest)
            await connection.execute(_TURN, self.name, base, "serving", "retired")
            await connection.execute(_TURN, self.name, base, "building", "serving")
        log.info("rebuild_done", extra={"projection": self.name, "log_id": log_id, "seq": max(seq, until)})
        return True

    async def _turn(self, before: str, after: str) -> None:
        async with self._store.connection() as connection:
            await connection.execute(_TURN, self.name, self._projector.log_id, before, after)

    async def _clear(self, log_id: str) -> None:
        """Delete rows that serve no longer, some at a time, and at last their position."""
        for table in self._store.tables:
            async with self._store.connection() as connection:
                parts = [row["relname"] for row in await connection.fetch(_PARTS, f"drape.{table}")] or [table]
            for part in parts:
                await self._clear_part(part, log_id)
        async with self._store.connection() as connection:
            await connection.execute(_GONE, self.name, log_id)

    async def _clear_part(self, part: str, log_id: str) -> None:
        delete = (
            f"DELETE FROM drape.{part} WHERE ctid = ANY(ARRAY(SELECT ctid FROM drape.{part} "  # noqa: S608 - our own names
            "WHERE log_id = $1 LIMIT $2))"
        )
        while True:
            async with self._store.connection() as connection:
                done = await connection.execute(delete, log_id, self._config.delete_rows_max)
            if done == "DELETE 0":
                return


def view(generations: list[Generation], last_seq: int) -> Mapping[str, object]:
    """How a projection stands, for whoever asks: the rows that serve, and those that are being made."""
    serving = next((each for each in generations if each.state == "serving"), None)
    building = next((each for each in generations if each.state == "building"), None)
    return {
        "serving": _generation(serving, last_seq),
        "building": _generation(building, last_seq),
        "retired": [each.log_id for each in generations if each.state == "retired"],
    }


def _generation(each: Generation | None, last_seq: int) -> Mapping[str, object] | None:
    if each is None:
        return None
    shown = {name: getattr(each, name) for name in ("log_id", "version", "seq", "started_at", "updated_at", "event_at")}
    return {**shown, "lag": max(0, last_seq - each.seq)}
