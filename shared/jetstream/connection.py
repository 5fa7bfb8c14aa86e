"""One connection to NATS, and the `Bus` made on it."""

import asyncio
import contextlib
import logging

from nats.aio.client import Client

from shared.errors import Unavailable
from shared.jetstream.commands import NatsCommands
from shared.jetstream.credentials import seed_from_environment
from shared.jetstream.denials import WatchfulClient
from shared.jetstream.feeds import NatsActivity, NatsPreviewLogs, NatsProgress
from shared.jetstream.isolation import leave_isolated
from shared.jetstream.keys import NatsKeys
from shared.jetstream.log import NatsEventLog
from shared.jetstream.objects import NatsObjects
from shared.jetstream.parked import NatsParked
from shared.jetstream.reactions import NatsReactions
from shared.jetstream.servers import public_url, servers_of
from shared.jetstream.snapshots import NatsSnapshots
from shared.jetstream.timers import NatsTimers
from shared.jetstream.trust import tls_from_environment
from shared.ports import Bus
from shared.seals import Seals

log = logging.getLogger("drape.nats")

FIRST_CONNECTION_S = 30.0
"""For all tries of the first connection. nats-py waits for ever for the end of a connection whose certificate it refused."""


def inbox_prefix(identity: str) -> str:
    """Where an identity's answers go; nobody else may listen there. Tools without an identity use NATS's own default."""
    return f"_INBOX_{identity}" if identity else "_INBOX"


async def connect(url: str, name: str, *, identity: str = "", seed: str | None = None) -> Client:
    """A connection that comes back by itself for ever. `url` may name several servers, with commas between. `seed`: the
    identity's nkey seed, or empty where the URL or nothing says who we are; None takes the environment's.

    Raises `Unavailable` when none of them answers at first, `Invalid` for a wrong seed or authority.
    """
    if seed is None:
        seed = "" if "@" in url else seed_from_environment()
    connection = WatchfulClient(identity or name)
    client: Client | None = None
    watch: asyncio.Task[None] | None = None
    servers = servers_of(url)
    trusted = tls_from_environment()
    refused: list[Exception] = []

    async def on_closed() -> None:
        if watch is not None:
            watch.cancel()

    async def on_error(error: Exception) -> None:
        # While the first connection is being made, the caller gets the error; a log line would say it twice.
        if client is None:
            refused[:] = [error]
        if not connection.denied(error) and client is not None:
            log.warning("nats_error", extra={"error": str(error) or type(error).__name__})

    async def on_disconnected() -> None:
        if client is not None and not client.is_closed and not client.is_draining:
            log.warning("nats_disconnected", extra={"client": name})

    async def on_reconnected() -> None:
        log.warning("nats_reconnected", extra={"client": name})

    try:
        async with asyncio.timeout(FIRST_CONNECTION_S):
            await connection.connect(
                servers,
                name=name,
                nkeys_seed_str=seed or None,
                connect_timeout=5,
                reconnect_time_wait=0.5,  # type: ignore[arg-type] # fractions are taken
                max_reconnect_attempts=3,
                ping_interval=10,
                max_outstanding_pings=2,
                drain_timeout=10,
                # A message that waited through an outage is sent into a changed world: better to fail at once.
                pending_size=-1,
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                closed_cb=on_closed,
                inbox_prefix=inbox_prefix(identity),
                tls=trusted,
            )
    except Exception as error:
        raise Unavailable(
            "nats_unreachable",
            f"NATS at {public_url(url)} does not answer: {_said(error, refused)}",
            "Is it running? `drape status` tells; NATS_URL names another server.",
        ) from error
    client = connection
    client.options["max_reconnect_attempts"] = -1
    if len(servers) > 1:
        watch = asyncio.create_task(leave_isolated(client, servers), name=f"isolation-{name}")
    return client


def _said(error: Exception, refused: list[Exception]) -> str:
    """Why there is no connection: what was the matter at the last server, where only our own limit has ended it."""
    why = refused[0] if refused and isinstance(error, TimeoutError) else error
    return str(why) or type(why).__name__


def bus_on(client: Client, instance: str, secret: str = "") -> Bus:
    """The ports of one service replica on its connection. `secret`: the platform's, without which no seal is opened."""
    return Bus(
        log=NatsEventLog(client),
        reactions=NatsReactions(client),
        commands=NatsCommands(client, instance),
        timers=NatsTimers(client),
        progress=NatsProgress(client),
        activity=NatsActivity(client),
        preview_logs=NatsPreviewLogs(client),
        objects=NatsObjects(client),
        parked=NatsParked(client),
        seals=Seals(NatsKeys(client), secret),
        snapshots=NatsSnapshots(client, instance),
        connected=lambda: client.is_connected,
        close=lambda: _close(client),
    )


async def _close(client: Client) -> None:
    """Drain, so that what was accepted is answered; a broken connection has nothing to drain."""
    if client.is_closed:
        return
    if client.is_connected:
        await client.drain()
    else:
        with contextlib.suppress(OSError):  # closing flushes, into a socket that is gone
            await client.close()
