"""Real time: how long a fault lasts, and waiting for a condition that only time brings. Each wait has a bound."""

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_S = 0.5


async def lasting(seconds: float) -> None:
    """A fault, or the pause between two, takes its time."""
    await asyncio.sleep(seconds)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Whether the condition came to hold within the time."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(LOOK_S)
    return True
