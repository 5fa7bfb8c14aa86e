"""The machines that NATS runs on: each a network namespace on one bridge with a disk of its own, where that can be made.

Without root they are processes on loopback and plain folders: then nothing can be cut off, and no disk be filled.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import msgspec
import psutil

from deploy.local.nats import answers, find_nats_server
from deploy.local.nats_config import NatsOptions, cluster_of, config_of
from deploy.local.nats_config import Node as NatsNode
from deploy.local.nats_health import Turns, health
from deploy.local.ports import LOOPBACK, free_port
from deploy.nats.authorization import authorization, users
from deploy.nats.permissions import OPERATOR
from tests.chaos.pacing import until
from tests.live.bridged import let_through

NODES = 3
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


def isolation_missing() -> str:
    """Why namespaces, cables and disks can't be made here, found by making one of each; empty where they can."""
    if os.geteuid() != 0:
        return "not root"
    mark, folder = f"{os.getpid() % 100_000}", tempfile.mkdtemp(prefix="drape-try-")
    space, cable = f"drape-try-{mark}", f"dt{mark}"
    try:
        run("ip", "netns", "add", space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "link", "add", f"{cable}br", "type", "bridge")
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", cable, "master", f"{cable}br", "up")
        run("ip", "netns", "exec", space, "true")
        run("mount", "-t", "tmpfs", "-o", "size=1m", "drape-chaos", folder)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no namespace, veth pair, bridge or tmpfs can be made: {getattr(error, 'stderr', '') or error}".strip()
    finally:
        for words in (
            ("umount", folder),
            ("ip", "link", "del", cable),
            ("ip", "link", "del", f"{cable}br"),
            ("ip", "netns", "del", space),
        ):
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # never made
                run(*words)
        os.rmdir(folder)
    return ""


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


def end_all(folder: Path) -> None:
    """Kills every process that has something below this folder, as its home, its directory or in its words: what a run
    that was broken off has left."""
    for process in psutil.process_iter():
        try:
            told = (process.cwd(), *process.cmdline(), process.environ().get("DRAPE_HOME", ""))
        except (psutil.Error, OSError):
            continue
        if process.pid != os.getpid() and any(each.startswith(f"{folder}/") for each in told):
            with contextlib.suppress(psutil.Error):
                process.kill()


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

    def node(self) -> NatsNode:
        """As the configuration has it; the log is on another disk than the one that gets full."""
        return NatsNode(
            name=self.name,
            host=self.address,
            port=self.port,
            monitor_port=self.monitor_port,
            cluster_port=self.peer_port,
            store=self.folder,
            log=self.folder.parent / f"{self.name}.log",
        )


class Node:
    """One nats-server, kept running: started again where it died, or where it says that it can't store any more."""

    def __init__(self, host: Host, config: str, password: str, turns: Turns) -> None:
        self.host = host
        self.url = f"nats://{OPERATOR}:{password}@{host.address}:{host.port}"
        self.monitor = f"http://{host.address}:{host.monitor_port}"
        self._turns = turns
        self._config = host.folder.parent / f"{host.name}.conf"
        self._config.write_text(config)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def start(self) -> None:
        words = [str(find_nats_server()), "--config", str(self._config)]
        if self.host.namespace:
            words = ["ip", "netns", "exec", self.host.namespace, *words]
        with (self._config.with_suffix(".out")).open("ab") as output:
            self._child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def wipe(self) -> None:
        """Ends it and takes all that it had stored."""
        self.stop()
        shutil.rmtree(self.host.folder / "jetstream")

    async def answers(self) -> bool:
        return await answers(self.url, HEALTH_S)

    async def keep(self) -> None:
        """For ever: what whoever runs a cluster does."""
        unwell = 0
        while True:
            if await until(self._is_dead, RESTART_AFTER_S):
                self.start()
                unwell = 0
                continue
            stuck = await self._turns.stuck(self.host.name, self.monitor, self.host.folder)
            unwell = unwell + 1 if stuck else 0
            if unwell >= UNWELL_MAX:
                self.stop()

    async def _is_dead(self) -> bool:
        return self._child is not None and self._child.poll() is not None


class Cluster:
    """The nodes, and what can be done to their cables."""

    def __init__(self, nodes: list[Node], *, isolated: bool) -> None:
        self.nodes = nodes
        self.isolated = isolated
        self.url = ",".join(f"nats://{node.host.address}:{node.host.port}" for node in nodes)
        """Without a password: who connects has a key."""

    async def is_well(self) -> bool:
        """Whether every node runs and has all that the others have."""
        return [await health(node.monitor) for node in self.nodes] == [""] * len(self.nodes)

    def cut(self, node: Node) -> None:
        run("ip", "link", "set", node.host.cable, "down")

    def mend(self, node: Node) -> None:
        run("ip", "link", "set", node.host.cable, "up")


@contextlib.asynccontextmanager
async def cluster(folder: Path, keys: Mapping[str, str], *, isolated: bool) -> AsyncIterator[Cluster]:
    """Nodes that answer, kept running until the end of the block. `keys`: the public one of each identity."""
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(_host(folder, n, isolated=isolated)) for n in range(1, NODES + 1)]
        if isolated:
            stack.enter_context(_bridge(hosts))
        password, between, turns = secrets.token_hex(16), secrets.token_hex(16), Turns()
        who = authorization(users(keys, password))
        nodes = [Node(host, _config(host, hosts, who, between), password, turns) for host in hosts]
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
        stack.enter_context(let_through(bridge))
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


def _config(host: Host, hosts: list[Host], who: str, secret: str) -> str:
    """The product's own configuration, monitored on an address that is not loopback. `who`: may connect, and do what."""
    joined = cluster_of(host.node(), [each.node() for each in hosts], secret)
    text = config_of(host.node(), who, NatsOptions(), joined)
    return text.replace(f"{LOOPBACK}:{host.monitor_port}", f"{host.address}:{host.monitor_port}")
