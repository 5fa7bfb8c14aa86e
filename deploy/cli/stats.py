"""`drape stats`: what previews took and how they ended; and whether the log says the same."""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus
from services.telemetry.figures import STEPS, Stats, StatsQuery
from services.telemetry.recounting import differences, recount
from shared.codec import Recorded
from shared.ports import Bus

DIFFERENCES_MAX = 50
"""Lines for a person; a program gets all."""

Json = Mapping[str, Any]


@click.command()
@click.option("--days", type=click.IntRange(1, 365), default=7, show_default=True)
@click.option("--framework", default=None, metavar="NAME", help="Only attempts of this framework.")
@click.option("--provider", default=None, metavar="NAME", help="Only attempts in VMs of this provider.")
@click.option("--recount", "again", is_flag=True, help="Count again from the event log, and show what is different.")
@command
async def stats(output: Output, days: int, framework: str | None, provider: str | None, again: bool) -> int:
    """What previews took, and how they ended."""
    query = StatsQuery(days=days, framework=framework, provider=provider)
    if again:
        return await _recount(output, query)
    # As the operator, who sees everything; the API shows each owner its own.
    async with operator_bus() as bus:
        figures = msgspec.json.decode(await bus.commands.query("telemetry", "stats", msgspec.json.encode(query)))
    output.result({"type": "stats", **figures}, "\n".join(lines(figures)))
    return 0


async def _recount(output: Output, query: StatsQuery) -> int:
    """Ask telemetry, read the log as far as its answer goes, and hold the two against each other."""
    async with operator_bus() as bus:
        body = msgspec.json.encode(query)
        answered = msgspec.json.decode(await bus.commands.query("telemetry", "stats", body), type=Stats)
        events = [each async for each in _events(bus, answered.position)]
    counted = recount(
        events,
        answered.generated_at,
        query.days,
        framework=query.framework,
        provider=query.provider,
        since=answered.since,
    )
    found = differences(answered, counted)
    for each in found:
        output.emit({"type": "difference", **msgspec.structs.asdict(each)})
    for each in found[:DIFFERENCES_MAX]:
        output.say(f"{each.field:<40} answered {_shown(each.answered):>12}   the log {_shown(each.recounted):>12}")
    attempts = counted.previews.count
    about = f"{attempts} attempts of {query.days} days, in {answered.position} events"
    text = f"The statistics are what the log says: {about}."
    if found:
        text = f"{len(found)} figures are not what the log says: {about}. `drape projections rebuild previews` makes them anew."
    result = {"type": "recount", "differences": len(found), "attempts": attempts, "position": answered.position}
    output.result({**result, "percentiles": answered.percentiles}, text)
    return 1 if found else 0


async def _events(bus: Bus, last: int) -> AsyncIterator[Recorded]:
    if last:
        async for recorded in bus.log.read(0, last):
            yield recorded


def lines(figures: Json) -> Iterator[str]:
    """The answer of `/metrics/stats` as a person reads it."""
    previews = figures["previews"]
    days = f"{figures['days']} day{'' if figures['days'] == 1 else 's'}"
    yield f"Attempts in the last {days}: {previews['count']}, ready {previews['success']}, failed {previews['failed']}"
    yield (
        f"Succeeded {_percent(previews['success_rate'])}, VMs from the pool {_percent(figures['pool_hit_rate'])}, "
        f"installs skipped {_percent(figures['install_skip_rate'])}"
    )
    yield ""
    yield f"{'seconds':<28}{'count':>8}{'average':>10}{'p50':>10}{'p95':>10}{'p99':>10}"
    yield _row("request to ready", figures["total_s"])
    for step in STEPS:
        yield _row(f"  {step}", figures["steps"][step])
    for kind in ("framework", "provider", "warmth", "install"):
        groups = figures[f"by_{kind}"]
        if groups:
            yield ""
            yield f"{'by ' + kind:<28}{'count':>8}{'average':>10}{'p50':>10}{'p95':>10}{'p99':>10}{'failed':>8}"
            for name, group in groups.items():
                yield f"{_row('  ' + name, group)}{group['failed']:>8}"
    for title, counts in (("failures", figures["failures"]), ("failures after ready", figures["failures_after_ready"])):
        if counts:
            yield ""
            yield title
            for code, count in counts.items():
                yield f"  {code:<26}{count:>8}"
    if figures["percentiles"] == "bucketed":
        yield ""
        yield f"Percentiles are at most {figures['percentile_error']:.1%} off: older days are kept as distributions."


def _row(name: str, seconds: Json) -> str:
    values = "".join(f"{_shown(seconds[each]):>10}" for each in ("average", "p50", "p95", "p99"))
    return f"{name[:28]:<28}{seconds['count']:>8}{values}"


def _shown(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


COMMANDS = (stats,)
