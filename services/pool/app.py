"""Wires the pool: the only place that knows which provider it is."""

import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import msgspec

from services.pool import decide, react, state, views
from services.pool.adapters.cleaning import AgentVmCleaner, SimulatedVmCleaner
from services.pool.adapters.deps_cache import CacheLimits, DepsCache
from services.pool.adapters.fly import FlyProvider
from services.pool.adapters.fly_config import FlyConfig, home_of, token_of
from services.pool.adapters.health import AgentHealthProbe, SimulatedHealthProbe
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.adapters.local_deps import LocalDeps, platform_of
from services.pool.adapters.node import node_dir
from services.pool.adapters.simulated import SimulatedProvider
from services.pool.config import PoolConfig
from services.pool.deps import Deps
from services.pool.effects import HealthProbe, PoolEffects, VmCleaner
from services.pool.ports import Provider
from services.pool.react import Reconcile
from shared.commands import MaintainPool, ResizePool, commands_of
from shared.definition import Definition
from shared.errors import Invalid
from shared.ids import ProjectId
from shared.ports import Bus, Cause, Handler
from shared.runtime import Runtime
from shared.service import Parts, Wiring
from shared.settings import Common, from_env
from shared.ulids import new_id


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
    )


def wiring(config: PoolConfig) -> Wiring[state.State]:
    """The pool as a process runs it."""

    async def build(runtime: Runtime[state.State], bus: Bus, settings: Common, stack: AsyncExitStack) -> Parts:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        provider, probe = _provider(config, settings, session)
        stack.push_async_callback(provider.close)
        deps = _deps(runtime, config, settings, stack)
        effects = PoolEffects(
            provider,
            probe,
            _cleaner(config, settings, session),
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
        return Parts(effects.perform, {**queries(runtime), "inventory": effects.inventory, **kept})

    return Wiring(definition(config), build)


def queries(runtime: Runtime[state.State]) -> dict[str, Handler]:
    """What the pool answers beside commands."""

    async def summary(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.summary(runtime.state))

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
    """Sizes from the environment count; what it leaves open stays as the log has it."""
    if config.target is config.minimum is config.maximum is None:
        return
    now = runtime.state
    maximum = now.maximum if config.maximum is None else config.maximum
    target = min(now.target, maximum) if config.target is None else config.target
    minimum = min(now.minimum, target) if config.minimum is None else config.minimum
    await runtime.execute(ResizePool(target=target, minimum=minimum, maximum=maximum))


def _provider(config: PoolConfig, settings: Common, session: aiohttp.ClientSession) -> tuple[Provider, HealthProbe]:
    if config.provider == "simulated":
        return SimulatedProvider(config.simulated_boot_s), SimulatedHealthProbe()
    if config.provider == "fly":
        return _fly(config, settings), AgentHealthProbe(session, settings.drape_secret, config.health_timeout_s)
    if not settings.drape_home or not settings.drape_secret:
        raise Invalid(
            "settings_missing",
            "The local provider needs DRAPE_HOME and DRAPE_SECRET.",
            "`drape up` sets them; by hand, give a folder and `openssl rand -hex 32`.",
        )
    local = LocalConfig(
        sandbox=config.sandbox, node_dir=node_dir(config.node_dir), boot_timeout_s=config.boot_timeout_s
    )
    provider = LocalProvider(Path(settings.drape_home) / "vms", config=local)
    return provider, AgentHealthProbe(session, settings.drape_secret, config.health_timeout_s)


def _fly(config: PoolConfig, settings: Common) -> Provider:
    own = from_env(FlyConfig, "DRAPE_POOL_FLY", os.environ)
    if not own.app or not settings.drape_secret:
        raise Invalid(
            "settings_missing",
            "The Fly provider needs DRAPE_POOL_FLY_APP and DRAPE_SECRET.",
            "Name an app of its own, and give `openssl rand -hex 32`, the same to every service.",
        )
    own = msgspec.structs.replace(own, boot_timeout_s=min(own.boot_timeout_s, config.boot_timeout_s))
    return FlyProvider(own, token_of(own, os.environ), home_of(settings.drape_secret))


def _cleaner(config: PoolConfig, settings: Common, session: aiohttp.ClientSession) -> VmCleaner:
    if config.provider == "simulated":
        return SimulatedVmCleaner()
    return AgentVmCleaner(
        session, settings.drape_secret, bytes_max=config.kept_mb_max << 20, timeout_s=config.clean_timeout_s
    )


def from_environment() -> Wiring[state.State]:
    """The pool with its knobs from the environment."""
    return wiring(from_env(PoolConfig, "DRAPE_POOL", os.environ))
