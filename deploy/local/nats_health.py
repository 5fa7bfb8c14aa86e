"""Whether an embedded NATS server can still store what it is sent, by its own word. Only asks; restarts nothing."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

_log = logging.getLogger("drape.local")

TIMEOUT_S = 2.0
TURN_S = 90.0
"""How long one node that is restarted keeps the others from being restarted, where it does not get well."""
ROOM_BYTES_MIN = 4 * 1024 * 1024
"""Free on the store's disk before a restart can help."""
READ_ONLY_SIGNS = ("write error", "JetStream not enabled", "JetStream is disabled", "JetStream disabled")


async def health(monitor_url: str) -> str:
    """What the server says is wrong with it; empty where nothing is. `silent` where it does not answer in `TIMEOUT_S`."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.get(f"{monitor_url}/healthz") as answer,
        ):
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return "silent"
    return "" if answer.status == 200 else str(body.get("error") or body.get("status") or answer.status)


async def health_of(monitor_urls: Sequence[str]) -> dict[str, str]:
    """What each embedded node says of itself, by its name: `ok`, or what is wrong with it."""
    reasons = await asyncio.gather(*(health(url) for url in monitor_urls))
    alone = len(reasons) == 1
    return {"nats" if alone else f"nats-{number}": reason or "ok" for number, reason in enumerate(reasons, 1)}


def read_only(reason: str) -> bool:
    """Whether it stays so by itself: after a failed write a stream takes nothing more until its server starts anew, even
    when the disk has room again. A server that is behind its peers, or starting, gets well alone."""
    return any(sign in reason for sign in READ_ONLY_SIGNS)


class Turns:
    """Lets one node be restarted at a time: two at once would stop the cluster."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._node = ""
        self._until = 0.0

    async def stuck(self, node: str, monitor_url: str, store: Path) -> bool:
        """Whether this node has to be restarted, and may be now."""
        reason = await health(monitor_url)
        if not read_only(reason):
            if self._node == node and not reason:
                self._node = ""
            return False
        if self._node not in ("", node) and self._clock() < self._until:
            return False
        if shutil.disk_usage(store).free < ROOM_BYTES_MIN:
            return False
        if self._node != node or self._clock() >= self._until:
            self._node, self._until = node, self._clock() + TURN_S
            _log.warning("%s takes no more writes: %s", node, reason, extra={"child": node})
        return True
