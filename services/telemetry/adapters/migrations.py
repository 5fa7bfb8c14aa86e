"""Brings the schema `drape` up to date: the numbered files of `sql/`, each applied once, in order. Knows no table but
its own."""

import re
from pathlib import Path
from typing import Any

import msgspec

FOLDER = Path(__file__).parent / "sql"

LOCK_KEY = 0x6472_6170_65
"""Advisory lock: replicas that start together migrate one after the other."""

_NAME = re.compile(r"(\d{2})_[a-z0-9_]+\.sql")


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, its name, its statements."""

    number: int
    name: str
    sql: str


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """All of them, in order: 1, 2, 3 … without a gap."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        assert match is not None, f"{path.name} is not named NN_description.sql"
        found.append(Migration(int(match[1]), path.stem, path.read_text(encoding="utf-8")))
    numbers = [migration.number for migration in found]
    assert numbers == list(range(1, len(found) + 1)), f"the migrations' numbers are not 1, 2, 3 …: {numbers}"
    return found


async def migrate(connection: Any, wanted: list[Migration], *, timeout_s: float) -> list[str]:
    """Apply what is missing, in one transaction: all of it or nothing. Gives the names of what was applied.

    `connection`: asyncpg's. Raises its errors, TimeoutError after `timeout_s`.
    """
    limit_ms = int(timeout_s * 1000)
    applied = []
    async with connection.transaction():
        await connection.execute(f"SET LOCAL statement_timeout = {limit_ms}; SET LOCAL lock_timeout = {limit_ms}")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY, timeout=timeout_s)
        await connection.execute(
            "CREATE SCHEMA IF NOT EXISTS drape; "
            "CREATE TABLE IF NOT EXISTS drape.schema_migrations "
            "(number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = {row["number"] for row in await connection.fetch("SELECT number FROM drape.schema_migrations")}
        for migration in wanted:
            if migration.number in done:
                continue
            await connection.execute(migration.sql, timeout=timeout_s)
            await connection.execute(
                "INSERT INTO drape.schema_migrations (number, name) VALUES ($1, $2)", migration.number, migration.name
            )
            applied.append(migration.name)
    return applied
