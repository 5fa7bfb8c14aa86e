"""`bench`: this project's share, beside the bare cost of the same work in the same run."""

from pathlib import Path

import click
import msgspec

from deploy.bench import claim as claims
from deploy.bench import preview as previews
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
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(1, 50), default=3, show_default=True)
@command
async def preview(output: Output, path: Path, runs: int) -> int:
    """Previews of PATH on an own platform, beside the same install and dev server by hand."""
    rows = await previews.measure(path, runs, output.say)
    output.emit({"type": "bench_preview", "rows": [msgspec.to_builtins(row) for row in rows]})
    output.say("mode        runs   bare_s  total_s   ratio    own_s")
    for row in rows:
        output.say(
            f"{row.mode:<10} {row.runs:>5} {row.bare_s:>8.2f} {row.total_s:>8.2f} {row.ratio:>7.2f} {row.own_s:>8.3f}"
        )
        output.say("  by step: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in row.steps.items()))
    output.say(
        "bare: by hand in a plain folder, to the first 200. cold: an install with an empty npm cache, then the dev script;"
    )
    output.say("  store, restored: with a warm npm cache; preserved: the dev script alone, where it is installed.")
    output.say("own_s: total less the package manager's time and the dev server's time to its first 200.")
    return 0


COMMANDS = (bench,)
