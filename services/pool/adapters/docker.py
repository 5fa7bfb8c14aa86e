"""The `docker` provider: a VM is a container on one of several Docker engines, confined and reached through its agent.

What it is and how it is asked for is in `docker_vm`, the engines in `docker_engine`, the network that keeps VMs apart in
`docker_isolation`. The engines' labels are all the memory there is: any pool of the same home finds the same VMs. An engine that is
away gets no new VMs, and makes `list` fail: half a list would make its VMs look lost. Decides nothing about when VMs are wanted.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import aiohttp
from aiodocker import Docker
from aiodocker.containers import DockerContainer

from services.pool.adapters import docker_vm
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import CONFLICT, NOT_FOUND, Container, Engine, EngineError, Info
from services.pool.adapters.docker_isolation import Isolation, network_name
from services.pool.adapters.docker_vm import GVISOR, Place
from services.pool.adapters.specs import check_spec
from services.pool.adapters.turns import Turns
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec

log = logging.getLogger("drape.pool.docker")

T = TypeVar("T")
DEFAULT_URL = "unix:///var/run/docker.sock"
POLL_S = 0.02
LOOK_EVERY = 10
"""Polls of the agent between two looks at the container."""
LOG_LINES, LOG_CHARS = 20, 1000
ENDED = ("exited", "dead", "removing")


def urls_of(hosts: str, fallback: str) -> list[str]:
    """The engines that are named, each once."""
    named = [each.strip() for each in hosts.split(",") if each.strip()]
    return list(dict.fromkeys(named)) or [fallback or DEFAULT_URL]


class DockerProvider:
    """VMs as containers. `urls`: the engines; `home`: whose VMs these are (see `docker_vm.home_key`)."""

    name = "docker"

    def __init__(self, config: DockerConfig, urls: Sequence[str], *, home: str, boot_timeout_s: float) -> None:
        self._config = config
        self._home = home
        self._boot_timeout_s = boot_timeout_s
        self._engines = [Engine(url, tls_dir=config.tls_dir, timeout_s=config.request_timeout_s) for url in urls]
        self._turns = Turns()
        self._preparing = {engine.url: asyncio.Lock() for engine in self._engines}
        self._booting: dict[str, Engine] = {}
        self._http: aiohttp.ClientSession | None = None

    async def create(self, spec: VmSpec) -> VmAddress:
        """Boot a VM; what the id held before is destroyed first. Raises ProviderError, also `isolation_unavailable`."""
        check_spec(spec)
        async with self._turns.holding(spec.vm_id):
            engine, *others = await self._by_load()
            place = await self._prepared(engine, spec.image or self._config.image)
            for each in (engine, *others):
                await self._remove(each, spec.vm_id)
            self._booting[spec.vm_id] = engine
            try:
                return await self._boot(engine, place, spec)
            except BaseException:
                await _to_its_end(self._clean_up(engine, spec.vm_id))
                raise
            finally:
                self._booting.pop(spec.vm_id, None)

    async def suspend(self, vm_id: str) -> int:
        async with self._turns.holding(vm_id):
            engine, row = await self._live(vm_id)
            if row.state != "paused":
                await self._settle(engine, row, "paused", "suspend_failed")
            return await self._memory(engine, row)

    async def resume(self, vm_id: str) -> None:
        async with self._turns.holding(vm_id):
            engine, row = await self._live(vm_id)
            if row.state == "paused":
                await self._settle(engine, row, "running", "resume_failed")

    async def destroy(self, vm_id: str) -> None:
        async with self._turns.holding(vm_id):
            works = (self._remove(engine, vm_id) for engine in self._engines)
            found = await asyncio.gather(*works, return_exceptions=True)
            failed = [each for each in found if isinstance(each, BaseException)]
            away = all(isinstance(each, ProviderError) and each.code == "provider_unavailable" for each in failed)
            if failed and not (away and True in found):  # where it was, it is gone: it can't be on two engines
                raise failed[0]

    async def list(self) -> Sequence[VmListing]:
        self._turns.check_open()
        found = await _all(self._rows(engine) for engine in self._engines)
        listings: dict[str, VmListing] = {}
        for engine, rows in zip(self._engines, found, strict=True):
            for row in rows:
                one = docker_vm.listing_of(row, self._address(engine, row), booting=self._may_boot(row))
                if one.vm_id not in listings or one.created_at > listings[one.vm_id].created_at:
                    listings[one.vm_id] = one
        return list(listings.values())

    async def close(self) -> None:
        """Close the connections. Every later call but this one is refused."""
        self._turns.close()
        for engine in self._engines:
            await engine.close()
        if self._http is not None:
            await self._http.close()

    # -- engines

    async def _by_load(self) -> Sequence[Engine]:
        """The engines that answer, the one with the fewest of our VMs a processor first. Raises the first error where
        none does."""

        async def load(engine: Engine) -> float:
            info = await engine.ready()
            return (len(await self._rows(engine)) + self._under_way(engine)) / max(1, info.n_cpu)

        found = await asyncio.gather(*(load(engine) for engine in self._engines), return_exceptions=True)
        loads: dict[Engine, float] = {}
        errors = []
        for engine, each in zip(self._engines, found, strict=True):
            if isinstance(each, ProviderError):
                errors.append(each)
                log.warning("no new VMs there: %s", each.message, extra={"code": each.code})
            elif isinstance(each, BaseException):
                raise each
            else:
                loads[engine] = each
        if not loads:
            raise errors[0]
        return sorted(loads, key=lambda engine: loads[engine])

    def _under_way(self, engine: Engine) -> int:
        return sum(each is engine for each in self._booting.values())

    async def _prepared(self, engine: Engine, image: str) -> Place:
        """What VMs are made of there: image and network have been looked at, once for as long as it answers."""
        async with self._preparing[engine.url]:
            info = await engine.ready()
            shown = await engine.image(image)
            docker_vm.check_image(image, shown, info, engine.url)
            runtime = self._runtime(info, engine)
            if "network" not in engine.prepared:
                isolation = Isolation(engine, self._config, self._home, runtime)
                try:
                    await isolation.prepare()
                except TimeoutError:
                    message = (
                        f"the network of VMs on {engine.url} was not tried within {self._config.prepare_timeout_s:g} s"
                    )
                    raise ProviderError("provider_unavailable", message, retryable=True) from None
                engine.prepared["network"] = isolation.network
            if "quota" not in engine.prepared:
                engine.prepared["quota"] = await self._quota(engine)
            return Place(
                home=self._home,
                network=network_name(self._home),
                runtime=runtime,
                published=self._published(engine),
                publish_ip=await self._publish_ip(engine),
                quota=engine.prepared["quota"] == "yes",
            )

    def _runtime(self, info: Info, engine: Engine) -> str:
        if self._config.runtime == "auto":
            return GVISOR if GVISOR in info.runtimes else ""
        if self._config.runtime not in info.runtimes:
            message = (
                f"the Docker engine {engine.url} has no runtime {self._config.runtime}; install it there, or set auto"
            )
            raise ProviderError("provider_unavailable", message)
        return self._config.runtime

    async def _quota(self, engine: Engine) -> str:
        """Whether volumes can be limited there: found out by making one."""
        if self._config.disk in ("tmpfs", "volume"):
            return "no"
        options = {"Driver": "local", "DriverOpts": {"size": "16M"}, "Labels": docker_vm.labels_of(self._home)}
        try:
            volume = await engine.ask("limit a volume", lambda docker: _volume(docker, options))
        except EngineError as error:
            if self._config.disk == "auto" and error.code == "provider_unavailable":
                return "no"
            message = (
                f"{error.message}; DRAPE_POOL_DOCKER_DISK=quota needs XFS with project quotas (mount option pquota)"
            )
            raise ProviderError("provider_unavailable", message) from None
        await engine.ask("remove a volume", lambda _docker: volume.delete())
        return "yes"

    def _published(self, engine: Engine) -> bool:
        return self._config.reach == "published" or (self._config.reach == "auto" and not engine.local)

    async def _rows(self, engine: Engine, vm_id: str | None = None) -> Sequence[Container]:
        """Our VMs there; of the throw-away containers none."""
        rows = await engine.rows(docker_vm.labels_of(self._home, vm_id))
        return [row for row in rows if docker_vm.VM in (row.labels or {})]

    def _address(self, engine: Engine, row: Container) -> VmAddress | None:
        published = self._published(engine)
        return docker_vm.address_of(row, network_name(self._home), self._host(engine), published=published)

    def _host(self, engine: Engine) -> str:
        return (engine.local and self._config.address) or engine.host

    async def _publish_ip(self, engine: Engine) -> str:
        """Where a VM's port is opened on the engine's machine: no further than it must be reached; empty: everywhere."""
        if not engine.local:
            return ""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self._host(engine), None, family=socket.AF_INET)
        except OSError:
            message = f"DRAPE_POOL_DOCKER_ADDRESS is {self._config.address}, which has no address here"
            raise ProviderError("provider_unavailable", message) from None
        return str(found[0][4][0])

    def _may_boot(self, row: Container) -> bool:
        """Whether this pool, or another replica, may be at work on it."""
        fresh = time.time() - docker_vm.created_at(row) < self._boot_timeout_s
        return fresh or (row.labels or {}).get(docker_vm.VM) in self._booting

    # -- verbs

    async def _boot(self, engine: Engine, place: Place, spec: VmSpec) -> VmAddress:
        container: DockerContainer | None = None
        try:
            async with asyncio.timeout(self._boot_timeout_s):
                container = await _to_its_end(self._made(engine, place, spec))
                await engine.ask("start a VM", lambda docker: _start(docker, container, spec.token))
                return await self._listening(engine, container, spec)
        except TimeoutError:
            message = (
                f"the agent of VM {spec.vm_id} did not listen within {self._boot_timeout_s:g} s on {engine.url}; is it "
                "overloaded? An engine in a machine of its own needs DRAPE_POOL_DOCKER_REACH=published. Its log ends: "
                + (await self._log_tail(engine, container) if container else "(none)")
            )
            raise ProviderError("boot_timeout", message, retryable=True) from None

    async def _made(self, engine: Engine, place: Place, spec: VmSpec) -> DockerContainer:
        name = docker_vm.name_of(self._home, spec.vm_id)
        body = docker_vm.body_of(spec, self._config, place, spec.image or self._config.image, time.time())
        try:
            return await engine.ask("make a VM", lambda docker: docker.containers.create(body, name=name))
        except EngineError as error:
            if error.status != CONFLICT:
                raise
        if await self._rows(engine, spec.vm_id):
            raise ProviderError("boot_failed", f"another pool is making VM {spec.vm_id} too", retryable=True)
        message = (
            f"the name {name} is taken on {engine.url} by a container that is no VM of this home; "
            "rename or remove that container, or set another DRAPE_POOL_DOCKER_HOME"
        )
        raise ProviderError("boot_failed", message)

    async def _listening(self, engine: Engine, container: DockerContainer, spec: VmSpec) -> VmAddress:
        """Wait for the agent (the caller sets the limit). Raises ProviderError when it ends before."""
        address: VmAddress | None = None
        looks = 0
        while True:
            if address is None or looks % LOOK_EVERY == 0:
                rows = [row for row in await self._rows(engine, spec.vm_id) if row.id == container.id]
                if not rows or rows[0].state in ENDED:
                    said = await self._log_tail(engine, container)
                    raise ProviderError(
                        "boot_failed", f"VM {spec.vm_id} ended while it started: {said}", retryable=True
                    )
                address = self._address(engine, rows[0])
            if address is not None and await self._answers(address, spec.token):
                return address
            looks += 1
            await asyncio.sleep(POLL_S)

    async def _answers(self, address: VmAddress, token: str) -> bool:
        if self._http is None:
            self._http = aiohttp.ClientSession()
        url = f"http://{address.host}:{address.port}/health"
        headers, timeout = {"Authorization": f"Bearer {token}"}, aiohttp.ClientTimeout(total=5)
        try:
            async with self._http.get(url, headers=headers, timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def _live(self, vm_id: str) -> tuple[Engine, Container]:
        """Where the VM is, when it lives. Raises ProviderError; an engine that is away may have it."""
        found = await asyncio.gather(*(self._rows(each, vm_id) for each in self._engines), return_exceptions=True)
        pairs, errors = [], []
        for engine, rows in zip(self._engines, found, strict=True):
            if isinstance(rows, BaseException):
                errors.append(rows)
            else:
                pairs += [(engine, row) for row in rows]
        alive = [pair for pair in pairs if pair[1].state in ("running", "paused")]
        if alive:
            return max(alive, key=lambda pair: docker_vm.created_at(pair[1]))
        if errors:
            raise errors[0]
        if pairs:
            raise ProviderError("vm_stopped", f"VM {vm_id} has ended ({pairs[0][1].state}); destroy it")
        raise ProviderError("vm_not_found", f"there is no VM {vm_id}")

    async def _settle(self, engine: Engine, row: Container, state: str, code: str) -> None:
        async def call(docker: Docker) -> None:
            container = docker.containers.container(row.id)
            await (container.pause() if state == "paused" else container.unpause())

        try:
            await engine.ask(f"have a VM {state}", call)
        except EngineError as error:
            if error.code != "provider_unavailable":
                raise
            raise ProviderError(code, error.message, retryable=True) from None

    async def _memory(self, engine: Engine, row: Container) -> int:
        """What it holds, without what the kernel could drop; 0 where that can't be told."""

        async def call(docker: Docker) -> int:
            # aiodocker's own `stats` asks for two samples, which takes a second or two.
            path, params = f"containers/{row.id}/stats", {"stream": "false", "one-shot": "true"}
            memory: dict[str, Any] = (await docker._query_json(path, params=params)).get("memory_stats") or {}
            parts = memory.get("stats") or {}
            dropped = parts.get("total_inactive_file", parts.get("inactive_file", 0))
            return max(0, int(memory.get("usage", 0)) - int(dropped))

        try:
            return await engine.ask("tell a VM's memory", call)
        except ProviderError as error:
            log.warning("memory of a suspended VM: %s", error.message, extra={"code": error.code})
            return 0

    async def _remove(self, engine: Engine, vm_id: str) -> bool:
        """Removes every container of that VM there and looks whether it is gone. Gives whether there was one. Raises
        ProviderError."""
        rows = await self._rows(engine, vm_id)
        there = bool(rows)
        for row in rows:
            await self._delete(engine, row)
        deadline = time.monotonic() + self._config.destroy_timeout_s
        while rows and (rows := await self._rows(engine, vm_id)):
            if time.monotonic() >= deadline:
                stuck = rows[0].state in ("removing", "dead")
                message = (
                    f"VM {vm_id} is still there ({rows[0].state}) {self._config.destroy_timeout_s:g} s after the Docker engine "
                    f"{engine.url} was told to remove it; `docker rm -f {rows[0].id[:12]}` there tells why"
                )
                raise ProviderError("vm_stuck" if stuck else "destroy_failed", message, retryable=True)
            await asyncio.sleep(POLL_S)
        return there

    async def _delete(self, engine: Engine, row: Container) -> None:
        try:
            await engine.ask(
                "remove a VM", lambda docker: docker.containers.container(row.id).delete(force=True, v=True)
            )
        except EngineError as error:
            if error.status in (NOT_FOUND, CONFLICT):  # gone, or somebody removes it just now
                return
            if error.code != "provider_unavailable":
                raise
            raise ProviderError("destroy_failed", error.message, retryable=True) from None

    async def _clean_up(self, engine: Engine, vm_id: str) -> None:
        """After a failed create. Failing here too is logged, so that the first reason is the one that is raised."""
        try:
            await self._remove(engine, vm_id)
        except ProviderError as error:
            log.warning("what was left of VM %s: %s", vm_id, error.message, extra={"code": error.code, "vm_id": vm_id})

    async def _log_tail(self, engine: Engine, container: DockerContainer) -> str:
        async def call(_docker: Docker) -> str:
            return "".join(await container.log(stdout=True, stderr=True, tail=LOG_LINES))

        try:
            return " ".join((await engine.ask("read a VM's log", call)).split())[-LOG_CHARS:] or "(empty)"
        except ProviderError as error:
            return f"({error.code})"


async def _volume(docker: Docker, options: dict[str, Any]) -> Any:
    return await docker.volumes.create(options)  # type: ignore[no-untyped-call]


async def _start(docker: Docker, container: DockerContainer | None, token: str) -> None:
    """The token is one line on standard input, whose end is attached before there is anybody to read it."""
    assert container is not None
    stdin = container.attach(stdin=True, stdout=False, stderr=False)
    async with stdin:
        await container.start()
        await stdin.write_in(f"{token}\n".encode())


async def _to_its_end(work: Awaitable[T]) -> T:
    """Work that a cancellation must not leave half done: what was asked of an engine may be done all the same."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("work that was cancelled had failed: %s", error)
        raise


async def _all(works: Any) -> list[Any]:
    """All of them to their ends, then the first error, if any."""
    found = await asyncio.gather(*works, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found
