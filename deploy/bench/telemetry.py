"""What telemetry costs: the same claims on a pool that exports everything to a receiver, and on one that exports nothing.

A claim is the whole loop: a command over NATS, a decision, an event that is stored and folded, and a reaction to it. The two
take turns in short blocks, each on a server of its own, so that what else the machine does hits both. It is a flood that goes
on: the traces that may begin at once have begun and left before it is measured.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
import psutil
from nats.aio.client import Client

from deploy.bench.claim import REQUEST_TIMEOUT_S, SPARE, STOP_S, _process, _until_warm
from deploy.local.nats import running_nats
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make
from deploy.provision import provision
from shared.telemetry import BURST
from shared.ulids import new_id

CONCURRENT = 32
"""Callers that each wait for one answer at a time: enough that the pool has always something to do."""

BLOCK = 100
"""Claims until it is the other's turn."""
TRACES_PER_S = 5.0
"""The default, by which a pool that works half of the time begins half as many in a second."""
BEFORE = 2 * BURST
"""Claims that are not measured."""
BEFORE_S = 1.5
"""Until what was traced has left: longer than the exporter waits."""


class Turn(msgspec.Struct, frozen=True):
    """One run. `cpu_ms`: of the pool's process for each claim, its threads that export included."""

    claims_per_s: float
    cpu_ms: float


class TelemetryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of the turns. `throughput`: with over without, of each pair of turns; `cpu`: the same of the pool's own time.
    `bytes_per_claim`: what was exported for one."""

    pairs: int
    claims: int
    without: Turn
    exporting: Turn
    throughput: float
    cpu: float
    bytes_per_claim: float


async def measure(pairs: int, claims: int, say: Callable[[str], None]) -> TelemetryFigures:
    """So many pairs of pools with so many claims each, in whole blocks. All that is started is gone afterwards."""
    without: list[Turn] = []
    exporting: list[Turn] = []
    exported = 0
    blocks = max(1, claims // BLOCK)
    for pair in range(1, pairs + 1):
        async with _sink() as (endpoint, taken):
            plain, other = await _turns(blocks, endpoint)
        without.append(plain)
        exporting.append(other)
        exported += taken["bytes"]
        say(
            f"{pair}: {plain.claims_per_s:7.0f} claims/s without, {other.claims_per_s:7.0f} exporting; "
            f"{plain.cpu_ms:.3f} and {other.cpu_ms:.3f} ms of the pool's time for each"
        )
    together = list(zip(exporting, without, strict=True))
    return TelemetryFigures(
        pairs=pairs,
        claims=blocks * BLOCK,
        without=_median(without),
        exporting=_median(exporting),
        throughput=round(statistics.median(a.claims_per_s / b.claims_per_s for a, b in together), 4),
        cpu=round(statistics.median(a.cpu_ms / b.cpu_ms for a, b in together), 4),
        bytes_per_claim=round(exported / pairs / (BEFORE + blocks * BLOCK), 1),
    )


def _median(turns: list[Turn]) -> Turn:
    return Turn(
        round(statistics.median(each.claims_per_s for each in turns), 1),
        round(statistics.median(each.cpu_ms for each in turns), 4),
    )


@asynccontextmanager
async def _sink() -> AsyncIterator[tuple[str, dict[str, int]]]:
    """A receiver, and what it has taken, once it has ended."""
    taken: dict[str, int] = {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "deploy.bench.sink",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), REQUEST_TIMEOUT_S))
        yield f"http://127.0.0.1:{port}", taken
        process.stdin.close()
        taken.update(msgspec.json.decode(await asyncio.wait_for(process.stdout.readline(), STOP_S)))
        await asyncio.wait_for(process.wait(), STOP_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Pool:
    """A pool that is claimed from, and what that took so far."""

    def __init__(self, client: Client, process: psutil.Process) -> None:
        self.took_s = 0.0
        self._client = client
        self._process = process

    async def claim(self, claims: int) -> None:
        """So many, as fast as they are answered."""
        begun = time.perf_counter()
        await _claim(self._client, claims)
        self.took_s += time.perf_counter() - begun

    def cpu_s(self) -> float:
        """What the process has used since it began, in all its threads."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


async def _turns(blocks: int, endpoint: str) -> tuple[Turn, Turn]:
    """Without and exporting. Both pools are there at once, and each works half of the time."""
    export = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "DRAPE_OTLP_TRACES_PER_S": str(TRACES_PER_S / 2)}
    size = BEFORE + blocks * BLOCK + SPARE
    async with _pool(size, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) as without, _pool(size, export) as exporting:
        pools = [without, exporting]
        for each in pools:
            await each.claim(BEFORE)
            each.took_s = 0.0
        await asyncio.sleep(BEFORE_S)
        before = [each.cpu_s() for each in pools]
        for block in range(blocks):
            # Who begins changes, so that whatever the second finds warmed up favours neither.
            for each in pools if block % 2 else reversed(pools):
                await each.claim(BLOCK)
        await asyncio.sleep(BEFORE_S)
        claims = blocks * BLOCK
        plain, other = (
            Turn(round(claims / each.took_s, 1), round(1000 * (each.cpu_s() - begun) / claims, 4))
            for each, begun in zip(pools, before, strict=True)
        )
        return plain, other


@asynccontextmanager
async def _pool(size: int, env: dict[str, str]) -> AsyncIterator[_Pool]:
    """On a server of its own, with so many warm VMs and no room to refill."""
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        home = Home(Path(folder))
        home.create()
        async with running_nats(home, load_or_make(home).nats_password) as server:
            await provision(server.url)
            pool = {
                "NATS_URL": server.url,
                "DRAPE_POOL_PROVIDER": "simulated",
                "DRAPE_POOL_TARGET": str(size),
                "DRAPE_POOL_MINIMUM": "0",
                "DRAPE_POOL_MAXIMUM": str(size),
            }
            client = await nats.connect(server.url)
            try:
                async with _process("services.pool", {**pool, **env}) as process:
                    await _until_warm(client, size)
                    yield _Pool(client, psutil.Process(process.pid))
            finally:
                await client.close()


async def _claim(client: Client, claims: int) -> None:
    left = iter(range(claims))

    async def call() -> None:
        for _ in left:
            body = msgspec.json.encode({"preview_id": new_id(), "owner": "bench"})
            answer = await client.request("drape.cmd.pool.acquire", body, timeout=REQUEST_TIMEOUT_S)
            assert b'"vm_id":"' in answer.data, "the pool had no warm VM for a claim"

    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENT):
            group.create_task(call())
