"""Errors in PostgreSQL: the projection that writes them, and `drape.query.telemetry.errors`, which reads them.

What is old goes by the log's own times, so that a projection made anew ends with the same rows.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.telemetry.adapters.columns import fields_of, from_record, insert, to_columns, upsert
from services.telemetry.adapters.projections import serving
from services.telemetry.adapters.questions import Questions, decoded
from services.telemetry.config import TelemetryConfig
from services.telemetry.errors import Facts, Occurrence, fold, preview_of
from shared.codec import Recorded
from shared.errors import Invalid
from shared.events import ProjectDeleted
from shared.ids import OwnerId, PreviewId, ProjectId
from shared.sealed import ERASED

DAY_S = 24 * 3600.0
DAYS_MAX, LIMIT_MAX = 365, 200

_FACTS, _OCCURRENCE = fields_of(Facts), fields_of(Occurrence)

# The names in these are ours; what is asked for travels as parameters.
_SELECT_NEWEST = (
    f"SELECT DISTINCT ON (preview_id) {', '.join(_FACTS)} FROM drape.attempt_facts "  # noqa: S608 - our own names
    "WHERE log_id = $1 AND preview_id = ANY($2::text[]) ORDER BY preview_id, attempt DESC"
)
_UPSERT_FACTS = upsert("attempt_facts", Facts, ("preview_id", "attempt"))
_INSERT_OCCURRENCE = f"{insert('error_occurrences', Occurrence)} ON CONFLICT DO NOTHING"
_COUNT = """
INSERT INTO drape.error_counts AS c (log_id, fingerprint, preview_id, type, code, step, framework, project_id, owner,
    count, first_at, last_at, last_seq, message, attempt, vm_id, trace_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10, $10, $11, $12, $13, $14, $15)
ON CONFLICT (log_id, fingerprint, preview_id) DO UPDATE SET
    count = CASE WHEN c.last_at < $16 THEN 1 ELSE c.count + 1 END,
    first_at = CASE WHEN c.last_at < $16 THEN EXCLUDED.first_at ELSE c.first_at END, last_at = EXCLUDED.last_at,
    last_seq = EXCLUDED.last_seq, message = EXCLUDED.message, attempt = EXCLUDED.attempt, vm_id = EXCLUDED.vm_id,
    trace_id = EXCLUDED.trace_id
"""
_TRIM = (
    "DELETE FROM drape.error_occurrences WHERE log_id = $1 AND fingerprint = $2 AND owner = $3 AND seq <= "
    "(SELECT seq FROM drape.error_occurrences WHERE log_id = $1 AND fingerprint = $2 AND owner = $3 "
    "ORDER BY seq DESC OFFSET $4 LIMIT 1)"
)
_FORGET_OLD = (
    "DELETE FROM drape.attempt_facts WHERE log_id = $1 AND at < $2",
    "DELETE FROM drape.error_counts WHERE log_id = $1 AND last_at < $2",
    "DELETE FROM drape.error_occurrences WHERE log_id = $1 AND at < $2",
)
_ERASE = tuple(
    f"UPDATE drape.{table} SET message = $3 WHERE log_id = $1 AND project_id = $2 AND message <> ''"  # noqa: S608 - ours
    for table in ("error_counts", "error_occurrences")
)
"""New messages are sealed, and can't be read any more; those of a log from before that were not."""
_MINE = (
    "log_id = $1 AND ($2::text IS NULL OR owner = $2) AND ($3::text IS NULL OR fingerprint = $3) "
    "AND ($4::text IS NULL OR code = $4) AND ($5::text IS NULL OR project_id = $5)"
)
_GROUPS = (
    "SELECT fingerprint, type, code, step, framework, sum(count)::bigint AS count, "  # noqa: S608 - our own names
    "count(*) FILTER (WHERE preview_id <> '') AS previews, count(DISTINCT owner) FILTER (WHERE owner <> '') AS owners, "
    "min(first_at) AS first_at, max(last_at) AS last_at, max(last_seq) AS last_seq "
    f"FROM drape.error_counts WHERE {_MINE} AND last_at >= $6 GROUP BY 1, 2, 3, 4, 5 "
    "HAVING $7::bigint IS NULL OR max(last_seq) < $7 ORDER BY max(last_seq) DESC LIMIT $8"
)
_LAST = (
    "SELECT last_seq AS seq, last_at AS at, preview_id, project_id, owner, attempt, vm_id, trace_id, message "
    "FROM drape.error_counts WHERE log_id = $1 AND last_seq = ANY($2::bigint[])"
)
_OCCURRENCES = (
    f"SELECT {', '.join(_OCCURRENCE)} FROM drape.error_occurrences "  # noqa: S608 - our own names
    f"WHERE {_MINE} AND at >= $6 AND ($7::bigint IS NULL OR seq < $7) ORDER BY seq DESC LIMIT $8"
)


class ErrorsProjection:
    """The rows of errors, and of what is known of attempts. `log_id` names the log, and which making of the rows."""

    name = "errors"
    version = 1
    tables = ("attempt_facts", "error_counts", "error_occurrences")

    def __init__(self, config: TelemetryConfig) -> None:
        self._config = config

    async def apply(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> None:
        """Write what these events change, in the transaction that moves the position too."""
        facts, found = fold(await self._newest(connection, log_id, events), events)
        if facts:
            await connection.executemany(_UPSERT_FACTS, [(log_id, *to_columns(each)) for each in facts])
        if found:
            await connection.executemany(_INSERT_OCCURRENCE, [(log_id, *to_columns(each)) for each in found])
            await connection.executemany(_COUNT, [self._counted(log_id, each) for each in found])
            kept = self._config.errors_per_group_max
            groups = sorted({(each.fingerprint, each.owner) for each in found})
            await connection.executemany(_TRIM, [(log_id, *group, kept) for group in groups])
            for statement in _FORGET_OLD:
                await connection.execute(statement, log_id, self._oldest(found[-1]))
        for recorded in events:
            if isinstance(recorded.event, ProjectDeleted):
                for statement in _ERASE:
                    await connection.execute(statement, log_id, recorded.event.project_id, ERASED)

    async def _newest(self, connection: Any, log_id: str, events: Sequence[Recorded]) -> Mapping[PreviewId, Facts]:
        wanted = {preview_id for preview_id in map(preview_of, events) if preview_id is not None}
        if not wanted:
            return {}
        records = await connection.fetch(_SELECT_NEWEST, log_id, sorted(wanted))
        return {record["preview_id"]: from_record(record, Facts) for record in records}

    def _counted(self, log_id: str, error: Occurrence) -> tuple[object, ...]:
        """A row that was due to be forgotten begins anew, however late that is noticed."""
        return (
            *(log_id, error.fingerprint, error.preview_id, error.type, error.code, error.step, error.framework),
            *(error.project_id, error.owner, datetime.fromtimestamp(error.at, UTC), error.seq, error.message),
            *(error.attempt, error.vm_id, error.trace_id, self._oldest(error)),
        )

    def _oldest(self, error: Occurrence) -> datetime:
        """What is kept beside it happened after this."""
        return datetime.fromtimestamp(error.at - self._config.errors_days * DAY_S, UTC)


# --- what is read -------------------------------------------------------------------------------------------------


class ErrorsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. `owner` None: everybody's, and what is of no preview. `before`: only what happened last (a group) or
    at all (`occurrences`, with a fingerprint) before this sequence: the `next` of an answer."""

    days: int = 7
    owner: OwnerId | None = None
    fingerprint: str | None = None
    code: str | None = None
    project: ProjectId | None = None
    limit: int = 50
    before: int | None = None
    occurrences: bool = False


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Errors with the same cause. Times: seconds, UTC; `last`: the last one of them."""

    fingerprint: str
    type: str
    code: str
    step: str
    framework: str
    count: int
    previews: int
    owners: int
    first_at: float
    last_at: float
    last: dict[str, Any]


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `next`: what `before` has to be for more; None: that is all."""

    groups: list[Group]
    occurrences: list[Occurrence]
    next: int | None


_query = msgspec.json.Decoder(ErrorsQuery)


class ErrorsReader:
    """Answers the query."""

    def __init__(
        self, pool: Any, log_id: Callable[[], str], config: TelemetryConfig, clock: Callable[[], float]
    ) -> None:
        self._questions = Questions(pool, "errors", "The errors", timeout_s=config.stats_timeout_s)
        self._log_id = log_id
        self._config = config
        self._clock = clock

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `ErrorsQuery` -> JSON of `Errors`. Raises `Invalid` (`bad_query`), `Unavailable`."""
        query = decoded(_query, body, '{"days": 7, "limit": 50}')
        if not (1 <= query.days <= DAYS_MAX and 1 <= query.limit <= LIMIT_MAX):
            raise Invalid("bad_query", f"`days` is from 1 to {DAYS_MAX}, `limit` from 1 to {LIMIT_MAX}.")
        return msgspec.json.encode(await self.errors(query))

    async def errors(self, query: ErrorsQuery) -> Errors:
        """The groups, newest first; with `occurrences` the group and what it is made of. Raises `Unavailable`."""
        since = datetime.fromtimestamp(self._clock() - query.days * DAY_S, UTC)
        async with self._questions.snapshot() as connection:
            log_id = (await serving(connection, ErrorsProjection.name, self._log_id())).log_id
            asked = (log_id, query.owner, query.fingerprint, query.code, query.project, since)
            before = None if query.occurrences else query.before
            rows = await connection.fetch(_GROUPS, *asked, before, query.limit + 1)
            shown = rows[: query.limit]
            last = {
                row["seq"]: row for row in await connection.fetch(_LAST, log_id, [row["last_seq"] for row in shown])
            }
            groups = [_group(row, last[row["last_seq"]]) for row in shown]
            if not query.occurrences:
                return Errors(groups=groups, occurrences=[], next=_next(rows, query.limit, "last_seq"))
            found = await connection.fetch(_OCCURRENCES, *asked, query.before, query.limit + 1)
        occurrences = [from_record(row, Occurrence) for row in found[: query.limit]]
        return Errors(groups=groups, occurrences=occurrences, next=_next(found, query.limit, "seq"))


def _group(row: Mapping[str, Any], last: Mapping[str, Any]) -> Group:
    values = {**dict(row), "first_at": row["first_at"].timestamp(), "last_at": row["last_at"].timestamp()}
    values["last"] = {**dict(last), "at": last["at"].timestamp()}
    return msgspec.convert({name: values[name] for name in Group.__struct_fields__}, Group)


def _next(rows: Sequence[Mapping[str, Any]], limit: int, name: str) -> int | None:
    return int(rows[limit - 1][name]) if len(rows) > limit else None
