"""The projector on a real PostgreSQL: every event counts once, whatever happens to connection and server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from services.telemetry.adapters.previews import PreviewsProjection, newest
from services.telemetry.adapters.projection import Queue
from services.telemetry.adapters.projections import GapError, Position, ProjectionStore
from services.telemetry.rows import project
from shared.errors import Unavailable
from shared.events import ProjectDeleted
from shared.memory import MemoryBroker
from tests.deploy.waiting import eventually
from tests.live.servers import database

from .conftest import PASSWORD
from .world import (
    QUICK,
    Projecting,
    Story,
    failed,
    opened,
    projecting,
    requested,
    restarted,
    rows,
    stopped,
    up_to_ready,
)

pytestmark = pytest.mark.live

ALL = "SELECT preview_id, attempt, rev, status, total_s FROM drape.preview_attempts ORDER BY preview_id, attempt"
POSITIONS = "SELECT log_id, seq, event_id FROM drape.projection_position ORDER BY log_id"
OUR_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name = 'drape-telemetry' AND wait_event_type = 'Lock'"
)


def previews(count: int, at: float = 1_000.0) -> Story:
    """So many previews, every third restarted, one after the other."""
    story = Story(at)
    for number in range(count):
        up_to_ready(story, f"p{number:03}")
        if number % 3 == 0:
            story.tell(restarted(f"p{number:03}", 2), stopped(f"p{number:03}"), after_s=1)
    return story


def expected(broker: MemoryBroker) -> list[tuple[object, ...]]:
    """What the rows have to say, from the log alone."""
    attempts = sorted(project({}, broker.records), key=lambda row: (row.preview_id, row.attempt))
    return [(row.preview_id, row.attempt, row.rev, row.status, row.total_s) for row in attempts]


async def stored(url: str) -> list[tuple[object, ...]]:
    """What the rows say."""
    return [tuple(row) for row in await rows(url, ALL)]


async def caught_up(at_work: Projecting, broker: MemoryBroker) -> None:
    """Return once everything in the log is projected; a projector that has broken shows its error."""

    def there() -> bool:
        if at_work.task.done():
            at_work.task.result()
        return at_work.projector.seq == len(broker.records)

    await eventually(there, timeout_s=20)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def terminate_waiting(connection: Any) -> None:
    """End our connection that waits for a lock, once there is one."""

    async def found() -> bool:
        return bool(await connection.fetch(OUR_BACKENDS))

    await eventually(found)
    for row in await connection.fetch(OUR_BACKENDS):
        await connection.execute("SELECT pg_terminate_backend($1)", row["pid"])


async def block_commits(connection: Any) -> None:
    """From now on a projection's transaction waits after its rows are written, before it commits."""
    await connection.execute(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;"
        "CREATE TRIGGER wait_here BEFORE UPDATE ON drape.projection_position "
        "FOR EACH ROW EXECUTE FUNCTION wait_here()"
    )
    await connection.execute("SELECT pg_advisory_lock(42)")


# --- the store ----------------------------------------------------------------------------------------------------


async def test_the_same_batch_twice_counts_once(database_url: str) -> None:
    """Whole or in part, what the position has passed is ignored; what is new in the batch counts."""
    records = previews(3).recorded()
    half = len(records) // 2
    async with opened(database_url) as store:
        await store.migrate()
        assert await store.apply("log", records[:half]) == records[:half]
        once = await stored(database_url)
        assert await store.apply("log", records[:half]) == []
        assert await stored(database_url) == once

        assert await store.apply("log", records[half - 3 :]) == records[half:]
        assert await store.position("log") == Position(records[-1].seq, records[-1].meta.id, "log")

    attempts = sorted(project({}, records), key=lambda row: (row.preview_id, row.attempt))
    assert await stored(database_url) == [
        (row.preview_id, row.attempt, row.rev, row.status, row.total_s) for row in attempts
    ]


async def test_a_batch_with_a_gap_before_it_is_refused(database_url: str) -> None:
    """A hole in the rows would stay for ever."""
    records = previews(1).recorded()
    async with opened(database_url) as store:
        await store.migrate()
        with pytest.raises(GapError):
            await store.apply("log", records[1:])

        assert await store.position("log") == Position(log_id="log")


async def test_what_is_stored_comes_back_as_it_was(database_url: str) -> None:
    """Every field of a row survives the database, so that later events are folded onto the same row."""
    records = previews(1, at=1_750_000_000.123456).recorded()
    async with opened(database_url) as store:
        await store.migrate()
        for record in records:
            await store.apply("log", [record])
        async with store._pool.acquire() as connection:
            found = await newest(connection, "log", records)

    row = project({}, records)[-1]
    times = {name: pytest.approx(getattr(row, name), abs=1e-5) for name in row.__struct_fields__ if name[-3:] == "_at"}
    assert msgspec.structs.asdict(found["p000"]) == {**msgspec.structs.asdict(row), **times}


async def test_the_previews_view_shows_the_newest_attempt(database_url: str) -> None:
    """One row a preview, for whoever looks with psql or Grafana."""
    async with opened(database_url) as store:
        await store.migrate()
        await store.apply("log", previews(2).recorded())

    found = await rows(database_url, "SELECT preview_id, attempt, status FROM drape.previews ORDER BY preview_id")
    assert [tuple(row) for row in found] == [("p000", 2, "stopped"), ("p001", 1, "ready")]


# --- the projector ------------------------------------------------------------------------------------------------


async def test_history_and_news_are_projected(database_url: str) -> None:
    """What was in the log before, read in batches, and what comes while it follows; position beside the rows."""
    broker = MemoryBroker()
    previews(10).record(broker)
    config = msgspec.structs.replace(QUICK, batch_events_max=7)
    async with projecting(broker, database_url, config) as at_work:
        await caught_up(at_work, broker)
        up_to_ready(Story(), "news").record(broker)
        await caught_up(at_work, broker)

    assert await stored(database_url) == expected(broker)
    (position,) = await rows(database_url, POSITIONS)
    last = broker.records[-1]
    assert tuple(position) == (broker.records[0].meta.id, last.seq, last.meta.id)


async def test_an_empty_log_is_waited_on(database_url: str) -> None:
    """The first event of all is projected like any other."""
    broker = MemoryBroker()
    async with projecting(broker, database_url) as at_work:
        await eventually(lambda: bool(broker.followers))
        previews(1).record(broker)
        await caught_up(at_work, broker)

    assert await stored(database_url) == expected(broker)


async def test_a_restart_goes_on_from_the_stored_position(database_url: str) -> None:
    """Nothing is lost and nothing counted twice between two lives."""
    broker = MemoryBroker()
    story = previews(6)
    half = len(story.told) // 2
    for part in (story.told[:half], story.told[half:]):
        for at, event in part:
            broker.record(event, at=at)
        async with projecting(broker, database_url) as at_work:
            await caught_up(at_work, broker)

    assert await stored(database_url) == expected(broker)


async def test_a_connection_lost_before_the_commit_loses_and_repeats_nothing(database_url: str) -> None:
    """The server ends the connection after the rows are written and before the position is: all is rolled back, and
    then written once."""
    broker = MemoryBroker()
    async with opened(database_url) as store, connected(database_url) as blocker, connected(database_url) as other:
        await store.migrate()
        await block_commits(blocker)
        previews(4).record(broker)
        async with projecting(broker, database_url) as at_work:
            await terminate_waiting(other)
            assert await stored(database_url) == []

            await blocker.execute("SELECT pg_advisory_unlock(42)")
            await caught_up(at_work, broker)

    assert await stored(database_url) == expected(broker)


async def test_two_projectors_at_once_count_everything_once(database_url: str) -> None:
    """Both follow the same log, with batches of different size; the rows are those of one."""
    broker = MemoryBroker()
    previews(10).record(broker)
    small = msgspec.structs.replace(QUICK, batch_events_max=3)
    async with projecting(broker, database_url) as one, projecting(broker, database_url, small) as two:
        up_to_ready(Story(), "while-running").record(broker)
        await caught_up(one, broker)
        await caught_up(two, broker)

    assert await stored(database_url) == expected(broker)


async def test_a_full_queue_lets_go_of_the_log_and_reads_it_later(database_url: str) -> None:
    """While the database hangs, no more than the limit is kept in memory; afterwards nothing is missing."""
    broker = MemoryBroker()
    config = msgspec.structs.replace(QUICK, queue_events_max=5, batch_events_max=4)
    requested_first = Story().tell(requested("first"))
    requested_first.record(broker)
    async with projecting(broker, database_url, config) as at_work, connected(database_url) as blocker:
        await caught_up(at_work, broker)
        await eventually(lambda: bool(broker.followers))
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE drape.projection_position IN ACCESS EXCLUSIVE MODE")
            previews(20).record(broker)

            async def waits() -> bool:
                return bool(await blocker.fetch(OUR_BACKENDS))

            await eventually(waits)
        await caught_up(at_work, broker)
        up_to_ready(Story(), "afterwards").record(broker)
        await caught_up(at_work, broker)

    assert await stored(database_url) == expected(broker)


async def test_postgres_stopped_and_started_again_is_caught_up_on(tmp_path: Path) -> None:
    """While it is away readiness says so and statistics are refused; when it is back everything is there, by itself."""
    server = database(tmp_path, PASSWORD)
    broker = MemoryBroker()
    try:
        await server.start()
        async with projecting(broker, server.url) as at_work:
            previews(3).record(broker)
            await caught_up(at_work, broker)
            assert await at_work.store.answers()

            await server.stop()
            up_to_ready(Story(), "meanwhile").record(broker)
            assert not await at_work.store.answers()
            with pytest.raises(Unavailable) as caught:
                await at_work.stats.answer(b'{"days": 7}', {})
            assert (caught.value.code, caught.value.retry_after_s) == ("stats_unavailable", 2)

            await server.start()
            await caught_up(at_work, broker)
            assert await at_work.store.answers()
            assert await stored(server.url) == expected(broker)
    finally:
        await server.remove()


async def test_a_service_may_start_before_postgres(tmp_path: Path) -> None:
    """It tries until the server answers, then migrates and projects."""
    server = database(tmp_path, PASSWORD)
    broker = MemoryBroker()
    previews(1).record(broker)
    async with projecting(broker, server.url) as at_work:
        await eventually(lambda: at_work.projector._failures > 1)
        try:
            await server.start()
            await caught_up(at_work, broker)
            assert await stored(server.url) == expected(broker)
        finally:
            await server.remove()


async def test_a_database_that_was_emptied_is_filled_again(database_url: str) -> None:
    """The read model can be thrown away at any time: the log has everything."""
    broker = MemoryBroker()
    previews(4).record(broker)
    async with projecting(broker, database_url) as at_work, connected(database_url) as operator:
        await caught_up(at_work, broker)
        await operator.execute("DROP SCHEMA drape CASCADE")
        up_to_ready(Story(), "after").record(broker)

        async def filled() -> bool:
            try:
                return await stored(database_url) == expected(broker)
            except asyncpg.PostgresError:
                return False

        await eventually(filled)


async def test_a_log_made_anew_is_not_taken_for_the_old_one(database_url: str) -> None:
    """It starts again at sequence 1: its events are projected, and the old log's rows stay apart."""
    old, new = MemoryBroker(), MemoryBroker()
    previews(3).record(old)
    new.record(requested("other"), command_id="another-log")
    for broker in (old, new):
        async with projecting(broker, database_url) as at_work:
            await caught_up(at_work, broker)
            position = await at_work.store.position(at_work.projector.log_id)
            assert position.seq == len(broker.records)

    assert len(await rows(database_url, POSITIONS)) == 2
    found = await rows(database_url, "SELECT preview_id FROM drape.previews WHERE log_id = $1", new.records[0].meta.id)
    assert [row["preview_id"] for row in found] == ["other"]


@pytest.mark.parametrize("continued", [False, True])
async def test_rows_that_the_log_does_not_lead_to_are_made_anew(database_url: str, continued: bool) -> None:
    """The log was restored from an older backup: it is shorter, or has gone on another way."""
    before, restored = MemoryBroker(), MemoryBroker()
    story = previews(3)
    story.record(before)
    for at, event in story.told[:5]:
        restored.record(event, at=at)
    if continued:
        for number in range(len(story.told)):
            restored.record(requested(f"q{number:03}"), command_id="after-restore")
    for broker in (before, restored):
        async with projecting(broker, database_url) as at_work:
            await caught_up(at_work, broker)

    assert await stored(database_url) == expected(restored)


async def test_an_outage_is_logged_once_in_a_while(unused_tcp_port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Many tries, one line; and no credentials in it."""
    url = f"postgresql://drape:open-sesame@127.0.0.1:{unused_tcp_port}/drape?sslmode=disable"
    async with projecting(MemoryBroker(), url) as at_work:
        await eventually(lambda: at_work.projector._failures >= 4)

    lines = [record for record in caplog.records if record.message == "projection_waits"]
    assert len(lines) == 1
    assert "open-sesame" not in str(vars(lines[0]))


# --- the queue ----------------------------------------------------------------------------------------------------


async def test_the_queue_gives_a_prefix_without_a_gap() -> None:
    """What comes when it is full is left out, and so is everything after, even when there is room again."""
    records = previews(1).recorded()[:6]
    queue = Queue(3)
    for record in records[:5]:
        queue.offer(record)
    assert await queue.take(2) == records[:2]
    queue.offer(records[5])

    assert await queue.take(9) == records[2:3]
    assert await queue.take(9) == []


async def test_the_queue_gives_what_it_has_before_it_fails() -> None:
    """A log that breaks off does not take back what it gave."""
    (record,) = previews(1).recorded()[:1]
    queue = Queue(3)
    queue.offer(record)
    queue.fail(ValueError("broken"))

    assert await queue.take(9) == [record]
    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(queue.take(9), 1)


def test_the_store_needs_no_connection_to_exist() -> None:
    """The migrations are read from the package, so a wheel without them fails at once."""
    assert ProjectionStore(None, PreviewsProjection(), QUICK)


async def test_a_deleted_project_s_messages_are_erased(database_url: str) -> None:
    """Sealed or plain, as a log from before has them; the figures stay, and another project's rows too."""
    broker = MemoryBroker()
    story = Story().tell(requested("a"), requested("b")).tell(failed("a"), failed("b"), after_s=2)
    story.tell(ProjectDeleted(project_id="project-of-a"), after_s=1).record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
    found = await rows(database_url, "SELECT preview_id, code, message FROM drape.preview_attempts ORDER BY 1")
    assert [tuple(row) for row in found] == [("a", "install_failed", "erased"), ("b", "install_failed", "why")]
