"""All that telemetry keeps in PostgreSQL: the projections, what answers from their rows, and the end of what is past
keeping."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

from services.telemetry.adapters import rollups
from services.telemetry.adapters.asking import ProjectionQueries
from services.telemetry.adapters.cost_reader import CostReader
from services.telemetry.adapters.cost_retention import CostRetention
from services.telemetry.adapters.costs import CostsProjection, ResourcesProjection
from services.telemetry.adapters.errors import ErrorsProjection, ErrorsReader
from services.telemetry.adapters.postgres import Reached, answers
from services.telemetry.adapters.previews import PREVIEWS, PreviewsProjection
from services.telemetry.adapters.projection import Projector
from services.telemetry.adapters.projections import Projection, ProjectionStore
from services.telemetry.adapters.rebuild import Rebuilder
from services.telemetry.adapters.resource_reader import ResourceReader
from services.telemetry.adapters.retention import Retention
from services.telemetry.adapters.stats import StatsReader
from services.telemetry.adapters.timing import TimingReader
from services.telemetry.config import TelemetryConfig
from services.telemetry.prices import PriceTable
from shared.ports import EventLog, Handler

DAILY = (rollups.DAILY,)
"""The tables that lose their oldest days."""


def projections(config: TelemetryConfig) -> tuple[Projection, ...]:
    """All that is projected. Each has its own position: one that is behind or made anew hinders no other."""
    return (PreviewsProjection(), ErrorsProjection(config), CostsProjection(), ResourcesProjection())


class Database:
    """One replica's. `pool`: asyncpg's; `clock`: seconds, UTC."""

    def __init__(
        self, pool: Any, log: EventLog, config: TelemetryConfig, prices: PriceTable, clock: Callable[[], float]
    ) -> None:
        self.projectors: dict[str, Projector] = {}
        self._rebuilders: dict[str, Rebuilder] = {}
        for each in projections(config):
            store = ProjectionStore(pool, each, config)
            projector = self.projectors[each.name] = Projector(log, store, config)
            self._rebuilders[each.name] = Rebuilder(log, store, projector, config)
        self._log = log
        self._reached = Reached(partial(answers, pool))
        self._stats = StatsReader(pool, self._base_of(PREVIEWS), config, clock)
        self._errors = ErrorsReader(pool, self._base_of(ErrorsProjection.name), config, clock)
        self._timing = TimingReader(pool, self._base_of(PREVIEWS), config, clock)
        self.costs = CostReader(pool, self._base_of(CostsProjection.name), config, prices, clock)
        self._resources = ResourceReader(pool, self._base_of(ResourcesProjection.name), config, clock)
        self._retention = Retention(pool, DAILY, config, clock)
        self._cost_retention = CostRetention(pool, config, clock)

    def work(self) -> Iterator[tuple[str, Coroutine[Any, Any, NoReturn]]]:
        """What has to run for as long as the service does, by name."""
        for name, projector in self.projectors.items():
            yield f"telemetry-projection-{name}", projector.run()
        for name, rebuilder in self._rebuilders.items():
            yield f"telemetry-rebuild-{name}", rebuilder.run()

    async def retain(self) -> None:
        """Put away what is past keeping. While PostgreSQL is away there is nothing to be done; the next tick does more."""
        await self._retention.look()
        await self._cost_retention.look()

    async def status(self) -> Mapping[str, object]:
        """Whether PostgreSQL answers, and how far the rows are behind the log."""
        last = await self._log.last_seq()
        stand = {name: {"seq": each.seq, "lag": max(0, last - each.seq)} for name, each in self.projectors.items()}
        return {"postgres": await self._reached.now(), "projection": stand[PREVIEWS], "projections": stand}

    def queries(self) -> dict[str, Handler]:
        """What is answered from the rows."""
        asking = ProjectionQueries(self._rebuilders, self._log.last_seq)
        return {
            "stats": self._stats.answer,
            "errors": self._errors.answer,
            "timing": self._timing.answer,
            "costs": self.costs.answer,
            "resources": self._resources.answer,
            "projections": asking.projections,
            "rebuild": asking.rebuild,
        }

    def _base_of(self, name: str) -> Callable[[], str]:
        """The log's name in PostgreSQL; known only once the log is read."""
        return lambda: self.projectors[name].log_id
