"""The machines that NATS runs on: each a network namespace on one bridge with a disk of its own, where that can be made.

Without root they are processes on loopback and plain folders: then nothing can be cut off, and no disk be filled.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import msgspec
import nats.errors

from deploy.local.nats import check_answers, find_nats_server
from deploy.local.ports import free_port
from tests.chaos.pacing import until

START_S = 60.0
STORE_MB = 192
HOME_MB = 1024
HEALTH_S = 2.0
RESTART_AFTER_S = 1.0
UNWELL_MAX = 3
"""Looks in a row at which a node says that it can't store, before it is restarted."""


def run(*words: str) -> None:
    """A command of the system; raises CalledProcessError with what it said."""
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=30)


def can_isolate() -> bool:
    """Whether namespaces, veth pairs and mounts can be made here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "mount", "umount"))):
        return False
    name = f"drape-try-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", f"dt{os.getpid()}", "type", "bridge")
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        for words in (("ip", "link", "del", f"dt{os.getpid()}"), ("ip", "netns", "del", name)):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                run(*words)
    return True


def cluster_is_spoken() -> bool:
    """Whether this code takes a NATS_URL of several servers."""
    return find_spec("shared.jetstream.servers") is not None


@contextlib.contextmanager
def disk(folder: Path, megabytes: int, *, isolated: bool) -> Iterator[Path]:
    """A folder with a disk of its own, gone with all that it holds at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    if isolated:
        run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "drape-chaos", str(folder))
    try:
        yield folder
    finally:
        if isolated:
            run("umount", "-l", str(folder))


def fill(folder: Path) -> Path:
    """Take what room the folder's disk has left, to the last block. Gives the file that holds it."""
    filler = folder / ".filled-by-chaos"
    for chunk in (b"\0" * (1 << 20), b"\0" * 4096, b"\0"):
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(chunk) == len(chunk):
                continue
    return filler


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where one node runs. `namespace` and `cable` are empty where it is not isolated."""

    number: int
    address: str
    port: int
    peer_port: int
    monitor_port: int
    folder: Path
    namespace: str = ""
    cable: str = ""

    @property
    def name(self) -> str:
        return f"nats-{self.number}"


class Node:
    """One nats-server, kept running: started again where it died, or where it says that it can't store any more."""

    def __init__(self, host: Host, peers: list[Host], password: str) -> None:
        self.host = host
        self.password = password
        self.url = f"nats://drape:{password}@{host.address}:{host.port}"
        self.monitor = f"http://{host.address}:{host.monitor_port}"
        self.restarts = 0
        self._config = host.folder.parent / f"{host.name}.conf"
        self._config.write_text(_config(host, peers, password))
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def start(self) -> None:
        words = [str(find_nats_server()), "--config", str(self._config)]
        if self.host.namespace:
            words = ["ip", "netns", "exec", self.host.namespace, *words]
        with (self._config.with_suffix(".log")).open("ab") as output:
            self._child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    async def answers(self) -> bool:
        try:
            await check_answers(self.url, HEALTH_S)
        except (OSError, TimeoutError, nats.errors.Error):
            return False
        return True

    async def keep(self) -> None:
        """For ever: what whoever runs a cluster does."""
        unwell = 0
        while True:
            await until(self._is_bad, RESTART_AFTER_S)
            if self._child is not None and self._child.poll() is not None:
                self.restarts += 1
                self.start()
                unwell = 0
                continue
            unwell = unwell + 1 if await self._cannot_store() else 0
            if unwell >= UNWELL_MAX and shutil.disk_usage(self.host.folder).free > 8 << 20:
                self.stop()

    async def _is_bad(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    async def _cannot_store(self) -> bool:
        """By its own word; one that is only behind, starting or silent gets well alone."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"{self.monitor}/healthz") as answer,
            ):
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        return answer.status != 200 and any(sign in text for sign in ("write error", "not enabled", "disabled"))


class Cluster:
    """The nodes, and what can be done to their cables."""

    def __init__(self, nodes: list[Node], *, isolated: bool) -> None:
        self.nodes = nodes
        self.isolated = isolated
        self.url = ",".join(node.url for node in nodes)

    def cut(self, node: Node) -> None:
        run("ip", "link", "set", node.host.cable, "down")

    def mend(self, node: Node) -> None:
        run("ip", "link", "set", node.host.cable, "up")


@contextlib.asynccontextmanager
async def cluster(folder: Path, count: int, *, isolated: bool) -> AsyncIterator[Cluster]:
    """Nodes that answer, kept running until the end of the block."""
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(_host(folder, n, isolated=isolated)) for n in range(1, count + 1)]
        if isolated:
            stack.enter_context(_bridge(hosts))
        password = secrets.token_hex(16)
        nodes = [Node(host, hosts if count > 1 else [], password) for host in hosts]
        keepers: list[asyncio.Task[None]] = []
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                assert await until(node.answers, START_S), f"{node.host.name} does not answer; see {folder}"
            keepers = [asyncio.create_task(node.keep()) for node in nodes]
            yield Cluster(nodes, isolated=isolated)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            for node in nodes:
                node.stop()


@contextlib.contextmanager
def _host(folder: Path, number: int, *, isolated: bool) -> Iterator[Host]:
    with disk(folder / f"nats-{number}", STORE_MB, isolated=isolated) as store:
        if not isolated:
            ports = [free_port() for _ in range(3)]
            yield Host(
                number=number,
                address="127.0.0.1",
                port=ports[0],
                peer_port=ports[1],
                monitor_port=ports[2],
                folder=store,
            )
            return
        mark = f"{os.getpid() % 100_000}"
        yield Host(
            number=number,
            address=f"{_network()}.{number + 1}",
            port=4222,
            peer_port=6222,
            monitor_port=8222,
            folder=store,
            namespace=f"drape-{mark}-{number}",
            cable=f"dc{mark}n{number}",
        )


def _network() -> str:
    """Three numbers of an address of ours, another one for each process."""
    return f"10.231.{os.getpid() % 250}"


@contextlib.contextmanager
def _bridge(hosts: list[Host]) -> Iterator[None]:
    """All hosts on one switch, which this machine is on too."""
    bridge = f"dc{os.getpid() % 100_000}br"
    with contextlib.ExitStack() as stack:
        run("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(run, "ip", "link", "del", bridge)
        run("ip", "addr", "add", f"{_network()}.1/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for host in hosts:
            run("ip", "netns", "add", host.namespace)
            stack.callback(run, "ip", "netns", "del", host.namespace)
            run("ip", "link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            run("ip", "link", "set", host.cable, "master", bridge, "up")
            inside = ("ip", "-n", host.namespace)
            run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")
        yield


def _config(host: Host, peers: list[Host], password: str) -> str:
    text = json.dumps
    routes = ", ".join(text(f"nats-route://drape:{password}@{peer.address}:{peer.peer_port}") for peer in peers)
    cluster_text = (
        f"""cluster {{
  name: drape
  listen: {text(f"{host.address}:{host.peer_port}")}
  authorization {{ user: drape, password: {text(password)} }}
  routes: [{routes}]
}}"""
        if peers
        else ""
    )
    return f"""server_name: {host.name}
listen: {text(f"{host.address}:{host.port}")}
http: {text(f"{host.address}:{host.monitor_port}")}
max_payload: {8 << 20}
max_pending: {64 << 20}
ping_interval: "10s"
authorization {{ user: drape, password: {text(password)}, timeout: 5 }}
jetstream {{
  store_dir: {text(str(host.folder))}
  max_file_store: {32 << 30}
  max_memory_store: {256 << 20}
  sync_interval: always
}}
{cluster_text}
"""
