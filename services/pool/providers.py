"""Makes the provider that the config names, and what asks and empties its VMs."""

import os
from pathlib import Path

import aiohttp
import msgspec

from services.pool.adapters.cleaning import AgentVmCleaner, SimulatedVmCleaner
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.fly_config import FlyConfig, home_of, token_of
from services.pool.adapters.health import AgentHealthProbe, SimulatedHealthProbe
from services.pool.adapters.local import LocalConfig, LocalProvider
from services.pool.adapters.node import node_dir
from services.pool.adapters.simulated import SimulatedProvider
from services.pool.config import PoolConfig
from services.pool.effects import HealthProbe, VmCleaner
from services.pool.ports import Provider
from services.pool.usage import Usages
from shared.errors import Invalid
from shared.settings import Common, from_env


def provider_of(config: PoolConfig, settings: Common) -> Provider:
    """Raises `Invalid` where a setting that it needs is missing."""
    match config.provider:
        case "simulated":
            return SimulatedProvider(config.simulated_boot_s)
        case "docker":
            return _docker(config, settings)
        case "fly":
            return _fly(config, settings)
        case "local":
            return _local(config, settings)


def probe_of(config: PoolConfig, settings: Common, session: aiohttp.ClientSession, usages: Usages) -> HealthProbe:
    """What asks its VMs whether they live, and what they use."""
    if config.provider == "simulated":
        return SimulatedHealthProbe()
    return AgentHealthProbe(session, settings.drape_secret, config.health_timeout_s, usages=usages)


def cleaner_of(config: PoolConfig, settings: Common, session: aiohttp.ClientSession) -> VmCleaner:
    """What empties them."""
    if config.provider == "simulated":
        return SimulatedVmCleaner()
    return AgentVmCleaner(
        session, settings.drape_secret, bytes_max=config.kept_mb_max << 20, timeout_s=config.clean_timeout_s
    )


def _local(config: PoolConfig, settings: Common) -> Provider:
    if not settings.drape_home or not settings.drape_secret:
        raise Invalid(
            "settings_missing",
            "The local provider needs DRAPE_HOME and DRAPE_SECRET.",
            "`drape up` sets them; by hand, give a folder and `openssl rand -hex 32`.",
        )
    local = LocalConfig(
        sandbox=config.sandbox, node_dir=node_dir(config.node_dir), boot_timeout_s=config.boot_timeout_s
    )
    return LocalProvider(Path(settings.drape_home) / "vms", config=local)


def _docker(config: PoolConfig, settings: Common) -> Provider:
    from services.pool.adapters import docker, docker_vm  # no other provider needs its client

    if not settings.drape_secret:
        hint = "Give `openssl rand -hex 32`, the same to every service."
        raise Invalid("settings_missing", "The Docker provider needs DRAPE_SECRET.", hint)
    own = from_env(DockerConfig, "DRAPE_POOL_DOCKER")
    urls = docker.urls_of(own.hosts, os.environ.get("DOCKER_HOST", ""))
    home = docker_vm.home_key(own.home, settings.drape_home)
    return docker.DockerProvider(own, urls, home=home, boot_timeout_s=config.boot_timeout_s)


def _fly(config: PoolConfig, settings: Common) -> Provider:
    from services.pool.adapters.fly import FlyProvider  # no other provider needs it

    own = from_env(FlyConfig, "DRAPE_POOL_FLY")
    if not own.app:
        hint = "Name an app that holds nothing else; the pool makes it where DRAPE_POOL_FLY_ORG is set too."
        raise Invalid("settings_missing", "The Fly provider needs DRAPE_POOL_FLY_APP.", hint)
    if not settings.drape_secret:
        hint = "Give `openssl rand -hex 32`, the same to every service."
        raise Invalid("settings_missing", "The Fly provider needs DRAPE_SECRET.", hint)
    own = msgspec.structs.replace(own, boot_timeout_s=min(own.boot_timeout_s, config.boot_timeout_s))
    return FlyProvider(own, token_of(own, os.environ), home_of(settings.drape_secret))
