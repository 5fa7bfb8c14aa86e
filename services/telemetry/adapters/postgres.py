"""PostgreSQL: the connections, and what its being away looks like."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from services.telemetry.config import TelemetryConfig
from shared.errors import Invalid

OUTAGES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What PostgreSQL being away, restarting or overloaded looks like; trying again later helps."""


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


async def answers(pool: Any, timeout_s: float = 0.5) -> bool:
    """Whether PostgreSQL answers now; never raises."""
    try:
        async with asyncio.timeout(timeout_s), pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
    except OUTAGES:
        return False
    return True
