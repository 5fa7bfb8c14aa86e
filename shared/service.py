"""Runs one replica of a service as a process: settings, telemetry, connection, loop, and an orderly end."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import uvloop

from shared import metrics, telemetry
from shared.definition import Definition
from shared.errors import DrapeError
from shared.health import Gauges, Health, HealthLimits
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.credentials import seed_from
from shared.ports import Bus, Handler
from shared.reactions import Perform
from shared.runtime import Runtime
from shared.settings import Common, Settings, check, common
from shared.snapshots import SnapshotKeeper

log = logging.getLogger("drape.service")

S = TypeVar("S")

STOP_TIMEOUT_S = 8.0
TELEMETRY_FLUSH_S = 3.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service adds to the loop: how its effects are performed, and what it answers to queries."""

    perform: Perform
    queries: Mapping[str, Handler]
    drain: Callable[[], Awaitable[None]] | None = None
    """Ends what the service itself takes in, before the loop takes nothing more; within a limit of its own."""
    gauges: Gauges | None = None
    """Figures for whoever scales the service; asked at each look at `/metrics`."""


Build = Callable[[Runtime[S], Bus, Common, AsyncExitStack], Awaitable[Parts]]
"""Makes a service's adapters once its state is live; what must be closed goes on the stack."""


class Wiring(Generic[S]):
    """A service's definition and the function that builds its adapters."""

    def __init__(self, definition: Definition[S], build: Build[S]) -> None:
        self.definition = definition
        self.build = build


@asynccontextmanager
async def running(
    wiring: Wiring[S], bus: Bus, settings: Common, health: Health | None = None
) -> AsyncIterator[Runtime[S]]:
    """One replica on this bus: replayed, serving, and stopped in order at the end. `health` is told how far it is."""
    runtime = Runtime(wiring.definition, bus, instance=settings.drape_instance)
    if health is not None:
        health.watch(runtime)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runtime.stop)
        await runtime.start()
        stack.enter_context(metrics.live.asking(runtime.figures))
        parts = await wiring.build(runtime, bus, settings, stack)
        await runtime.serve(parts.perform, parts.queries, parts.drain)
        _keep_snapshots(runtime, settings, stack)
        if health is not None:
            health.started(parts.gauges)
        yield runtime
        # Only in an orderly end: one that has broken hands nothing back, its work is given out again after its ack wait.
        await runtime.drain()


def _keep_snapshots(runtime: Runtime[S], settings: Common, stack: AsyncExitStack) -> None:
    keeper = SnapshotKeeper(runtime, events=settings.drape_snapshot_events, period_s=settings.drape_snapshot_period_s)
    task = asyncio.create_task(keeper.run(), name="snapshots")

    async def end() -> None:
        task.cancel()
        await asyncio.wait({task})

    stack.push_async_callback(end)


async def _run(wiring: Wiring[S], settings: Common, own: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    name = wiring.definition.name
    close_telemetry = telemetry.set_up(name, settings)
    try:
        check(own)
        async with _health(name, settings) as health:
            await _serve(wiring, settings, health, stop)
    finally:
        # The exporters block while they flush.
        await asyncio.wait({loop.run_in_executor(None, close_telemetry)}, timeout=TELEMETRY_FLUSH_S)
    return 0


@asynccontextmanager
async def _health(name: str, settings: Common) -> AsyncIterator[Health]:
    """From before the connection, so that a long replay is seen as one, to the end."""
    limits = HealthLimits(
        lag_events=settings.drape_health_lag_max,
        lag_s=settings.drape_health_lag_max_s,
        stall_s=settings.drape_health_stall_max_s,
    )
    health = Health(name, settings.drape_instance, limits)
    if not settings.drape_health_port:
        yield health
        return
    from shared.health_server import serving  # what it needs takes time to import

    async with serving(health, settings.drape_health_host, settings.drape_health_port):
        yield health


async def _serve(wiring: Wiring[S], settings: Common, health: Health, stop: asyncio.Event) -> None:
    """Connected, and running until it is told to stop."""
    name = wiring.definition.name
    seed = seed_from(settings.drape_nats_seed_file, settings.drape_nats_nkey_seed)
    client = await connect(settings.nats_url, f"drape-{name}/{settings.drape_instance}", identity=name, seed=seed)
    bus = bus_on(client, settings.drape_instance, settings.drape_secret)
    try:
        async with running(wiring, bus, settings, health) as runtime:
            log.info("serving", extra={"seq": runtime.seq, "replay_s": round(runtime.replay_s, 3)})
            await runtime.run_until(stop)
            health.leave()
            if settings.drape_leave_s > 0:
                await asyncio.sleep(settings.drape_leave_s)
    finally:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await bus.close()


def main(name: str, make: Callable[[], Wiring[S]], own: Settings) -> None:
    """The process: exit 0 after SIGTERM, 1 with the reason on standard error when it cannot go on. `own`: the settings that
    this service reads beside `Common`; others in the file are refused."""
    try:
        code = uvloop.run(_run(make(), common(), own))
    except DrapeError as error:
        print(f"drape {name}: {error.message} {error.hint}".rstrip(), file=sys.stderr)
        code = 1
    except Exception:
        log.exception("service_died", extra={"service": name})
        code = 1
    sys.exit(code)
