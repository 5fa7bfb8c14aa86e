"""A reaction that fails too often is kept for a person, who has it tried again once the cause is mended."""

import asyncio

import msgspec
import pytest

from shared.errors import NotFound
from shared.events import AlertCleared, AlertRaised, PreviewReady, PreviewRequested, VmAcquired
from shared.parked import Parked, find
from tests.journeys.rules import check_rules
from tests.journeys.stage import Stage, staged

pytestmark = pytest.mark.looptime

PARKED_WITHIN_S = 70.0
"""Twelve tries, with pauses of up to five seconds."""


async def damaged(stage: Stage) -> tuple[str, str, bytes]:
    """A preview whose project's manifest can't be read: its id, the manifest's name, and what that should be."""
    project_id = await stage.project()
    name = stage.state("gateway").projects[project_id].manifest
    whole = await stage.bus.objects.get(name)
    await stage.bus.objects.put(name, b"{ half")
    return await stage.request(project_id), name, whole


async def until_parked(stage: Stage) -> Parked:
    async with asyncio.timeout(PARKED_WITHIN_S):
        while not (found := await stage.bus.parked.list()):
            await asyncio.sleep(1)
    return found[0]


async def test_what_was_parked_goes_on_where_it_was_once_the_cause_is_mended() -> None:
    """It is named, with its reason; tried again it is done by the service as at first, and nothing is done twice."""
    async with staged() as stage:
        preview_id, name, whole = await damaged(stage)
        parked = await until_parked(stage)
        requested = next(each for each in stage.broker.records if isinstance(each.event, PreviewRequested))
        assert (parked.key, parked.attempts) == (f"orchestrator.event.{requested.seq}", 12)
        assert "DecodeError" in parked.reason
        await stage.bus.objects.put(name, whole)
        raised = await stage.until(AlertRaised, within_s=10)
        assert raised.alert == "reactions_parked"
        await stage.bus.parked.replay(find(await stage.bus.parked.list(), parked.key))
        assert (await stage.until(AlertCleared, within_s=10)).alert == "reactions_parked"
        await stage.until(PreviewReady, preview_id, within_s=10)
        assert len(stage.events(VmAcquired, preview_id)) == 1
        assert [record.getMessage() for record in stage.complaints.records].count("reaction_parked") == 1
        stage.complaints.records.clear()  # they were expected
        await asyncio.sleep(10)
        check_rules(stage)


async def test_what_fails_as_often_once_more_is_parked_under_its_own_name() -> None:
    async with staged() as stage:
        await damaged(stage)
        first = await until_parked(stage)
        await stage.bus.parked.replay(first)
        assert await stage.bus.parked.list() == []
        again = await until_parked(stage)
        assert (again.key, again.attempts) == (first.key, 12)
        await stage.bus.parked.drop(again)
        assert await stage.bus.parked.list() == []


async def test_being_given_out_again_is_no_failure() -> None:
    """What lasts goes to another replica at each rollout: after many of those, its first failure must not be its last."""
    async with staged() as stage:
        preview_id, name, whole = await damaged(stage)
        requested = next(each for each in stage.broker.records if isinstance(each.event, PreviewRequested))
        stage.broker.event_queues["orchestrator"].put(requested, attempts=12)
        await asyncio.sleep(1)
        assert await stage.bus.parked.list() == []
        await stage.bus.objects.put(name, whole)
        await stage.until(PreviewReady, preview_id, within_s=20)
        assert await stage.bus.parked.list() == []


async def test_a_name_that_is_none_is_refused() -> None:
    """Also one that would reach beyond a single reaction."""
    parked = Parked(service="pool", kind="event", seq=7, subject="x", reason="it broke", attempts=12, at="")
    assert find([parked], "pool.event.7") == parked
    assert msgspec.json.decode(msgspec.json.encode(parked), type=Parked) == parked
    for key in ("pool.event.8", "pool.event.>", "*", "", "pool.event.7.8", "pool"):
        with pytest.raises(NotFound):
            find([parked], key)
