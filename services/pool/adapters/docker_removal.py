"""Takes all that one home has on Docker engines away: VMs, throw-away containers, firewall rules, network.

For when everything ends: while a pool runs, its VMs are its own. Needs the VMs' image for the rules, which a container takes away
as one has set them.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from aiodocker import Docker

from services.pool.adapters import docker_vm
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import CONFLICT, NOT_FOUND, Container, Engine, EngineError
from services.pool.adapters.docker_isolation import Isolation, network_name
from services.pool.ports import ProviderError

POLL_S = 0.05


class Removed(msgspec.Struct, frozen=True):
    """`vms`: how many there were; `problems`: a sentence for each engine on which something is left."""

    vms: int
    problems: tuple[str, ...]


async def remove_home(config: DockerConfig, urls: Sequence[str], home: str, *, timeout_s: float) -> Removed:
    """Each engine within `timeout_s`, all at once. What went wrong is told, not raised; doing it again does no harm."""
    found = await asyncio.gather(*(_on_engine(config, url, home, timeout_s) for url in urls))
    return Removed(sum(vms for vms, _ in found), tuple(problem for _, problem in found if problem))


async def _on_engine(config: DockerConfig, url: str, home: str, timeout_s: float) -> tuple[int, str]:
    engine = Engine(url, tls_dir=config.tls_dir, timeout_s=config.request_timeout_s)
    vms, problem = 0, ""
    try:
        async with asyncio.timeout(timeout_s):
            while rows := await engine.rows(docker_vm.labels_of(home)):
                vms = max(vms, sum(docker_vm.VM in (row.labels or {}) for row in rows))
                async with asyncio.TaskGroup() as group:
                    for row in rows:
                        group.create_task(_remove(engine, row))
                await asyncio.sleep(POLL_S)
            if await _has_network(engine, home):
                await Isolation(engine, config, home, runtime="").remove()
    except* ProviderError as failed:
        problem = str(failed.exceptions[0])
    except* TimeoutError:
        problem = f"the Docker engine {url} was not done within {timeout_s:g} s"
    finally:
        await engine.close()
    return vms, problem


async def _remove(engine: Engine, row: Container) -> None:
    async def call(docker: Docker) -> None:
        await docker.containers.container(row.id).delete(force=True, v=True)

    try:
        await engine.ask("remove a VM", call)
    except EngineError as error:
        if error.status not in (NOT_FOUND, CONFLICT):  # gone, or being removed: the next look tells
            raise


async def _has_network(engine: Engine, home: str) -> bool:
    """Without it no rules were set either."""

    async def call(docker: Docker) -> bool:
        await docker.networks.get(network_name(home))
        return True

    try:
        return await engine.ask("find the VMs' network", call)
    except EngineError as error:
        if error.status != NOT_FOUND:
            raise
        return False
