"""Timers and ticks as JetStream message schedules: they survive restarts, and one replica hears each firing."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError

from shared.errors import Unavailable
from shared.jetstream.topology import TIMER_AT, TIMER_DUE, TIMER_EVERY
from shared.ports import Timer

DUE_TTL = "24h"
"""How long a due timer waits for a service that is down."""


_data = msgspec.json.Decoder(dict[str, str | int])


def timer_body(name: str, data: Mapping[str, str | int]) -> bytes:
    """What is stored of a timer: its name as the type, then its data."""
    return msgspec.json.encode({"type": name, **data})


def timer_data(body: bytes | None) -> dict[str, str | int]:
    """A timer's own data."""
    data = _data.decode(body or b"{}")
    data.pop("type", None)
    return data


class NatsTimers:
    """The stream `DRAPE_TIMERS`."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=5)

    async def schedule(self, timer: Timer) -> None:
        at = datetime.fromtimestamp(timer.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        key = f"{timer.service}.{timer.name}.{timer.id}"
        body = timer_body(timer.name, timer.data)
        await self._publish(f"{TIMER_AT}.{key}", f"{TIMER_DUE}.{key}", f"@at {at}", DUE_TTL, body)

    async def every(self, service: str, name: str, period_s: float) -> None:
        key = f"{service}.{name}"
        # A tick that nobody heard is of no use later: it lives for one period, a second at least.
        ttl = f"{max(1, round(period_s))}s"
        schedule, body = f"@every {round(period_s)}s", timer_body(name, {})
        await self._publish(f"{TIMER_EVERY}.{key}", f"{TIMER_DUE}.{key}.tick", schedule, ttl, body)

    async def _publish(self, subject: str, target: str, schedule: str, ttl: str, body: bytes) -> None:
        headers = {"Nats-Schedule": schedule, "Nats-Schedule-Target": target, "Nats-Schedule-TTL": ttl}
        try:
            await self._js.publish(subject, body, headers=headers)
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("timers_unavailable", f"The timer stream did not take a timer: {error}") from error
