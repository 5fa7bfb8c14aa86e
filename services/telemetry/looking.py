"""Looks at what the log does not say: who is behind it, what is parked, what has been spent. What is not to be had
hinders nothing else."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from services.telemetry.config import AlertConfig
from services.telemetry.ports import Figure
from shared.commands import EvaluateAlerts, Lag
from shared.errors import UNREADABLE, DrapeError, Unavailable
from shared.parked import ParkedReactions
from shared.ports import Commands, EventLog

SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
LAGS_MAX = 400
"""States and projections that are looked at."""


class Projected(msgspec.Struct):
    """How far a projection is."""

    seq: int = 0


class Status(msgspec.Struct):
    """What a replica says of itself, as far as it matters here."""

    seq: int = 0
    service: str = ""
    instance: str = ""
    projection: Projected | None = None
    projections: Mapping[str, Projected] = {}


class Watch:
    """`costs`: of the day and of the month. One replica's memory: since when nobody has been far behind, as far as it saw."""

    def __init__(
        self,
        parked: ParkedReactions,
        commands: Commands,
        events: EventLog,
        limits: AlertConfig,
        clock: Callable[[], float],
        costs: tuple[Figure, Figure],
    ) -> None:
        self._parked = parked
        self._commands = commands
        self._events = events
        self._limits = limits
        self._clock = clock
        self._costs = costs
        self._small_since: float | None = None

    async def look(self) -> EvaluateAlerts:
        """The command with all that is known now."""
        lags = await self._lags()
        if lags is None or any(each.events > self._limits.lag_events_clear for each in lags):
            self._small_since = None
        elif self._small_since is None:
            self._small_since = self._clock()
        day, month = self._costs
        return EvaluateAlerts(
            parked=await self._count(),
            lags=lags,
            lags_small_since=self._small_since,
            cost_day=await self._cost(day, self._limits.budget_day),
            cost_month=await self._cost(month, self._limits.budget_month),
        )

    async def _count(self) -> int | None:
        try:
            return await self._parked.count()
        except Unavailable:
            return None

    async def _cost(self, measure: Figure, budget: float) -> float | None:
        """Not asked where there is no budget: PostgreSQL would add up a month at every tick, for nobody."""
        try:
            return await measure() if budget else None
        except DrapeError:
            return None

    async def _lags(self) -> tuple[Lag, ...] | None:
        """Of every replica that answers, and of the projections. None where nobody could be asked."""
        try:
            last = await self._events.last_seq()
            told = await asyncio.gather(*(self._commands.statuses(service) for service in SERVICES))
            positions: dict[str, int] = {}
            for service, bodies in zip(SERVICES, told, strict=True):
                for body in bodies:
                    positions |= positions_in(service, body)
            lags = [Lag(name=name, events=last - seq, age_s=0.0) for name, seq in positions.items() if seq < last]
            return tuple([await self._aged(each, last) for each in lags[:LAGS_MAX]])
        except DrapeError:
            return None

    async def _aged(self, lag: Lag, last: int) -> Lag:
        """Since when the first event that it lacks has been there; asked only of those that are far behind."""
        if lag.events <= self._limits.lag_events_max:
            return lag
        first = last - lag.events + 1
        async for recorded in self._events.read(first - 1, first):
            return msgspec.structs.replace(lag, age_s=round(max(0.0, self._clock() - recorded.meta.at), 3))
        return lag


def positions_in(service: str, body: bytes) -> dict[str, int]:
    """By name, how far a replica and its projections have read the log; an answer that is none says nothing."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except UNREADABLE:
        return {}
    name = f"{service}/{status.instance}" if status.instance else service
    found = {name: status.seq}
    if status.projection is not None:
        found[f"{name} projection"] = status.projection.seq
    found |= {f"{name} projection {each}"[:100]: projected.seq for each, projected in status.projections.items()}
    return found


async def unknown() -> float | None:
    """A figure that nobody measures."""
    return None
