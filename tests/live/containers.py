"""NATS, a cluster of it, and PostgreSQL in containers, for tests: each can be killed, started again, emptied, cut off.

Images are built from what is installed here (deploy/images); nothing is downloaded. Ports are fixed when a server is made, so
that it comes back where it was, and are this machine's own.
"""

import asyncio
import functools
import os
from pathlib import Path
from typing import Any

import docker
import psutil
from docker.errors import APIError, NotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from deploy.images import servers as images
from deploy.local import nats as local_nats
from deploy.local import postgres as local_postgres
from deploy.local.nats_health import health
from deploy.local.ports import LOOPBACK, free_port
from tests.deploy.waiting import eventually
from tests.live.nodes import PASSWORD, ROUTES_SECRET, SIZE, Cluster, Place

USER = "drape"
LABEL = "dev.drape.tests"
"""On all that is made here: the process id of the tests, and when that process began."""
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30
ENGINE_TIMEOUT_S = 60


@functools.cache
def image(name: str) -> str:
    """The image's name by content; built once, the first time that any session asks. What sessions left that were killed is
    removed with it."""
    # Its helper container would have to be downloaded.
    testcontainers_config.ryuk_disabled = True
    _end_leftovers()
    return images.build(name)


def _mark() -> str:
    return f"{os.getpid()}-{psutil.Process().create_time():.2f}"


def _end_leftovers() -> None:
    def left(attributes: dict[str, Any]) -> bool:
        pid, _, began = str((attributes.get("Labels") or {})[LABEL]).partition("-")
        try:
            return f"{psutil.Process(int(pid)).create_time():.2f}" != began
        except psutil.NoSuchProcess:
            return True

    engine = docker.from_env(timeout=ENGINE_TIMEOUT_S)
    try:
        mine = {"label": LABEL}
        for container in engine.containers.list(all=True, filters=mine):
            if left(container.attrs["Config"]):
                container.remove(force=True, v=True)
        for each in (*engine.networks.list(filters=mine), *engine.volumes.list(filters=mine)):
            if left(each.attrs):
                each.remove()
    except (NotFound, APIError) as error:
        # Another session may be about the same; what stays is found the next time.
        assert error.status_code in (404, 409), error
    finally:
        engine.close()


class Server:
    """One container. `ports`: those inside, by name; where they are on this machine is told by `port`. `files`: what is put in the
    place of what the image holds."""

    def __init__(
        self,
        name: str,
        ports: dict[str, int],
        env: dict[str, str],
        *,
        command: str = "",
        files: dict[str, bytes] | None = None,
    ) -> None:
        self._image = image(name)
        self._inside = ports
        self._env = env
        self._command = command
        self._files = files or {}
        self._outside = {each: free_port() for each in ports}
        self._container: DockerContainer | None = None
        self.network: Network | None = None

    def port(self, name: str) -> int:
        """The port on this machine's loopback."""
        return self._outside[name]

    @property
    def made(self) -> Any:
        """The Docker SDK's container. Fails where there is none."""
        assert self._container is not None, "the container was never started"
        return self._container.get_wrapped_container()

    def start(self) -> None:
        """Makes and starts it, or starts it again with all that it had stored."""
        if self._container is not None:
            self.made.start()
            return
        made: Any = DockerContainer(self._image).with_envs(**self._env)
        for name, inside in self._inside.items():
            made.ports[f"{inside}/tcp"] = (LOOPBACK, self._outside[name])
        if self._command:
            made.with_command([self._command])
        if self.network is not None:
            made.with_network(self.network)
        for path, content in self._files.items():
            made.with_copy_into_container(content, path, 0o644)
        # The processes inside are nobody's; they need no rights at all.
        made.with_kwargs(labels={LABEL: _mark()}, cap_drop=["ALL"], security_opt=["no-new-privileges"])
        self._container = made
        made.start()

    def kill(self, how: str = "SIGKILL") -> None:
        """Returns when its process is gone; what it had stored stays."""
        self.made.kill(signal=how)
        self.made.wait(timeout=STOP_TIMEOUT_S)

    def remove(self) -> None:
        """The container and all that it had stored. Does nothing where there is none."""
        container, self._container = self._container, None
        if container is not None:
            container.stop()


class NatsContainer(Server):
    """One NATS with JetStream, by password."""

    def __init__(
        self,
        name: str = "nats",
        more: dict[str, str] | None = None,
        command: str = "",
        files: dict[str, bytes] | None = None,
    ) -> None:
        env = {"NATS_NAME": name, "NATS_USER": USER, "NATS_PASSWORD": PASSWORD, **(more or {})}
        super().__init__("drape-nats", {"client": 4222, "monitor": 8222}, env, command=command, files=files)
        self.address = f"nats://{LOOPBACK}:{self.port('client')}"
        self.url = f"nats://{USER}:{PASSWORD}@{LOOPBACK}:{self.port('client')}"

    async def listens(self) -> None:
        """Returns once the server itself is there, whoever it lets in."""
        monitor = f"http://{LOOPBACK}:{self.port('monitor')}"

        async def well() -> bool:
            return await health(monitor) == ""

        await eventually(well, START_TIMEOUT_S)

    async def ready(self) -> None:
        """Returns once JetStream answers."""
        await eventually(lambda: local_nats.answers(self.url), START_TIMEOUT_S)


class PostgresContainer(Server):
    """One PostgreSQL, with the database `drape`. `port`: where it is to be on this machine."""

    def __init__(self, password: str = PASSWORD, port: int = 0) -> None:
        env = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": password, "POSTGRES_DB": "drape"}
        super().__init__("drape-postgres", {"client": 5432}, env)
        if port:
            self._outside["client"] = port
        self.url = f"postgresql://{USER}:{password}@{LOOPBACK}:{self.port('client')}/drape?sslmode=disable"

    async def ready(self) -> None:
        """Returns once a query is answered; the first time the data folder is made before."""
        await eventually(lambda: local_postgres.answers(self.url), START_TIMEOUT_S)


class ContainerNodes(Cluster):
    """Three NATS nodes, joined by a network that a node can be taken from; clients reach each by another one."""

    def __init__(self, _: Path) -> None:
        labels = {"labels": {LABEL: _mark()}}
        self._clients = Network(docker_network_kw=labels)
        self._routes = Network(docker_network_kw={**labels, "internal": True})
        more = {"NATS_ROUTES_PASSWORD": ROUTES_SECRET}
        for number in range(1, SIZE + 1):
            more[f"NATS_ROUTE_{number}"] = f"nats://node:{ROUTES_SECRET}@nats-{number}:6222"
        self._servers = {
            number: NatsContainer(f"nats-{number}", more, "/etc/nats/cluster.conf") for number in range(1, SIZE + 1)
        }
        super().__init__(
            {
                number: Place(LOOPBACK, server.port("client"), server.port("monitor"))
                for number, server in self._servers.items()
            }
        )

    def open(self) -> None:
        for network in (self._clients, self._routes):
            network.create()
        for number in self._servers:
            self.start(number)

    def close(self) -> None:
        for server in self._servers.values():
            server.remove()
        for network in (self._clients, self._routes):
            if network._network is not None:
                network.remove()

    def start(self, number: int) -> None:
        server = self._servers[number]
        fresh = server._container is None
        server.network = self._clients
        server.start()
        if fresh:
            self.mend(number)

    def end(self, number: int, how: int = 9) -> None:
        self._servers[number].kill(str(int(how)))

    def wipe(self, number: int) -> None:
        self._servers[number].remove()

    def cut(self, number: int) -> bool:
        self._routes._unwrap_network.disconnect(self._servers[number].made)
        return True

    def mend(self, number: int) -> None:
        self._routes._unwrap_network.connect(self._servers[number].made, aliases=[f"nats-{number}"])


async def started(*servers: NatsContainer | PostgresContainer) -> None:
    """Starts them, and returns once all of them answer."""
    for server in servers:
        await asyncio.to_thread(server.start)
    for server in servers:
        await server.ready()
