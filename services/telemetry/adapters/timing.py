"""`drape.query.telemetry.timing`: why a preview took as long as it did, from its attempts and those of others."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.adapters.columns import fields_of, from_record
from services.telemetry.adapters.errors import DAY_S, DAYS_MAX, ErrorsProjection
from services.telemetry.adapters.previews import PREVIEWS
from services.telemetry.adapters.projections import serving
from services.telemetry.adapters.questions import Questions, decoded
from services.telemetry.config import TelemetryConfig
from services.telemetry.errors import Facts
from services.telemetry.rows import STEP_COLUMNS
from services.telemetry.slow import Baseline, History, Timing, Took, Usual, explain
from shared.errors import Invalid, NotFound
from shared.ids import PreviewId

ATTEMPTS_MAX = 50
"""Of a preview that began anew more often, the newest are told of."""

_COLUMNS = {**STEP_COLUMNS, "total": "total_s"}
_TOOK, _FACTS = fields_of(Took), fields_of(Facts)

# The names in these are ours; what is asked for travels as parameters.
_ATTEMPTS = (
    f"SELECT {', '.join(_TOOK)} FROM drape.preview_attempts WHERE log_id = $1 AND preview_id = $2 "  # noqa: S608
    f"ORDER BY attempt DESC LIMIT {ATTEMPTS_MAX}"
)
_FACTS_OF = (
    f"SELECT {', '.join(_FACTS)} FROM drape.attempt_facts WHERE log_id = $1 AND preview_id = $2 "  # noqa: S608
    f"ORDER BY attempt DESC LIMIT {ATTEMPTS_MAX}"
)


def _figures(column: str) -> str:
    only = " FILTER (WHERE install = 'completed')" if column == "install_s" else ""
    return (
        f"count({column}){only} AS {column}_of, "
        f"percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY {column}){only} AS {column}_percentiles"
    )


_BASELINES = (
    "SELECT from_pool, grouping(from_pool) AS everything, count(*) AS previews, "  # noqa: S608 - our own names
    "count(*) FILTER (WHERE install = 'skipped') AS skipped, "
    + ", ".join(_figures(column) for column in _COLUMNS.values())
    + " FROM drape.preview_attempts WHERE log_id = $1 AND framework = $2 AND attempt_at >= $3 AND preview_id <> $4 "
    "AND ready_at IS NOT NULL GROUP BY GROUPING SETS ((from_pool), ())"
)
_INSTALLED_BEFORE = (
    "SELECT count(*) FROM drape.attempt_facts WHERE log_id = $1 AND owner = $2 AND deps = $3 AND at < $4 "
    "AND preview_id <> $5 AND install <> '' AND install <> 'failed'"
)
_PROJECT_DEPS = (
    "SELECT deps FROM drape.attempt_facts WHERE log_id = $1 AND project_id = $2 AND at < $3 AND preview_id <> $4 "
    "AND deps <> '' ORDER BY at DESC LIMIT 1"
)


class TimingQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. `days`: of which the previews are that it is compared with."""

    preview_id: PreviewId
    days: int = 30


_query = msgspec.json.Decoder(TimingQuery)


class TimingReader:
    """Answers the query. `log_id`: gives the log that is read now; `clock`: seconds, UTC."""

    def __init__(
        self, pool: Any, log_id: Callable[[], str], config: TelemetryConfig, clock: Callable[[], float]
    ) -> None:
        self._questions = Questions(pool, "timing", "Why it was slow", timeout_s=config.stats_timeout_s)
        self._log_id = log_id
        self._config = config
        self._clock = clock

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `TimingQuery` -> JSON of `Timing`. Raises `Invalid` (`bad_query`), `NotFound`, `Unavailable`."""
        query = decoded(_query, body, '{"preview_id": "…"}')
        if not 1 <= query.days <= DAYS_MAX:
            raise Invalid("bad_query", f"`days` is from 1 to {DAYS_MAX}.")
        return msgspec.json.encode(await self.timing(query))

    async def timing(self, query: TimingQuery) -> Timing:
        """The answer. Raises `NotFound` (`timing_unknown`), `Unavailable` while PostgreSQL is away."""
        now = self._clock()
        async with self._questions.snapshot() as connection:
            figures = (await serving(connection, PREVIEWS, self._log_id())).log_id
            told = (await serving(connection, ErrorsProjection.name, self._log_id())).log_id
            attempts = [from_record(row, Took) for row in await connection.fetch(_ATTEMPTS, figures, query.preview_id)]
            if not attempts:
                raise NotFound(
                    "timing_unknown",
                    f"There are no figures of the preview {query.preview_id[:64]}.",
                    "Those of residents are not kept; one that has only just begun is there in a moment.",
                )
            facts = [from_record(row, Facts) for row in await connection.fetch(_FACTS_OF, told, query.preview_id)]
            since = datetime.fromtimestamp(now - query.days * DAY_S, UTC)
            framework = attempts[0].framework
            rows = await connection.fetch(_BASELINES, figures, framework, since, query.preview_id) if framework else []
            history = await _history(connection, told, facts[0]) if facts else History()
        known = {each.attempt: each for each in facts}
        return explain(query.preview_id, attempts[::-1], known, _baselines(rows), history, now)


async def _history(connection: Any, log_id: str, facts: Facts) -> History:
    if not facts.deps:
        return History()
    at = datetime.fromtimestamp(facts.at, UTC)
    asked = (log_id, facts.owner, facts.deps, at, facts.preview_id)
    project = (log_id, facts.project_id, at, facts.preview_id)
    return History(
        installed_before=await connection.fetchval(_INSTALLED_BEFORE, *asked),
        project_deps=await connection.fetchval(_PROJECT_DEPS, *project) or "",
    )


def _baselines(rows: Sequence[Mapping[str, Any]]) -> list[Baseline]:
    return [
        Baseline(
            warm=None if row["everything"] else row["from_pool"],
            previews=row["previews"],
            skipped=row["skipped"],
            steps={name: usual for name, column in _COLUMNS.items() if (usual := _usual(row, column)) is not None},
        )
        for row in rows
        if row["everything"] or row["from_pool"] is not None
    ]


def _usual(row: Mapping[str, Any], column: str) -> Usual | None:
    percentiles = row[f"{column}_percentiles"]
    if not row[f"{column}_of"] or percentiles is None:
        return None
    return Usual(of=row[f"{column}_of"], p50=round(percentiles[0], 3), p95=round(percentiles[1], 3))
