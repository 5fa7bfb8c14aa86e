"""The VMs' network on one engine: made, fenced in by firewall rules, and tried before the first VM.

One bridge for all VMs of a home, without a way from one to another (Docker's `enable_icc=false`, which filters on the
bridge). A throw-away container in the host's network, with NET_ADMIN alone, sets rules that refuse what goes to the host and
to private addresses; this works for engines elsewhere too, and needs no root here. Rules may be missing or without effect
(no br_netfilter, another firewall): so another throw-away container, confined as VMs are, tries what must not be reached.
"""

import asyncio
import contextlib
import hashlib
import inspect
import logging
from typing import Any

import msgspec
from aiodocker import Docker
from aiodocker.containers import DockerContainer

from services.pool.adapters import docker_guest, docker_vm
from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import CONFLICT, Attached, Engine, EngineError
from services.pool.ports import ProviderError

log = logging.getLogger("drape.pool.docker")

PYTHON = "/opt/drape/bin/python"
METADATA = "169.254.169.254:80"
POLL_S = 0.05
ROLE = "drape.role"
"""The label of throw-away containers; they are no VMs."""
MEMORY_MB, PIDS_MAX = 128, 64


class Said(msgspec.Struct, frozen=True):
    """The one line of a throw-away container."""

    port: int = 0
    why: str = ""
    address: str = ""
    reached: tuple[str, ...] = ()
    resolves: bool = True
    answers: bool = True


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a try. `rules`: why they could not be set, or empty."""

    reached: tuple[str, ...]
    rules: str
    resolves: bool
    answers: bool


def network_name(home: str) -> str:
    return f"drape-{home}"


def bridge_name(home: str) -> str:
    """Of the interface: 15 characters at most, and the same for each engine."""
    return f"dr-{hashlib.sha256(home.encode()).hexdigest()[:8]}"


class Isolation:
    """Sets up and tries one home's network on one engine."""

    def __init__(self, engine: Engine, config: DockerConfig, home: str, runtime: str) -> None:
        self._engine = engine
        self._config = config
        self._home = home
        self._runtime = runtime
        self.network = network_name(home)

    async def prepare(self) -> None:
        """The network is there and has been tried. Raises ProviderError, also `isolation_unavailable`."""
        await self.make_network()
        if self._config.isolation == "none":
            return
        async with asyncio.timeout(self._config.prepare_timeout_s):
            report = await self.tried()
        if report.reached:
            self._complain(report)
        elif report.rules:
            log.warning("rules for VMs on %s: %s", self._engine.url, report.rules, extra={"code": "rules_unavailable"})
        if self._config.probe_host and not report.answers:
            how = "can't be reached" if report.resolves else "can't be resolved"
            message = (
                "%s %s from VMs on %s: installs will fail. If its address, or the resolver's, is private, name it in %s"
            )
            where = (self._config.probe_host, how, self._engine.url, "DRAPE_POOL_DOCKER_ALLOW")
            log.warning(message, *where, extra={"code": "registry_unreachable"})

    def _complain(self, report: Report) -> None:
        rules = f"; its firewall rules could not be set: {report.rules}" if report.rules else ""
        message = (
            f"a VM on {self._engine.url} reaches what it must not ({', '.join(report.reached)}){rules}. Docker has to run with "
            "its iptables on, the module br_netfilter has to be loaded, and the VM image needs iptables; "
            "DRAPE_POOL_DOCKER_ISOLATION=warn goes on without"
        )
        if self._config.isolation == "require":
            raise ProviderError("isolation_unavailable", message)
        log.warning(message, extra={"code": "isolation_unavailable"})

    async def make_network(self) -> None:
        config = {
            "Name": self.network,
            "CheckDuplicate": True,
            "Driver": "bridge",
            "EnableIPv6": False,
            "Labels": docker_vm.labels_of(self._home),
            "Options": {
                "com.docker.network.bridge.name": bridge_name(self._home),
                "com.docker.network.bridge.enable_icc": "false",
            },
            **({"IPAM": {"Config": [{"Subnet": self._config.subnet}]}} if self._config.subnet else {}),
        }
        try:
            await self._engine.ask("make the VMs' network", lambda docker: docker.networks.create(config))
        except EngineError as error:
            if error.status != CONFLICT:
                raise

    async def tried(self) -> Report:
        """Sets the rules and has a VM try them. Leaves no container behind."""
        async with contextlib.AsyncExitStack() as stack:
            host, peer = await asyncio.gather(
                self._running(stack, "guard", bridge_name(self._home), self._key(), self._config.allow),
                self._running(stack, "listen"),
            )
            host_said, _ = await asyncio.gather(self._said(host), self._said(peer))
            at = await self._attached(peer)
            forbidden = [f"{at.address}:{docker_guest.PORT}", METADATA]
            forbidden += [f"{each}:{host_said.port}" for each in {at.gateway, host_said.address} if each]
            prober = await self._running(stack, "probe", ",".join(forbidden), self._config.probe_host)
            found = await self._said(prober)
        return Report(reached=found.reached, rules=host_said.why, resolves=found.resolves, answers=found.answers)

    async def remove(self) -> None:
        """Takes away the rules and the network; it fails where VMs are still in it."""
        async with contextlib.AsyncExitStack() as stack:
            await self._said(await self._running(stack, "unguard", bridge_name(self._home), self._key()))
        network = await self._engine.ask("find the VMs' network", lambda docker: docker.networks.get(self.network))
        await self._engine.ask("remove the VMs' network", lambda _docker: network.delete())

    def _key(self) -> str:
        return bridge_name(self._home)[3:]

    async def _running(self, stack: contextlib.AsyncExitStack, *arguments: str) -> DockerContainer:
        body = self._body(arguments)

        async def create(docker: Docker) -> DockerContainer:
            return await docker.containers.create(body)

        made = asyncio.ensure_future(self._engine.ask("make a throw-away container", create))
        try:
            container = await asyncio.shield(made)
        except asyncio.CancelledError:
            container = await made
            await self._remove(container)
            raise
        stack.push_async_callback(self._remove, container)
        await self._engine.ask("start a throw-away container", lambda _docker: container.start())
        return container

    def _body(self, arguments: tuple[str, ...]) -> dict[str, Any]:
        place = docker_vm.Place(home=self._home, network=self.network, runtime=self._runtime)
        host = {**docker_vm.confined(self._config, place), **docker_vm.limits(1, MEMORY_MB, PIDS_MAX)}
        as_root = arguments[0] in ("guard", "unguard")
        if as_root:
            host |= {"NetworkMode": "host", "CapAdd": ["NET_ADMIN", "NET_RAW"]}
            host["Tmpfs"] = {**host["Tmpfs"], "/run": "rw,size=1m"}  # iptables' lock
            host.pop("Runtime", None)
        return {
            "Image": self._config.image,
            "Entrypoint": [PYTHON, "-I", "-c", inspect.getsource(docker_guest)],
            "Cmd": list(arguments),
            "User": "0:0" if as_root else f"{docker_vm.UID}:{docker_vm.UID}",
            "Labels": {docker_vm.HOME: self._home, ROLE: arguments[0]},
            "HostConfig": host,
        }

    async def _said(self, container: DockerContainer) -> Said:
        """Its line, once it is there; the caller sets the limit. Raises ProviderError where it ends without one."""
        while True:
            state, lines = await self._engine.ask("read what a throw-away container says", lambda _d: _look(container))
            for line in lines:
                with contextlib.suppress(msgspec.DecodeError):
                    return msgspec.json.decode(line, type=Said)
            if state != "running":
                said = " ".join("".join(lines).split())[-500:]
                message = f"a throw-away container on {self._engine.url} ended without a word: {said or state}"
                raise ProviderError("provider_unavailable", message, retryable=True)
            await asyncio.sleep(POLL_S)

    async def _attached(self, container: DockerContainer) -> Attached:
        async def call(_docker: Docker) -> Attached:
            shown = await container.show()
            return msgspec.convert(shown["NetworkSettings"]["Networks"][self.network], Attached)

        return await self._engine.ask("look at a throw-away container", call)

    async def _remove(self, container: DockerContainer) -> None:
        try:
            await self._engine.ask("remove a throw-away container", lambda _d: container.delete(force=True, v=True))
        except ProviderError as error:
            log.warning("a throw-away container is left: %s", error.message, extra={"code": error.code})


async def _look(container: DockerContainer) -> tuple[str, list[str]]:
    """Its state, then what it has said: in this order, nothing that it said before its end is missed."""
    shown = await container.show()
    lines = await container.log(stdout=True, stderr=True, tail=20)
    return str(shown["State"]["Status"]), list(lines)
