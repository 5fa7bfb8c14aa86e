"""Drops the days that are past keeping, and makes the tables of the days to come. One replica at a time does it, when the
`retention` tick falls to it; whatever is missed, the next tick catches up on."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import Any

from services.telemetry.adapters.partitions import Daily, day_of, days_of, drop_before, ensure, horizon
from services.telemetry.adapters.postgres import OUTAGES, describe
from services.telemetry.config import TelemetryConfig

log = logging.getLogger("drape.telemetry")

AHEAD_DAYS = 2
"""So many days' tables are made before their day begins."""


class Retention:
    """`tables`: those that have days."""

    def __init__(
        self, pool: Any, tables: Sequence[Daily], config: TelemetryConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._pool = pool
        self._tables = tables
        self._config = config
        self._clock = clock

    async def look(self) -> None:
        """What is due now. While PostgreSQL is away there is nothing to be done, and the next tick does more."""
        today = day_of(self._clock())
        for table in self._tables:
            try:
                await self._table(table, today)
            except OUTAGES as error:
                log.warning("retention_waits", extra={"table": table.table, "error": describe(error)})

    async def _table(self, daily: Daily, today: date) -> None:
        before = today - timedelta(days=self._config.retention_days)
        limit_ms = int(self._config.migration_timeout_s * 1000)
        async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection:
            async with connection.transaction():
                await ensure(connection, daily.table, [today + timedelta(days=n) for n in range(AHEAD_DAYS + 1)])
            old = [day for day in await days_of(connection, daily.table) if day < before]
            # One day a transaction: each is short, and what is done stays done.
            for until in sorted({*(day + timedelta(days=1) for day in old), before}):
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL statement_timeout = {limit_ms}")
                    dropped = await drop_before(
                        connection, daily.table, until, settle=daily.settle, unsettled=daily.unsettled
                    )
                if dropped:
                    days = [day.isoformat() for day in dropped]
                    log.info("days_dropped", extra={"table": daily.table, "days": days})
            if daily.afterwards is not None:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL statement_timeout = {limit_ms}")
                    await daily.afterwards(connection, await horizon(connection, daily.table))
