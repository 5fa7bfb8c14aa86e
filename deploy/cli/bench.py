"""`bench`: this project's share, beside the bare cost of the same work in the same run."""

import click
import msgspec

from deploy.bench import claim as claims
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


COMMANDS = (bench,)
