"""The statistics against a recount from the log: on whatever past, with days dropped, rows written late and twice."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.previews import PreviewsProjection
from services.telemetry.adapters.projections import ProjectionStore
from services.telemetry.adapters.retention import Retention
from services.telemetry.adapters.rollups import DAILY
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.figures import (
    PERCENTILE_ERROR,
    SMALLEST_S,
    Stats,
    StatsQuery,
    bucket_of,
    from_buckets,
    from_values,
    middle_of,
)
from services.telemetry.recounting import Difference, differences, recount
from shared.codec import Recorded
from shared.events import Event, PreviewResumed, PreviewSuspended, aggregate_key

from .world import (
    QUICK,
    Story,
    acquired,
    created,
    detected,
    dev_ready,
    dev_started,
    failed,
    install_started,
    installed,
    ready,
    recorded,
    requested,
    restarted,
    rows,
    skipped,
    stopped,
    synced,
    up_to_ready,
)

DAY_S = 86_400.0
CONFIG = msgspec.structs.replace(QUICK, retention_days=6)
WEEK_S = 7 * DAY_S
START = datetime(2026, 3, 1, 15, 30, tzinfo=UTC).timestamp()

# --- without a database -------------------------------------------------------------------------------------------


def test_the_same_answers_have_no_difference() -> None:
    """Of one past, counted twice."""
    told = up_to_ready(Story(1_000.0), "p").recorded()
    one, other = (recount(told, 1_100.0, 7) for _ in range(2))

    assert one.previews.count == one.previews.success == 1
    assert (one.total_s.p50, one.steps["install"].average) == (7.5, 3.0)
    assert differences(one, other) == []


def test_each_difference_is_named() -> None:
    """By the path of its field, in groups too, and where one of the two has nothing."""
    story = up_to_ready(Story(1_000.0), "p")
    one = recount(story.recorded(), 2_000.0, 7)
    other = recount(story.tell(requested("q"), failed("q", code="npm_failed"), after_s=1).recorded(), 2_000.0, 7)

    found = differences(one, other)
    assert Difference("previews.count", 1, 2) in found
    assert Difference("failures.npm_failed", None, 1) in found
    assert Difference("previews.success_rate", 1.0, 0.5) in found
    assert not [each for each in found if each.field.startswith("steps.")]


def test_nothing_is_recounted_to_nothing() -> None:
    """No events, no division."""
    nothing = recount([], 1_000.0, 7)

    assert (nothing.previews.count, nothing.previews.success_rate, nothing.total_s.p50) == (0, None, None)
    assert nothing.position == 0


def test_an_attempt_is_its_first_moment_s() -> None:
    """At UTC midnight as at any other time: the day in which it began, to the microsecond."""
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    story = Story(midnight - 1e-6).tell(requested("before"))
    story.at = midnight
    told = story.tell(requested("after")).recorded()

    assert recount(told, midnight + DAY_S, 1).previews.count == 1
    assert recount(told, midnight + DAY_S - 1e-6, 1).previews.count == 2


@given(st.lists(st.floats(0.0, 50_000.0), min_size=1, max_size=80))
def test_percentiles_from_buckets_are_within_their_bound(values: list[float]) -> None:
    """Whatever was measured; count and average are exact."""
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1
    exact, read = from_values(values), from_buckets(buckets, sum(values))

    assert read.count == exact.count
    assert read.average == pytest.approx(exact.average, abs=1e-3)
    for name in ("p50", "p95", "p99"):
        true, found = getattr(exact, name), getattr(read, name)
        assert abs(found - true) <= PERCENTILE_ERROR * true + SMALLEST_S + 1e-4


@given(st.floats(SMALLEST_S, 1e6))
def test_a_bucket_s_middle_is_near_all_in_it(value: float) -> None:
    """The bound that the answer states."""
    assert abs(middle_of(bucket_of(value)) - value) <= PERCENTILE_ERROR * value


# --- whatever past ------------------------------------------------------------------------------------------------

seconds = st.floats(0.0, 400.0).map(lambda value: round(value, 3))


class Life(msgspec.Struct, frozen=True):
    """One preview: when it begins (days before now), whose, of what, and what happens in each of its attempts."""

    days_ago: float
    owner: str
    framework: str
    provider: str | None
    attempts: list["Try"]


class Try(msgspec.Struct, frozen=True):
    """An attempt: how long each step takes, how it ends, and how long nothing happens afterwards."""

    steps: list[float]
    warm: bool
    is_skipped: bool
    end: str
    code: str
    pause_s: float


tries = st.builds(
    Try,
    steps=st.lists(seconds, min_size=5, max_size=5),
    warm=st.booleans(),
    is_skipped=st.booleans(),
    end=st.sampled_from(["ready", "ready", "fails_early", "fails_late", "stops", "runs", "lost", "sleeps"]),
    code=st.sampled_from(["npm_failed", "dev_server_exited"]),
    pause_s=st.sampled_from([1.0, 4_000.0, 2 * DAY_S, 29.9 * DAY_S, 31 * DAY_S]),
)
lives = st.builds(
    Life,
    days_ago=st.one_of(st.floats(0.01, 12.0), st.integers(1, 50).map(float)),
    owner=st.sampled_from(["ann", "bob"]),
    framework=st.sampled_from(["vite", "nextjs"]),
    provider=st.sampled_from(["local", "docker", None]),
    attempts=st.lists(tries, min_size=1, max_size=3),
)


def told(life: Life, name: str, now: float) -> list[tuple[float, Event]]:
    """The preview's events, but for those that would be in the future."""
    story = Story(now - life.days_ago * DAY_S).tell(requested(name, life.owner))
    for number, each in enumerate(life.attempts, 1):
        if number > 1:
            story.tell(restarted(name, number, lost=each.end == "lost"), after_s=life.attempts[number - 2].pause_s)
        vm = f"vm-{name}-{number}"
        if life.provider:
            story.tell(created(vm, life.provider))
        acquire, sync, install, boot, confirm = each.steps
        story.tell(detected(name, number, life.framework))
        story.tell(acquired(name, vm=vm, from_pool=each.warm), after_s=acquire)
        story.tell(synced(name, number), after_s=sync)
        if each.is_skipped:
            story.tell(skipped(name, number))
        else:
            story.tell(install_started(name, number))
            if each.end == "fails_early":
                story.tell(failed(name, number, code=each.code), after_s=1)
                continue
            story.tell(installed(name, number), after_s=install)
        story.tell(dev_started(name, number))
        if each.end in ("stops", "runs"):
            story.tell(*([stopped(name)] if each.end == "stops" else []), after_s=1)
            continue
        story.tell(dev_ready(name, number), after_s=boot)
        was = "skipped" if each.is_skipped else "completed"
        total_s = round(acquire + sync + boot + confirm, 3)
        story.tell(ready(name, number, total_s=total_s, install=was, from_pool=each.warm), after_s=confirm)
        if each.end == "fails_late":
            story.tell(failed(name, number, code=each.code, step="server_ready"), after_s=60)
        elif each.end == "sleeps":
            story.tell(PreviewSuspended(preview_id=name, idle_s=900.0), after_s=900)
            story.tell(PreviewResumed(preview_id=name), after_s=900)
    return [(at, event) for at, event in story.told if at < now]


def log_of(past: Sequence[Life], now: float) -> list[Recorded]:
    """All of it in the order in which it happened."""
    events = [each for number, life in enumerate(past) for each in told(life, f"p{number}", now)]
    revisions: dict[str, int] = {}
    log = []
    for seq, (at, event) in enumerate(sorted(events, key=lambda each: each[0]), 1):
        key = aggregate_key(event)
        revisions[key] = revisions.get(key, 0) + 1
        log.append(recorded(event, at=at, seq=seq, rev=revisions[key]))
    return log


QUERIES = (
    StatsQuery(days=1),
    StatsQuery(days=6),
    StatsQuery(days=40, owner="ann"),
    StatsQuery(days=365),
    StatsQuery(days=365, framework="vite", provider="local"),
)

_weeks = itertools.count(1)
"""Each past is told a week later than the last one, so that the days of that one are dropped meanwhile."""


async def _retain(pool: Any, now: float) -> None:
    await Retention(pool, (DAILY,), CONFIG, lambda: now).look()


async def _answers(pool: Any, log_id: str, now: float) -> list[Stats]:
    reader = StatsReader(pool, lambda: log_id, CONFIG, lambda: now)
    return [await reader.stats(query) for query in QUERIES]


@pytest.mark.live
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(past=st.lists(lives, max_size=6), cut=st.floats(0.0, 1.0), batch=st.sampled_from([3, 50]))
async def test_postgres_answers_what_the_log_says(database_url: str, past: list[Life], cut: float, batch: int) -> None:
    """Each figure, for everybody, an owner, a framework and a provider; before and after days are dropped, with a part of
    the log written before that and the rest after, each batch twice."""
    week = next(_weeks)
    now, log_id = START + week * WEEK_S, f"log-{week}"
    log = log_of(past, now)
    pool = await open_pool(database_url, CONFIG)
    store = ProjectionStore(pool, PreviewsProjection(), CONFIG)
    half = int(len(log) * cut)
    try:
        await store.migrate()
        for part, so_far in ((log[:half], log[:half]), (log[half:], log)):
            for start in range(0, len(part), batch):
                for _ in range(2):
                    await store.apply(log_id, part[start : start + batch])
            answers = await _answers(pool, log_id, now)
            await _retain(pool, now)
            answers += await _answers(pool, log_id, now)
            for answered, query in zip(answers, QUERIES * 2, strict=True):
                again = recount(
                    so_far,
                    now,
                    query.days,
                    query.owner,
                    framework=query.framework,
                    provider=query.provider,
                    since=answered.since,
                )
                assert differences(answered, again) == []
        left = await rows(database_url, "SELECT count(*) AS n FROM drape.preview_attempts WHERE log_id = $1", log_id)
        assert left[0]["n"] <= sum(len(life.attempts) for life in past)
    finally:
        await close_pool(pool, CONFIG.close_timeout_s)
