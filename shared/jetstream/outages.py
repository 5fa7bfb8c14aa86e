"""What NATS answers while a server or a leader is away: told apart from real refusals, and waited for, with a bound."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import nats.errors
from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

log = logging.getLogger("drape.nats")

T = TypeVar("T")

NO_PEERS = 10005
"""A cluster that has not heard of enough of its nodes yet."""
SETTLE_S = 30.0
"""An election takes 4 to 9 s; a cluster that has just been started holds several."""
PAUSE_S = 0.25


def passing(error: BaseException) -> bool:
    """Whether the same request may work in a moment: no leader, no quorum, no answer, no connection."""
    if isinstance(error, APIError):
        return isinstance(error, ServiceUnavailableError) or error.err_code == NO_PEERS
    return isinstance(
        error,
        NoStreamResponseError
        | nats.errors.NoRespondersError
        | nats.errors.ConnectionReconnectingError
        | nats.errors.OutboundBufferLimitError
        | nats.errors.StaleConnectionError
        | TimeoutError,
    )


async def settled(work: Callable[[], Awaitable[T]], within_s: float = SETTLE_S) -> T:
    """What `work` gives once the cluster answers; `work` must bear being done twice. Raises its last error afterwards."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        try:
            return await work()
        except (nats.errors.Error, TimeoutError) as error:
            if not passing(error) or asyncio.get_running_loop().time() >= deadline:
                raise
            log.info("nats_unsettled", extra={"error": str(error) or type(error).__name__})
        await asyncio.sleep(PAUSE_S)
