"""The projections `costs` and `resources`. The only file that writes their tables."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.costs import Bucket, Interval, Spent, fold, vm_of
from shared.codec import Recorded
from shared.events import ResourcesMeasured
from shared.ids import VmId

COSTS = "costs"
RESOURCES = "resources"

_STATE = ("rev", "since", "pool", "provider", "memory_mb", "region", "owner", "preview_id", "suspended")
_OPEN = (
    f"SELECT vm_id, {', '.join(_STATE)} FROM drape.vm_intervals "  # noqa: S608 - our own names, here and below
    "WHERE log_id = $1 AND vm_id = ANY($2::text[])"
)
_UPSERT = (
    f"INSERT INTO drape.vm_intervals (log_id, vm_id, {', '.join(_STATE)}) "  # noqa: S608
    f"VALUES ({', '.join(f'${n}' for n in range(1, len(_STATE) + 3))}) ON CONFLICT (log_id, vm_id) DO UPDATE SET "
    + ", ".join(f"{name} = EXCLUDED.{name}" for name in _STATE)
)
_END = "DELETE FROM drape.vm_intervals WHERE log_id = $1 AND vm_id = ANY($2::text[])"
_ADD = (
    "INSERT INTO drape.cost_hours AS known (log_id, hour, pool, provider, memory_mb, region, owner, preview_id, "
    "running_ms, suspended_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) "
    "ON CONFLICT (log_id, hour, pool, provider, memory_mb, region, owner, preview_id) DO UPDATE SET "
    "running_ms = known.running_ms + EXCLUDED.running_ms, suspended_ms = known.suspended_ms + EXCLUDED.suspended_ms"
)
_SNAPSHOT = (
    "INSERT INTO drape.resource_snapshots (log_id, day, rev, at, data) VALUES ($1, $2, $3, $4, $5) "
    "ON CONFLICT DO NOTHING"
)
_GATHER = (
    "WITH old AS (DELETE FROM drape.cost_hours WHERE hour < $1 RETURNING *) "
    "INSERT INTO drape.cost_months AS known (log_id, month, pool, provider, memory_mb, region, owner, running_ms, "
    "suspended_ms) SELECT log_id, date_trunc('month', hour, 'UTC'), pool, provider, memory_mb, region, owner, "
    "sum(running_ms), sum(suspended_ms) FROM old GROUP BY 1, 2, 3, 4, 5, 6, 7 "
    "ON CONFLICT (log_id, month, pool, provider, memory_mb, region, owner) DO UPDATE SET "
    "running_ms = known.running_ms + EXCLUDED.running_ms, suspended_ms = known.suspended_ms + EXCLUDED.suspended_ms"
)
_DROP_SNAPSHOTS = "DELETE FROM drape.resource_snapshots WHERE at < $1"


class CostsProjection:
    """How long VMs ran, by hour and for whom."""

    name = COSTS
    version = 1
    tables = ("vm_intervals", "cost_hours", "cost_months")

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """Add what these events end to its hours, and keep what is open."""
        named = sorted({vm_id for vm_id in map(vm_of, events) if vm_id is not None})
        if not named:
            return
        folded = fold(await self._open(connection, log_id, named), events)
        if folded.opened:
            await connection.executemany(_UPSERT, [_interval(log_id, each) for each in folded.opened.values()])
        if folded.ended:
            await connection.execute(_END, log_id, sorted(folded.ended))
        if folded.added:
            await connection.executemany(_ADD, [_hour(log_id, *each) for each in sorted(folded.added.items())])

    async def _open(self, connection: Any, log_id: str, named: Sequence[VmId]) -> Mapping[VmId, Interval]:
        rows = await connection.fetch(_OPEN, log_id, named)
        return {row["vm_id"]: _of_row(row) for row in rows}


class ResourcesProjection:
    """The snapshots of what there was."""

    name = RESOURCES
    version = 1
    tables = ("resource_snapshots",)

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """One row a snapshot."""
        rows = [
            (log_id, event.day, each.meta.rev, _time(each.meta.at * 1000), msgspec.json.encode(event).decode())
            for each in events
            if isinstance(event := each.event, ResourcesMeasured)
        ]
        if rows:
            await connection.executemany(_SNAPSHOT, rows)


async def keep_costs(connection: Any, before: datetime) -> None:
    """Gather the hours before that moment in their months, and drop the snapshots: in a transaction, so that nothing is
    counted in both, or in neither. Whatever the generation; again: what has come since."""
    async with connection.transaction():
        await connection.execute(_GATHER, before)
        await connection.execute(_DROP_SNAPSHOTS, before)


def _interval(log_id: str, each: Interval) -> tuple[object, ...]:
    state = (each.pool, each.provider, each.memory_mb, each.region, each.owner, each.preview_id, each.suspended)
    return (log_id, each.vm_id, each.rev, _time(each.since_ms), *state)


def _of_row(row: Mapping[str, Any]) -> Interval:
    values = {name: row[name] for name in ("vm_id", *_STATE) if name != "since"}
    return Interval(**values, since_ms=round(row["since"].timestamp() * 1000))


def _hour(log_id: str, bucket: Bucket, spent: Spent) -> tuple[object, ...]:
    what = (bucket.pool, bucket.provider, bucket.memory_mb, bucket.region, bucket.owner, bucket.preview_id)
    return (log_id, _time(bucket.hour_ms), *what, spent.running_ms, spent.suspended_ms)


def _time(ms: float) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
