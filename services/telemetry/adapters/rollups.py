"""What stays of a dropped day's attempts: counts and bucketed seconds, added up in the transaction that takes the rows away.

Rows are folded into the roll-ups once nothing can change them any more (`FINAL`), never before; until then they stay
rows. So every attempt counts once, in one place or the other, and late events find what they change.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from services.telemetry.adapters.partitions import Daily, midnight
from services.telemetry.rows import FINAL_AFTER_S

TABLE = "preview_attempts"
REST = f"drape.{TABLE}_rest"

MARGIN_S = 3600.0
"""The times of events come from several clocks, so that a later event may be a little older."""

FINAL = (
    f"(r.status = 'superseded' OR (r.status IN ('failed', 'stopped') AND r.ended_at < "  # noqa: S608
    f"(SELECT p.event_at - interval '{FINAL_AFTER_S + MARGIN_S:.0f} seconds' FROM drape.projection_position p "
    "WHERE p.name = 'previews' AND p.log_id = r.log_id)) OR EXISTS (SELECT 1 FROM drape.preview_attempts n "
    "WHERE n.log_id = r.log_id AND n.preview_id = r.preview_id AND n.attempt > r.attempt))"
)
"""No event changes the attempt `r` any more: it is not its preview's newest, or it ended long before the last event."""

MEASURES: Sequence[tuple[str, str]] = (
    ("total", "total_s"),
    ("acquire", "acquire_s"),
    ("sync", "sync_s"),
    ("install", "install_s"),
    ("boot", "boot_s"),
    ("confirm", "confirm_s"),
)

WARMTH = "CASE WHEN from_pool THEN 'warm' WHEN NOT from_pool THEN 'cold' ELSE '' END"
OUTCOME = (
    "CASE WHEN status = 'failed' AND ready_at IS NULL THEN 'failed' WHEN status = 'failed' THEN 'failed_after_ready' "
    "WHEN ready_at IS NOT NULL THEN 'ready' ELSE 'other' END"
)
GROUPS = f"coalesce(framework, ''), coalesce(provider, ''), {WARMTH}, coalesce(install, '')"
VALUES = ", ".join(f"('{name}', {column})" for name, column in MEASURES)

_KEY = "log_id, (attempt_at AT TIME ZONE 'UTC')::date, owner, " + GROUPS


def _fold(source: str) -> str:
    """Add to the roll-ups what `source` gives, a query of whole rows."""
    return (
        f"WITH final AS ({source}), counted AS ("  # noqa: S608 - our own names
        f"INSERT INTO drape.preview_rollups AS u SELECT {_KEY}, {OUTCOME}, "
        "CASE WHEN status = 'failed' THEN coalesce(code, '') ELSE '' END, count(*) "
        "FROM final GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 "
        "ON CONFLICT (log_id, day, owner, framework, provider, warmth, install, outcome, code) "
        "DO UPDATE SET count = u.count + EXCLUDED.count) "
        f"INSERT INTO drape.preview_rollup_seconds AS u SELECT {_KEY}, m.measure, drape.seconds_bucket(m.value), "
        f"count(*), sum(m.value) FROM final CROSS JOIN LATERAL (VALUES {VALUES}) AS m(measure, value) "
        "WHERE m.value IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 "
        "ON CONFLICT (log_id, day, owner, framework, provider, warmth, install, measure, bucket) "
        "DO UPDATE SET count = u.count + EXCLUDED.count, seconds = u.seconds + EXCLUDED.seconds"
    )


_SETTLE_REST = _fold(f"DELETE FROM {REST} r WHERE r.attempt_at < $1 AND {FINAL} RETURNING r.*")  # noqa: S608


async def settle_partition(connection: Any, partition: str) -> None:
    """Fold the final rows of a day that is about to be dropped."""
    await connection.execute(_fold(f"SELECT r.* FROM {partition} r WHERE {FINAL}"))  # noqa: S608


async def settle_rest(connection: Any, before: date) -> None:
    """Fold the rows of dropped days that have become final meanwhile. `before`: the table's horizon."""
    await connection.execute(_SETTLE_REST, midnight(before))


DAILY = Daily(TABLE, settle=settle_partition, unsettled=f"NOT {FINAL}", afterwards=settle_rest)
"""How `preview_attempts` loses its days."""
