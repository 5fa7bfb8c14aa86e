"""The statistics once more, from the log alone: the same fold of events to attempts, and nothing of the database. Pure.

So every figure that PostgreSQL gives can be held against the log; `drape stats --recount` does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from services.telemetry.figures import (
    DAY_S,
    MEASURES,
    SMALLEST_S,
    Stats,
    StatsQuery,
    Tallies,
    Tally,
    answer,
    from_values,
)
from services.telemetry.rows import Attempt, project
from shared.codec import Recorded
from shared.ids import OwnerId

ROUNDING = 2e-4
"""Of the answer's four decimals, twice: times in the log have more."""


class Difference(msgspec.Struct, frozen=True):
    """A figure, by its path (`steps.boot.p95`), as it was answered and as the log has it. None: there is none."""

    field: str
    answered: float | str | None
    recounted: float | str | None


def recount(
    events: Iterable[Recorded],
    now: float,
    days: int,
    owner: OwnerId | None = None,
    *,
    framework: str | None = None,
    provider: str | None = None,
    since: float | None = None,
) -> Stats:
    """What the statistics answer at `now` after these events, the log from its beginning. `since`: from when on, where it
    is not `days` before `now` (a day that was dropped counts whole). Times: seconds, UTC."""
    query = StatsQuery(days=days, owner=owner, framework=framework, provider=provider)
    since = now - days * DAY_S if since is None else since
    position = 0

    def counted() -> Iterator[Recorded]:
        nonlocal position
        for recorded in events:
            position = recorded.seq
            yield recorded

    attempts = [row for row in project({}, counted()) if row.attempt_at >= since and _is_asked(row, query)]
    return answer(tallies_of(attempts), query, since=since, now=now, position=position)


def tallies_of(attempts: list[Attempt]) -> Tallies:
    """All that is counted of these attempts."""
    failures = Counter(row.code or "" for row in attempts if row.status == "failed" and row.ready_at is None)
    after_ready = Counter(row.code or "" for row in attempts if row.status == "failed" and row.ready_at is not None)
    return Tallies(
        whole=_tally(attempts),
        by_framework=_by(attempts, lambda row: row.framework),
        by_provider=_by(attempts, lambda row: row.provider),
        by_warmth=_by(attempts, _warmth),
        by_install=_by(attempts, lambda row: row.install),
        failures=dict(failures),
        failures_after_ready=dict(after_ready),
    )


def differences(answered: Stats, recounted: Stats) -> list[Difference]:
    """The figures that are not the same, rounding (and what `answered` says of its percentiles) left aside."""
    ours, logs = dict(_flat(msgspec.to_builtins(answered))), dict(_flat(msgspec.to_builtins(recounted)))
    apart = ("percentiles", "percentile_error", "generated_at", "since", "position")
    return [
        Difference(field, ours.get(field), logs.get(field))
        for field in sorted({*ours, *logs})
        if field not in apart
        and not _is_same(ours.get(field), logs.get(field), _tolerance(field, answered.percentile_error))
    ]


def _is_asked(row: Attempt, query: StatsQuery) -> bool:
    return (
        query.owner in (None, row.owner)
        and query.framework in (None, row.framework)
        and query.provider in (None, row.provider)
    )


def _warmth(row: Attempt) -> str | None:
    return None if row.from_pool is None else ("warm" if row.from_pool else "cold")


def _by(attempts: list[Attempt], group: Callable[[Attempt], str | None]) -> dict[str, Tally]:
    groups: dict[str, list[Attempt]] = {}
    for row in attempts:
        name = group(row)
        if name is not None:
            groups.setdefault(name, []).append(row)
    return {name: _tally(rows) for name, rows in groups.items()}


def _tally(attempts: list[Attempt]) -> Tally:
    return Tally(
        count=len(attempts),
        success=sum(row.ready_at is not None for row in attempts),
        failed=sum(row.status == "failed" and row.ready_at is None for row in attempts),
        vms=sum(row.from_pool is not None for row in attempts),
        warm=sum(row.from_pool is True for row in attempts),
        installs=sum(row.install is not None for row in attempts),
        skipped=sum(row.install == "skipped" for row in attempts),
        seconds={
            name: from_values([value for row in attempts if (value := getattr(row, f"{name}_s")) is not None])
            for name in MEASURES
        },
    )


def _flat(value: object, path: str = "") -> Iterator[tuple[str, float | str | None]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _flat(each, f"{path}.{name}" if path else name)
    elif value is None or isinstance(value, int | float | str):
        yield path, value


def _tolerance(field: str, percentile_error: float) -> float:
    return percentile_error if field.rpartition(".")[2] in ("p50", "p95", "p99") else 0.0


def _is_same(one: float | str | None, other: float | str | None, tolerance: float) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= ROUNDING + (tolerance and SMALLEST_S + tolerance * abs(other))
    return one == other
