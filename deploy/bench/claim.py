"""Claims on a warm pool of simulated VMs, at a steady rate; beside them a bare request, append and fold."""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import nats
from nats.aio.client import Client

from deploy.bench.bare import SUBJECT
from deploy.local.nats import running_nats
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make
from deploy.provision import provision
from shared.errors import Unavailable
from shared.ulids import new_id

WARM_TIMEOUT_S = 120.0
REQUEST_TIMEOUT_S = 10.0
STOP_S = 5.0
POOL_MAX = 10_000
SPARE = 10


class ClaimFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies as the caller saw them. `rate`: claims a second, asked for and reached."""

    claims: int
    rate: float
    p50_ms: float
    p99_ms: float
    bare_p50_ms: float
    bare_p99_ms: float
    failed: int


async def measure(rate: int, seconds: int) -> ClaimFigures:
    """An own NATS, fsync on every append, and an own pool process; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        home = Home(Path(folder))
        home.create()
        secrets = load_or_make(home)
        async with running_nats(home, secrets.nats_password) as server:
            await provision(server.url)
            client = await nats.connect(server.url)
            try:
                bare = await _bare(server.url, client, rate, seconds)
                latencies, failed, took_s = await _claims(server.url, client, rate, seconds)
            finally:
                await client.close()
    p50, p99 = _percentiles(latencies)
    bare_p50, bare_p99 = _percentiles(bare)
    return ClaimFigures(
        claims=len(latencies),
        rate=round(len(latencies) / took_s, 1),
        p50_ms=p50,
        p99_ms=p99,
        bare_p50_ms=bare_p50,
        bare_p99_ms=bare_p99,
        failed=failed,
    )


async def _bare(url: str, client: Client, rate: int, seconds: int) -> list[float]:
    async with _process("deploy.bench.bare", {"NATS_URL": url}) as process:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), WARM_TIMEOUT_S)

        async def claim() -> None:
            await client.request(SUBJECT, new_id().encode(), timeout=REQUEST_TIMEOUT_S)

        latencies, _, _ = await _steadily(claim, rate, seconds)
        return latencies


async def _claims(url: str, client: Client, rate: int, seconds: int) -> tuple[list[float], int, float]:
    """The pool is full of warm VMs, as many as there will be claims, and has no room to refill: claims are measured."""
    size = min(POOL_MAX, rate * seconds + SPARE)
    env = {
        "NATS_URL": url,
        "DRAPE_POOL_PROVIDER": "simulated",
        "DRAPE_POOL_TARGET": str(size),
        "DRAPE_POOL_MINIMUM": "0",
        "DRAPE_POOL_MAXIMUM": str(size),
    }
    async with _process("services.pool", env):
        await _until_warm(client, size)

        async def claim() -> None:
            body = msgspec.json.encode({"preview_id": new_id(), "owner": "bench"})
            answer = await client.request("drape.cmd.pool.acquire", body, timeout=REQUEST_TIMEOUT_S)
            if b'"vm_id":"' not in answer.data:
                raise Unavailable("no_vm", "The pool had no warm VM for a claim.")

        return await _steadily(claim, rate, seconds)


async def _steadily(work: Callable[[], Awaitable[None]], rate: int, seconds: int) -> tuple[list[float], int, float]:
    """Start `work` every 1/rate s whatever became of the earlier ones, as independent callers would.

    A latency counts from the moment at which the call was due.
    """
    latencies: list[float] = []
    failed = 0

    async def one(due: float) -> None:
        nonlocal failed
        try:
            await work()
        except Exception:
            failed += 1
        else:
            latencies.append(time.perf_counter() - due)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(rate * seconds):
            due = begun + number / rate
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            group.create_task(one(due))
    return latencies, failed, time.perf_counter() - begun


async def _until_warm(client: Client, target: int) -> None:
    deadline = time.monotonic() + WARM_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            answer = await client.request("drape.query.pool.summary", b"{}", timeout=1)
            if msgspec.json.decode(answer.data).get("available", 0) >= target:
                return
        except Exception:
            await asyncio.sleep(0.1)  # it is still starting
        await asyncio.sleep(0.1)
    raise Unavailable("pool_not_warm", f"The pool had not {target} warm VMs after {WARM_TIMEOUT_S:g} s.")


@asynccontextmanager
async def _process(module: str, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _percentiles(latencies: list[float]) -> tuple[float, float]:
    if len(latencies) < 2:
        return 0.0, 0.0
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return round(cuts[49] * 1000, 2), round(cuts[98] * 1000, 2)
