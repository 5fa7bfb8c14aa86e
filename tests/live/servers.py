"""One NATS, one PostgreSQL or three NATS nodes for a test, embedded or in containers: the same words for both.

Containers are only imported where they are used: without an engine nothing here needs Docker's SDK.
"""

import asyncio
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.nats import NatsServer, running_nats
from deploy.local.paths import Home
from deploy.local.ports import free_port
from deploy.local.postgres import PostgresOptions, PostgresServer, start_postgres
from deploy.provision import provision
from tests.live.choice import CONTAINERS, choice
from tests.live.nodes import PASSWORD, SIZE, Cluster, Nodes

if TYPE_CHECKING:
    from tests.live.containers import NatsContainer


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
