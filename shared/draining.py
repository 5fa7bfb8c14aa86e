"""An orderly end of one replica: it takes nothing new, finishes what is short, and hands back what another can take up."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from shared.ports import Subscription

_log = logging.getLogger("drape.runtime")


@runtime_checkable
class Drainable(Protocol):
    """A subscription that can end without losing what it was given."""

    async def drain(self, limit_s: float) -> None:
        """Take no more; return once all that was taken is done or handed back, after `limit_s` at the latest."""
        ...


async def drain_all(subscriptions: Iterable[Subscription], limit_s: float) -> None:
    """All at once. One whose connection has broken has nothing to hand back: the rest goes on."""
    drains = [each.drain(limit_s) for each in subscriptions if isinstance(each, Drainable)]
    for outcome in await asyncio.gather(*drains, return_exceptions=True):
        if isinstance(outcome, Exception):
            _log.warning("drain_broke", extra={"error": f"{type(outcome).__name__}: {outcome}"})
