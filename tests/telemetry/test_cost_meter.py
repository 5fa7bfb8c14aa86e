"""Metrics of what is spent and used: what they tell, and when they tell nothing."""

from opentelemetry.metrics import CallbackOptions

from services.telemetry.adapters.cost_meter import CostMeter
from services.telemetry.adapters.cost_reader import CostReader
from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.config import TelemetryConfig
from services.telemetry.prices import PriceTable
from services.telemetry.state import Resources
from shared.events import PoolUsage, ResourcesMeasured

CONFIG = TelemetryConfig(resources_period_s=100.0, connect_timeout_s=2.0)
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"
ASKED = CallbackOptions()


def usage(name: str, cpu_cores: float | None, memory_bytes: int | None) -> PoolUsage:
    states = dict.fromkeys(("booting", "available", "in_use", "suspended", "kept", "going"), 1)
    return PoolUsage(
        name=name,
        provider="fly",
        memory_mb=1024,
        region="",
        measured=1,
        cpu_cores=cpu_cores,
        memory_bytes=memory_bytes,
        **states,
    )


def newest(*pools: PoolUsage) -> Resources:
    measured = ResourcesMeasured(day="2027-01-31", pools=pools, starting=0, ready=0, suspended=0)
    return Resources(at=1_000.0, measured=measured)


async def test_use_is_told_of_the_newest_snapshot_while_it_is_fresh() -> None:
    """Of pools about which something is known, by their names alone; an old snapshot tells nothing of now."""
    now = [1_250.0]
    found: list[Resources | None] = [newest(usage("small", 0.5, 100), usage("large", None, None))]
    pool = await open_pool(NOBODY, CONFIG)
    reader = CostReader(pool, lambda: "log", CONFIG, PriceTable())
    meter = CostMeter(reader, lambda: found[0], CONFIG, lambda: now[0])
    try:
        told = [(each.value, each.attributes) for each in (*meter.cpu(ASKED), *meter.memory(ASKED))]
        assert told == [(0.5, {"drape.pool": "small"}), (100, {"drape.pool": "small"})]

        now[0] += 1
        assert [*meter.cpu(ASKED), *meter.memory(ASKED)] == []

        now[0], found[0] = 1_000.0, None
        assert [*meter.cpu(ASKED), *meter.memory(ASKED)] == []
    finally:
        await close_pool(pool, 1.0)


async def test_without_postgres_there_is_nothing_to_tell_of_costs() -> None:
    """And nothing is raised: the service goes on."""
    pool = await open_pool(NOBODY, CONFIG)
    reader = CostReader(pool, lambda: "log", CONFIG, PriceTable())
    meter = CostMeter(reader, lambda: None, CONFIG, lambda: 1_000.0)
    try:
        await meter.look()
        assert [*meter.rate(ASKED), *meter.day(ASKED)] == []
    finally:
        await close_pool(pool, 1.0)
