"""The services as a process that holds them all runs them: the real ones, with what is outside of them simulated."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from deploy.simulation.replica import Replica
from services.gateway import app as gateway_app
from services.gateway.adapters.activity import Activity
from services.gateway.adapters.feed import Feed
from services.gateway.config import GatewayConfig
from services.gateway.effects import GatewayEffects
from services.gateway.react import REACTS_TO as GATEWAY_REACTS_TO
from services.orchestrator import app as orchestrator_app
from services.orchestrator.adapters.project_store import ObjectProjectStore
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.effects import OrchestratorEffects
from services.orchestrator.ports import DepsCache, GatewayProbe, Workspace
from services.orchestrator.react import REACTS_TO as ORCHESTRATOR_REACTS_TO
from services.pool import app as pool_app
from services.pool.config import PoolConfig
from services.pool.effects import HealthProbe, PoolEffects, VmCleaner
from services.pool.ports import Provider
from services.pool.react import REACTS_TO as POOL_REACTS_TO
from services.pool.react import Reconcile
from services.telemetry import app as telemetry_app
from services.telemetry.config import TelemetryConfig
from services.telemetry.react import REACTS_TO as TELEMETRY_REACTS_TO
from shared.commands import MaintainPool
from shared.definition import Definition
from shared.ports import Bus, Cause
from shared.runtime import Limits, Runtime
from shared.snapshots import SnapshotKeeper
from shared.ulids import new_id

SECRET = "0" * 64
SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
REACTS_TO = {
    "pool": POOL_REACTS_TO,
    "orchestrator": ORCHESTRATOR_REACTS_TO,
    "gateway": GATEWAY_REACTS_TO,
    "telemetry": TELEMETRY_REACTS_TO,
}


@dataclass
class Outside:
    """What the replicas of all services share beside the bus, and their knobs. It outlives them."""

    provider: Provider
    health: HealthProbe
    cleaner: VmCleaner
    forget: Callable[[str], Awaitable[None]]
    workspace: Workspace
    deps: DepsCache
    probe: GatewayProbe
    pool: PoolConfig
    orchestrator: OrchestratorConfig
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    limits: Limits | None = None
    snapshot_events: int = 0
    """Events after which a replica writes a snapshot; 0: never."""
    snapshot_period_s: float = 2.0


def definition_of(service: str, outside: Outside) -> Definition[Any]:
    """The service's pure parts."""
    match service:
        case "pool":
            return pool_app.definition(outside.pool)
        case "orchestrator":
            return orchestrator_app.definition(outside.orchestrator)
        case "gateway":
            return gateway_app.definition(outside.gateway)
        case _:
            return telemetry_app.definition(TelemetryConfig())


async def begin(
    replica: Replica,
    bus: Bus,
    outside: Outside,
    clock: Callable[[], float],
    definition: Definition[Any] | None = None,
) -> None:
    """Replay, then serve: as the service's own process does it. `bus`: the replica's own."""
    runtime: Runtime[Any] = Runtime(
        definition or definition_of(replica.service, outside),
        bus,
        instance=replica.name.replace("/", "-"),
        limits=outside.limits,
        clock=clock,
    )
    replica.runtime = runtime
    await runtime.start()
    match replica.service:
        case "pool":
            await _serve_pool(runtime, outside)
        case "orchestrator":
            await _serve_orchestrator(runtime, bus, outside)
        case "gateway":
            await _serve_gateway(runtime, bus, outside, replica)
        case _:
            await runtime.serve(telemetry_app.effects(runtime, {})[0].perform)
    if outside.snapshot_events:
        keeper = SnapshotKeeper(runtime, events=outside.snapshot_events, period_s=outside.snapshot_period_s)
        replica.keeping = asyncio.create_task(keeper.run(), name=f"snapshots-{replica.name}")


async def _serve_pool(runtime: Runtime[Any], outside: Outside) -> None:
    effects = PoolEffects(
        outside.provider,
        outside.health,
        outside.cleaner,
        runtime.send,
        lambda: runtime.state,
        forget=outside.forget,
        config=outside.pool,
        secret=SECRET,
        clock=runtime.clock,
        catch_up=runtime.catch_up,
    )
    await pool_app._resize(runtime, outside.pool)
    await effects.perform(Reconcile(), Cause(causation_id=new_id(), actor="pool/start"))
    await runtime.execute(MaintainPool())
    await runtime.serve(effects.perform, {**pool_app.queries(runtime, outside.pool), "inventory": effects.inventory})


async def _serve_orchestrator(runtime: Runtime[Any], bus: Bus, outside: Outside) -> None:
    effects = OrchestratorEffects(
        bus,
        outside.workspace,
        ObjectProjectStore(bus.objects, SECRET),
        outside.probe,
        outside.deps,
        runtime.send,
        lambda: runtime.state,
        lambda: runtime.seq,
        config=outside.orchestrator,
        clock=runtime.clock,
    )
    runtime.on_folded.append(effects.on_folded)
    await bus.activity.subscribe(effects.on_activity)
    await runtime.serve(effects.perform)


async def _serve_gateway(runtime: Runtime[Any], bus: Bus, outside: Outside, replica: Replica) -> None:
    past = gateway_app.history(runtime, bus, outside.gateway)
    feed = Feed(lambda: runtime.state, lambda: runtime.seq, outside.gateway, bus.seals, runtime.clock, past)
    # The stacks are never closed: here a replica ends by being killed.
    await gateway_app._listen(runtime, bus, feed, AsyncExitStack())
    replica.feed = feed
    replica.activity = Activity()
    keep = gateway_app._keep_awake(runtime, bus, replica.activity, outside.gateway, AsyncExitStack())
    replica.waker = await keep
    await runtime.serve(GatewayEffects(bus, runtime.send, lambda: runtime.state).perform)
