"""Wires the orchestrator."""

from contextlib import AsyncExitStack
from functools import partial

import aiohttp

from services.orchestrator import decide, measures, react, state, views
from services.orchestrator.adapters.deps import PoolDepsCache
from services.orchestrator.adapters.gateway_probe import HttpGatewayProbe
from services.orchestrator.adapters.project_store import ObjectProjectStore
from services.orchestrator.adapters.workspace import AgentWorkspace
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.effects import OrchestratorEffects
from shared.commands import commands_of
from shared.definition import Definition
from shared.errors import Invalid
from shared.ports import Bus
from shared.runtime import Runtime
from shared.secrets import preview_key
from shared.service import Parts, Wiring
from shared.settings import Common, Settings, common, from_env

SETTINGS: Settings = {"DRAPE_ORCHESTRATOR": OrchestratorConfig}
"""All that this service reads of the environment and the file, beside what all share."""


def definition(config: OrchestratorConfig, secret: str = "") -> Definition[state.State]:
    """The orchestrator's pure parts, with its knobs and the platform's secret put in; replay needs no secret."""
    return Definition(
        name="orchestrator",
        initial=state.initial,
        evolve=state.evolve,
        decide=partial(decide.decide, config=config, key=preview_key(secret)),
        answer=views.answer,
        react=partial(react.react, config=config),
        on_timer=react.on_timer,
        commands=commands_of("orchestrator"),
        ticks={react.IDLE_TICK: config.idle_check_s, react.RESIDENTS_TICK: config.residents_period_s},
        trace_of=views.trace_of,
        project_of=views.project_of,
        measures=measures.measures,
        figures=measures.figures,
    )


def wiring(config: OrchestratorConfig, secret: str) -> Wiring[state.State]:
    """The orchestrator as a process runs it."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        if not settings.drape_secret:
            raise Invalid(
                "settings_missing", "DRAPE_SECRET is not set.", "`drape up` sets it; all services need the same."
            )
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        )
        # A connection for each look: one that is kept may lead to a gateway that hangs, a new one leads to one that accepts.
        probing = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        )
        effects = OrchestratorEffects(
            bus,
            AgentWorkspace(session, settings.drape_secret),
            ObjectProjectStore(bus.objects, settings.drape_secret),
            HttpGatewayProbe(probing, config.gateway_url, settings.drape_secret),
            PoolDepsCache(bus, lambda: runtime.seq),
            runtime.send,
            lambda: runtime.state,
            lambda: runtime.seq,
            config=config,
            clock=runtime.clock,
        )
        runtime.on_folded.append(effects.on_folded)
        stack.push_async_callback((await bus.activity.subscribe(effects.on_activity)).stop)
        return Parts(effects.perform, {})

    return Wiring(definition(config, secret), build)


def from_environment() -> Wiring[state.State]:
    """The orchestrator with its knobs from the environment."""
    return wiring(from_env(OrchestratorConfig, "DRAPE_ORCHESTRATOR"), common().drape_secret)
