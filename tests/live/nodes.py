"""A NATS cluster for tests, of processes that can be killed, stopped, emptied, and cut off from one another.

As root each node has a network namespace of its own, so that the cut is one of the network; else a node that is cut off
is stopped (SIGSTOP). The configuration is the one that `drape up --nats-nodes 3` writes.
"""

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError

from deploy.local.nats import find_nats_server
from deploy.local.nats_config import USER, NatsOptions, Node, cluster_of, config_of
from deploy.local.nats_health import health
from deploy.local.ports import LOOPBACK, free_port
from deploy.nats.authorization import open_authorization
from shared.jetstream.connection import connect
from shared.jetstream.outages import passing
from shared.jetstream.topology import EVENTS
from tests.deploy.waiting import eventually
from tests.live.bridged import let_through

SIZE = 3
PASSWORD = "correct-horse_battery"
HEALTHY_TIMEOUT_S = 60.0
ROUTES_SECRET = "between-the-nodes"
READ_AT_ONCE = 50


class Network:
    """One namespace a node, joined by a bridge; or none at all, where that takes rights that we lack."""

    def __init__(self) -> None:
        self._tag = f"dr{os.getpid() % 100_000}"
        self._net = f"10.{200 + os.getpid() // 250 % 50}.{os.getpid() % 250}"
        self.real = os.geteuid() == 0 and shutil.which("ip") is not None
        self._opened = ExitStack()

    def open(self) -> None:
        try:
            self._open()
        except subprocess.CalledProcessError:
            self.close()
            self.real = False

    def _open(self) -> None:
        if not self.real:
            return
        self._ip("link", "add", self._tag, "type", "bridge")
        self._ip("addr", "add", f"{self._net}.254/24", "dev", self._tag)
        self._ip("link", "set", self._tag, "up")
        self._opened.enter_context(let_through(self._tag))
        for number in range(1, SIZE + 1):
            space, ours, theirs = self._space(number), f"{self._tag}v{number}", f"{self._tag}p{number}"
            self._ip("netns", "add", space)
            self._ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", space)
            self._ip("link", "set", ours, "master", self._tag, "up")
            for words in (("addr", "add", f"{self.host(number)}/24", "dev", theirs), ("link", "set", theirs, "up")):
                self._ip("-n", space, *words)
            self._ip("-n", space, "link", "set", "lo", "up")

    def close(self) -> None:
        if not self.real:
            return
        self._opened.close()
        for words in (
            *(("netns", "del", self._space(number)) for number in range(1, SIZE + 1)),
            ("link", "del", self._tag),
        ):
            with suppress(subprocess.CalledProcessError):  # never made
                self._ip(*words)

    def host(self, number: int) -> str:
        return f"{self._net}.{number}" if self.real else LOOPBACK

    def enter(self, number: int) -> tuple[str, ...]:
        """What goes before a command line to have it run as node `number`."""
        return ("ip", "netns", "exec", self._space(number)) if self.real else ()

    def cut(self, number: int) -> None:
        """Nothing passes between this node and the others, in either direction; clients reach all of them."""
        self._between(number, "add")

    def mend(self, number: int) -> None:
        self._between(number, "del")

    def _between(self, number: int, verb: str) -> None:
        for other in set(range(1, SIZE + 1)) - {number}:
            self._ip("-n", self._space(number), "route", verb, "blackhole", f"{self.host(other)}/32")
            self._ip("-n", self._space(other), "route", verb, "blackhole", f"{self.host(number)}/32")

    def _space(self, number: int) -> str:
        return f"{self._tag}n{number}"

    def _ip(self, *words: str) -> None:
        subprocess.run(("ip", *words), check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)


class Place(NamedTuple):
    """Where a node answers."""

    host: str
    port: int
    monitor_port: int


class Cluster(ABC):
    """Three nodes, numbered 1, 2, 3, whatever they run in."""

    def __init__(self, places: dict[int, Place]) -> None:
        self.places = places

    @abstractmethod
    def open(self) -> None:
        """Starts all of them; `settled` says when they are a cluster."""

    @abstractmethod
    def close(self) -> None:
        """Ends all of them; nothing is left."""

    @abstractmethod
    def start(self, number: int) -> None:
        """Starts a node that has ended."""

    @abstractmethod
    def end(self, number: int, how: int = signal.SIGKILL) -> None:
        """Returns when the node's process is gone."""

    @abstractmethod
    def wipe(self, number: int) -> None:
        """Removes everything that a node that has ended had stored."""

    @abstractmethod
    def cut(self, number: int) -> bool:
        """Parts a node from the others; gives whether it still answers clients itself."""

    @abstractmethod
    def mend(self, number: int) -> None:
        """Ends the cut."""

    def url(self, *numbers: int) -> str:
        """Of these nodes, else of all."""
        chosen = [self.places[number] for number in numbers or self.places]
        return ",".join(f"nats://{USER}:{PASSWORD}@{place.host}:{place.port}" for place in chosen)

    def _monitor(self, number: int) -> str:
        return f"http://{self.places[number].host}:{self.places[number].monitor_port}"

    async def settled(self) -> None:
        """Every node runs, and has all that the others have."""

        async def well() -> bool:
            return [await health(self._monitor(number)) for number in self.places] == [""] * SIZE

        await eventually(well, HEALTHY_TIMEOUT_S)

    async def leader(self, client: Client, stream: str = EVENTS) -> int:
        """The node that leads this stream, once one does."""
        found = 0

        async def led() -> bool:
            nonlocal found
            with suppress(nats.errors.Error, TimeoutError):
                cluster = (await client.jetstream(timeout=2).stream_info(stream)).cluster
                found = int(cluster.leader.rpartition("-")[2]) if cluster and cluster.leader else 0
            return found > 0

        await eventually(led, HEALTHY_TIMEOUT_S)
        return found

    # --- what they hold ---------------------------------------------------------------------------------------

    async def held(self, number: int, stream: str = EVENTS) -> dict[str, Any]:
        """Messages, bytes and sequences of a stream in this node's own store, by its own word."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._monitor(number)}/jsz", params={"accounts": "true", "streams": "true"}) as answer,
        ):
            body = await answer.json()
        [found] = [each for each in body["account_details"][0]["stream_detail"] if each["name"] == stream]
        return {key: found["state"][key] for key in ("messages", "bytes", "first_seq", "last_seq")}

    async def same(self) -> None:
        """All three stores hold the same number of messages and bytes, from and to the same sequence; waits for it."""

        async def alike() -> bool:
            first, *others = [await self.held(number) for number in self.places]
            return all(other == first for other in others)

        await eventually(alike, HEALTHY_TIMEOUT_S)

    async def digest(self, client: Client, number: int) -> str:
        """A fingerprint of every message, read from this node, which is made the leader for it."""
        prefer = msgspec.json.encode({"placement": {"preferred": f"nats-{number}"}})

        async def leads() -> bool:
            if await self.leader(client) != number:
                await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{EVENTS}", prefer, timeout=5)
            return await self.leader(client) == number

        await eventually(leads, HEALTHY_TIMEOUT_S)
        js, found = client.jetstream(timeout=5), hashlib.sha256()
        last = (await self._asked(js.stream_info, EVENTS)).state.last_seq
        for first in range(1, last + 1, READ_AT_ONCE):
            some = range(first, min(first + READ_AT_ONCE, last + 1))
            for message in await asyncio.gather(*(self._asked(js.get_msg, EVENTS, seq) for seq in some)):
                found.update(repr((message.seq, message.subject, sorted(message.headers.items()))).encode())
                found.update(message.data)
        return found.hexdigest()

    async def _asked(self, ask: Any, *words: Any) -> Any:
        """An answer, for which a new leader may take a moment."""
        answer: Any = None

        async def answered() -> bool:
            nonlocal answer
            try:
                answer = await ask(*words)
            except (APIError, nats.errors.Error, TimeoutError) as error:
                assert passing(error), error
                return False
            return True

        await eventually(answered, HEALTHY_TIMEOUT_S)
        return answer

    @asynccontextmanager
    async def connected(self, *numbers: int, name: str = "drape-live-test") -> AsyncIterator[Client]:
        """A client of these nodes, else of all."""
        client = await connect(self.url(*numbers), name)
        try:
            yield client
        finally:
            await client.close()


class Nodes(Cluster):
    """Processes of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self._folder = folder
        self._network = Network()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._nodes: dict[int, Node] = {}

    def open(self) -> None:
        self._network.open()
        for number in range(1, SIZE + 1):
            store = self._folder / str(number)
            store.mkdir(parents=True)
            ports = {"port": free_port(), "monitor_port": free_port(), "cluster_port": free_port()}
            self._nodes[number] = Node(
                name=f"nats-{number}", store=store, log=store / "nats.log", host=self._network.host(number), **ports
            )
            node = self._nodes[number]
            self.places[number] = Place(node.host, node.port, node.monitor_port)
        for number, node in self._nodes.items():
            cluster = cluster_of(node, list(self._nodes.values()), ROUTES_SECRET)
            text = config_of(node, open_authorization(USER, PASSWORD), NatsOptions(), cluster)
            # The monitor answers on the node's own address, which is not the test's loopback.
            text = text.replace(f"{LOOPBACK}:{node.monitor_port}", f"{node.host}:{node.monitor_port}")
            (node.store / "nats.conf").write_text(text)
            self.start(number)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._network.close()

    def start(self, number: int) -> None:
        argv = (
            *self._network.enter(number),
            str(find_nats_server()),
            "-c",
            str(self._nodes[number].store / "nats.conf"),
        )
        with (self._nodes[number].store / "out.log").open("ab") as output:
            self._processes[number] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def end(self, number: int, how: int = signal.SIGKILL) -> None:
        self._processes[number].send_signal(how)
        self._processes[number].wait(timeout=60)

    def wipe(self, number: int) -> None:
        shutil.rmtree(self._nodes[number].store / "jetstream")

    def cut(self, number: int) -> bool:
        if self._network.real:
            self._network.cut(number)
        else:
            self._processes[number].send_signal(signal.SIGSTOP)
        return self._network.real

    def mend(self, number: int) -> None:
        if self._network.real:
            self._network.mend(number)
        else:
            self._processes[number].send_signal(signal.SIGCONT)
