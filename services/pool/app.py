"""Wires the pool: the only place that knows which provider it is."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import msgspec

from services.pool import decide, measures, react, state, views
from services.pool.adapters.deps_cache import CacheLimits, DepsCache
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.fly_config import FlyConfig
from services.pool.adapters.local_deps import LocalDeps, platform_of
from services.pool.adapters.node import node_dir
from services.pool.config import PoolConfig
from services.pool.deps import Deps
from services.pool.effects import PoolEffects
from services.pool.providers import cleaner_of, probe_of, provider_of
from services.pool.react import Reconcile
from services.pool.sizing import commands_for, pools_of
from shared.commands import MaintainPool, commands_of
from shared.definition import Definition
from shared.ids import ProjectId
from shared.ports import Bus, Cause, Handler
from shared.runtime import Runtime
from shared.service import Parts, Wiring
from shared.settings import Common, Settings, from_env
from shared.ulids import new_id

SETTINGS: Settings = {
    "DRAPE_POOL": PoolConfig,
    "DRAPE_POOL_DOCKER": DockerConfig,
    "DRAPE_POOL_FLY": FlyConfig,
}
"""All that this service reads of the environment and the file, beside what all share."""


def definition(config: PoolConfig) -> Definition[state.State]:
    """The pool's pure parts, with its knobs put in."""
    return Definition(
        name="pool",
        initial=state.initial,
        evolve=state.evolve,
        decide=partial(decide.decide, config=config),
        answer=views.answer,
        react=react.react,
        on_timer=react.on_timer,
        commands=commands_of("pool"),
        ticks={
            "maintain": config.maintain_period_s,
            "health": config.health_period_s,
            "reconcile": config.reconcile_period_s,
        },
        story_of=views.story_of,
        measures=partial(measures.measures, config=config),
        figures=partial(measures.figures, config=config),
    )


def wiring(config: PoolConfig) -> Wiring[state.State]:
    """The pool as a process runs it."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        provider = provider_of(config, settings)
        stack.push_async_callback(provider.close)
        deps = _deps(runtime, config, settings, stack)
        effects = PoolEffects(
            provider,
            probe_of(config, settings, session),
            cleaner_of(config, settings, session),
            runtime.send,
            lambda: runtime.state,
            forget=deps.forget if deps is not None else _forget_nothing,
            config=config,
            secret=settings.drape_secret,
            clock=runtime.clock,
            catch_up=runtime.catch_up,
        )
        await _resize(runtime, config)
        # What died or was left over while no pool ran, without waiting for a tick.
        await effects.perform(Reconcile(), Cause(causation_id=new_id(), actor="pool/start"))
        await runtime.execute(MaintainPool())  # the first VMs, without waiting for a tick
        kept = {"restore_deps": deps.restore, "publish_deps": deps.publish} if deps is not None else {}
        answers = {**queries(runtime, config), "inventory": effects.inventory, **kept}
        return Parts(effects.perform, answers, gauges=lambda: views.gauges(runtime.state, config, runtime.clock()))

    pools_of(config)  # before anything begins
    return Wiring(definition(config), build)


def queries(runtime: Runtime[state.State], config: PoolConfig | None = None) -> dict[str, Handler]:
    """What the pool answers beside commands."""

    async def summary(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.summary(runtime.state, config, runtime.clock()))

    return {"summary": summary}


async def _forget_nothing(_project_id: ProjectId) -> None:
    """Nothing is kept here."""


def _deps(runtime: Runtime[state.State], config: PoolConfig, settings: Common, stack: AsyncExitStack) -> Deps | None:
    """What answers about dependencies; None where the provider can't keep them."""
    if config.provider != "local" or not config.cache:
        return None
    home = Path(settings.drape_home)
    limits = CacheLimits(
        bytes_max=config.cache_mb_max << 20,
        entry_bytes_max=config.cache_entry_mb_max << 20,
        entries_max=config.cache_entries_max,
        age_max_s=config.cache_age_max_s,
        sample_share=min(1.0, max(0.001, config.cache_verified_share)),
        spares_max=config.cache_spares_max,
    )
    kept = DepsCache(home / "cache" / "deps", limits)
    kept.evict()
    store = LocalDeps(kept, home / "vms")
    platform = asyncio.ensure_future(asyncio.to_thread(platform_of, node_dir(config.node_dir)))
    deps = Deps(store, lambda: runtime.state, platform, config.cache_prepare_after_s)
    stack.push_async_callback(deps.close)
    return deps


async def _resize(runtime: Runtime[state.State], config: PoolConfig) -> None:
    """The pools that are configured count, and their sizes; what is left open stays as the log has it."""
    for command in tuple(commands_for(runtime.state, config)):
        await runtime.execute(command)


def from_environment() -> Wiring[state.State]:
    """The pool with its knobs from the environment."""
    return wiring(from_env(PoolConfig, "DRAPE_POOL"))
