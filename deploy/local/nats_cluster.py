"""The embedded NATS: one server, or three that replicate every stream; started together, ended together.

How many there are is decided with the first start and written down, because their stores differ: a single server's
streams are not replicated, and a cluster does not take them over.
"""

import asyncio
import secrets as random_secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from deploy.local import nats as local_nats
from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.local.nats_config import USER, NatsOptions, Node, cluster_of, config_of, included
from deploy.local.nats_health import Turns, health
from deploy.local.paths import Home
from deploy.local.ports import LOOPBACK, free_port, require_free
from deploy.local.processes import Supervised, wait_answering
from deploy.nats.authorization import User
from deploy.nats.permissions import OPERATOR

SIZES = (1, 3)
"""Numbers of nodes that make sense on one machine: two have no majority without each other."""
POLL_S = 0.1


class Layout(msgspec.Struct, frozen=True):
    """What `nats/layout.json` holds."""

    nodes: int


class NatsNodes:
    """The running servers. `url` names all of them, with their passwords, `address` without; `monitor_urls` are open to this
    machine."""

    def __init__(self, children: list[Supervised], urls: list[str], monitor_urls: list[str]) -> None:
        self.children = children
        self.urls = urls
        self.url = ",".join(urls)
        self.address = ",".join(f"nats://{url.rpartition('@')[2]}" for url in urls)
        self.monitor_urls = monitor_urls

    async def stop(self) -> None:
        """Ends all of them; returns when they are gone."""
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(child.stop())


def stored_nodes(home: Home) -> int | None:
    """How many nodes the stores of this home were made for; None where there are none yet."""
    try:
        return msgspec.json.decode((home.nats / "layout.json").read_bytes(), type=Layout).nodes
    except FileNotFoundError:
        return 1 if (home.nats / "jetstream").exists() else None  # made before layouts were written down
    except msgspec.DecodeError as error:
        raise LauncherError(
            "nats_layout_unreadable",
            f"{home.nats / 'layout.json'} cannot be understood: {error}.",
            'Restore it: {"nodes": 1}, or {"nodes": 3} where there are folders 1, 2 and 3 beside it.',
        ) from error


def nodes_for(home: Home, asked: int | None) -> int:
    """How many to start: as many as the home has, else as asked for, else one. Raises LauncherError `nats_layout`,
    `bad_option`."""
    if asked is not None and asked not in SIZES:
        raise LauncherError("bad_option", f"{asked} NATS nodes make no cluster.", "Give 1 or 3: --nats-nodes 3.")
    stored = stored_nodes(home)
    if stored is None:
        return asked or 1
    if asked is not None and asked != stored:
        raise LauncherError(
            "nats_layout",
            f"The log in {home.nats} was made by {_count(stored)}, and {_count(asked)} cannot take it over.",
            f"Start with --nats-nodes {stored}, or with another DRAPE_HOME; how a log is moved is told in deploy/nats/README.md.",
        )
    return stored


async def start_nodes(
    home: Home,
    password: str,
    options: NatsOptions | None = None,
    nodes: int | None = None,
    users: Sequence[User] = (),
) -> NatsNodes:
    """Starts the servers and returns once JetStream answers on all of them. Raises LauncherError: `nats_missing`,
    `port_taken`, `nats_failed`, `nats_layout`. `home` must have been created."""
    options = options or NatsOptions()
    count = nodes_for(home, nodes)
    if count == 1:
        server = await local_nats.start_nats(home, password, options, users)
        _write_layout(home, 1)
        return NatsNodes([server.child], [server.url], [server.monitor_url])
    binary = local_nats.find_nats_server()
    placed = _places(home, count, options)
    _write_layout(home, count)
    user = OPERATOR if users else USER
    who, secret, turns = (
        local_nats.write_authorization(home, users, password),
        random_secrets.token_urlsafe(32),
        Turns(),
    )
    children = []
    for node in placed:
        node.store.mkdir(mode=0o700, exist_ok=True)
        config = node.store / "nats.conf"
        records.write_private(
            config,
            config_of(node, included(who, node.store), options, cluster_of(node, placed, secret)).encode(),
        )
        stuck = partial(turns.stuck, node.name, _monitor(node), node.store)
        children.append(Supervised(local_nats.spec_of(home, node, binary, config, options, stuck), home))
    servers = NatsNodes(
        children,
        [f"nats://{user}:{password}@{LOOPBACK}:{node.port}" for node in placed],
        [_monitor(node) for node in placed],
    )
    try:
        for child in children:
            child.start()
        async with asyncio.TaskGroup() as group:
            for child, url, monitor in zip(children, servers.urls, servers.monitor_urls, strict=True):
                group.create_task(_formed(child, url, monitor, options))
    except BaseException as error:
        await servers.stop()
        if isinstance(error, BaseExceptionGroup) and (known := error.subgroup(LauncherError)):
            raise known.exceptions[0] from error
        raise
    return servers


async def _formed(child: Supervised, url: str, monitor_url: str, options: NatsOptions) -> None:
    """Returns once this node has caught up and JetStream answers through it."""

    async def whole() -> bool:
        return await health(monitor_url) == "" and await local_nats.answers(url)

    await wait_answering(child, whole, code="nats_failed", timeout_s=options.cluster_timeout_s, poll_s=POLL_S)


def _places(home: Home, count: int, options: NatsOptions) -> list[Node]:
    if options.port:
        require_free(LOOPBACK, options.port, "NATS", "Give another port, or set NATS_URL to use a running server.")
    free: list[int] = [options.port] if options.port else []
    while len(free) < 3 * count:
        if (port := free_port()) not in free:
            free.append(port)
    return [
        Node(
            name=f"nats-{number}",
            port=free[number - 1],
            monitor_port=free[count + number - 1],
            cluster_port=free[2 * count + number - 1],
            store=store_of(home, number),
            log=home.logs / f"nats-{number}.log",
        )
        for number in range(1, count + 1)
    ]


def store_of(home: Home, number: int) -> Path:
    """The folder of node 1, 2 or 3."""
    return home.nats / str(number)


def _monitor(node: Node) -> str:
    return f"http://{LOOPBACK}:{node.monitor_port}"


def _write_layout(home: Home, nodes: int) -> None:
    records.write_private(home.nats / "layout.json", msgspec.json.encode(Layout(nodes)))


def _count(nodes: int) -> str:
    return "one NATS server" if nodes == 1 else f"a cluster of {nodes}"
