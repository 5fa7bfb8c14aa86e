"""Wires telemetry: alerts in the loop, the projections beside it."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import msgspec

from services.telemetry import decide, react, state, views
from services.telemetry.adapters.cost_meter import CostMeter
from services.telemetry.adapters.database import Database
from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.price_file import prices_of
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
        ticks={
            react.ALERTS_TICK: config.alerts_period_s,
            react.RETENTION_TICK: config.retention_period_s,
            react.RESOURCES_TICK: config.resources_period_s,
        },
    )


def wiring(config: TelemetryConfig) -> Wiring[state.State]:
    """Telemetry as a process runs it. It starts without PostgreSQL, and projects once that answers."""
    prices = prices_of(config)  # before anything begins

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        pool = await open_pool(settings.database_url, config)
        stack.push_async_callback(close_pool, pool, config.close_timeout_s)
        database = Database(pool, bus.log, config, prices, runtime.clock)
        meter = CostMeter(database.costs, lambda: runtime.state.resources, config, runtime.clock)
        for name, work in [*database.work(), ("telemetry-costs", meter.run())]:
            _run(work, name, runtime, stack)
        measure = ResourceMeter(bus.commands, runtime.send, runtime.clock).measure
        perform = TelemetryEffects(bus.parked, runtime.send, measure, database.retain).perform
        return Parts(perform, database.queries() | queries(runtime, database))

    return Wiring(definition(config), build)


def queries(runtime: Runtime[state.State], database: Database) -> dict[str, Handler]:
    """What telemetry answers of its state. `status` is the other services', and how the projections stand."""

    async def alerts(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.alerts(runtime.state))

    async def status(_body: bytes, _headers: object) -> bytes:
        last = await runtime.bus.log.last_seq()
        own = {
            "ready": runtime.ready,
            "seq": runtime.seq,
            "lag": max(0, last - runtime.seq),
            "replay_s": round(runtime.replay_s, 4),
            "snapshot_seq": runtime.snapshot_seq,
        }
        return msgspec.json.encode({**own, **await database.status()})

    return {"alerts": alerts, "status": status}


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
