"""Wires telemetry: alerts in the loop, the projection beside it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import msgspec

from services.telemetry import decide, react, state, views
from services.telemetry.adapters.cost_meter import CostMeter
from services.telemetry.adapters.cost_reader import CostReader
from services.telemetry.adapters.cost_retention import CostRetention
from services.telemetry.adapters.costs import COSTS, RESOURCES, CostsProjection, ResourcesProjection
from services.telemetry.adapters.postgres import answers, close_pool, open_pool
from services.telemetry.adapters.previews import PREVIEWS, PreviewsProjection
from services.telemetry.adapters.price_file import prices_of
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import Projection, ProjectionStore
from services.telemetry.adapters.resource_reader import ResourceReader
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.config import TelemetryConfig
from services.telemetry.effects import TelemetryEffects
from services.telemetry.measuring import ResourceMeter
from shared.commands import commands_of
from shared.definition import Definition
from shared.ports import Bus, Handler
from shared.runtime import Runtime
from shared.service import Parts, Wiring
from shared.settings import Common, Settings, from_env

SETTINGS: Settings = {"DRAPE_TELEMETRY": TelemetryConfig}
"""All that this service reads of the environment and the file, beside what all share."""


def definition(config: TelemetryConfig) -> Definition[state.State]:
    """Telemetry's pure parts, with its knobs put in."""
    return Definition(
        name="telemetry",
        initial=state.initial,
        evolve=state.evolve,
        decide=partial(decide.decide, config=config),
        answer=views.answer,
        react=react.react,
        on_timer=react.on_timer,
        commands=commands_of("telemetry"),
        ticks={react.ALERTS_TICK: config.alerts_period_s, react.RESOURCES_TICK: config.resources_period_s},
    )


def wiring(config: TelemetryConfig) -> Wiring[state.State]:
    """Telemetry as a process runs it. It starts without PostgreSQL, and projects once that answers."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        pool = await open_pool(settings.database_url, config)
        stack.push_async_callback(close_pool, pool, config.close_timeout_s)
        projectors = {
            each.name: Projector(bus.log, ProjectionStore(pool, each, config), config) for each in projections()
        }
        stats = StatsReader(pool, lambda: projectors[PREVIEWS].log_id, config, runtime.clock)
        costs = CostReader(pool, lambda: projectors[COSTS].log_id, config, prices, runtime.clock)
        resources = ResourceReader(pool, lambda: projectors[RESOURCES].log_id, config, runtime.clock)
        for projector in projectors.values():
            _run(projector.run(), f"telemetry-projection-{projector.name}", runtime, stack)
        costs_now = CostMeter(costs, lambda: runtime.state.resources, config, runtime.clock)
        _run(costs_now.run(), "telemetry-costs", runtime, stack)
        measure = ResourceMeter(bus.commands, runtime.send, runtime.clock).measure
        keep_costs = CostRetention(pool, config, runtime.clock).look
        perform = TelemetryEffects(bus.parked, runtime.send, measure, keep_costs).perform
        asked = {"costs": costs.answer, "resources": resources.answer}
        return Parts(perform, {**queries(runtime, projectors, partial(answers, pool), stats), **asked})

    prices = prices_of(config)  # before anything begins
    return Wiring(definition(config), build)


def projections() -> tuple[Projection, ...]:
    """All that is projected. Each has its own position: one that is behind or made anew hinders no other."""
    return (PreviewsProjection(), CostsProjection(), ResourcesProjection())


def queries(
    runtime: Runtime[state.State],
    projectors: Mapping[str, Projector],
    postgres: Callable[[], Awaitable[bool]],
    stats: StatsReader,
) -> dict[str, Handler]:
    """What telemetry answers beside commands. `status` is the other services', and how the projections stand."""

    async def alerts(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.alerts(runtime.state))

    async def status(_body: bytes, _headers: object) -> bytes:
        last = await runtime.bus.log.last_seq()
        stand = {name: {"seq": each.seq, "lag": max(0, last - each.seq)} for name, each in projectors.items()}
        return msgspec.json.encode(
            {
                "ready": runtime.ready,
                "seq": runtime.seq,
                "lag": max(0, last - runtime.seq),
                "replay_s": round(runtime.replay_s, 4),
                "snapshot_seq": runtime.snapshot_seq,
                "postgres": await postgres(),
                "projection": stand[PREVIEWS],
                "projections": stand,
            }
        )

    return {"stats": stats.answer, "alerts": alerts, "status": status}


def _run(work: Coroutine[Any, Any, NoReturn], name: str, runtime: Runtime[state.State], stack: AsyncExitStack) -> None:
    """It runs for as long as the service; if it breaks, so does the service, which is then started again."""
    task = asyncio.create_task(work, name=name)

    def ended(done: "asyncio.Task[NoReturn]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None and not runtime.crashed.done():
            runtime.crashed.set_exception(error)

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})

    task.add_done_callback(ended)
    stack.push_async_callback(end)


def from_environment() -> Wiring[state.State]:
    """Telemetry with its knobs from the environment."""
    return wiring(from_env(TelemetryConfig, "DRAPE_TELEMETRY"))
