"""Wires telemetry: alerts in the loop, the projection beside it."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import msgspec

from services.telemetry import decide, react, state, views
from services.telemetry.adapters.postgres import PROJECTION, PreviewStore, close_pool, open_pool
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.config import TelemetryConfig
from services.telemetry.effects import TelemetryEffects
from shared import metrics
from shared.commands import commands_of
from shared.definition import Definition
from shared.measures import Measure
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
        ticks={react.ALERTS_TICK: config.alerts_period_s},
    )


def wiring(config: TelemetryConfig) -> Wiring[state.State]:
    """Telemetry as a process runs it. It starts without PostgreSQL, and projects once that answers."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        pool = await open_pool(settings.database_url, config)
        stack.push_async_callback(close_pool, pool, config.close_timeout_s)
        store = PreviewStore(pool, config)
        projector = Projector(bus.log, store, config)
        stats = StatsReader(pool, lambda: projector.log_id, config, runtime.clock)
        _run(projector, runtime, stack)
        stack.enter_context(metrics.live.asking(partial(figures, runtime, projector)))
        return Parts(TelemetryEffects(bus.parked, runtime.send).perform, queries(runtime, projector, store, stats))

    return Wiring(definition(config), build)


def queries(
    runtime: Runtime[state.State], projector: Projector, store: PreviewStore, stats: StatsReader
) -> dict[str, Handler]:
    """What telemetry answers beside commands. `status` is the other services', and how the projection stands."""

    async def alerts(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.alerts(runtime.state))

    async def status(_body: bytes, _headers: object) -> bytes:
        last = await runtime.bus.log.last_seq()
        return msgspec.json.encode(
            {
                "ready": runtime.ready,
                "seq": runtime.seq,
                "lag": max(0, last - runtime.seq),
                "replay_s": round(runtime.replay_s, 4),
                "snapshot_seq": runtime.snapshot_seq,
                "postgres": await store.answers(),
                "projection": {"seq": projector.seq, "lag": max(0, last - projector.seq)},
            }
        )

    return {"stats": stats.answer, "alerts": alerts, "status": status}


async def figures(runtime: Runtime[state.State], projector: Projector) -> list[Measure]:
    """How far the rows are behind, and what no service could do."""
    behind = max(0, await runtime.bus.log.last_seq() - projector.seq)
    return [
        Measure("drape.projection.lag", behind, {"drape.projection": PROJECTION}),
        Measure("drape.reactions.parked", await runtime.bus.parked.count()),
    ]


def _run(projector: Projector, runtime: Runtime[state.State], stack: AsyncExitStack) -> None:
    """The projection for as long as the service; if it breaks, so does the service, which is then started again."""
    task = asyncio.create_task(projector.run(), name="telemetry-projection")

    def ended(done: "asyncio.Task[None]") -> None:
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
