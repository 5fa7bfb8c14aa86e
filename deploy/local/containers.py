"""VMs that are containers on Docker engines. `run/containers.json` says where, for as long as there may be any: so whoever ends
Drape finds them, whatever its environment. Only when everything stops: while Drape runs, they are the pool's.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from deploy.local import records
from deploy.local.paths import Home
from services.pool.adapters.docker_config import DockerConfig
from services.pool.config import PoolConfig
from shared.settings import from_env

_log = logging.getLogger("drape.local")

LIMIT_S = 60.0
"""For all of them, rules and network included; a busy engine takes seconds for a container."""


class Containers(msgspec.Struct, frozen=True, kw_only=True):
    """Whose VMs, and on which engines."""

    home: str
    urls: tuple[str, ...]
    config: DockerConfig


def provider_of(environ: Mapping[str, str]) -> str:
    """What the pool makes VMs of."""
    return from_env(PoolConfig, "DRAPE_POOL", environ).provider


def remember(home: Home, environ: Mapping[str, str]) -> None:
    """To be called before a pool starts; does nothing where its VMs are no containers."""
    if provider_of(environ) != "docker":
        return
    from services.pool.adapters import docker, docker_vm  # no other provider needs its client

    config = from_env(DockerConfig, "DRAPE_POOL_DOCKER", environ)
    found = Containers(
        home=docker_vm.home_key(config.home, str(home.root)),
        urls=tuple(docker.urls_of(config.hosts, environ.get("DOCKER_HOST", ""))),
        config=config,
    )
    records.write_private(_path(home), msgspec.json.encode(found))


def remembered(home: Home) -> Containers | None:
    """What the last start has written, unless all of it is gone."""
    try:
        return msgspec.json.decode(_path(home).read_bytes(), type=Containers)
    except (OSError, msgspec.MsgspecError):
        return None  # no VMs there, or a record of another release


def allowance_s(home: Home) -> float:
    """So much longer may an end take."""
    return LIMIT_S if _path(home).exists() else 0.0


async def end_containers(home: Home) -> tuple[int, tuple[str, ...]]:
    """Removes VMs, rules and network. Gives how many VMs there were, and what went wrong; then it may be done again."""
    found = remembered(home)
    if found is None:
        return 0, ()
    from services.pool.adapters.docker_removal import remove_home

    removed = await remove_home(found.config, found.urls, found.home, timeout_s=LIMIT_S)
    for problem in removed.problems:
        _log.error("VMs could not be ended", extra={"reason": problem})
    if not removed.problems:
        _path(home).unlink(missing_ok=True)
    return removed.vms, removed.problems


def _path(home: Home) -> Path:
    return home.run / "containers.json"
