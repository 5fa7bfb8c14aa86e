"""One NATS, one PostgreSQL or three NATS nodes for a test, embedded or in containers: the same words for both.

Containers are only imported where they are used: without an engine nothing here needs Docker's SDK.
"""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nats.aio.client import Client

from deploy.local.nats import NatsServer, running_nats
from deploy.local.paths import Home
from deploy.local.ports import free_port
from deploy.local.postgres import PostgresOptions, PostgresServer, start_postgres
from deploy.provision import provision
from shared.jetstream.connection import connect
from tests.live.choice import CONTAINERS, choice
from tests.live.nodes import PASSWORD, SIZE, Cluster, Nodes
from tests.live.platform import Platform

if TYPE_CHECKING:
    from tests.live.containers import NatsContainer, Server


class LogServer(ABC):
    """One NATS that may be taken away."""

    url: str

    @abstractmethod
    async def stop(self) -> None:
        """Ends it; it does not come back."""

    @abstractmethod
    async def die(self) -> None:
        """SIGKILL; it comes back where it was, with what it had stored."""


class _Embedded(LogServer):
    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.url = server.url

    async def stop(self) -> None:
        await self._server.stop()

    async def die(self) -> None:
        assert self._server.child.pid is not None
        os.kill(self._server.child.pid, signal.SIGKILL)  # its supervisor starts it again


class _Contained(LogServer):
    def __init__(self, server: "NatsContainer") -> None:
        self._server = server
        self.url = server.url

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.kill, "SIGTERM")

    async def die(self) -> None:
        await asyncio.to_thread(self._server.kill)
        await asyncio.to_thread(self._server.start)


@asynccontextmanager
async def connected(server: LogServer) -> AsyncIterator[Client]:
    """A client of that server, for as long as the block."""
    client = await connect(server.url, "drape-live-test")
    try:
        yield client
    finally:
        with suppress(OSError):  # the server may have gone first
            await client.close()


@asynccontextmanager
async def log_server(kind: str, folder: Path) -> AsyncIterator[LogServer]:
    """A NATS with the streams of a platform; gone with the block."""
    if kind == CONTAINERS:
        from tests.live.containers import NatsContainer

        contained = NatsContainer()
        try:
            await asyncio.to_thread(contained.start)
            await contained.ready()
            await provision(contained.url)
            yield _Contained(contained)
        finally:
            await asyncio.to_thread(contained.remove)
        return
    home = Home(folder / "home")
    home.create()
    async with running_nats(home, PASSWORD) as server:
        await provision(server.url)
        yield _Embedded(server)


def cluster(kind: str, folder: Path) -> Cluster:
    """Three nodes, not yet open."""
    if kind == CONTAINERS:
        from tests.live.containers import ContainerNodes

        return ContainerNodes(folder)
    return Nodes(folder)


def provisioned_cluster(kind: str, folder: Path) -> Cluster:
    """Three nodes with the streams of a platform, which whoever asks has to close."""
    nodes = cluster(kind, folder)

    async def settle() -> None:
        await nodes.settled()
        await provision(nodes.url(), SIZE)

    try:
        nodes.open()
        asyncio.run(settle())
    except BaseException:
        nodes.close()
        raise
    return nodes


class Database(ABC):
    """One PostgreSQL that may be stopped and started again, where it was and with what it had stored."""

    url: str

    @abstractmethod
    async def start(self) -> None:
        """Returns once a query is answered."""

    @abstractmethod
    async def stop(self) -> None:
        """Returns when it is gone."""

    @abstractmethod
    async def remove(self) -> None:
        """Ends it, if it runs, for good."""


class _EmbeddedDatabase(Database):
    def __init__(self, folder: Path, password: str) -> None:
        self._home = Home(folder / "home")
        self._home.create()
        self._password, self._port = password, free_port()
        self._server: PostgresServer | None = None
        self.url = f"postgresql://drape:{password}@127.0.0.1:{self._port}/drape?sslmode=disable"

    async def start(self) -> None:
        self._server = await start_postgres(self._home, self._password, PostgresOptions(port=self._port))

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def remove(self) -> None:
        await self.stop()


class _ContainedDatabase(Database):
    def __init__(self, password: str) -> None:
        from tests.live.containers import PostgresContainer

        self._server = PostgresContainer(password)
        self.url = self._server.url

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)
        await self._server.ready()

    async def stop(self) -> None:
        await asyncio.to_thread(self._server.kill, "SIGINT")

    async def remove(self) -> None:
        await asyncio.to_thread(self._server.remove)


def database(folder: Path, password: str = PASSWORD) -> Database:
    """A PostgreSQL of the session's kind, not yet started."""
    return _ContainedDatabase(password) if choice().kind == CONTAINERS else _EmbeddedDatabase(folder, password)


class Broken(ABC):
    """A platform, and how its servers are taken from it."""

    platform: Platform

    @abstractmethod
    def kill_everything(self) -> None:
        """SIGKILL to NATS, to PostgreSQL, and to all that runs beside them."""

    @abstractmethod
    def up_again(self) -> None:
        """All of it, after `kill_everything`."""

    @abstractmethod
    def without_nats(self) -> AbstractContextManager[None]:
        """NATS is killed, stays away during the block, and comes back by itself afterwards."""

    @abstractmethod
    def without_postgres(self) -> AbstractContextManager[None]:
        """The same for PostgreSQL."""


class _EmbeddedBroken(Broken):
    """The supervisor holds still while a server is away, and restarts it once it is let go."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def kill_everything(self) -> None:
        self.platform.kill_everything()

    def up_again(self) -> None:
        self.platform.up()

    @contextmanager
    def without_nats(self) -> Iterator[None]:
        with self.platform.supervisor_paused():
            self.platform.kill("nats")
            yield

    @contextmanager
    def without_postgres(self) -> Iterator[None]:
        with self.platform.supervisor_paused():
            self.platform.kill_postgres()
            yield


class _ContainedBroken(Broken):
    """Servers that the platform was told the addresses of."""

    def __init__(self, platform: Platform, beside: "Beside") -> None:
        self.platform = platform
        self._beside = beside

    def kill_everything(self) -> None:
        self.platform.kill_services()
        self._beside.nats.kill()
        self._beside.postgres.kill()

    def up_again(self) -> None:
        self._beside.start()
        self.platform.up()

    def without_nats(self) -> AbstractContextManager[None]:
        return _away(self._beside.nats)

    def without_postgres(self) -> AbstractContextManager[None]:
        return _away(self._beside.postgres)


@contextmanager
def _away(server: "Server") -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


class Beside:
    """NATS and PostgreSQL in containers, for one platform."""

    def __init__(self) -> None:
        from tests.live.containers import NatsContainer, PostgresContainer

        self.nats, self.postgres = NatsContainer(), PostgresContainer()
        self.env = {"NATS_URL": self.nats.url, "DATABASE_URL": self.postgres.url}
        """What tells a platform of them."""

    def start(self) -> None:
        """Returns once both answer."""
        from tests.live.containers import started

        asyncio.run(started(self.nats, self.postgres))

    def remove(self) -> None:
        """Both, for good."""
        self.nats.remove()
        self.postgres.remove()


@contextmanager
def servers_beside() -> Iterator[dict[str, str]]:
    """The environment of a platform that uses servers of the session's kind: empty where it starts its own."""
    if choice().kind != CONTAINERS:
        yield {}
        return
    beside = Beside()
    try:
        beside.start()
        yield beside.env
    finally:
        beside.remove()


@contextmanager
def broken_in_containers(folder: Path) -> Iterator[Broken]:
    """A platform whose servers are containers of its own."""
    beside = Beside()
    try:
        beside.start()
        platform = Platform(folder / "home", beside.env)
        try:
            platform.up()
            yield _ContainedBroken(platform, beside)
        finally:
            platform.down()
    finally:
        beside.remove()


def broken_embedded(platform: Platform) -> Broken:
    """The platform itself, which starts its own servers."""
    return _EmbeddedBroken(platform)
