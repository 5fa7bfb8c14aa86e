"""Metrics of what is spent and used. The exporter asks in a thread of its own, so it is given what was seen last."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import NoReturn

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from services.telemetry.adapters.cost_reader import CostReader
from services.telemetry.config import TelemetryConfig
from services.telemetry.state import Resources
from shared.errors import Unavailable
from shared.events import PoolUsage

log = logging.getLogger("drape.telemetry")

USED_PERIODS_MAX = 2.5
"""A snapshot that is older than so many periods tells nothing of now."""


class CostMeter:
    """One replica's. Every replica tells the same."""

    def __init__(
        self,
        reader: CostReader,
        resources: Callable[[], Resources | None],
        config: TelemetryConfig,
        clock: Callable[[], float],
    ) -> None:
        """`resources`: the newest snapshot."""
        self._reader = reader
        self._resources = resources
        self._config = config
        self._clock = clock
        self._rates: dict[str, float] = {}
        self._day: float | None = None
        meter, currency = metrics.get_meter("drape"), reader.currency
        meter.create_observable_gauge(
            "drape.cost.rate",
            [self.rate],
            unit=f"{{{currency}}}/h",
            description="What an hour of a pool's VMs costs, as they are now",
        )
        meter.create_observable_gauge(
            "drape.cost.day", [self.day], unit=f"{{{currency}}}", description="What has been spent since 00:00 UTC"
        )
        meter.create_observable_gauge(
            "drape.pool.memory.usage", [self.memory], unit="By", description="Memory that a pool's VMs use"
        )
        meter.create_observable_gauge(
            "drape.pool.cpu.usage", [self.cpu], unit="{cpu}", description="Processors that a pool's VMs use"
        )

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled. An outage of PostgreSQL leaves nothing to tell."""
        while True:
            await self.look()
            await asyncio.sleep(self._config.costs_period_s)

    async def look(self) -> None:
        """What is told from here on. Never raises for an outage."""
        try:
            self._rates = await self._reader.rates()
        except Unavailable as error:
            log.info("costs_unknown", extra={"error": error.message})
            self._rates = {}
        self._day = await self._reader.cost_of_day()

    def rate(self, _options: CallbackOptions) -> Iterable[Observation]:
        """By pool."""
        return [Observation(value, {"drape.pool": pool}) for pool, value in self._rates.items()]

    def day(self, _options: CallbackOptions) -> Iterable[Observation]:
        """One value, or none."""
        return [] if self._day is None else [Observation(self._day)]

    def memory(self, _options: CallbackOptions) -> Iterable[Observation]:
        """By pool, where it is known."""
        return [
            Observation(pool.memory_bytes, {"drape.pool": pool.name})
            for pool in self._pools()
            if pool.memory_bytes is not None
        ]

    def cpu(self, _options: CallbackOptions) -> Iterable[Observation]:
        """By pool, where it is known."""
        return [
            Observation(pool.cpu_cores, {"drape.pool": pool.name})
            for pool in self._pools()
            if pool.cpu_cores is not None
        ]

    def _pools(self) -> tuple[PoolUsage, ...]:
        newest = self._resources()
        if newest is None or newest.measured.pools is None:
            return ()
        fresh = self._clock() - newest.at <= USED_PERIODS_MAX * self._config.resources_period_s
        return newest.measured.pools if fresh else ()
