"""The schema, on a real PostgreSQL."""

import asyncio

import asyncpg
import pytest

from services.telemetry.adapters.migrations import LOCK_KEY, Migration, migrate, migrations

from .world import opened, rows

pytestmark = pytest.mark.live

APPLIED = "SELECT number, name FROM drape.schema_migrations ORDER BY number"
WAITING = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


async def test_migrating_twice_is_migrating_once(database_url: str) -> None:
    """Each file is applied and recorded once."""
    async with opened(database_url) as store:
        await store.migrate()
        first = await rows(database_url, "SELECT * FROM drape.schema_migrations ORDER BY number")
        await store.migrate()

    assert await rows(database_url, "SELECT * FROM drape.schema_migrations ORDER BY number") == first
    assert [(row["number"], row["name"]) for row in first] == [(each.number, each.name) for each in migrations()]


async def test_replicas_that_start_together_migrate_one_after_the_other(database_url: str) -> None:
    """Eight at once: none fails, nothing is applied twice."""
    async with opened(database_url) as one, opened(database_url) as other:
        await asyncio.gather(*(store.migrate() for store in (one, other) for _ in range(4)))

    assert len(await rows(database_url, APPLIED)) == len(migrations())


async def test_a_migration_that_fails_leaves_nothing_behind(database_url: str) -> None:
    """All of a run or nothing: the next run begins where the last good one ended."""
    good = Migration(1, "01_good", "CREATE TABLE drape.good (n integer)")
    bad = Migration(2, "02_bad", "CREATE TABLE drape.half (n integer); SELECT 1 / 0")
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(connection, [good, bad], timeout_s=5)
        assert await connection.fetchval("SELECT to_regclass('drape.good')") is None

        assert await migrate(connection, [good], timeout_s=5) == ["01_good"]
        mended = Migration(2, "02_mended", "CREATE TABLE drape.half (n integer)")
        assert await migrate(connection, [good, mended], timeout_s=5) == ["02_mended"]
    finally:
        await connection.close()


async def test_waiting_for_another_migration_has_a_limit(database_url: str) -> None:
    """A replica that hangs in its migration does not hang the others for ever."""
    holder, connection = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        with pytest.raises((TimeoutError, asyncpg.PostgresError)):
            await migrate(connection, migrations(), timeout_s=0.2)
    finally:
        await holder.close()
        await connection.close()
