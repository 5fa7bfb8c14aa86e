"""Wires telemetry: alerts in the loop, the projections beside it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NoReturn

import msgspec

from services.telemetry import decide, react, state, views
from services.telemetry.adapters.channels import channel_names, open_channels
from services.telemetry.adapters.cost_meter import CostMeter
from services.telemetry.adapters.database import Database
from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.price_file import prices_of
from services.telemetry.config import AlertConfig, NotifyConfig, TelemetryConfig
from services.telemetry.effects import TelemetryEffects
from services.telemetry.looking import Watch, unknown
from services.telemetry.measuring import ResourceMeter
from services.telemetry.notifying import Notifier
from services.telemetry.ports import Channel, Figure
from shared import metrics
from shared.commands import commands_of
from shared.definition import Definition
from shared.errors import UNREADABLE, Invalid, NotFound
from shared.measures import Measure
from shared.ports import Bus, Handler
from shared.runtime import Runtime
from shared.service import Parts, Wiring
from shared.settings import Common, Settings, from_env

SETTINGS: Settings = {
    "DRAPE_TELEMETRY": TelemetryConfig,
    "DRAPE_TELEMETRY_ALERT": AlertConfig,
    "DRAPE_TELEMETRY_NOTIFY": NotifyConfig,
}
"""All that this service reads of the environment and the file, beside what all share."""

LIMITS, NOWHERE = AlertConfig(), NotifyConfig()
"""What is so where nothing is set."""


def definition(
    config: TelemetryConfig, limits: AlertConfig = LIMITS, channels: Sequence[str] = ()
) -> Definition[state.State]:
    """Telemetry's pure parts, with its knobs put in. `channels`: those that are told of alerts."""
    return Definition(
        name="telemetry",
        initial=state.initial,
        evolve=state.evolve,
        decide=partial(decide.decide, config=config, limits=limits),
        answer=views.answer,
        react=partial(react.react, channels=tuple(channels)),
        on_timer=react.on_timer,
        commands=commands_of("telemetry"),
        ticks={
            react.ALERTS_TICK: config.alerts_period_s,
            react.RETENTION_TICK: config.retention_period_s,
            react.RESOURCES_TICK: config.resources_period_s,
        },
    )


def effects(
    runtime: Runtime[state.State],
    channels: Mapping[str, Channel],
    limits: AlertConfig = LIMITS,
    notify: NotifyConfig = NOWHERE,
    costs: tuple[Figure, Figure] = (unknown, unknown),
    retain: Callable[[], Awaitable[None]] | None = None,
) -> tuple[TelemetryEffects, Notifier]:
    """What performs its effects on the runtime's bus. `costs`: what has been spent of this day, and of this month;
    `retain` puts away what is past keeping."""
    bus = runtime.bus
    watch = Watch(bus.parked, bus.commands, bus.log, limits, runtime.clock, costs)
    notifier = Notifier(channels, bus.log, bus.timers, runtime.send, lambda: runtime.state, notify, runtime.clock)
    meter = ResourceMeter(bus.commands, runtime.send, runtime.clock)
    return TelemetryEffects(watch, notifier, meter, runtime.send, retain), notifier


def wiring(
    config: TelemetryConfig, limits: AlertConfig = LIMITS, notify: NotifyConfig = NOWHERE
) -> Wiring[state.State]:
    """Telemetry as a process runs it. It starts without PostgreSQL, and projects once that answers."""
    prices = prices_of(config)  # before anything begins

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        pool = await open_pool(settings.database_url, config)
        stack.push_async_callback(close_pool, pool, config.close_timeout_s)
        database = Database(pool, bus.log, config, prices, runtime.clock)
        meter = CostMeter(database.costs, lambda: runtime.state.resources, config, runtime.clock)
        for name, work in [*database.work(), ("telemetry-costs", meter.run())]:
            _run(work, name, runtime, stack)
        stack.enter_context(metrics.live.asking(partial(figures, runtime, database)))
        spent = (database.costs.cost_of_day, database.costs.cost_of_month)
        channels = await open_channels(notify, stack)
        performing, notifier = effects(runtime, channels, limits, notify, spent, database.retain)
        own = queries(runtime, database) | alert_queries(runtime, notifier, channel_names(notify))
        return Parts(performing.perform, database.queries() | own)

    return Wiring(definition(config, limits, channel_names(notify)), build)


class Trial(msgspec.Struct, frozen=True):
    """Body of `test-notification`; empty: every channel."""

    channel: str = ""


def alert_queries(runtime: Runtime[state.State], notifier: Notifier, channels: Sequence[str]) -> dict[str, Handler]:
    """What is raised, and a test of the channels: `{"tried": [{channel, ok, code}]}`."""

    async def alerts(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.alerts(runtime.state, runtime.clock(), channels))

    async def test(body: bytes, _headers: object) -> bytes:
        try:
            wish = msgspec.json.decode(body or b"{}", type=Trial)
        except UNREADABLE as error:
            raise Invalid("bad_body", "A test names a channel, or none.") from error
        if wish.channel not in ("", *channels):
            known = ", ".join(channels) or "none"
            raise NotFound("no_such_channel", f"No such channel is configured; there is: {known}.", _CHANNELS_HINT)
        return msgspec.json.encode({"tried": await notifier.test(wish.channel)})

    return {"alerts": alerts, "test-notification": test}


_CHANNELS_HINT = "DRAPE_TELEMETRY_NOTIFY_WEBHOOK_URL, …_SLACK_URL and …_SMTP_HOST make them."


def queries(runtime: Runtime[state.State], database: Database) -> dict[str, Handler]:
    """What telemetry answers of its state. `status` is the other services', and how the projections stand."""

    async def status(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode({**await runtime.status(), **await database.status()})

    return {"status": status}


async def figures(runtime: Runtime[state.State], database: Database) -> list[Measure]:
    """Which alerts are raised, how far the rows are behind, and what no service could do."""
    last = await runtime.bus.log.last_seq()
    behind = {name: max(0, last - each.seq) for name, each in database.projectors.items()}
    return [
        *views.raised(runtime.state),
        *(Measure("drape.projection.lag", lag, {"drape.projection": name}) for name, lag in behind.items()),
        Measure("drape.reactions.parked", await runtime.bus.parked.count()),
    ]


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
    return wiring(
        from_env(TelemetryConfig, "DRAPE_TELEMETRY"),
        from_env(AlertConfig, "DRAPE_TELEMETRY_ALERT"),
        from_env(NotifyConfig, "DRAPE_TELEMETRY_NOTIFY"),
    )
