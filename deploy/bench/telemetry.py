"""What telemetry costs: the same claims on a pool that exports everything to a receiver, and on one that exports nothing.

A claim is the whole loop: a command over NATS, a decision, an event that is stored and folded, and a reaction to it. The two
take turns, each on a server and a pool of its own, so that what else the machine does hits both. It is a flood that goes on:
the traces that may begin at once have begun and left before it is measured.
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

BEFORE = 2 * BURST
"""Claims that are not measured."""
BEFORE_S = 1.5
"""Until what they have traced has left: longer than the exporter waits."""


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
    """So many pairs of turns with so many claims each. All that is started is gone afterwards."""
    without: list[Turn] = []
    exporting: list[Turn] = []
    exported = 0
    for pair in range(1, pairs + 1):
        # Who begins changes, so that whatever a second run finds warmed up favours neither.
        for exports in (True, False) if pair % 2 else (False, True):
            if exports:
                async with _sink() as (endpoint, taken):
                    exporting.append(await _turn(claims, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}))
                exported += taken["bytes"]
            else:
                without.append(await _turn(claims, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}))
        say(
            f"{pair}: {without[-1].claims_per_s:7.0f} claims/s without, {exporting[-1].claims_per_s:7.0f} exporting; "
            f"{without[-1].cpu_ms:.3f} and {exporting[-1].cpu_ms:.3f} ms of the pool's time for each"
        )
    together = list(zip(exporting, without, strict=True))
    return TelemetryFigures(
        pairs=pairs,
        claims=claims,
        without=_median(without),
        exporting=_median(exporting),
        throughput=round(statistics.median(a.claims_per_s / b.claims_per_s for a, b in together), 4),
        cpu=round(statistics.median(a.cpu_ms / b.cpu_ms for a, b in together), 4),
        bytes_per_claim=round(exported / pairs / claims, 1),
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


async def _turn(claims: int, env: dict[str, str]) -> Turn:
    """The pool has as many warm VMs as there are claims, and no room to refill."""
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        home = Home(Path(folder))
        home.create()
        async with running_nats(home, load_or_make(home).nats_password) as server:
            await provision(server.url)
            size = str(BEFORE + claims + SPARE)
            pool = {
                "NATS_URL": server.url,
                "DRAPE_POOL_PROVIDER": "simulated",
                "DRAPE_POOL_TARGET": size,
                "DRAPE_POOL_MINIMUM": "0",
                "DRAPE_POOL_MAXIMUM": size,
            }
            client = await nats.connect(server.url)
            try:
                async with _process("services.pool", {**pool, **env}) as process:
                    await _until_warm(client, int(size))
                    return await _claimed(client, psutil.Process(process.pid), claims)
            finally:
                await client.close()


async def _claimed(client: Client, pool: psutil.Process, claims: int) -> Turn:
    await _claim(client, BEFORE)
    await asyncio.sleep(BEFORE_S)
    before, begun = _cpu_s(pool), time.perf_counter()
    await _claim(client, claims)
    took_s = time.perf_counter() - begun
    return Turn(round(claims / took_s, 1), round(1000 * (_cpu_s(pool) - before) / claims, 4))


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


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
