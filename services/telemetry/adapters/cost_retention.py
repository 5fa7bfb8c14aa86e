"""Gathers hours of costs that are past keeping in their months, and drops snapshots that are. One replica at a time does
it, when the tick falls to it; whatever is missed, the next tick catches up on."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from services.telemetry.adapters.costs import keep_costs
from services.telemetry.adapters.postgres import OUTAGES, describe
from services.telemetry.config import TelemetryConfig

log = logging.getLogger("drape.telemetry")


class CostRetention:
    """`clock`: seconds, UTC."""

    def __init__(self, pool: Any, config: TelemetryConfig, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._config = config
        self._clock = clock

    async def look(self) -> None:
        """What is due now; never raises for an outage of PostgreSQL."""
        today = datetime.fromtimestamp(self._clock(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        before = today - timedelta(days=self._config.retention_days)
        try:
            async with self._pool.acquire(timeout=self._config.connect_timeout_s) as connection:
                await keep_costs(connection, before)
        except OUTAGES as error:
            log.warning("retention_waits", extra={"table": "cost_hours", "error": describe(error)})
