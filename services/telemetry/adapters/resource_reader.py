"""`drape.query.telemetry.resources`: the snapshots of what there was."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from services.telemetry.adapters.costs import RESOURCES
from services.telemetry.adapters.projections import serving
from services.telemetry.adapters.questions import Questions, decoded
from services.telemetry.config import TelemetryConfig
from shared.errors import Invalid
from shared.events import PoolUsage, ResourcesMeasured

HOURS_MAX = 168
SNAPSHOTS_MAX = 2_100
"""A week of them, every five minutes. Where they are denser, the newest so many."""


class ResourcesQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    hours: int = 24


class Previews(msgspec.Struct, frozen=True, kw_only=True):
    """Previews that live, by state."""

    starting: int
    ready: int
    suspended: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What there was `at` that moment (seconds, UTC). `pools` None: they did not answer."""

    at: float
    pools: tuple[PoolUsage, ...] | None
    previews: Previews


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: oldest first."""

    hours: int
    snapshots: list[Snapshot]
    generated_at: float
    position: int


_query = msgspec.json.Decoder(ResourcesQuery)
_measured = msgspec.json.Decoder(ResourcesMeasured)

_NEWEST = (
    "SELECT at, data FROM drape.resource_snapshots WHERE log_id = $1 AND at >= $2 ORDER BY at DESC, day DESC, rev DESC "
    "LIMIT $3"
)


class ResourceReader:
    """Answers the query."""

    def __init__(
        self,
        pool: Any,
        log_id: Callable[[], str],
        config: TelemetryConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._questions = Questions(pool, "resources", "The resources", timeout_s=config.costs_timeout_s)
        self._log_id = log_id
        self._config = config
        self._clock = clock

    async def answer(self, body: bytes, _headers: object) -> bytes:
        """JSON of `ResourcesQuery` -> JSON of `Resources`. Raises `Invalid` (`bad_query`, `bad_hours`), `Unavailable`."""
        query = decoded(_query, body, '{"hours": 24}')
        if not 1 <= query.hours <= HOURS_MAX:
            raise Invalid("bad_hours", f"`hours` is a whole number from 1 to {HOURS_MAX}.")
        return msgspec.json.encode(await self.resources(query.hours))

    async def resources(self, hours: int) -> Resources:
        """The snapshots of the last hours. Raises `Unavailable` while PostgreSQL is away."""
        now = self._clock()
        since = datetime.fromtimestamp(now, UTC) - timedelta(hours=hours)
        async with self._questions.snapshot() as connection:
            position = await serving(connection, RESOURCES, self._log_id())
            rows = await connection.fetch(_NEWEST, position.log_id, since, SNAPSHOTS_MAX)
        found = [_snapshot(row["at"].timestamp(), _measured.decode(row["data"])) for row in reversed(rows)]
        return Resources(hours=hours, snapshots=found, generated_at=round(now, 3), position=position.seq)


def _snapshot(at: float, event: ResourcesMeasured) -> Snapshot:
    previews = Previews(starting=event.starting, ready=event.ready, suspended=event.suspended)
    return Snapshot(at=at, pools=event.pools, previews=previews)
