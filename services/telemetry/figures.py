"""The statistics' answer, from figures that were counted in one way or another. Pure; knows neither SQL nor the log.

An attempt counts where it began within the asked days. It succeeded when it was ready once, whatever became of it
later; it failed when it failed before. What still runs, was stopped or superseded is neither.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from shared.ids import OwnerId

DAYS_MAX = 365
DAY_S = 24 * 3600.0
TOTAL = "total"
STEPS = ("acquire", "sync", "install", "boot", "confirm")
MEASURES = (TOTAL, *STEPS)
PARTS = (0.5, 0.95, 0.99)

GROWTH = 1.05
SMALLEST_S = 0.001
PERCENTILE_ERROR = 0.025
"""Of percentiles that are read from buckets: each is so much wider than the one before that its middle is at most so far
from whatever is in it (from `SMALLEST_S` on)."""


class StatsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. None: everybody's, every framework's, every provider's."""

    days: int = 7
    owner: OwnerId | None = None
    framework: str | None = None
    provider: str | None = None


class Previews(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts by outcome. `success_rate`: 0..1 of those that succeeded or failed."""

    count: int
    success: int
    failed: int
    success_rate: float | None


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None where there is nothing to compute from. `count`: attempts that came to this end."""

    count: int
    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class GroupStats(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts of one framework, provider, …: how many, how they ended, and seconds to ready of those that were (`average`
    to `p99`), and by step."""

    count: int
    success: int
    failed: int
    average: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    steps: dict[str, Seconds]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Rates: 0..1 or None. `failures`: codes of the attempts under `previews.failed`; those of attempts
    that were ready before stand apart. `since`, `generated_at`: seconds, UTC; `position`: up to which sequence it holds.

    `by_warmth`: `warm` and `cold`, whether the VM came from the pool; `by_install`: what became of the install. An
    attempt of which a group is not known is in none of its kind. `percentiles`: `bucketed` where days count whose
    attempts are not kept one by one any more; each is then at most `percentile_error` (a part of it) off.
    """

    days: int
    previews: Previews
    total_s: Seconds
    steps: dict[str, Seconds]
    pool_hit_rate: float | None
    install_skip_rate: float | None
    failures: dict[str, int]
    failures_after_ready: dict[str, int]
    by_framework: dict[str, GroupStats]
    by_provider: dict[str, GroupStats]
    by_warmth: dict[str, GroupStats]
    by_install: dict[str, GroupStats]
    since: float
    generated_at: float
    position: int
    percentiles: Literal["exact", "bucketed"]
    percentile_error: float


class Tally(msgspec.Struct, kw_only=True):
    """What was counted of some attempts. `vms`: that got a VM, `warm` of them one from the pool; `installs`: of which it
    is known what became of the install; `seconds`: by measure."""

    count: int = 0
    success: int = 0
    failed: int = 0
    vms: int = 0
    warm: int = 0
    installs: int = 0
    skipped: int = 0
    seconds: dict[str, Seconds] = {}


class Tallies(msgspec.Struct, kw_only=True):
    """All that an answer is made of."""

    whole: Tally
    by_framework: dict[str, Tally]
    by_provider: dict[str, Tally]
    by_warmth: dict[str, Tally]
    by_install: dict[str, Tally]
    failures: dict[str, int]
    failures_after_ready: dict[str, int]


NOTHING = Seconds(count=0, average=None, p50=None, p95=None, p99=None)


def answer(
    tallies: Tallies, query: StatsQuery, *, since: float, now: float, position: int, bucketed: bool = False
) -> Stats:
    """The answer to a query. Times: seconds, UTC."""
    whole = tallies.whole
    return Stats(
        days=query.days,
        previews=Previews(
            count=whole.count,
            success=whole.success,
            failed=whole.failed,
            success_rate=rate(whole.success, whole.success + whole.failed),
        ),
        total_s=whole.seconds.get(TOTAL, NOTHING),
        steps=_steps(whole),
        pool_hit_rate=rate(whole.warm, whole.vms),
        install_skip_rate=rate(whole.skipped, whole.installs),
        failures=_most_first(tallies.failures),
        failures_after_ready=_most_first(tallies.failures_after_ready),
        by_framework=_groups(tallies.by_framework),
        by_provider=_groups(tallies.by_provider),
        by_warmth=_groups(tallies.by_warmth),
        by_install=_groups(tallies.by_install),
        since=since,
        generated_at=now,
        position=position,
        percentiles="bucketed" if bucketed else "exact",
        percentile_error=PERCENTILE_ERROR if bucketed else 0.0,
    )


def seconds_of(count: int, average: float | None, percentiles: Iterable[float | None]) -> Seconds:
    """Rounded as the answer has them. `percentiles`: of `PARTS`."""
    p50, p95, p99 = (_round(each) for each in percentiles)
    return Seconds(count=count, average=_round(average), p50=p50, p95=p95, p99=p99)


def from_values(values: Sequence[float]) -> Seconds:
    """Exact: between the two nearest values, as SQL's `percentile_cont` is defined."""
    if not values:
        return NOTHING
    ordered = sorted(values)
    return seconds_of(len(values), math.fsum(values) / len(values), (_at(ordered, part) for part in PARTS))


def from_buckets(buckets: Mapping[int, int], total_s: float) -> Seconds:
    """From how many values each bucket holds, and their sum. The average is exact, percentiles to `PERCENTILE_ERROR`."""
    count = sum(buckets.values())
    if not count:
        return NOTHING
    ordered = sorted(buckets.items())
    return seconds_of(count, total_s / count, (_in_buckets(ordered, (count - 1) * part) for part in PARTS))


def bucket_of(seconds: float) -> int:
    """The bucket that a value falls into; `drape.seconds_bucket` in SQL."""
    return 0 if seconds <= SMALLEST_S else math.ceil(math.log(seconds / SMALLEST_S) / math.log(GROWTH))


def middle_of(bucket: int) -> float:
    """The value that is nearest to all in a bucket, relatively."""
    return SMALLEST_S if bucket == 0 else SMALLEST_S * 2 * GROWTH**bucket / (GROWTH + 1)


def rate(part: int, whole: int) -> float | None:
    """A part, 0..1; None of nothing."""
    return round(part / whole, 4) if whole else None


def _steps(tally: Tally) -> dict[str, Seconds]:
    return {name: tally.seconds.get(name, NOTHING) for name in STEPS}


def _groups(tallies: Mapping[str, Tally]) -> dict[str, GroupStats]:
    return {name: _group(tally) for name, tally in sorted(tallies.items())}


def _group(tally: Tally) -> GroupStats:
    total = tally.seconds.get(TOTAL, NOTHING)
    return GroupStats(
        count=tally.count,
        success=tally.success,
        failed=tally.failed,
        average=total.average,
        p50=total.p50,
        p95=total.p95,
        p99=total.p99,
        steps=_steps(tally),
    )


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _at(ordered: Sequence[float], part: float) -> float:
    place = (len(ordered) - 1) * part
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def _in_buckets(ordered: Sequence[tuple[int, int]], place: float) -> float:
    low, high = _nth(ordered, math.floor(place)), _nth(ordered, math.ceil(place))
    return low + (high - low) * (place - math.floor(place))


def _nth(ordered: Sequence[tuple[int, int]], index: int) -> float:
    """The value with so many before it."""
    for bucket, count in ordered:
        if index < count:
            return middle_of(bucket)
        index -= count
    return middle_of(ordered[-1][0])


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
