"""Costs and resources on a real PostgreSQL: exactly what the log says, whoever projects it and however often."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from opentelemetry.metrics import CallbackOptions

from services.telemetry.adapters.cost_meter import CostMeter
from services.telemetry.adapters.cost_reader import CostReader, Costs, CostsQuery
from services.telemetry.adapters.cost_retention import CostRetention
from services.telemetry.adapters.costs import CostsProjection, ResourcesProjection
from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import ProjectionStore
from services.telemetry.adapters.resource_reader import ResourceReader
from services.telemetry.costs import POOL, Bucket, Spent, fold, spread
from services.telemetry.prices import Price, PriceTable, price_of
from shared.errors import Invalid
from shared.events import PoolUsage, ResourcesMeasured, VmDestroyed, VmResumed, VmSuspended
from shared.memory import MemoryBroker
from tests.deploy.waiting import eventually

from .test_costs import NEW_YEAR, booted, creating, life, released
from .world import QUICK, Story, acquired, rows

pytestmark = pytest.mark.live

HOUR_S, DAY_S = 3_600.0, 86_400.0
NOW = NEW_YEAR + 2 * DAY_S + 90.0
PRICES = PriceTable(
    currency="EUR",
    prices=(
        Price(provider="fly", memory_mb=2048, running_per_h=0.36, suspended_per_h=0.036),
        Price(provider="fly", memory_mb=4096, running_per_h=0.72, disk_gb=8, storage_per_gb_h=0.01),
        Price(provider="fly", memory_mb=2048, running_per_h=3.6, suspended_per_h=0.36, since="2027-01-02"),
    ),
)
"""2048 MB become ten times as dear on the second day of the year."""


@dataclass(frozen=True)
class Costing:
    """Projectors of costs and resources at work, and what reads their rows."""

    projectors: tuple[Projector, Projector]
    stores: tuple[ProjectionStore, ProjectionStore]
    reader: CostReader
    resources: ResourceReader
    pool: Any

    async def caught_up(self, broker: MemoryBroker) -> None:
        await eventually(lambda: all(each.seq == len(broker.records) for each in self.projectors), timeout_s=20)

    async def ask(self, **query: object) -> Costs:
        """As the gateway does."""
        return msgspec.json.decode(await self.reader.answer(msgspec.json.encode(query), {}), type=Costs)


@asynccontextmanager
async def costing(
    broker: MemoryBroker, url: str, prices: PriceTable = PRICES, now: float = NOW
) -> AsyncIterator[Costing]:
    """For the length of a block; a bug in a projector shows as its exception at the end."""
    pool = await open_pool(url, QUICK)
    stores = tuple(ProjectionStore(pool, each, QUICK) for each in (CostsProjection(), ResourcesProjection()))
    costs, resources = (Projector(broker.bus().log, store, QUICK) for store in stores)
    tasks = [asyncio.create_task(each.run()) for each in (costs, resources)]
    reader = CostReader(pool, lambda: costs.log_id, QUICK, prices, lambda: now)
    snapshots = ResourceReader(pool, lambda: resources.log_id, QUICK, lambda: now)
    try:
        yield Costing((costs, resources), (stores[0], stores[1]), reader, snapshots, pool)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await close_pool(pool, QUICK.close_timeout_s)
    for task in tasks:
        if not task.cancelled():
            task.result()


def told(story: Story) -> MemoryBroker:
    broker = MemoryBroker(lambda: NOW)
    story.record(broker)
    return broker


# --- recounts -----------------------------------------------------------------------------------------------------


def past(seed: int) -> Story:
    """VMs of two sizes, pools and owners over three days; some live on."""
    dice = random.Random(seed)
    lives: list[tuple[float, Any]] = []
    for number in range(40):
        vm, at = f"vm-{number}", NEW_YEAR - DAY_S + dice.random() * 2 * DAY_S
        pool, memory_mb = dice.choice((("small", 2048), ("large", 4096), ("odd", 512)))
        provider = "elsewhere" if pool == "odd" else "fly"
        steps: list[Any] = [creating(vm, pool, provider, memory_mb), booted(vm)]
        steps += [acquired(f"p{number}", vm=vm, owner=dice.choice(("ann", "bob")))]
        for _ in range(dice.randrange(3)):
            steps += [VmSuspended(vm_id=vm, preview_id=f"p{number}"), VmResumed(vm_id=vm, preview_id=f"p{number}")]
        if dice.random() < 0.7:
            steps += [released(vm), VmDestroyed(vm_id=vm)]
        for step in steps:
            lives.append((round(at, 3), step))
            at += dice.random() * 4 * HOUR_S
    story = Story()
    story.told = sorted((each for each in lives if each[0] <= NOW), key=lambda each: each[0])
    return story


def recounted(broker: MemoryBroker, prices: PriceTable, since: float) -> dict[str, dict[str, float]]:
    """Amounts by every key, from the log alone; what has no price counts nothing."""
    folded = fold({}, broker.records)
    spent: dict[Bucket, Spent] = defaultdict(Spent, folded.added)
    for interval in folded.opened.values():
        for bucket, more in spread(interval, round(NOW * 1000)):
            spent[bucket] += more
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for bucket, each in spent.items():
        hour = datetime.fromtimestamp(bucket.hour_ms / 1000, UTC)
        price = price_of(prices, bucket.size, hour.date().isoformat())
        if price is None or hour.timestamp() < since:
            continue
        amount = (each.running_ms * price.running + each.suspended_ms * price.suspended) / 3_600_000
        found["hour"][f"{hour:%Y-%m-%dT%H:00Z}"] += amount
        found["day"][f"{hour:%Y-%m-%d}"] += amount
        found["month"][f"{hour:%Y-%m}"] += amount
        found["pool"][bucket.pool] += amount
        if bucket.owner != POOL:
            found["owner"][bucket.owner] += amount
            found["preview"][bucket.preview_id] += amount
            found["owned"]["all"] += amount
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_costs_are_what_a_recount_of_the_log_gives(database_url: str, seed: int) -> None:
    """By every key, with open intervals up to now, a price that changed, sizes without a price."""
    broker = told(past(seed))
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        for by in ("hour", "day", "month", "preview", "owner", "pool"):
            costs = await at_work.ask(by=by, days=30)
            expected = recounted(broker, PRICES, costs.since)
            shown = {
                row.key: (row.amount or 0) + ((row.overhead.amount or 0) if row.overhead else 0) for row in costs.rows
            }
            assert {key for key, amount in expected[by].items() if amount} <= set(shown)
            assert shown == pytest.approx({key: expected[by].get(key, 0.0) for key in shown}, abs=1e-5)
            assert costs.total.amount == pytest.approx(expected["owned"]["all"], abs=1e-5)
            assert costs.overhead is not None
            assert costs.overhead.amount is not None
            whole = sum(expected["pool"].values())
            assert (costs.total.amount or 0) + costs.overhead.amount == pytest.approx(whole, abs=1e-5)
            assert costs.total.unpriced_s + costs.overhead.unpriced_s > 0
            assert (costs.position, costs.currency, costs.truncated) == (len(broker.records), "EUR", False)


async def test_a_part_of_the_past_is_a_part_of_the_recount(database_url: str) -> None:
    """Hours before the asked days are left out; the oldest one is whole."""
    broker = told(past(3))
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        costs = await at_work.ask(by="pool", days=1)

    expected = recounted(broker, PRICES, costs.since)
    assert costs.since == NEW_YEAR + DAY_S
    shown = {row.key: row.amount + (row.overhead.amount or 0) for row in costs.rows if row.amount and row.overhead}
    assert shown == pytest.approx({key: amount for key, amount in expected["pool"].items() if key in shown}, abs=1e-5)


# --- the figures of one life --------------------------------------------------------------------------------------


async def test_a_life_in_figures(database_url: str) -> None:
    """What its holder had, and what the pool had; and an owner sees of it what is hers."""
    broker = told(life(Story(NEW_YEAR)))
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        [row] = (await at_work.ask(by="day", days=3)).rows
        assert (row.key, row.running_s, row.suspended_s, row.unpriced_s) == ("2027-01-01", 200.0, 100.0, 0.0)
        assert row.amount == pytest.approx(200 * 0.0001 + 100 * 0.00001, abs=1e-6)
        assert row.overhead is not None
        assert row.overhead.running_s == 105.0
        assert row.overhead.amount == pytest.approx(0.0105, abs=1e-6)

        [preview] = (await at_work.ask(by="preview", days=3)).rows
        assert (preview.key, preview.owner, preview.overhead) == ("p", "ann", None)

        hers = await at_work.ask(by="day", days=3, owner="ann")
        assert (hers.total.running_s, hers.overhead) == (200.0, None)
        assert [each.overhead for each in hers.rows] == [None]
        assert (await at_work.ask(by="day", days=3, owner="bob")).rows == []


async def test_nothing_has_cost_nothing(database_url: str) -> None:
    """An empty log: no rows, 0, and no error."""
    broker = told(Story())
    async with costing(broker, database_url) as at_work:
        await eventually(lambda: _migrated(database_url))
        for by in ("hour", "day", "month", "preview", "owner", "pool"):
            costs = await at_work.ask(by=by)
            assert (costs.rows, costs.total.amount, costs.position) == ([], 0.0, 0)
        assert await at_work.reader.rates() == {}
        assert await at_work.reader.cost_of_day() == 0.0
        assert (await at_work.resources.resources(24)).snapshots == []


async def _migrated(url: str) -> bool:
    return bool((await rows(url, "SELECT to_regclass('drape.resource_snapshots') IS NOT NULL AS there"))[0]["there"])


async def test_what_lives_counts_up_to_now(database_url: str) -> None:
    """Day and month so far, and what an hour costs as things are."""
    story = Story(NOW - 2 * HOUR_S).tell(creating("a"), booted("a"), creating("b"), booted("b"))
    story.tell(acquired("p", vm="a")).tell(VmSuspended(vm_id="b"), after_s=HOUR_S)
    broker = told(story)
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        # 90 s of the day have passed; a runs, b stands still.
        assert await at_work.reader.cost_of_day() == pytest.approx(90 * (3.6 + 0.36) / 3_600, abs=1e-6)
        expected = 2 * 3.6 + 3.6 + 0.36
        assert await at_work.reader.cost_of_month() == pytest.approx(expected, abs=1e-6)
        assert await at_work.reader.rates() == {"default": pytest.approx(3.96)}
        meter = CostMeter(at_work.reader, lambda: None, QUICK, lambda: NOW)
        await meter.look()
        [rate], [day] = meter.rate(CallbackOptions()), meter.day(CallbackOptions())
        assert rate.value == pytest.approx(3.96)
        assert rate.attributes == {"drape.pool": "default"}
        assert day.value == pytest.approx(0.099, abs=1e-6)


async def test_without_a_price_there_is_no_amount(database_url: str) -> None:
    """Nobody knows is not nothing."""
    broker = told(life(Story(NOW - 500)))
    async with costing(broker, database_url, PriceTable()) as at_work:
        await at_work.caught_up(broker)
        total = (await at_work.ask(by="owner")).total
        assert (total.amount, total.unpriced_s) == (None, 300.0)
        assert await at_work.reader.cost_of_day() == 0.0, "there was no VM today"
        assert await at_work.reader.cost_of_month() is None


async def test_too_many_rows_are_cut_and_the_total_is_not(database_url: str) -> None:
    """The costliest are shown."""
    story = Story(NEW_YEAR)
    for number in range(5):
        story.tell(creating(f"v{number}"), booted(f"v{number}"), acquired(f"p{number}", vm=f"v{number}"))
        story.tell(released(f"v{number}"), VmDestroyed(vm_id=f"v{number}"), after_s=100.0 * (number + 1))
    broker = told(story)
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        config = msgspec.structs.replace(QUICK, costs_rows_max=2)
        reader = CostReader(at_work.pool, lambda: at_work.projectors[0].log_id, config, PRICES, lambda: NOW)
        costs = await reader.costs(CostsQuery(by="preview", days=7))

    assert [row.key for row in costs.rows] == ["p4", "p3"]
    assert (costs.truncated, costs.total.running_s) == (True, 1_500.0)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b'{"by": "colour"}', "bad_query"),
        (b'{"days": 0}', "bad_days"),
        (b'{"days": 366}', "bad_days"),
        (b"{", "bad_query"),
        (b'{"dyas": 1}', "bad_query"),
    ],
)
async def test_a_wrong_question_is_refused(database_url: str, query: bytes, code: str) -> None:
    async with costing(told(Story()), database_url) as at_work:
        with pytest.raises(Invalid) as caught:
            await at_work.reader.answer(query, {})

    assert caught.value.code == code


# --- exactly once -------------------------------------------------------------------------------------------------

STORED = "SELECT * FROM drape.cost_hours ORDER BY hour, pool, provider, memory_mb, region, owner, preview_id"
OPEN = "SELECT * FROM drape.vm_intervals ORDER BY vm_id"


async def test_batches_twice_and_two_writers_count_once(database_url: str) -> None:
    """Whatever comes again, whole or in part, by another replica or after a start: the rows are the log's."""
    broker = told(past(4))
    records = broker.records
    async with costing(broker, database_url) as one, costing(broker, database_url) as other:
        await one.caught_up(broker)
        await other.caught_up(broker)
        log_id = one.projectors[0].log_id
        assert await one.stores[0].apply(log_id, records) == []
        assert await one.stores[0].apply(log_id, records[5:90]) == []
    stored, still_open = await rows(database_url, STORED), await rows(database_url, OPEN)

    folded = fold({}, records)
    assert len(stored) == len(folded.added)
    assert sum(row["running_ms"] for row in stored) == sum(each.running_ms for each in folded.added.values())
    assert sum(row["suspended_ms"] for row in stored) == sum(each.suspended_ms for each in folded.added.values())
    assert {row["vm_id"] for row in still_open} == set(folded.opened)


async def test_rows_made_anew_are_the_same(database_url: str) -> None:
    """Forgotten and projected once more, in other batches."""
    broker = told(past(5))
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        before = (await rows(database_url, STORED), await rows(database_url, OPEN))
        position = await at_work.stores[0].position(at_work.projectors[0].log_id)
    async with costing(broker, database_url) as at_work:
        await at_work.stores[0].forget(position)
        assert await rows(database_url, STORED) == []
        for begin in range(0, len(broker.records), 7):
            await at_work.stores[0].apply(position.log_id, broker.records[begin : begin + 7])
        await at_work.caught_up(broker)

    assert (await rows(database_url, STORED), await rows(database_url, OPEN)) == before


async def test_a_generation_beside_another_is_not_counted_with_it(database_url: str) -> None:
    """While rows are made anew, those that serve are what is read."""
    broker = told(life(Story(NEW_YEAR)))
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        before = await at_work.ask(by="day", days=3)
        async with at_work.pool.acquire() as connection:
            await CostsProjection().apply(connection, f"{at_work.projectors[0].log_id}#2", broker.records)

        after = await at_work.ask(by="day", days=3)
        assert msgspec.structs.replace(after, generated_at=0) == msgspec.structs.replace(before, generated_at=0)


# --- what is kept -------------------------------------------------------------------------------------------------


async def test_old_hours_are_gathered_by_month_and_lose_nothing(database_url: str) -> None:
    """Again and again, and with what comes late: the months are what they were; snapshots go."""
    story = past(6)
    early = _snapshot(NEW_YEAR - 90 * DAY_S)
    story.told.insert(0, early)
    broker = told(story)
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        before = await at_work.ask(by="month", days=60)
        config = msgspec.structs.replace(QUICK, retention_days=1)
        for _ in range(2):
            await CostRetention(at_work.pool, config, lambda: NOW).look()
        after = await at_work.ask(by="month", days=60)
        oldest = (await rows(database_url, "SELECT min(hour) AS hour FROM drape.cost_hours"))[0]["hour"]
        months = await rows(database_url, "SELECT DISTINCT month FROM drape.cost_months ORDER BY 1")
        shown = (await at_work.resources.resources(168)).snapshots

    assert oldest == datetime(2027, 1, 2, tzinfo=UTC)
    assert [row["month"] for row in months] == [datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]
    for one, other in zip(before.rows, after.rows, strict=True):
        assert (one.key, one.running_s, one.suspended_s) == (other.key, other.running_s, other.suspended_s)
        assert one.amount == pytest.approx(other.amount, abs=1e-5)
    assert shown == []
    assert await rows(database_url, "SELECT * FROM drape.resource_snapshots") == []


# --- resources ----------------------------------------------------------------------------------------------------


def _snapshot(at: float, ready: int = 1, pools: tuple[PoolUsage, ...] | None = None) -> tuple[float, ResourcesMeasured]:
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    return at, ResourcesMeasured(day=day, pools=pools, starting=0, ready=ready, suspended=0)


async def test_snapshots_come_back_as_they_were_oldest_first(database_url: str) -> None:
    """Of the asked hours, over midnight, what nobody knew as that."""
    pool = PoolUsage(
        name="large",
        provider="fly",
        memory_mb=4096,
        region="ams",
        booting=0,
        available=1,
        in_use=2,
        suspended=0,
        kept=0,
        going=0,
        measured=2,
        cpu_cores=0.5,
        memory_bytes=1 << 30,
    )
    story = Story()
    story.told = [
        _snapshot(NOW - 9_000),
        _snapshot(NOW - 600, ready=2, pools=(pool,)),
        _snapshot(NOW - 10, ready=3),
    ]
    broker = told(story)
    async with costing(broker, database_url) as at_work:
        await at_work.caught_up(broker)
        await at_work.stores[1].apply(at_work.projectors[1].log_id, broker.records)
        found = await at_work.resources.resources(1)

    assert [(each.at, each.previews.ready) for each in found.snapshots] == [(NOW - 600, 2), (NOW - 10, 3)]
    assert [each.pools for each in found.snapshots] == [(pool,), None]
    assert found.position == 3


@pytest.mark.parametrize("query", [b'{"hours": 0}', b'{"hours": 169}', b'{"hours": "x"}', b"["])
async def test_wrong_hours_are_refused(database_url: str, query: bytes) -> None:
    async with costing(told(Story()), database_url) as at_work:
        with pytest.raises(Invalid) as caught:
            await at_work.resources.answer(query, {})

    assert caught.value.code in ("bad_hours", "bad_query")
