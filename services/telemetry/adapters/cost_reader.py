"""`drape.query.telemetry.costs`: what VMs have cost, from the hours that PostgreSQL holds and the price table.

Intervals that are open count up to now. Amounts are computed here and not stored: another table of prices needs nothing
made anew, and one that was wrong puts the past right too. What a price was on a day is told by its `since`.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from services.telemetry.adapters.costs import COSTS
from services.telemetry.adapters.projections import Position, serving
from services.telemetry.adapters.questions import Questions, decoded
from services.telemetry.config import TelemetryConfig
from services.telemetry.prices import PriceTable, Size, periods, price_of
from shared.errors import Invalid, Unavailable
from shared.ids import OwnerId

By = Literal["hour", "day", "month", "preview", "owner", "pool"]
DAYS_MAX = 365
HOUR_MS = 3_600_000.0


class CostsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. `owner` None: everybody's, and the pool's own."""

    by: By = "day"
    days: int = 7
    owner: OwnerId | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Time of VMs in seconds, and what it cost. `amount` None: none of it has a price; `unpriced_s`: what is not in it."""

    running_s: float
    suspended_s: float
    amount: float | None
    unpriced_s: float


class CostRow(Cost, frozen=True, kw_only=True):
    """`key`: the beginning of the hour, day or month (UTC), or the preview, owner or pool. What of it served nobody is
    `overhead` and not in the rest; None: not told here. `owner`: a preview's."""

    key: str
    overhead: Cost | None = None
    owner: str | None = None


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `rows`: times oldest first, others costliest first; `truncated`: there are more than are shown, which
    `total` has all the same. `since`: what is counted begins there (seconds, UTC); `position`: up to which sequence of the
    log it holds."""

    by: By
    days: int
    currency: str
    rows: list[CostRow]
    truncated: bool
    total: Cost
    overhead: Cost | None
    since: float
    generated_at: float
    position: int


_query = msgspec.json.Decoder(CostsQuery)

_SIZES = (
    "SELECT provider, memory_mb, region FROM drape.cost_hours WHERE log_id = $1 AND hour >= $2 "
    "UNION SELECT provider, memory_mb, region FROM drape.vm_intervals WHERE log_id = $1 "
    "UNION SELECT provider, memory_mb, region FROM drape.cost_months WHERE log_id = $1 AND month >= $2"
)
_OPEN_NOW = (
    "SELECT pool, provider, memory_mb, region, suspended, count(*) AS vms FROM drape.vm_intervals WHERE log_id = $1 "
    "GROUP BY 1, 2, 3, 4, 5"
)
_KEYS: Mapping[By, str] = {
    "hour": """to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:00"Z"')""",
    "day": "to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "month": "to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM')",
    "preview": "nullif(preview_id, '')",
    "owner": "nullif(owner, '')",
    "pool": "pool",
}
_TIMES = ("hour", "day", "month")
_WHAT = "pool, provider, memory_mb, region, owner, preview_id"
_HOURS = (
    f"SELECT hour AS moment, {_WHAT}, running_ms, suspended_ms FROM drape.cost_hours "  # noqa: S608 - our own names
    "WHERE log_id = $1 AND hour >= $2"
)
_OPEN = (
    f"SELECT moment, {_WHAT}, CASE WHEN suspended THEN 0 ELSE ms END, CASE WHEN suspended THEN ms ELSE 0 END "  # noqa: S608
    "FROM drape.vm_intervals CROSS JOIN LATERAL "
    "generate_series(date_trunc('hour', greatest(since, $2), 'UTC'), $3, interval '1 hour') AS hours (moment) "
    "CROSS JOIN LATERAL (SELECT round(1000 * extract(epoch FROM least(moment + interval '1 hour', $3) "
    "- greatest(moment, since)))::bigint AS ms) AS lengths WHERE log_id = $1 AND ms > 0"
)
_MONTHS = (
    "SELECT month, pool, provider, memory_mb, region, owner, '', running_ms, suspended_ms "
    "FROM drape.cost_months WHERE log_id = $1 AND month >= $2"
)
_RATED = (
    "rates AS (SELECT * FROM unnest($6::text[], $7::int[], $8::text[], $9::int[], $10::float8[], $11::float8[]) "
    "AS rate (provider, memory_mb, region, period, running, suspended)), "
    "rated AS (SELECT spent.*, (running_ms * running + suspended_ms * suspended) / 3600000 AS amount FROM spent "
    "LEFT JOIN rates ON rates.provider = spent.provider AND rates.memory_mb = spent.memory_mb "
    "AND rates.region = spent.region AND rates.period = width_bucket(moment, $5::timestamptz[]) "
    "WHERE $4::text IS NULL OR owner = $4)"
)


def _sums(condition: str, prefix: str) -> str:
    of = f"FILTER (WHERE {condition})"
    unpriced = f"FILTER (WHERE {condition} AND amount IS NULL)"
    return (
        f"coalesce(sum(running_ms) {of}, 0)::float8 / 1000 AS {prefix}running_s, "
        f"coalesce(sum(suspended_ms) {of}, 0)::float8 / 1000 AS {prefix}suspended_s, sum(amount) {of} AS {prefix}amount, "
        f"coalesce(sum(running_ms + suspended_ms) {unpriced}, 0)::float8 / 1000 AS {prefix}unpriced_s"
    )


_SUMS = _sums("owner <> ''", "") + ", " + _sums("owner = ''", "overhead_")


def _costs_sql(by: By) -> str:
    """$1 log, $2 since, $3 now, $4 owner or null, $5 days on which prices change, $6 to $11 the prices: of provider, memory,
    region and period, running and suspended; $12 rows. The first row is the whole."""
    key = _KEYS[by]
    spent = " UNION ALL ".join((_HOURS, _OPEN, *((_MONTHS,) if by == "month" else ())))
    order = "key" if by in _TIMES else "amount DESC NULLS LAST, running_s DESC, key"
    return (
        f"WITH spent AS ({spent}), {_RATED} SELECT {key} AS key, grouping({key}) AS whole, max(owner) AS owner, {_SUMS} "  # noqa: S608
        f"FROM rated GROUP BY GROUPING SETS (({key}), ()) HAVING grouping({key}) = 1 OR {key} IS NOT NULL "
        f"ORDER BY whole DESC, {order} LIMIT $12"
    )


_SQL: Mapping[By, str] = {by: _costs_sql(by) for by in _KEYS}


class CostReader:
    """Answers the query, and what costs are right now."""

    def __init__(
        self,
        pool: Any,
        log_id: Callable[[], str],
        config: TelemetryConfig,
        prices: PriceTable,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`log_id`: the log's, as the projector knows it; empty before its first event."""
        self._questions = Questions(pool, "costs", "The costs", timeout_s=config.costs_timeout_s)
        self._log_id = log_id
        self._config = config
        self._prices = prices
        self._clock = clock
        self._days = periods(prices)

    @property
    def currency(self) -> str:
        """Of all amounts: ISO 4217."""
        return self._prices.currency

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `CostsQuery` -> JSON of `Costs`. Raises `Invalid` (`bad_query`, `bad_days`), `Unavailable`."""
        query = decoded(_query, body, '{"by": "day", "days": 7, "owner": null}')
        if not 1 <= query.days <= DAYS_MAX:
            raise Invalid("bad_days", f"`days` is a whole number from 1 to {DAYS_MAX}.")
        return msgspec.json.encode(await self.costs(query))

    async def costs(self, query: CostsQuery) -> Costs:
        """What was spent. Raises `Unavailable` while PostgreSQL is away."""
        since = _begin(query.by, datetime.fromtimestamp(self._clock(), UTC) - timedelta(days=query.days))
        return await self._read(query, since)

    async def cost_of_day(self) -> float | None:
        """What has been spent since 00:00 UTC, the pool's overhead included. None: nobody knows, for want of prices or of
        PostgreSQL."""
        return await self._amount_since("day")

    async def cost_of_month(self) -> float | None:
        """The same since the month began."""
        return await self._amount_since("month")

    async def rates(self) -> dict[str, float]:
        """What an hour costs as things are now, by pool; without what has no price. Raises `Unavailable`."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._questions.snapshot() as connection:
            position = await serving(connection, COSTS, self._log_id())
            rows = await connection.fetch(_OPEN_NOW, position.log_id)
        found: dict[str, float] = {}
        for row in rows:
            price = price_of(self._prices, _size(row), now.date().isoformat())
            if price is not None:
                each = price.suspended if row["suspended"] else price.running
                found[row["pool"]] = found.get(row["pool"], 0.0) + row["vms"] * each
        return found

    async def _amount_since(self, by: By) -> float | None:
        since = _begin(by, datetime.fromtimestamp(self._clock(), UTC))
        try:
            costs = await self._read(CostsQuery(by=by, days=1), since)
        except Unavailable:
            return None
        assert costs.overhead is not None, "asked for everybody's"
        spent = [part for part in (costs.total, costs.overhead) if part.running_s + part.suspended_s]
        known = [part.amount for part in spent if part.amount is not None]
        return sum(known) if known or not spent else None

    async def _read(self, query: CostsQuery, since: datetime) -> Costs:
        now = datetime.fromtimestamp(self._clock(), UTC)
        async with self._questions.snapshot() as connection:
            position = await serving(connection, COSTS, self._log_id())
            sizes = [_size(row) for row in await connection.fetch(_SIZES, position.log_id, since)]
            days = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in self._days]
            asked = (position.log_id, since, now, query.owner, days, *self._rates_of(sizes))
            rows = await connection.fetch(_SQL[query.by], *asked, self._config.costs_rows_max + 2)
        return self._answer(query, since, now, position, rows)

    def _rates_of(self, sizes: list[Size]) -> tuple[list[Any], ...]:
        """Columns: the price of every size in every period; none where there is none."""
        rows = [
            (size.provider, size.memory_mb, size.region, period, price.running, price.suspended)
            for size in sizes
            for period, day in enumerate(("", *self._days))
            if (price := price_of(self._prices, size, day)) is not None
        ]
        columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
        return tuple(columns or [[] for _ in range(6)])

    def _answer(
        self, query: CostsQuery, since: datetime, now: datetime, position: Position, rows: list[Mapping[str, Any]]
    ) -> Costs:
        whole, *parts = rows
        shown = parts[: self._config.costs_rows_max]
        everybody = query.owner is None
        return Costs(
            by=query.by,
            days=query.days,
            currency=self.currency,
            rows=[_row(query.by, row, overhead=everybody) for row in shown],
            truncated=len(parts) > len(shown),
            total=Cost(**_figures(whole, "")),
            overhead=Cost(**_figures(whole, "overhead_")) if everybody else None,
            since=since.timestamp(),
            generated_at=round(now.timestamp(), 3),
            position=position.seq,
        )


def _begin(by: By, moment: datetime) -> datetime:
    """The oldest hour, day or month is whole."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    if by not in ("day", "month"):
        return hour
    return hour.replace(hour=0, day=1 if by == "month" else hour.day)


def _size(row: Mapping[str, Any]) -> Size:
    return Size(provider=row["provider"], memory_mb=row["memory_mb"], region=row["region"])


def _row(by: By, row: Mapping[str, Any], *, overhead: bool) -> CostRow:
    own = by not in ("preview", "owner")
    return CostRow(
        key=row["key"],
        **_figures(row, ""),
        overhead=Cost(**_figures(row, "overhead_")) if overhead and own else None,
        owner=row["owner"] if by == "preview" else None,
    )


def _figures(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    running_s, suspended_s, amount, unpriced_s = (
        row[f"{prefix}{name}"] for name in ("running_s", "suspended_s", "amount", "unpriced_s")
    )
    if amount is None and not running_s + suspended_s:
        amount = 0.0
    amount = None if amount is None else round(amount, 6)
    return {"running_s": running_s, "suspended_s": suspended_s, "amount": amount, "unpriced_s": unpriced_s}
