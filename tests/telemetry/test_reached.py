"""A PostgreSQL that hangs keeps telemetry from telling how far it is no longer than whoever asks will wait."""

import asyncio
import inspect

from services.telemetry.adapters.postgres import REACHED_WITHIN_S, Reached
from shared.ports import Commands


class Server:
    """Answers once it is let, as it is told."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.well = True
        self.asked = 0

    async def answers(self) -> bool:
        self.asked += 1
        await self.free.wait()
        return self.well


async def test_what_hangs_is_not_waited_for() -> None:
    """What was last known is told, nobody asks twice at once, and the answer counts when it comes."""
    server = Server()
    reached = Reached(server.answers, within_s=0.01)
    assert [await reached.now(), await reached.now()] == [False, False]
    assert server.asked == 1

    server.free.set()
    assert await Reached(server.answers, within_s=60).now()
    assert await reached.now()

    server.free.clear()
    assert [await reached.now(), await reached.now()] == [True, True]
    server.well = False
    server.free.set()
    reached = Reached(server.answers, within_s=60)
    assert not await reached.now()


def test_it_is_told_before_whoever_asks_all_replicas_gives_up() -> None:
    waited_s = inspect.signature(Commands.statuses).parameters["within_s"].default
    assert waited_s > REACHED_WITHIN_S * 2
