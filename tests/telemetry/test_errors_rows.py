"""Errors on a real PostgreSQL: what is written, what is asked for, and that both are the fold's."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from services.telemetry.adapters.errors import ErrorsProjection, ErrorsReader
from services.telemetry.adapters.postgres import close_pool, open_pool
from services.telemetry.adapters.previews import PreviewsProjection
from services.telemetry.adapters.projections import ProjectionStore
from services.telemetry.adapters.timing import TimingReader
from services.telemetry.config import TelemetryConfig
from services.telemetry.errors import fold
from shared.codec import Recorded
from shared.errors import Invalid, NotFound
from shared.events import PreviewFailed, ProjectDeleted, VmBootFailed
from shared.sealed import ERASED

from .world import QUICK, Story, acquired, detected, failed, requested, restarted, rows, up_to_ready

pytestmark = pytest.mark.live

LOG = "first-event"


class Written:
    """Projections of a log that is told, and what reads them."""

    def __init__(self, pool: Any, config: TelemetryConfig) -> None:
        self._stores = [
            ProjectionStore(pool, each, config) for each in (PreviewsProjection(), ErrorsProjection(config))
        ]
        self.errors = ErrorsReader(pool, lambda: LOG, config, time.time)
        self.timing = TimingReader(pool, lambda: LOG, config, time.time)

    async def write(self, records: Sequence[Recorded], batch: int = 7) -> None:
        for store in self._stores:
            await store.migrate()
            for begin in range(0, len(records), batch):
                await store.apply(LOG, records[begin : begin + batch])

    async def ask(self, **query: object) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode(await self.errors.answer(msgspec.json.encode(query), {}))
        return answer

    async def ask_timing(self, **query: object) -> dict[str, Any]:
        answer: dict[str, Any] = msgspec.json.decode(await self.timing.answer(msgspec.json.encode(query), {}))
        return answer


@asynccontextmanager
async def written(url: str, config: TelemetryConfig = QUICK) -> AsyncIterator[Written]:
    pool = await open_pool(url, config)
    try:
        yield Written(pool, config)
    finally:
        await close_pool(pool, config.close_timeout_s)


def failure(preview: str, cause: str, attempt: int = 1) -> PreviewFailed:
    return msgspec.structs.replace(failed(preview, attempt), fingerprint=cause)


def troubled(at: float) -> Story:
    """Ann's p1 fails twice for one cause and once for another, bob's p2 once for the first; a VM does not boot."""
    story = Story(at)
    for preview, owner in (("p1", "ann"), ("p2", "bob")):
        story.tell(requested(preview, owner), acquired(preview, owner=owner), detected(preview), after_s=1)
        story.tell(failure(preview, "feed"), after_s=1)
    story.tell(restarted("p1", 2), failure("p1", "feed", 2), after_s=1)
    story.tell(restarted("p1", 3), failure("p1", "beef", 3), after_s=1)
    return story.tell(VmBootFailed(vm_id="vm-9", code="boot_failed", message="no disk"), after_s=1)


async def test_groups_are_counted_as_the_log_has_them(database_url: str) -> None:
    """Newest first; the operator sees all, an owner only what is theirs, counts too."""
    records = troubled(time.time() - 100).recorded()
    _, expected = fold({}, records)
    async with written(database_url) as at_work:
        await at_work.write(records, batch=3)
        everything, anns, bobs = [(await at_work.ask(owner=owner))["groups"] for owner in (None, "ann", "bob")]

    def short(groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
        return [(each["type"], each["count"], each["previews"], each["owners"]) for each in groups]

    assert short(everything) == [("VmBootFailed", 1, 0, 0), ("PreviewFailed", 1, 1, 1), ("PreviewFailed", 3, 2, 2)]
    assert short(anns) == [("PreviewFailed", 1, 1, 1), ("PreviewFailed", 2, 1, 1)]
    assert short(bobs) == [("PreviewFailed", 1, 1, 1)]
    for group in everything:
        same = [each for each in expected if each.fingerprint == group["fingerprint"]]
        assert (group["count"], group["first_at"], group["last_at"]) == (
            len(same),
            pytest.approx(same[0].at, abs=1e-4),
            pytest.approx(same[-1].at, abs=1e-4),
        )
        assert (group["last"]["seq"], group["last"]["preview_id"]) == (same[-1].seq, same[-1].preview_id)


async def test_a_group_has_its_occurrences_page_by_page(database_url: str) -> None:
    records = troubled(time.time() - 100).recorded()
    expected = [each for each in fold({}, records)[1] if each.preview_id]
    feed = [each for each in expected if each.fingerprint == expected[0].fingerprint]
    async with written(database_url) as at_work:
        await at_work.write(records)
        first = await at_work.ask(fingerprint=feed[0].fingerprint, occurrences=True, limit=2)
        second = await at_work.ask(fingerprint=feed[0].fingerprint, occurrences=True, limit=2, before=first["next"])
        bobs = await at_work.ask(fingerprint=feed[0].fingerprint, occurrences=True, owner="bob")

    found = [*first["occurrences"], *second["occurrences"]]
    assert [each["seq"] for each in found] == [each.seq for each in reversed(feed)]
    assert second["next"] is None
    assert found[-1] == {**msgspec.to_builtins(feed[0]), "at": pytest.approx(feed[0].at, abs=1e-4)}
    assert [each["preview_id"] for each in bobs["occurrences"]] == ["p2"]
    assert bobs["groups"][0]["count"] == 1


async def test_groups_page_by_page_and_filtered(database_url: str) -> None:
    async with written(database_url) as at_work:
        await at_work.write(troubled(time.time() - 100).recorded())
        pages, before = [], None
        while True:
            page = await at_work.ask(limit=1, before=before)
            pages += page["groups"]
            if (before := page["next"]) is None:
                break
        coded = await at_work.ask(code="boot_failed")
        project = await at_work.ask(project="project-of-p2")
        nothing = await at_work.ask(code="unheard_of")

    assert [each["type"] for each in pages] == ["VmBootFailed", "PreviewFailed", "PreviewFailed"]
    assert [each["code"] for each in coded["groups"]] == ["boot_failed"]
    assert [(each["count"], each["owners"]) for each in project["groups"]] == [(1, 1)]
    assert nothing == {"groups": [], "occurrences": [], "next": None}


async def test_only_the_newest_occurrences_are_kept_and_all_are_counted(database_url: str) -> None:
    """Of each owner: another's flood pushes nobody's out."""
    story = Story(time.time() - 100).tell(requested("p2", "bob"), failure("p2", "feed"), requested("p1"))
    for attempt in range(1, 13):
        story.tell(failure("p1", "feed", attempt), restarted("p1", attempt + 1), after_s=0.1)
    config = msgspec.structs.replace(QUICK, errors_per_group_max=5)
    async with written(database_url, config) as at_work:
        await at_work.write(story.recorded())
        (group,) = (await at_work.ask())["groups"]
        mine = await at_work.ask(fingerprint=group["fingerprint"], occurrences=True)

    assert group["count"] == 13
    attempts = [(each["owner"], each["attempt"]) for each in mine["occurrences"]]
    assert attempts == [("ann", 12), ("ann", 11), ("ann", 10), ("ann", 9), ("ann", 8), ("bob", 1)]


async def test_what_is_old_is_forgotten_by_the_log_s_times(database_url: str) -> None:
    """And what was asked for by days, by the clock's."""
    now = time.time()
    story = Story(now - 120 * 86_400).tell(requested("p1"), failure("p1", "feed"))
    story.tell(requested("p2"), failure("p2", "beef"), after_s=100 * 86_400)
    async with written(database_url) as at_work:
        await at_work.write(story.recorded(), batch=2)
        recent, longer = await at_work.ask(days=7), await at_work.ask(days=365)

    assert recent["groups"] == []
    assert [each["last"]["preview_id"] for each in longer["groups"]] == ["p2"]
    kept = await rows(database_url, "SELECT preview_id FROM drape.error_occurrences")
    assert [row["preview_id"] for row in kept] == ["p2"]


@pytest.mark.parametrize("batch", [1, 4, 1_000])
async def test_the_rows_are_the_same_however_the_log_is_cut(database_url: str, batch: int) -> None:
    """What comes again after it was due to be forgotten begins anew, also where nothing was forgotten in between."""
    story = Story(time.time() - 300 * 86_400)
    for days in (0, 10, 95, 20, 120):
        story.tell(VmBootFailed(vm_id=f"vm-{days}", code="boot_failed", message="no disk"), after_s=days * 86_400)
        story.tell(requested(f"p{days}"), failure(f"p{days}", "feed"))
    async with written(database_url) as at_work:
        await at_work.write(story.recorded(), batch)

    counts = "SELECT preview_id, count, first_at = last_at AS once FROM drape.error_counts ORDER BY last_seq"
    assert [tuple(row) for row in await rows(database_url, counts)] == [("", 1, True), ("p120", 1, True)]
    kept = await rows(database_url, "SELECT vm_id, preview_id FROM drape.error_occurrences ORDER BY seq")
    assert [tuple(row) for row in kept] == [("vm-120", ""), ("", "p120")]


async def test_a_deleted_project_s_messages_are_erased(database_url: str) -> None:
    story = troubled(time.time() - 100).tell(ProjectDeleted(project_id="project-of-p1"))
    async with written(database_url) as at_work:
        await at_work.write(story.recorded())

    for table in ("error_counts", "error_occurrences"):
        found = await rows(database_url, f"SELECT DISTINCT project_id, message FROM drape.{table} ORDER BY 1")
        assert [tuple(row) for row in found] == [("", "no disk"), ("project-of-p1", ERASED), ("project-of-p2", "why")]


@pytest.mark.parametrize(
    "query", [{"days": 0}, {"days": 366}, {"limit": 0}, {"limit": 201}, {"days": "x"}, {"unknown": 1}, {"before": "x"}]
)
async def test_a_bad_query_is_refused(database_url: str, query: dict[str, object]) -> None:
    async with written(database_url) as at_work:
        with pytest.raises(Invalid):
            await at_work.ask(**query)


# --- why it was slow ----------------------------------------------------------------------------------------------


def usual(story: Story, count: int) -> Story:
    for number in range(count):
        up_to_ready(story, f"other-{number}")
    return story


async def test_a_slow_preview_is_told_beside_the_others(database_url: str) -> None:
    """The same figures as `up_to_ready` has, this one left out; its install is slower by what is told."""
    story = usual(Story(time.time() - 600), 12)
    begin = len(story.told)
    up_to_ready(story, "slow")
    late = {"ProjectDetected": 0.0, "InstallCompleted": 20.0}
    told, extra = [], 0.0
    for at, event in story.told[begin:]:
        extra += late.get(type(event).__name__, 0.0)
        told.append((at + extra, event))
    story.told[begin:] = told
    slow = msgspec.structs.replace(told[-1][1], total_s=27.5, steps={"installing": 23.0})
    story.told[-1] = (told[-1][0], slow)
    async with written(database_url) as at_work:
        await at_work.write(story.recorded())
        answer = await at_work.ask_timing(preview_id="slow")
        like_others = await at_work.ask_timing(preview_id="other-3")
        with pytest.raises(NotFound):
            await at_work.ask_timing(preview_id="nobody")
        with pytest.raises(Invalid):
            await at_work.ask_timing(preview_id="slow", days=0)
        with pytest.raises(Invalid):
            await at_work.ask_timing()

    (attempt,) = answer["attempts"]
    install = next(step for step in attempt["steps"] if step["name"] == "installing")
    assert (install["seconds"], install["usual"], install["ratio"]) == (23.0, {"of": 12, "p50": 3.0, "p95": 3.0}, 7.67)
    assert (answer["total_s"], answer["usual"]["p50"], answer["previews"], answer["warm"]) == (27.5, 7.5, 12, True)
    assert answer["why"][0].startswith("the install took 23.0 s, 7.7x the usual for vite (p50 3.0 s of 12 previews)")
    assert like_others["previews"] == 12
    assert like_others["why"][0].startswith("No step took much longer than usual")
