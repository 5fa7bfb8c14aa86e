"""Waiting for a condition with a bound: what a test does instead of sleeping."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

import psutil


async def eventually(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Returns when the condition holds; fails the test when it does not within the time."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if await answer if isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
