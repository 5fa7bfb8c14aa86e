"""PostgreSQL: the connections, and what its being away looks like."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from services.telemetry.config import TelemetryConfig
from shared.errors import Invalid

REACHED_WITHIN_S = 0.15
"""Whoever asks every replica how far it is waits for 0.5 s: one that waits for PostgreSQL as long would not be heard."""
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


class Reached:
    """Whether PostgreSQL answers, told at once: while it says nothing, what it was when it was last asked. One that hangs
    takes its time to be called away, and to let go of its connection. `ask` has a limit of its own, and never raises."""

    def __init__(self, ask: Callable[[], Awaitable[bool]], within_s: float = REACHED_WITHIN_S) -> None:
        self._ask = ask
        self._within_s = within_s
        self._asking: asyncio.Future[bool] | None = None
        self._was = False

    async def now(self) -> bool:
        """Asks, unless the last question is not answered yet."""
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
        await asyncio.wait([self._asking], timeout=self._within_s)
        if self._asking.done():
            self._was = self._asking.result()
            self._asking = None
        return self._was
