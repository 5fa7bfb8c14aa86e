"""A projection made anew while it serves: nothing that is asked meanwhile is wrong, and nothing stops half-way for ever."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from services.telemetry.adapters.asking import ProjectionQueries
from services.telemetry.adapters.previews import PreviewsProjection
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import ProjectionStore
from services.telemetry.adapters.rebuild import Rebuilder
from services.telemetry.config import TelemetryConfig
from services.telemetry.figures import Stats
from services.telemetry.recounting import differences, recount
from shared.errors import Invalid, NotFound
from shared.memory import MemoryBroker
from tests.deploy.waiting import eventually

from .test_retention import asked, caught_up, long_past
from .world import QUICK, Projecting, Story, projecting, requested, rows, up_to_ready

pytestmark = pytest.mark.live

CONFIG = msgspec.structs.replace(QUICK, batch_events_max=11, rebuild_period_s=0.02, delete_rows_max=7)
BLOCK = (
    "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;"
    "CREATE TRIGGER wait_here BEFORE UPDATE ON drape.projection_position "
    "FOR EACH ROW WHEN (OLD.state = 'building' AND OLD.seq > 0) EXECUTE FUNCTION wait_here()"
)
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"


def rebuilder_of(at_work: Projecting, broker: MemoryBroker, config: TelemetryConfig = CONFIG) -> Rebuilder:
    """As the service makes it."""
    return Rebuilder(broker.bus().log, at_work.store, at_work.projector, config)


@asynccontextmanager
async def at_it(*rebuilders: Rebuilder) -> AsyncIterator[None]:
    """They look for work, for the length of a block. A bug in one shows as its exception at the end."""
    tasks = [asyncio.create_task(each.run()) for each in rebuilders]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def done(rebuilder: Rebuilder, generation: int) -> None:
    """Return once that generation alone is left."""
    wanted = f"{rebuilder._projector.log_id}#{generation}"

    async def alone() -> bool:
        return [(each.log_id, each.state) for each in await rebuilder.generations()] == [(wanted, "serving")]

    await eventually(alone, timeout_s=30)


async def is_right(at_work: Projecting, broker: MemoryBroker) -> Stats:
    """The answer, which is the log's."""
    answered = await asked(at_work, days=365)
    logs = recount(broker.records[: answered.position], answered.generated_at, 365, since=answered.since)
    assert differences(answered, logs) == []
    return answered


async def attempts(url: str) -> dict[str, int]:
    """How many rows each generation has."""
    found = await rows(url, "SELECT log_id, count(*) AS n FROM drape.preview_attempts GROUP BY 1")
    return {row["log_id"]: row["n"] for row in found}


async def test_figures_stay_right_while_rows_are_made_anew(database_url: str) -> None:
    """The old rows serve and go on; then the new ones do, with what came meanwhile, and the old ones are gone."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        before = await is_right(at_work, broker)
        rebuilder = rebuilder_of(at_work, broker)
        blocker = await asyncpg.connect(database_url)
        try:
            await blocker.execute(BLOCK)
            await blocker.execute("SELECT pg_advisory_lock(42)")
            assert await rebuilder.begin()
            async with at_it(rebuilder):

                async def waits() -> bool:
                    return bool(await blocker.fetchval(WAITING))

                await eventually(waits)
                up_to_ready(Story(before.generated_at), "meanwhile").record(broker)
                await caught_up(at_work, broker)
                during = await is_right(at_work, broker)
                base = at_work.projector.log_id
                assert (await attempts(database_url))[base] == during.previews.count
                assert during.previews.count == before.previews.count + 1

                await blocker.execute("SELECT pg_advisory_unlock(42)")
                await done(rebuilder, 2)
                await is_right(at_work, broker)
                up_to_ready(Story(before.generated_at), "afterwards").record(broker)
                await caught_up(at_work, broker)
                after = await is_right(at_work, broker)
        finally:
            await blocker.close()

    assert after.previews.count == before.previews.count + 2
    assert await attempts(database_url) == {f"{base}#2": after.previews.count}


async def test_rows_that_went_wrong_are_mended(database_url: str) -> None:
    """That is what it is for; and again, and as often as one likes."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        rebuilder = rebuilder_of(at_work, broker)
        for generation in (2, 3):
            await rows(database_url, "UPDATE drape.preview_attempts SET total_s = 99, provider = 'nobody'")
            answered = await asked(at_work, days=365)
            assert answered.total_s.p50 == 99
            assert await rebuilder.begin()
            async with at_it(rebuilder):
                await done(rebuilder, generation)
            await is_right(at_work, broker)


async def test_two_replicas_make_one_new_generation(database_url: str) -> None:
    """Asked on both, done by one, and both go on with the same rows."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as one, projecting(broker, database_url, CONFIG) as two:
        await caught_up(one, broker)
        await caught_up(two, broker)
        first, second = rebuilder_of(one, broker), rebuilder_of(two, broker)
        assert sorted(await asyncio.gather(first.begin(), second.begin())) == [False, True]
        async with at_it(first, second):
            for number in range(10):
                up_to_ready(Story(1_000.0), f"meanwhile-{number}").record(broker)
                await caught_up(one, broker)
            await done(first, 2)
        await caught_up(two, broker)
        await is_right(one, broker)
        await is_right(two, broker)


async def test_a_rebuild_goes_on_after_a_restart(database_url: str) -> None:
    """From where it was: what another replica has written of the new rows stays."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        assert await rebuilder_of(at_work, broker).begin()
        await at_work.store.apply(f"{at_work.projector.log_id}#2", broker.records[:20])
        await rows(database_url, "UPDATE drape.preview_attempts SET total_s = 77 WHERE log_id LIKE '%#2'")
        again = rebuilder_of(at_work, broker)
        async with at_it(again):
            await done(again, 2)

    found = await rows(database_url, "SELECT DISTINCT log_id FROM drape.preview_attempts WHERE total_s = 77")
    assert [row["log_id"] for row in found] == [f"{broker.records[0].meta.id}#2"]


async def test_a_rebuild_of_another_log_is_given_up(database_url: str) -> None:
    """The log was restored from a backup meanwhile: what was written of it is deleted, what serves is right."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        rebuilder = rebuilder_of(at_work, broker)
        assert await rebuilder.begin()
        await at_work.store.apply(f"{at_work.projector.log_id}#2", broker.records[:20])
        await rows(database_url, "UPDATE drape.projection_position SET event_id = 'another' WHERE state = 'building'")
        async with at_it(rebuilder):

            async def alone() -> bool:
                return [each.state for each in await rebuilder.generations()] == ["serving"]

            await eventually(alone, timeout_s=30)
        await is_right(at_work, broker)

    assert list(await attempts(database_url)) == [broker.records[0].meta.id]


async def test_rows_of_an_older_shape_are_made_anew_by_themselves(database_url: str) -> None:
    """After an upgrade whose rows hold more: nobody has to know of it."""
    broker = MemoryBroker()
    long_past().record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        await rows(database_url, "UPDATE drape.projection_position SET version = 1")
        await rows(database_url, "UPDATE drape.preview_attempts SET provider = NULL")
        rebuilder = rebuilder_of(at_work, broker)
        async with at_it(rebuilder):
            await done(rebuilder, 2)
        assert [each.version for each in await rebuilder.generations()] == [PreviewsProjection.version]
        await is_right(at_work, broker)


class Asking:
    """The queries, over one projection."""

    def __init__(self, at_work: Projecting, broker: MemoryBroker) -> None:
        self.rebuilder = rebuilder_of(at_work, broker)
        self._queries = ProjectionQueries({"previews": self.rebuilder}, broker.bus().log.last_seq)

    async def __call__(self, name: str, body: bytes = b"") -> Any:
        answer: Callable[[bytes, object], Any] = getattr(self._queries, name)
        return msgspec.json.decode(await answer(body, {}))


async def test_it_is_asked_for_by_name_and_shows_how_far_it_is(database_url: str) -> None:
    """Once: who asks again is told that it is under way. A name that there is not is answered with those that are."""
    broker = MemoryBroker()
    async with projecting(broker, database_url, CONFIG) as at_work:
        ask = Asking(at_work, broker)
        await eventually(lambda: bool(broker.followers))
        assert await ask("rebuild") == {"projections": {"previews": {"begun": False, "log_id": ""}}}
        Story().tell(requested("a"), requested("b")).record(broker)
        await caught_up(at_work, broker)
        base = at_work.projector.log_id
        assert await ask("rebuild", b'{"names": ["previews"]}') == {
            "projections": {"previews": {"begun": True, "log_id": f"{base}#2"}}
        }
        assert not (await ask("rebuild"))["projections"]["previews"]["begun"]
        stands = (await ask("projections"))["projections"]["previews"]
        assert (stands["serving"]["log_id"], stands["serving"]["seq"], stands["serving"]["lag"]) == (base, 2, 0)
        assert (stands["building"]["log_id"], stands["building"]["seq"], stands["building"]["lag"]) == (
            f"{base}#2",
            0,
            2,
        )
        with pytest.raises(NotFound) as unknown:
            await ask("rebuild", b'{"names": ["preview"]}')
        assert (unknown.value.code, unknown.value.hint) == ("unknown_projection", "There are: previews.")
        with pytest.raises(Invalid):
            await ask("rebuild", b'{"names": "previews"}')


async def test_rows_that_were_replaced_are_not_written_any_more(database_url: str) -> None:
    """Nor after they are deleted: a replica that still holds on to them finds the others."""
    broker = MemoryBroker()
    Story().tell(*(requested(f"p{number}") for number in range(9))).record(broker)
    async with projecting(broker, database_url, CONFIG) as at_work:
        await caught_up(at_work, broker)
        rebuilder = rebuilder_of(at_work, broker)
        await rebuilder.begin()
        async with at_it(rebuilder):
            await done(rebuilder, 2)
        behind = ProjectionStore(at_work.store._pool, PreviewsProjection(), CONFIG)
        late = Projector(broker.bus().log, behind, CONFIG)
        late.log_id = late._rows = broker.records[0].meta.id
        with pytest.raises(Exception, match="replaced by others"):
            await late._read(0, 9)

    assert list(await attempts(database_url)) == [f"{broker.records[0].meta.id}#2"]
