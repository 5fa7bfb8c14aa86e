"""Days that are past keeping: dropped whole, never made again, and counted for ever."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from services.telemetry.adapters.migrations import migrate, migrations
from services.telemetry.adapters.partitions import days_of, drop_before, ensure, horizon
from services.telemetry.adapters.postgres import open_pool
from services.telemetry.adapters.retention import Retention
from services.telemetry.adapters.rollups import DAILY, TABLE
from services.telemetry.app import definition, effects
from services.telemetry.figures import Stats
from services.telemetry.react import RETENTION_TICK, on_timer
from services.telemetry.recounting import differences, recount
from services.telemetry.rows import FINAL_AFTER_S
from services.telemetry.state import initial
from shared.codec import Recorded
from shared.memory import MemoryBroker
from shared.ports import Cause, TimerFired
from shared.runtime import Runtime
from tests.deploy.waiting import eventually

from .world import (
    QUICK,
    Projecting,
    Story,
    created,
    failed,
    opened,
    projecting,
    ready,
    requested,
    restarted,
    rows,
    stopped,
    up_to_ready,
)

pytestmark = pytest.mark.live

DAY_S = 86_400.0
KEPT_DAYS = 3


def today() -> date:
    return datetime.now(UTC).date()


def noon(days_ago: int) -> float:
    """Noon of that day, UTC."""
    day = today() - timedelta(days=days_ago)
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()


def long_past() -> Story:
    """Previews of many days, of each kind of end, and of today."""
    story = Story(noon(80))
    for days_ago in (80, 60, 45, 10, 5, 3, 2, 1):
        story.at = noon(days_ago)
        name = f"d{days_ago:02}"
        story.tell(created(f"vm-of-{name}-stopped"))
        up_to_ready(story, f"{name}-stopped").tell(stopped(f"{name}-stopped"), after_s=60)
        story.tell(requested(f"{name}-failed"), failed(f"{name}-failed"), after_s=1)
        story.tell(requested(f"{name}-again"), failed(f"{name}-again", code="npm_failed"), after_s=1)
        story.tell(restarted(f"{name}-again", 2), after_s=5)
        story.tell(ready(f"{name}-again", 2, total_s=days_ago / 3), after_s=9)
        up_to_ready(story, f"{name}-lives", owner="bob")
    story.at = time.time() - 30
    return up_to_ready(story, "now")


async def retain(url: str, kept_days: int = KEPT_DAYS) -> None:
    """One tick."""
    config = msgspec.structs.replace(QUICK, retention_days=kept_days)
    pool = await open_pool(url, config)
    try:
        await Retention(pool, (DAILY,), config).look()
    finally:
        await pool.close()


async def caught_up(at_work: Projecting, broker: MemoryBroker) -> None:
    await eventually(lambda: at_work.projector.seq == len(broker.records), timeout_s=20)


async def asked(at_work: Projecting, **query: object) -> Stats:
    """The answer, as a value."""
    return msgspec.json.decode(await at_work.stats.answer(msgspec.json.encode(query), {}), type=Stats)


def recounted(broker: MemoryBroker, answered: Stats, owner: str | None = None) -> Stats:
    """The same from the log alone."""
    records: Sequence[Recorded] = broker.records
    return recount(records, answered.generated_at, answered.days, owner, since=answered.since)


async def partitions(url: str) -> list[str]:
    """Names of the days' tables, oldest first."""
    found = await rows(url, "SELECT relname FROM pg_class WHERE relname ~ '^preview_attempts_p[0-9]{8}$' ORDER BY 1")
    return [row["relname"] for row in found]


async def sizes(url: str) -> dict[str, Any]:
    """How many rows there are, and where."""
    (found,) = await rows(
        url,
        "SELECT (SELECT count(*) FROM drape.preview_attempts) AS whole, (SELECT count(*) FROM drape.preview_attempts_rest) "
        "AS rest, (SELECT coalesce(sum(count), 0)::int FROM drape.preview_rollups) AS rolled",
    )
    return dict(found)


async def test_dropped_days_count_on(database_url: str) -> None:
    """Every figure after the drop is the log's, counts and averages exactly and percentiles within the stated bound."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        before = await asked(at_work, days=365)
        attempts = (await sizes(database_url))["whole"]
        await retain(database_url)
        after, short = await asked(at_work, days=365), await asked(at_work, days=KEPT_DAYS)
        bob, within = await asked(at_work, days=365, owner="bob"), await asked(at_work, days=50)

    first = f"preview_attempts_p{today() - timedelta(days=KEPT_DAYS):%Y%m%d}"
    last = f"preview_attempts_p{today() + timedelta(days=2):%Y%m%d}"
    names = await partitions(database_url)
    assert (names[0], names[-1]) == (first, last)
    counted = await sizes(database_url)
    assert counted["whole"] + counted["rolled"] == attempts
    assert counted["rolled"] > 0
    assert (before.percentiles, after.percentiles, short.percentiles) == ("exact", "bucketed", "exact")
    assert before.previews == after.previews
    assert before.failures == after.failures
    for answered, owner in ((before, None), (after, None), (short, None), (bob, "bob"), (within, None)):
        assert differences(answered, recounted(broker, answered, owner)) == []
    assert datetime.fromtimestamp(within.since, UTC).hour == 0


async def test_very_many_attempts_are_read_from_buckets(database_url: str) -> None:
    """Sorting them would take too long: the answer says so, and is within its bound."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, msgspec.structs.replace(QUICK, exact_attempts_max=15)) as at_work:
        await caught_up(at_work, broker)
        many, few = await asked(at_work, days=365), await asked(at_work, days=2)

    assert (many.percentiles, few.percentiles) == ("bucketed", "exact")
    for answered in (many, few):
        assert differences(answered, recounted(broker, answered)) == []


async def test_late_events_change_what_they_are_about(database_url: str) -> None:
    """A preview of a dropped day that still lives fails, one that failed is begun anew: both count as the log says. An
    attempt that ended too long ago to be begun anew is no row any more."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        await retain(database_url)
        late = Story(time.time() - 20)
        late.tell(failed("d80-lives", code="dev_server_exited", step="server_ready"))
        late.tell(restarted("d10-failed", 2), ready("d10-failed", 2, total_s=1.5), restarted("d80-failed", 2))
        late.record(broker)
        await caught_up(at_work, broker)
        await retain(database_url)
        answered = await asked(at_work, days=365)

    assert answered.failures_after_ready == {"dev_server_exited": 1}
    assert differences(answered, recounted(broker, answered)) == []
    found = await rows(
        database_url, "SELECT preview_id, attempt FROM drape.preview_attempts WHERE preview_id ~ 'failed'"
    )
    names = {tuple(row) for row in found}
    assert ("d10-failed", 2) in names
    assert not [each for each in names if each[0] in ("d80-failed", "d60-failed")]


async def test_an_old_log_read_anew_makes_no_dropped_day_again(database_url: str) -> None:
    """The rows are forgotten and everything is projected once more: the days stay dropped, the figures the same."""
    broker = MemoryBroker()
    long_past().record(broker)
    config = msgspec.structs.replace(QUICK, batch_events_max=9)
    async with projecting(broker, database_url, config) as at_work:
        await caught_up(at_work, broker)
        await retain(database_url)
        position = await at_work.store.position(at_work.projector.log_id)
    async with opened(database_url) as store:
        await store.forget(position)
    assert await sizes(database_url) == {"whole": 0, "rest": 0, "rolled": 0}
    names = await partitions(database_url)
    async with projecting(broker, database_url, config) as at_work:
        await caught_up(at_work, broker)
        await retain(database_url)
        answered = await asked(at_work, days=365)

    assert await partitions(database_url) == names
    assert (await sizes(database_url))["rolled"] > 0
    assert differences(answered, recounted(broker, answered)) == []


async def test_days_are_dropped_while_others_write_and_ask(database_url: str) -> None:
    """Two projectors write and somebody asks while days go: nothing fails, nothing is counted twice or missed."""
    broker = MemoryBroker()
    long_past().record(broker)
    small = msgspec.structs.replace(QUICK, batch_events_max=5)
    async with projecting(broker, database_url, small) as one, projecting(broker, database_url, small) as two:
        await caught_up(one, broker)
        before = await asked(one, days=365)

        async def ask() -> list[Stats]:
            return [await asked(two, days=365) for _ in range(15)]

        async def drop() -> None:
            for kept in (50, 30, 8, 3):
                await retain(database_url, kept)

        answers, _ = await asyncio.gather(ask(), drop())
        for number in range(5):
            up_to_ready(Story(time.time() - 10), f"meanwhile-{number}").record(broker)
        await caught_up(one, broker)
        await caught_up(two, broker)
        after = await asked(two, days=365)

    assert {each.previews.count for each in answers} == {before.previews.count}
    assert differences(after, recounted(broker, after)) == []


async def test_the_first_days_tables_are_there_before_their_day(database_url: str) -> None:
    """Nobody has to make one at midnight; a tick more changes nothing."""
    async with opened(database_url) as store:
        await store.migrate()
    await retain(database_url)
    names = await partitions(database_url)
    await retain(database_url)

    assert names == [f"preview_attempts_p{today() + timedelta(days=n):%Y%m%d}" for n in range(3)]
    assert await partitions(database_url) == names


async def test_the_tick_looks_after_the_days(database_url: str) -> None:
    """From the timer to the tables, as the service wires it; and with PostgreSQL away the tick is no failure."""
    async with opened(database_url) as store:
        await store.migrate()
    broker = MemoryBroker()
    fired = TimerFired(name=RETENTION_TICK, id="tick", key="tick-1")
    assert definition(QUICK).ticks[RETENTION_TICK] == QUICK.retention_period_s

    for url in (database_url, "postgresql://drape@127.0.0.1:9/none"):
        pool = await open_pool(url, QUICK)
        try:
            runtime = Runtime(definition(QUICK), broker.bus())
            performing, _ = effects(runtime, {}, retain=Retention(pool, (DAILY,), QUICK).look)
            for effect in on_timer(initial(), fired):
                await performing.perform(effect, Cause())
        finally:
            await pool.close()
    assert len(await partitions(database_url)) == 3


async def test_partitions_are_made_once_and_never_before_the_horizon(database_url: str) -> None:
    """By many at once; and the horizon does not move back."""
    async with opened(database_url) as store:
        await store.migrate()
    first = date(2026, 3, 1)
    days = [first + timedelta(days=n) for n in range(4)]
    connections = [await asyncpg.connect(database_url) for _ in range(4)]

    async def make(connection: Any) -> None:
        async with connection.transaction():
            await ensure(connection, TABLE, days)

    try:
        await asyncio.gather(*(make(connection) for connection in connections))
        one = connections[0]
        assert await days_of(one, TABLE) == days
        async with one.transaction():
            assert await drop_before(one, TABLE, days[2]) == days[:2]
        async with one.transaction():
            assert await drop_before(one, TABLE, days[1]) == []
        async with one.transaction():
            assert await ensure(one, TABLE, days) == days[2]
        assert await horizon(one, TABLE) == days[2]
        assert await days_of(one, TABLE) == days[2:]
    finally:
        for connection in connections:
            await connection.close()


async def test_rows_from_before_partitions_are_moved(database_url: str) -> None:
    """An older schema's rows are in their days' tables afterwards, each of them, and the view shows them."""
    all_of_them = migrations()
    connection = await asyncpg.connect(database_url)
    try:
        await migrate(connection, all_of_them[:3], timeout_s=10)
        for number, day in enumerate(("2026-01-01 23:59:59.999+00", "2026-01-02 00:00+00", "2026-02-03 12:00+00")):
            await connection.execute(
                "INSERT INTO drape.preview_attempts (log_id, preview_id, attempt, rev, project_id, owner, status, "
                "requested_at, attempt_at, step_at) SELECT 'log', $1, 1, 1, 'p', 'ann', 'ready', t, t, t "
                f"FROM (SELECT '{day}'::timestamptz AS t) AS given",
                f"p{number}",
            )
        await migrate(connection, all_of_them, timeout_s=10)
        found = await connection.fetch(
            "SELECT c.relname AS day, a.preview_id FROM drape.preview_attempts a "
            "JOIN pg_class c ON c.oid = a.tableoid ORDER BY 2"
        )
        assert await connection.fetchval("SELECT count(*) FROM drape.previews") == 3
    finally:
        await connection.close()

    assert [(row["day"], row["preview_id"]) for row in found] == [
        ("preview_attempts_p20260101", "p0"),
        ("preview_attempts_p20260102", "p1"),
        ("preview_attempts_p20260203", "p2"),
    ]


async def test_what_is_dropped_is_final(database_url: str) -> None:
    """An attempt that ended less than the time in which it may be begun anew stays a row, however old its day."""
    broker = MemoryBroker()
    story = Story(time.time() - 20 * DAY_S).tell(requested("young"), stopped("young"))
    story.at = time.time() - FINAL_AFTER_S - 2 * DAY_S
    story.tell(requested("old"), stopped("old"))
    story.at = time.time()
    story.tell(requested("now")).record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        await retain(database_url)

    found = await rows(database_url, "SELECT preview_id FROM drape.preview_attempts ORDER BY 1")
    assert [row["preview_id"] for row in found] == ["now", "young"]
    assert (await sizes(database_url))["rolled"] == 1
