"""Which event came first after a moment: the stream's own time of each, which is when it was stored."""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js import api

from shared.jetstream.following import unreachable
from shared.jetstream.outages import settled
from shared.jetstream.topology import EVENTS

TIMEOUT_S = 3.0
WITHIN_S = 10.0
"""For all tries: longer than an election takes."""


class Stored(NamedTuple):
    """An event's place, and when it was stored (seconds, UTC)."""

    seq: int
    at: float


async def first_since(client: Client, at: float) -> Stored | None:
    """The first event that was stored at `at` (seconds, UTC) or later; None: there is none. Raises `Unavailable`."""
    return await _get(client, {"start_time": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")})


async def stored_at(client: Client, seq: int) -> Stored | None:
    """When the event `seq`, or the first one behind it, was stored. Raises `Unavailable`."""
    return await _get(client, {"seq": seq})


async def _get(client: Client, which: dict[str, object]) -> Stored | None:
    body = msgspec.json.encode({**which, "batch": 1})
    try:
        message = await settled(
            lambda: client.request(f"$JS.API.DIRECT.GET.{EVENTS}", body, timeout=TIMEOUT_S), WITHIN_S
        )
    except (nats.errors.Error, TimeoutError) as error:
        raise unreachable(error) from error
    headers = message.headers or {}
    if api.Header.STATUS.value in headers:
        return None
    # Nanoseconds are more than `datetime` reads.
    whole, _, fraction = headers["Nats-Time-Stamp"].rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return Stored(int(headers["Nats-Sequence"]), seconds + float(f"0.{fraction or 0}"))
