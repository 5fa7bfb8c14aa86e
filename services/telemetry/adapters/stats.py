"""`drape.query.telemetry.stats`: what previews took and how they ended, computed by PostgreSQL.

From the attempts, exactly, as far as their days are kept. Of older days there are roll-ups beside (`rollups.py`): counts
and averages stay exact, percentiles are then read from buckets, those of the newer days too. So are they where there are
more attempts than can be sorted in time.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from services.telemetry.adapters.partitions import FIRST_DAY, day_of, horizon, midnight
from services.telemetry.adapters.previews import PREVIEWS
from services.telemetry.adapters.projections import serving
from services.telemetry.adapters.questions import Questions, decoded
from services.telemetry.adapters.rollups import GROUPS, MEASURES, TABLE, VALUES, WARMTH
from services.telemetry.config import TelemetryConfig
from services.telemetry.figures import (
    DAY_S,
    DAYS_MAX,
    Stats,
    StatsQuery,
    Tallies,
    Tally,
    answer,
    from_buckets,
    seconds_of,
)
from shared.errors import Invalid

_query = msgspec.json.Decoder(StatsQuery)

_ASKED = (
    "log_id = $1 AND ($3::text IS NULL OR owner = $3) AND ($4::text IS NULL OR framework = $4) "
    "AND ($5::text IS NULL OR provider = $5)"
)
_ROWS = f"FROM drape.{TABLE} WHERE attempt_at >= $2 AND {_ASKED}"
_ROLLED = "WHERE day >= ($2::timestamptz AT TIME ZONE 'UTC')::date AND " + _ASKED
_KINDS = ("framework", "provider", "warmth", "install")
_GROUPED = "GROUP BY GROUPING SETS ((), (framework), (provider), (warmth), (install))"
_BY = f"grouping({', '.join(_KINDS)}) AS kind, {', '.join(_KINDS)}"

_OF_KIND = {0b0111: "framework", 0b1011: "provider", 0b1101: "warmth", 0b1110: "install"}
"""Of `grouping`: a bit for each column that the group is not of."""

# The names in these are ours; what is asked for travels as parameters.
_LOCK = f"LOCK TABLE drape.{TABLE} IN ACCESS SHARE MODE"
"""Before the transaction's first look: so no day is dropped between that and the look at its rows."""
_HOW_MANY = f"SELECT count(*) FROM (SELECT 1 {_ROWS} LIMIT $6) AS attempts"  # noqa: S608
_PERCENTILES = "".join(
    f", count({column}) AS {name}_count, avg({column}) AS {name}_average, "
    f"percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY {column}) AS {name}_percentiles"
    for name, column in MEASURES
)


def _counts(more: str) -> str:
    return (
        f"SELECT {_BY}, count(*) AS count, count(ready_at) AS success, "  # noqa: S608
        "count(*) FILTER (WHERE status = 'failed' AND ready_at IS NULL) AS failed, "
        "count(from_pool) AS vms, count(*) FILTER (WHERE from_pool) AS warm, "
        f"count(install) AS installs, count(*) FILTER (WHERE install = 'skipped') AS skipped{more} "
        f"FROM (SELECT *, nullif({WARMTH}, '') AS warmth {_ROWS}) AS attempts {_GROUPED}"
    )


_COUNTS = _counts("")
_COUNTS_EXACT = _counts(_PERCENTILES)
_FAILURES = (
    f"SELECT code, ready_at IS NOT NULL AS was_ready, count(*) AS count {_ROWS} AND status = 'failed' GROUP BY 1, 2"
)
_ROLLED_COUNTS = (
    "SELECT framework, provider, warmth, install, outcome, code, sum(count)::bigint AS count "  # noqa: S608
    f"FROM drape.preview_rollups {_ROLLED} GROUP BY 1, 2, 3, 4, 5, 6"
)
_BUCKETS = (
    f"SELECT {_BY}, measure, bucket, sum(count)::bigint AS count, sum(seconds) AS seconds FROM ("  # noqa: S608
    # First all at once, which leaves few rows for the groups.
    "SELECT framework, provider, warmth, install, measure, bucket, sum(count) AS count, sum(seconds) AS seconds FROM ("
    "SELECT framework, provider, warmth, install, measure, bucket, count, seconds "
    f"FROM drape.preview_rollup_seconds {_ROLLED} UNION ALL "
    "SELECT g.framework, g.provider, g.warmth, g.install, m.measure, drape.seconds_bucket(m.value), 1, m.value "
    f"FROM (SELECT * {_ROWS}) AS attempts CROSS JOIN LATERAL (VALUES {VALUES}) AS m(measure, value) "
    f"CROSS JOIN LATERAL (SELECT {GROUPS}) AS g(framework, provider, warmth, install) WHERE m.value IS NOT NULL"
    f") AS spread GROUP BY 1, 2, 3, 4, 5, 6) AS few "
    "GROUP BY measure, bucket, GROUPING SETS ((), (framework), (provider), (warmth), (install))"
)

_Group = tuple[str, str]
"""A kind of group and which of them; twice empty: all attempts."""


class StatsReader:
    """Answers the query. `log_id` gives the log that the previews' projection reads."""

    def __init__(
        self,
        pool: Any,
        log_id: Callable[[], str],
        config: TelemetryConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._questions = Questions(
            pool,
            "stats",
            "The statistics",
            timeout_s=config.stats_timeout_s,
            concurrency_max=config.stats_concurrency_max,
        )
        self._log_id = log_id
        self._config = config
        self._clock = clock

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `StatsQuery` -> JSON of `Stats`. Raises `Invalid` (`bad_days`, `bad_query`), `Unavailable`."""
        query = decoded(_query, body, '{"days": 7, "owner": null}')
        if not 1 <= query.days <= DAYS_MAX:
            raise Invalid("bad_days", f"`days` is a whole number from 1 to {DAYS_MAX}.")
        if not all(text.isprintable() for text in (query.owner or "", query.framework or "", query.provider or "")):
            raise Invalid("bad_filter", "What is asked for has characters that no name has.")
        return msgspec.json.encode(await self.stats(query))

    async def stats(self, query: StatsQuery) -> Stats:
        """The figures. Raises `Unavailable` while PostgreSQL is away."""
        now = round(self._clock(), 3)
        async with self._questions.snapshot() as connection:
            await connection.execute(_LOCK)
            position = await serving(connection, PREVIEWS, self._log_id())
            since, is_rolled = _since(now - query.days * DAY_S, await horizon(connection, TABLE))
            start = datetime.fromtimestamp(since, UTC)
            asked = (position.log_id, start, query.owner, query.framework, query.provider)
            rolled = await connection.fetch(_ROLLED_COUNTS, *asked) if is_rolled else []
            most = self._config.exact_attempts_max
            bucketed = bool(rolled) or await connection.fetchval(_HOW_MANY, *asked, most + 1) > most
            counts = await connection.fetch(_COUNTS if bucketed else _COUNTS_EXACT, *asked)
            failures = await connection.fetch(_FAILURES, *asked)
            buckets = await connection.fetch(_BUCKETS, *asked) if bucketed else []
        tallies = _tallies(counts, failures)
        _add(tallies, rolled, buckets)
        return answer(tallies, query, since=since, now=now, position=position.seq, bucketed=bucketed)


def _since(since: float, before: date) -> tuple[float, bool]:
    """From when on attempts count, and whether days from then on have been dropped: of such a day no part can be told."""
    if before == FIRST_DAY or day_of(since) >= before:
        return since, False
    return midnight(day_of(since)).timestamp(), True


def _tallies(counts: Sequence[Mapping[str, Any]], failures: Sequence[Mapping[str, Any]]) -> Tallies:
    """What the rows of attempts say."""
    found = {_group_of(row): _tally(row) for row in counts}
    return Tallies(
        whole=found.pop(("", ""), Tally()),
        by_framework=_of_kind(found, "framework"),
        by_provider=_of_kind(found, "provider"),
        by_warmth=_of_kind(found, "warmth"),
        by_install=_of_kind(found, "install"),
        failures={row["code"]: row["count"] for row in failures if not row["was_ready"]},
        failures_after_ready={row["code"]: row["count"] for row in failures if row["was_ready"]},
    )


def _group_of(row: Mapping[str, Any]) -> _Group:
    kind = _OF_KIND.get(row["kind"], "")
    return kind, (row[kind] or "") if kind else ""


def _of_kind(found: Mapping[_Group, Tally], kind: str) -> dict[str, Tally]:
    return {name: tally for (of, name), tally in found.items() if of == kind and name}


def _tally(row: Mapping[str, Any]) -> Tally:
    counts = {name: row[name] for name in ("count", "success", "failed", "vms", "warm", "installs", "skipped")}
    seconds = {
        name: seconds_of(row[f"{name}_count"], row[f"{name}_average"], row[f"{name}_percentiles"] or (None,) * 3)
        for name, _column in MEASURES
        if f"{name}_count" in row
    }
    return Tally(**counts, seconds=seconds)


def _add(tallies: Tallies, rolled: Sequence[Mapping[str, Any]], buckets: Sequence[Mapping[str, Any]]) -> None:
    """What the roll-ups say beside. `buckets`, where there are any, hold the rows' seconds too."""
    kinds = {kind: getattr(tallies, f"by_{kind}") for kind in _KINDS}
    failures, after_ready = Counter(tallies.failures), Counter(tallies.failures_after_ready)
    for row in rolled:
        _count(tallies.whole, row)
        for kind, groups in kinds.items():
            if row[kind]:
                _count(groups.setdefault(row[kind], Tally()), row)
        if row["outcome"] == "failed":
            failures[row["code"]] += row["count"]
        elif row["outcome"] == "failed_after_ready":
            after_ready[row["code"]] += row["count"]
    tallies.failures, tallies.failures_after_ready = dict(failures), dict(after_ready)
    for (kind, name), spread in _spreads(buckets).items():
        if kind and not name:
            continue
        tally = kinds[kind].setdefault(name, Tally()) if kind else tallies.whole
        tally.seconds = {measure: from_buckets(*each) for measure, each in spread.items()}


def _count(tally: Tally, row: Mapping[str, Any]) -> None:
    count = row["count"]
    tally.count += count
    tally.success += count if row["outcome"] in ("ready", "failed_after_ready") else 0
    tally.failed += count if row["outcome"] == "failed" else 0
    tally.vms += count if row["warmth"] else 0
    tally.warm += count if row["warmth"] == "warm" else 0
    tally.installs += count if row["install"] else 0
    tally.skipped += count if row["install"] == "skipped" else 0


def _spreads(buckets: Sequence[Mapping[str, Any]]) -> dict[_Group, dict[str, tuple[dict[int, int], float]]]:
    """By group and measure: how many values are in each bucket, and the sum of all."""
    spreads: dict[_Group, dict[str, tuple[dict[int, int], float]]] = {}
    for row in buckets:
        of = spreads.setdefault(_group_of(row), {})
        counts, total_s = of.get(row["measure"], ({}, 0.0))
        counts[row["bucket"]] = row["count"]
        of[row["measure"]] = (counts, total_s + row["seconds"])
    return spreads
