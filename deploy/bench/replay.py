"""Starts of the services on a long log: without a snapshot and with one, beside bare reading of the same log."""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
from nats.aio.client import Client

from deploy.bench.synthetic import events
from deploy.doctor.replaying import DEFINITIONS
from deploy.local.nats import answers, find_nats_server
from deploy.local.ports import LOOPBACK, free_port
from deploy.provision import provision
from shared.codec import Meta, Recorded, encode, filter_of, subject_of
from shared.errors import DrapeError
from shared.events import aggregate_key
from shared.jetstream.bulk import Replay
from shared.jetstream.connection import bus_on, connect
from shared.ports import Bus
from shared.runtime import Runtime
from shared.snapshots import SnapshotKeeper

START_TIMEOUT_S = 15.0
STOP_S = 5.0
UNSTORED_MAX = 5_000
FILL_TIMEOUT_S = 60.0
POLL_S = 0.005


class ReplayRow(msgspec.Struct, frozen=True, kw_only=True):
    """One service's starts on this log. `stall_ms`: the longest time for which nothing else ran while its snapshot was
    being written; `snapshot_bytes`: as stored before compression. `restore_s`: its start from there."""

    service: str
    events: int
    replay_s: float
    events_per_s: int
    snapshot_bytes: int
    keep_s: float
    stall_ms: float
    restore_s: float


class ReplayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`read_s`: the bare log, read with the same code and not decoded."""

    events: int
    read_s: float
    read_events_per_s: int
    rows: tuple[ReplayRow, ...]


async def measure(count: int, say: Callable[[str], None]) -> ReplayFigures:
    """An own NATS with so many events; everything is gone afterwards. It does not fsync: reading is measured."""
    async with _server() as url:
        await provision(url)
        writer = await nats.connect(url)
        try:
            begun = time.perf_counter()
            await fill(writer, count)
            say(f"{count} events stored in {time.perf_counter() - begun:.1f} s")
        finally:
            await writer.close()
        client = await connect(url, "drape-bench")
        try:
            begun = time.perf_counter()
            await _Bare(client, 0, count, None, lambda _: None).run()
            read_s = time.perf_counter() - begun
            say(f"bare reading {count / read_s:,.0f} events/s")
            bus = bus_on(client, "bench")
            rows = [await _service(name, bus, count, say) for name in DEFINITIONS]
        finally:
            await client.close()
    return ReplayFigures(
        events=count, read_s=round(read_s, 4), read_events_per_s=round(count / read_s), rows=tuple(rows)
    )


class _Bare(Replay):
    """Reads and counts, decodes nothing."""

    def read(self, seq: int, key: bytes, kind: bytes, whole: bytes, begin: int, body: int, end: int) -> Recorded:
        return _NOTHING


_NOTHING = Recorded(
    seq=0, key="", type="", meta=Meta(id="", at=0.0, rev=0, correlation_id="", causation_id="", actor=""), event=None
)


async def _service(name: str, bus: Bus, count: int, say: Callable[[str], None]) -> ReplayRow:
    cold = await _started(name, bus)
    keeper = SnapshotKeeper(cold, events=1, period_s=1.0)
    gaps = [0.0]
    ticking = asyncio.create_task(_longest_gap(gaps))
    begun = time.perf_counter()
    await asyncio.sleep(0)
    await keeper.keep()
    keep_s = time.perf_counter() - begun
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    warm = await _started(name, bus)
    if warm.snapshot_seq != count or warm.state != cold.state:
        raise DrapeError("bench_not_restored", f"The {name} service did not begin with the snapshot just written.")
    row = ReplayRow(
        service=name,
        events=count,
        replay_s=round(cold.replay_s, 4),
        events_per_s=round(count / cold.replay_s),
        snapshot_bytes=keeper.size_bytes,
        keep_s=round(keep_s, 4),
        stall_ms=round(gaps[0] * 1000, 2),
        restore_s=round(warm.replay_s, 4),
    )
    say(f"{name}: {row.events_per_s:,} events/s, {row.restore_s:.3f} s with a snapshot")
    return row


async def _longest_gap(found: list[float]) -> None:
    """Notes the longest time between two turns of the event loop."""
    last = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now = time.perf_counter()
        found[0] = max(found[0], now - last)
        last = now


async def _started(name: str, bus: Bus) -> Runtime[Any]:
    runtime: Runtime[Any] = Runtime(DEFINITIONS[name](), bus)
    await runtime.start()
    await runtime.stop()
    return runtime


async def fill(client: Client, count: int) -> None:
    """Store `events(count)` without waiting for each; the expectations of a real append are there in size, not checked."""
    js = client.jetstream(timeout=START_TIMEOUT_S)
    for seq, (event, meta, after) in enumerate(events(count), start=1):
        headers = {
            "Nats-Msg-Id": meta.id,
            "Made-Expected-Last-Subject-Sequence": str(after),
            "Made-Expected-Last-Subject-Sequence-Subject": filter_of(aggregate_key(event)),
            "Drape-Correlation-Id": meta.correlation_id,
            "Drape-Causation-Id": meta.causation_id,
            "Drape-Actor": meta.actor,
            "traceparent": meta.traceparent,
        }
        await client.publish(subject_of(event), encode(event, meta), headers=headers)
        if seq % UNSTORED_MAX == 0 or seq == count:
            async with asyncio.timeout(FILL_TIMEOUT_S):
                while (await js.stream_info("DRAPE_EVENTS")).state.last_seq < seq:
                    await asyncio.sleep(POLL_S)


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    port = free_port()
    url = f"nats://{LOOPBACK}:{port}"
    with tempfile.TemporaryDirectory(prefix="drape-bench-") as folder:
        process = await asyncio.create_subprocess_exec(
            find_nats_server(),
            *("-js", "-sd", str(Path(folder)), "-a", LOOPBACK, "-p", str(port)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await answers(url):
                    await asyncio.sleep(POLL_S)
            yield url
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
