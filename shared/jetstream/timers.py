"""Timers and ticks as JetStream message schedules: they survive restarts, and one replica hears each firing."""

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


class NatsTimers:
    """The stream `DRAPE_TIMERS`."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=5)

    async def schedule(self, timer: Timer) -> None:
        at = datetime.fromtimestamp(timer.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        key = f"{timer.service}.{timer.name}.{timer.id}"
        await self._publish(f"{TIMER_AT}.{key}", f"{TIMER_DUE}.{key}", f"@at {at}", DUE_TTL, timer.data)

    async def every(self, service: str, name: str, period_s: float) -> None:
        key = f"{service}.{name}"
        # A tick that nobody heard is of no use later: it lives for one period, a second at least.
        ttl = f"{max(1, round(period_s))}s"
        await self._publish(f"{TIMER_EVERY}.{key}", f"{TIMER_DUE}.{key}.tick", f"@every {round(period_s)}s", ttl, {})

    async def _publish(self, subject: str, target: str, schedule: str, ttl: str, data: dict[str, str | int]) -> None:
        headers = {"Nats-Schedule": schedule, "Nats-Schedule-Target": target, "Nats-Schedule-TTL": ttl}
        try:
            await self._js.publish(subject, msgspec.json.encode(data), headers=headers)
        except (nats.errors.Error, APIError, TimeoutError) as error:
            raise Unavailable("timers_unavailable", f"The timer stream did not take a timer: {error}") from error
