"""`bench`: this project's share, beside the bare cost of the same work in the same run."""

from pathlib import Path

import click
import msgspec

from deploy.bench import append as append_bench
from deploy.bench import claim as claims
from deploy.bench import overload as overloads
from deploy.bench import plot as plots
from deploy.bench import preview as previews
from deploy.bench import replay as replays
from deploy.bench import telemetry as telemetries
from deploy.bench.rows import MODES, Mode, table
from deploy.cli.main import command
from deploy.cli.output import Output


@click.group()
def bench() -> None:
    """Measure, beside the bare cost in the same run."""


@bench.command()
@click.option("--rate", type=click.IntRange(1, 2000), default=300, show_default=True, help="Claims a second.")
@click.option("--seconds", type=click.IntRange(1, 30), default=5, show_default=True)
@command
async def claim(output: Output, rate: int, seconds: int) -> int:
    """Claims on a warm pool of simulated VMs: asked -> VmAcquired stored (fsynced), folded and answered."""
    figures = await claims.measure(rate, seconds)
    output.result(
        {"type": "bench_claim", **msgspec.to_builtins(figures)},
        f"{figures.claims} claims at {figures.rate:g}/s, {figures.failed} failed\n"
        f"  claim   p50 {figures.p50_ms:7.2f} ms   p99 {figures.p99_ms:7.2f} ms\n"
        f"  bare    p50 {figures.bare_p50_ms:7.2f} ms   p99 {figures.bare_p99_ms:7.2f} ms"
        "   (a request, one durable append, its way back, an answer)",
    )
    return 0 if figures.failed == 0 else 1


@bench.command()
@click.option(
    "--nodes", type=click.Choice(["1", "3"]), default="3", show_default=True, help="Nodes beside a single one."
)
@click.option(
    "--appends", type=click.IntRange(10, 100_000), default=1000, show_default=True, help="For each of the two."
)
@command
async def append(output: Output, nodes: str, appends: int) -> int:
    """Appends to the event log, one after another: on one NATS server, and on a cluster, each synced before its answer."""
    rows = await append_bench.measure(int(nodes), appends)
    output.emit({"type": "bench_append", "rows": [msgspec.to_builtins(row) for row in rows]})
    for row in rows:
        output.say(
            f"{row.nodes} node{'s' if row.nodes > 1 else ' '}  p50 {row.p50_ms:7.2f} ms   p99 {row.p99_ms:7.2f} ms"
        )
    return 0


@bench.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option("--mode", "modes", type=click.Choice(MODES), multiple=True, help="Only this one; may be repeated.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture: FILE.png or FILE.svg.")
@command
async def preview(output: Output, path: Path, runs: int, modes: tuple[Mode, ...], plot: Path | None) -> int:
    """Previews of PATH on an own platform, beside the same install and dev server by hand."""
    if plot is not None:
        plots.check_writable(plot)
    rows = await previews.measure(path, runs, output.say, modes or MODES)
    output.emit({"type": "bench_preview", "rows": [msgspec.to_builtins(row) for row in rows]})
    for line in table(rows):
        output.say(line)
    if plot is not None:
        plots.draw(rows, plot, f"drape bench preview {path.resolve().name}, {runs} runs")
        output.say(f"Wrote {plot}")
    return 0


@bench.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1, 50), default=5, show_default=True, help="Previews in each situation.")
@command
async def overload(output: Output, path: Path, runs: int) -> int:
    """What one owner notices while another floods the gateway: previews of PATH, API requests and pages, and bare pages."""
    figures = await overloads.measure(path, runs, output.say)
    output.emit({"type": "bench_overload", **msgspec.to_builtins(figures)})
    for line in overloads.table(figures):
        output.say(line)
    return 0


@bench.command()
@click.option("--events", type=click.IntRange(1_000, 10_000_000), default=100_000, show_default=True)
@command
async def replay(output: Output, events: int) -> int:
    """Starts of each service on a log of so many events: replayed from the first, and from a snapshot."""
    figures = await replays.measure(events, output.say)
    output.emit({"type": "bench_replay", **msgspec.to_builtins(figures)})
    output.say(f"\nbare reading  {figures.read_events_per_s:>9,} events/s  {figures.read_s:8.3f} s")
    for row in figures.rows:
        output.say(
            f"{row.service:12}  {row.events_per_s:>9,} events/s  {row.replay_s:8.3f} s   from a snapshot "
            f"{row.restore_s:6.3f} s ({row.snapshot_bytes / 1024:,.0f} KiB, written in {row.keep_s:.3f} s, "
            f"longest stall {row.stall_ms:.1f} ms)"
        )
    return 0


@bench.command()
@click.option("--pairs", type=click.IntRange(1, 50), default=7, show_default=True, help="Pools of each of the two.")
@click.option("--claims", type=click.IntRange(100, 9_000), default=1500, show_default=True, help="In each turn.")
@command
async def telemetry(output: Output, pairs: int, claims: int) -> int:
    """What exporting traces, metrics and logs costs: claims on a pool that does it and on one that does not, in turns."""
    figures = await telemetries.measure(pairs, claims, output.say)
    output.result(
        {"type": "bench_telemetry", **msgspec.to_builtins(figures)},
        f"without    {figures.without.claims_per_s:8.1f} claims/s   {figures.without.cpu_ms:7.3f} ms of the pool's time\n"
        f"exporting  {figures.exporting.claims_per_s:8.1f} claims/s   {figures.exporting.cpu_ms:7.3f} ms\n"
        f"medians of {figures.pairs} pairs: throughput x{figures.throughput:.3f}, time x{figures.cpu:.3f}; "
        f"{figures.bytes_per_claim:,.0f} bytes exported a claim",
    )
    return 0


COMMANDS = (bench,)
