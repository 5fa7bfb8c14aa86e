"""`costs` and `resources`: what VMs cost and use, of all owners and the pool itself."""

from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import operator_bus

BY = ("hour", "day", "month", "preview", "owner", "pool")
MB = 1 << 20


async def _ask(name: str, query: dict[str, object]) -> dict[str, Any]:
    """As the operator, who sees everything; the API shows each owner its own."""
    async with operator_bus() as bus:
        found = await bus.commands.query("telemetry", name, msgspec.json.encode(query))
    answer: dict[str, Any] = msgspec.json.decode(found)
    return answer


@click.command()
@click.option("--by", type=click.Choice(BY), default="day", show_default=True, help="What is added up.")
@click.option("--days", type=click.IntRange(1, 365), default=7, show_default=True)
@click.option("--owner", help="Only this owner's; without the pool's overhead.")
@command
async def costs(output: Output, by: str, days: int, owner: str | None) -> int:
    """What VMs have cost: those that somebody held, and the pool's overhead beside them."""
    told = await _ask("costs", {"by": by, "days": days, "owner": owner})
    currency, rows = told["currency"], told.pop("rows")
    table: list[tuple[str, ...]] = [(by.upper(), "RUNNING H", "STANDING H", currency, "OVERHEAD")]
    for row in rows:
        output.emit({"type": "cost", **row})
        table.append(_row(row["key"], row, row["overhead"]))
    table.append(_row("TOTAL", told["total"], told["overhead"]))
    _say(output, table)
    if told["truncated"]:
        output.say(f"There are more than these {len(rows)}; the total is of all.")
    unpriced_s = told["total"]["unpriced_s"] + (told["overhead"] or {}).get("unpriced_s", 0.0)
    if unpriced_s:
        output.say(f"Not in it: {unpriced_s / 3600:.2f} h of VMs without a price (DRAPE_TELEMETRY_PRICES_FILE).")
    output.emit({"type": "costs", **told})
    return 0


@click.command()
@click.option("--hours", type=click.IntRange(1, 168), default=1, show_default=True)
@command
async def resources(output: Output, hours: int) -> int:
    """What VMs and previews there were and what they used, a line for each five minutes and pool, newest last."""
    told = await _ask("resources", {"hours": hours})
    snapshots = told.pop("snapshots")
    table: list[tuple[str, ...]] = [
        ("UTC", "POOL", "WARM", "IN USE", "STANDING", "BOOTING", "KEPT", "GOING", "CPUS", "MEMORY", "PREVIEWS")
    ]
    for snapshot in snapshots:
        output.emit({"type": "resources", **snapshot})
        at = datetime.fromtimestamp(snapshot["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        previews = " ".join(f"{count} {state}" for state, count in snapshot["previews"].items() if count) or "none"
        for pool in snapshot["pools"] or [None]:
            table.append((at, *_usage(pool), previews))
    _say(output, table)
    if not snapshots:
        output.say("There is no snapshot yet: the first is taken five minutes after the start.")
    output.emit({"type": "resources_read", "count": len(snapshots), **told})
    return 0


def _row(key: str, cost: dict[str, Any], overhead: dict[str, Any] | None) -> tuple[str, ...]:
    hours = (f"{cost[name] / 3600:.2f}" for name in ("running_s", "suspended_s"))
    return (key, *hours, _amount(cost), "" if overhead is None else _amount(overhead))


def _amount(cost: dict[str, Any]) -> str:
    return "?" if cost["amount"] is None else f"{cost['amount']:.4f}"


def _usage(pool: dict[str, Any] | None) -> tuple[str, ...]:
    if pool is None:
        return ("?",) * 9
    counts = (str(pool[name]) for name in ("available", "in_use", "suspended", "booting", "kept", "going"))
    cores, held = pool["cpu_cores"], pool["memory_bytes"]
    return (
        pool["name"],
        *counts,
        "?" if cores is None else f"{cores:.2f}",
        "?" if held is None else f"{held // MB} MB",
    )


def _say(output: Output, table: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        output.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


COMMANDS = (costs, resources)
