"""`drape.query.telemetry.stats`: what previews took and how they ended, computed by PostgreSQL from the attempts.

An attempt counts where it began within the asked days. It succeeded when it was ready once, whatever became of it
later; it failed when it failed before. What still runs, was stopped or superseded is neither.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.adapters.postgres import OUTAGES
from services.telemetry.adapters.previews import PREVIEWS
from services.telemetry.adapters.projections import serving
from services.telemetry.config import TelemetryConfig
from shared.errors import UNREADABLE, Invalid, Unavailable
from shared.ids import OwnerId

DAYS_MAX = 365
DAY_S = 24 * 3600.0

STEPS: Mapping[str, str] = {
    "acquire": "acquire_s",
    "sync": "sync_s",
    "install": "install_s",
    "boot": "boot_s",
    "confirm": "confirm_s",
}


class StatsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. `owner` None: everybody's."""

    days: int = 7
    owner: OwnerId | None = None


class Previews(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts by outcome. `success_rate`: 0..1 of those that succeeded or failed."""

    count: int
    success: int
    failed: int
    success_rate: float | None


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None where there is nothing to compute from."""

    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class StepSeconds(Seconds, frozen=True, kw_only=True):
    """`count`: attempts in which the step came to its end."""

    count: int


class FrameworkStats(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts of a framework, and seconds to ready of those that were."""

    count: int
    p50: float | None
    p95: float | None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Rates: 0..1 or None. `failures`: codes of the attempts under `previews.failed`; those of attempts
    that were ready before stand apart. `generated_at`: seconds, UTC; `position`: up to which sequence it holds."""

    days: int
    previews: Previews
    total_s: Seconds
    steps: dict[str, StepSeconds]
    pool_hit_rate: float | None
    install_skip_rate: float | None
    failures: dict[str, int]
    failures_after_ready: dict[str, int]
    by_framework: dict[str, FrameworkStats]
    generated_at: float
    position: int


_query = msgspec.json.Decoder(StatsQuery)

_FROM = "FROM drape.preview_attempts WHERE log_id = $1 AND attempt_at >= $2 AND ($3::text IS NULL OR owner = $3)"


def _seconds_columns(column: str) -> str:
    return (
        f"count({column}) AS {column}_count, avg({column}) AS {column}_average, "
        f"percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {column}) AS {column}_percentiles"
    )


# The names in these are ours; what is asked for travels as parameters.
_TOTALS = (
    "SELECT count(*) AS count, count(ready_at) AS success, "
    "count(*) FILTER (WHERE status = 'failed' AND ready_at IS NULL) AS failed, "
    "count(from_pool) AS vms, count(*) FILTER (WHERE from_pool) AS warm_vms, "
    "count(install) AS installs, count(*) FILTER (WHERE install = 'skipped') AS skipped, "
    + ", ".join(_seconds_columns(column) for column in ("total_s", *STEPS.values()))
    + f" {_FROM}"
)
_FAILURES = (
    f"SELECT code, ready_at IS NOT NULL AS was_ready, count(*) AS count {_FROM} "
    "AND status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1"
)
_FRAMEWORKS = (
    "SELECT framework, count(*) AS count, "
    f"percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY total_s) AS percentiles {_FROM} "
    "AND framework IS NOT NULL GROUP BY 1 ORDER BY 1"
)


class StatsReader:
    """Answers the query."""

    def __init__(
        self,
        pool: Any,
        log_id: Callable[[], str],
        config: TelemetryConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._log_id = log_id
        self._config = config
        self._clock = clock
        self._free = asyncio.Semaphore(config.stats_concurrency_max)

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `StatsQuery` -> JSON of `Stats`. Raises `Invalid` (`bad_days`, `bad_query`), `Unavailable`."""
        try:
            query = _query.decode(body or b"{}")
        except UNREADABLE as error:
            raise Invalid(
                "bad_query", f"The query is not valid: {error}.", 'Ask {"days": 7, "owner": null}.'
            ) from error
        if not 1 <= query.days <= DAYS_MAX:
            raise Invalid("bad_days", f"`days` is a whole number from 1 to {DAYS_MAX}.")
        return msgspec.json.encode(await self.stats(query))

    async def stats(self, query: StatsQuery) -> Stats:
        """The figures. Raises `Unavailable` while PostgreSQL is away."""
        try:
            async with asyncio.timeout(self._config.stats_timeout_s), self._free:
                return await self._read(query)
        except OUTAGES as error:
            raise Unavailable(
                "stats_unavailable",
                "The statistics cannot be read: PostgreSQL does not answer.",
                "Previews go on without it; ask again when it is back.",
                retry_after_s=2,
            ) from error

    async def _read(self, query: StatsQuery) -> Stats:
        now = self._clock()
        since = datetime.fromtimestamp(now - query.days * DAY_S, UTC)
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            position = await serving(connection, PREVIEWS, self._log_id())
            asked = (position.log_id, since, query.owner)
            totals = await connection.fetchrow(_TOTALS, *asked)
            failures = await connection.fetch(_FAILURES, *asked)
            frameworks = await connection.fetch(_FRAMEWORKS, *asked)
        return Stats(
            days=query.days,
            previews=Previews(
                count=totals["count"],
                success=totals["success"],
                failed=totals["failed"],
                success_rate=_rate(totals["success"], totals["success"] + totals["failed"]),
            ),
            total_s=_seconds(totals, "total_s"),
            steps={name: _step(totals, column) for name, column in STEPS.items()},
            pool_hit_rate=_rate(totals["warm_vms"], totals["vms"]),
            install_skip_rate=_rate(totals["skipped"], totals["installs"]),
            failures={row["code"]: row["count"] for row in failures if not row["was_ready"]},
            failures_after_ready={row["code"]: row["count"] for row in failures if row["was_ready"]},
            by_framework={row["framework"]: _framework(row) for row in frameworks},
            generated_at=round(now, 3),
            position=position.seq,
        )


def _seconds(totals: Mapping[str, Any], column: str) -> Seconds:
    p50, p95, p99 = _rounded(totals[f"{column}_percentiles"], 3)
    return Seconds(average=_round(totals[f"{column}_average"]), p50=p50, p95=p95, p99=p99)


def _step(totals: Mapping[str, Any], column: str) -> StepSeconds:
    p50, p95, p99 = _rounded(totals[f"{column}_percentiles"], 3)
    average = _round(totals[f"{column}_average"])
    return StepSeconds(average=average, p50=p50, p95=p95, p99=p99, count=totals[f"{column}_count"])


def _framework(row: Mapping[str, Any]) -> FrameworkStats:
    p50, p95 = _rounded(row["percentiles"], 2)
    return FrameworkStats(count=row["count"], p50=p50, p95=p95)


def _rounded(values: Sequence[float | None] | None, count: int) -> list[float | None]:
    return [None] * count if values is None else [_round(value) for value in values]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
