"""Leaves a server of a cluster that has lost the others: it still talks to its clients, and can store nothing for them."""

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.client import Client

from shared.jetstream.topology import EVENTS

log = logging.getLogger("drape.nats")

PERIOD_S = 2.0
TIMEOUT_S = 2.0
HEARD_S = 5.0
"""A leader hears from its followers every second."""
FAILURES_MAX = 3
"""In a row; less than that is an election."""
MOVE_S = 2.0
"""How long only the other servers are tried; where none of them can be reached, the one that was left will do."""
PROBE = f"$JS.API.STREAM.INFO.{EVENTS}"
"""What every service may ask, and only the stream's leader answers."""


class _Replica(msgspec.Struct):
    active: int = 0
    """Nanoseconds since the leader heard from it."""


class _Cluster(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []

    def led(self) -> bool:
        """Whether there is a leader that others follow. One that was cut off calls itself the leader for 20 s more."""
        return bool(self.leader) and any(each.active < HEARD_S * 1e9 for each in self.replicas)


class _Error(msgspec.Struct):
    code: int = 0


class _Answer(msgspec.Struct):
    error: _Error | None = None
    cluster: _Cluster | None = None


_answer = msgspec.json.Decoder(_Answer)


async def leave_isolated(client: Client, servers: Sequence[str]) -> None:
    """Runs for as long as the client does. `servers`: all that it may connect to, as URLs."""
    failures = 0
    while not client.is_closed:
        await asyncio.sleep(PERIOD_S)
        if not client.is_connected:
            failures = 0  # it looks for another one by itself
            continue
        failures = 0 if await _led(client) else failures + 1
        if failures >= FAILURES_MAX:
            failures = 0
            await _move(client, servers)


async def _led(client: Client) -> bool:
    try:
        answer = await client.request(PROBE, b"", timeout=TIMEOUT_S)
    except (nats.errors.Error, TimeoutError):
        return False
    found = _answer.decode(answer.data)
    if found.error is not None:
        return found.error.code != 503
    return found.cluster is None or not found.cluster.replicas or found.cluster.led()


async def _move(client: Client, servers: Sequence[str]) -> None:
    here = client.connected_url
    others = [each for each in servers if here is None or urlsplit(each).netloc != here.netloc]
    if not others:
        return
    log.warning("nats_isolated", extra={"server": f"{here.hostname}:{here.port}" if here is not None else ""})
    client.set_server_pool(others)
    try:
        await client.force_reconnect()
        await asyncio.sleep(MOVE_S)
    finally:
        if not client.is_closed:
            client.set_server_pool(list(servers))
