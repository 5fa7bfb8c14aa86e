"""Wires telemetry: alerts in the loop, the projection beside it."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

import msgspec

from services.telemetry import decide, react, state, views
from services.telemetry.adapters import alert_gauge
from services.telemetry.adapters.channels import channel_names, open_channels
from services.telemetry.adapters.postgres import PreviewStore, close_pool, open_pool
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.config import AlertConfig, NotifyConfig, TelemetryConfig
from services.telemetry.effects import TelemetryEffects
from services.telemetry.looking import Watch, unknown
from services.telemetry.notifying import Notifier
from services.telemetry.ports import Channel, Measure
from shared.commands import commands_of
from shared.definition import Definition
from shared.errors import UNREADABLE, Invalid, NotFound
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
        ticks={react.ALERTS_TICK: config.alerts_period_s},
    )


def effects(
    runtime: Runtime[state.State],
    channels: Mapping[str, Channel],
    limits: AlertConfig = LIMITS,
    notify: NotifyConfig = NOWHERE,
    costs: tuple[Measure, Measure] = (unknown, unknown),
) -> tuple[TelemetryEffects, Notifier]:
    """What performs its effects on the runtime's bus. `costs`: what has been spent of this day, and of this month."""
    bus = runtime.bus
    watch = Watch(bus.parked, bus.commands, bus.log, limits, runtime.clock, costs)
    notifier = Notifier(channels, bus.log, bus.timers, runtime.send, lambda: runtime.state, notify, runtime.clock)
    return TelemetryEffects(watch, notifier, runtime.send), notifier


def wiring(
    config: TelemetryConfig, limits: AlertConfig = LIMITS, notify: NotifyConfig = NOWHERE
) -> Wiring[state.State]:
    """Telemetry as a process runs it. It starts without PostgreSQL, and projects once that answers."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        pool = await open_pool(settings.database_url, config)
        stack.push_async_callback(close_pool, pool, config.close_timeout_s)
        store = PreviewStore(pool, config)
        projector = Projector(bus.log, store, config)
        stats = StatsReader(pool, lambda: projector.log_id, config, runtime.clock)
        _run(projector, runtime, stack)
        alert_gauge.observe(lambda: runtime.state)
        performing, notifier = effects(runtime, await open_channels(notify, stack), limits, notify)
        answers = queries(runtime, projector, store, stats) | alert_queries(runtime, notifier, channel_names(notify))
        return Parts(performing.perform, answers)

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


def queries(
    runtime: Runtime[state.State], projector: Projector, store: PreviewStore, stats: StatsReader
) -> dict[str, Handler]:
    """What telemetry answers beside commands. `status` is the other services', and how the projection stands."""

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

    return {"stats": stats.answer, "status": status}


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
    return wiring(
        from_env(TelemetryConfig, "DRAPE_TELEMETRY"),
        from_env(AlertConfig, "DRAPE_TELEMETRY_ALERT"),
        from_env(NotifyConfig, "DRAPE_TELEMETRY_NOTIFY"),
    )
