"""Tables that are partitioned by day (UTC), for whichever projection has them.

Such a table is made by a migration: `PARTITION BY RANGE (<timestamptz>)`, and a default partition `<table>_rest` for rows
of days that have been dropped. A day's partition is `<table>_pYYYYMMDD`. The first day that is still kept is the table's
horizon, which only moves forward: no partition is ever made before it again, whoever reads the log anew.

Order of locks, for every transaction: the position's row, then `ensure`, then the table's rows. `drop_before` waits for
those that have called `ensure`, and they for it, so that none sees half a change.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

FIRST_DAY = date(1970, 1, 1)
"""The horizon of a table that has dropped nothing."""

_USING = "SELECT pg_advisory_xact_lock_shared(hashtextextended('drape.partitions.' || $1, 0))"
_CHANGING = "SELECT pg_advisory_xact_lock(hashtextextended('drape.partitions.' || $1, 0))"
_MAKING = "SELECT pg_advisory_xact_lock(hashtextextended('drape.partitions.making.' || $1, 0))"
_HORIZON = "SELECT before FROM drape.partition_horizon WHERE table_name = $1"
_MOVE_HORIZON = (
    "INSERT INTO drape.partition_horizon (table_name, before) VALUES ($1, $2) ON CONFLICT (table_name) "
    "DO UPDATE SET before = greatest(partition_horizon.before, EXCLUDED.before) RETURNING before"
)
_PARTITIONS = (
    "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class t ON t.oid = i.inhparent "
    "JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = 'drape' AND t.relname = $1 ORDER BY c.relname"
)
"""Read as rows, by the statement's snapshot: what `to_regclass` and casts say may be older than the lock just got."""
_DAY = re.compile(r"_p(\d{8})")

Settle = Callable[[Any, str], Awaitable[None]]
"""Takes the connection and a day's partition (with schema), and keeps what has to be kept of its final rows."""


class Daily(msgspec.Struct, frozen=True):
    """A table whose days are dropped when they are past keeping. `settle`, `unsettled`: see `drop_before`; `afterwards`
    is called at each look, with the connection and the horizon. `table`: without schema."""

    table: str
    settle: Settle | None = None
    unsettled: str = ""
    afterwards: Callable[[Any, date], Awaitable[None]] | None = None


def day_of(at: float) -> date:
    """The day (UTC) of a time in seconds."""
    return datetime.fromtimestamp(at, UTC).date()


def midnight(day: date) -> datetime:
    """When a day (UTC) begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


async def ensure(connection: Any, table: str, days: Iterable[date]) -> date:
    """Make the partitions of these days where they are missing, but for those before the horizon, which is given back.

    To be called in the transaction that writes, before it touches the table. `table`: without schema.
    """
    await connection.execute(_USING, table)
    before = await horizon(connection, table)
    wanted = sorted({day for day in days if day >= before})
    if wanted and not set(wanted) <= set(await days_of(connection, table)):
        await connection.execute(_MAKING, table)
        for day in sorted(set(wanted) - set(await days_of(connection, table))):
            start, end = midnight(day).isoformat(), midnight(day + timedelta(days=1)).isoformat()
            await connection.execute(
                f"CREATE TABLE drape.{table}_p{day:%Y%m%d} PARTITION OF drape.{table} "
                f"FOR VALUES FROM ('{start}') TO ('{end}')"
            )
    return before


async def horizon(connection: Any, table: str) -> date:
    """The first day that the table still keeps."""
    before: date | None = await connection.fetchval(_HORIZON, table)
    return before or FIRST_DAY


async def days_of(connection: Any, table: str) -> list[date]:
    """The days that have a partition, in order."""
    names = [row["relname"] for row in await connection.fetch(_PARTITIONS, table)]
    found = (_DAY.fullmatch(name.removeprefix(table)) for name in names)
    return [datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date() for match in found if match]


async def drop_before(
    connection: Any, table: str, before: date, *, settle: Settle | None = None, unsettled: str = ""
) -> list[date]:
    """Drop the partitions of days before `before` (whole, however many rows), and move the horizon there.

    `settle` sees each partition before it goes. `unsettled`: the condition (SQL, of a row `r`) under which a row is kept
    in the table's default partition instead. To be called in a transaction. Gives the days that were dropped.
    """
    await connection.execute(_CHANGING, table)
    before = await connection.fetchval(_MOVE_HORIZON, table, before)
    old = [day for day in await days_of(connection, table) if day < before]
    if old:
        await connection.execute(f"LOCK TABLE drape.{table} IN ACCESS EXCLUSIVE MODE")
    for day in old:
        partition = f"drape.{table}_p{day:%Y%m%d}"
        if settle is not None:
            await settle(connection, partition)
        if unsettled:
            await connection.execute(
                f"CREATE TEMP TABLE unsettled ON COMMIT DROP AS SELECT r.* FROM {partition} r WHERE {unsettled}"  # noqa: S608
            )
        await connection.execute(f"ALTER TABLE drape.{table} DETACH PARTITION {partition}; DROP TABLE {partition}")
        if unsettled:
            await connection.execute(f"INSERT INTO drape.{table} SELECT * FROM unsettled; DROP TABLE unsettled")  # noqa: S608
    return old
