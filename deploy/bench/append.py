"""What an append to the event log costs: on one NATS server, and on a cluster on the same machine."""

import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from deploy.local.nats_cluster import start_nodes
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make
from deploy.provision import provision
from shared.codec import Meta
from shared.events import ProjectCreated
from shared.jetstream.connection import connect
from shared.jetstream.log import NatsEventLog
from shared.ulids import new_id

WARM_UP = 50


class AppendFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of durable, optimistic appends, each to an aggregate of its own, one after another."""

    nodes: int
    appends: int
    p50_ms: float
    p99_ms: float


async def measure(nodes: int, appends: int) -> list[AppendFigures]:
    """One server, then so many. Both are made for it and gone afterwards."""
    return [await _measured(count, appends) for count in dict.fromkeys((1, nodes))]


async def _measured(nodes: int, appends: int) -> AppendFigures:
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        home = Home(Path(folder))
        home.create()
        servers = await start_nodes(home, load_or_make(home).nats_password, nodes=nodes)
        try:
            await provision(servers.url, nodes)
            client = await connect(servers.url, "drape-bench")
            try:
                latencies = await _latencies(NatsEventLog(client), appends)
            finally:
                await client.close()
        finally:
            await servers.stop()
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return AppendFigures(
        nodes=nodes, appends=appends, p50_ms=round(cuts[49] * 1000, 2), p99_ms=round(cuts[98] * 1000, 2)
    )


async def _latencies(log: NatsEventLog, appends: int) -> list[float]:
    latencies = []
    for _ in range(WARM_UP + appends):
        event = ProjectCreated(project_id=new_id(), owner="bench", name="bench")
        known = Meta(id=new_id(), at=time.time(), rev=1, correlation_id="", causation_id="", actor="bench")
        begun = time.perf_counter()
        await log.append(event, known, after=0)
        latencies.append(time.perf_counter() - begun)
    return latencies[WARM_UP:]
