"""Asking a service that has several replicas, some of them gone, hung or slow."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shared.asking import PATIENCE, Absent, ask
from shared.causes import cause_of, headers_of
from shared.errors import NotFound, Unavailable
from shared.ports import Cause

pytestmark = pytest.mark.looptime

Behaviour = Callable[[], Awaitable[bytes]]


class Service:
    """Its replicas take turns; `asked`: (when, whether it was said to be a repetition)."""

    def __init__(self, *replicas: Behaviour) -> None:
        self._replicas = replicas
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self.asked: list[tuple[float, bool]] = []

    def now(self) -> float:
        return self._clock() - self._began

    async def attempt(self, repeated: bool, _left_s: float) -> bytes:
        self.asked.append((round(self.now(), 3), repeated))
        return await self._replicas[min(len(self.asked), len(self._replicas)) - 1]()


async def answers() -> bytes:
    return b"yes"


async def hangs() -> bytes:
    await asyncio.sleep(1_000_000)
    return b"never"


async def slow() -> bytes:
    await asyncio.sleep(PATIENCE.try_s * 2.5)
    return b"slowly"


async def gone() -> bytes:
    raise Absent("nobody")


async def behind() -> bytes:
    raise Unavailable("state_behind", "It lags.")


async def refuses() -> bytes:
    raise NotFound("preview_not_found", "There is none.")


async def test_one_that_answers_is_asked_once() -> None:
    service = Service(answers)
    assert await ask(service.attempt, "pool", 10) == b"yes"
    assert service.asked == [(0, False)]


async def test_one_that_hangs_costs_a_moment() -> None:
    service = Service(hangs, answers)
    assert await ask(service.attempt, "pool", 10) == b"yes"
    assert service.asked == [(0, False), (PATIENCE.try_s, True)]


async def test_one_that_is_slow_is_still_listened_to() -> None:
    """Whoever is asked meanwhile hangs; the first answer counts."""
    service = Service(slow, hangs)
    assert await ask(service.attempt, "pool", 10) == b"slowly"
    assert service.now() == PATIENCE.try_s * 2.5


async def test_what_must_not_be_done_twice_is_asked_once() -> None:
    service = Service(slow, answers)
    assert await ask(service.attempt, "pool", 60, once=True) == b"slowly"
    assert len(service.asked) == 1


@pytest.mark.parametrize("absent", [gone, behind])
async def test_a_gap_between_two_replicas_is_not_noticed(absent: Behaviour) -> None:
    service = Service(absent, absent, absent, answers)
    assert await ask(service.attempt, "pool", 10) == b"yes"
    assert service.now() < PATIENCE.absent_s


async def test_a_service_that_is_down_is_known_after_a_short_bound() -> None:
    service = Service(gone)
    with pytest.raises(Unavailable) as caught:
        await ask(service.attempt, "pool", 10)
    assert caught.value.code == "service_unavailable"
    assert PATIENCE.absent_s <= service.now() < PATIENCE.absent_s + 0.5


async def test_a_replica_that_always_lags_says_so_itself() -> None:
    with pytest.raises(Unavailable) as caught:
        await ask(Service(behind).attempt, "pool", 10)
    assert caught.value.code == "state_behind"


async def test_silence_has_a_limit() -> None:
    service = Service(hangs)
    with pytest.raises(Unavailable) as caught:
        await ask(service.attempt, "pool", 5)
    assert caught.value.code == "service_silent"
    assert service.now() == 5
    assert len(service.asked) == 5


async def test_a_refusal_is_an_answer() -> None:
    service = Service(refuses, answers)
    with pytest.raises(NotFound):
        await ask(service.attempt, "pool", 10)
    assert len(service.asked) == 1


async def test_who_gives_up_leaves_nothing_behind() -> None:
    service = Service(hangs)
    asking = asyncio.create_task(ask(service.attempt, "pool", 10))
    await asyncio.sleep(2.5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_cause_travels_whole_and_nonsense_counts_as_nothing() -> None:
    cause = Cause(correlation_id="c", causation_id="e", actor="a", traceparent="t", after_seq=41, repeated=True)
    assert cause_of(headers_of(cause)) == cause
    assert headers_of(Cause()) == {}
    for wrong in ("-1", "x", "9" * 40, "1.5"):
        assert cause_of({"Drape-After-Seq": wrong}).after_seq == 0
