"""A micro service whose figures are true: nats-py counts what a handler takes until it has handed the request to a task."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.micro.service import Endpoint, EndpointConfig, EndpointStats, Service, ServiceConfig

from shared.errors import DrapeError, Problem
from shared.ports import Handler


class Counted:
    """One endpoint's requests: how many are under way, how long they took, how many were refused."""

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None
        """Where they are told; None while it is being added, when a first request may have come."""
        self.under_way = 0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Counts what happens within."""
        begun = time.perf_counter_ns()
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            if (told := self.endpoint) is not None:
                told._processing_time += time.perf_counter_ns() - begun
                told._average_processing_time = int(told._processing_time / max(1, told._num_requests))

    def refused(self, problem: Problem) -> None:
        """An error was answered. Only its code is told: words may name what is a project's."""
        if self.endpoint is not None:
            self.endpoint._num_errors += 1
            self.endpoint._last_error = f"{problem.status} {problem.code}"  # type: ignore[assignment]


class MicroService(Service):
    """nats-py's, with figures of the replica at each endpoint: `last_seq`, `lag`, `replay_ms`, `under_way`."""

    def __init__(self, client: Client, config: ServiceConfig, status: Handler | None) -> None:
        super().__init__(client, config)
        self._status = status
        self._figures: dict[str, Any] = {}
        self._stats_handler = self._data
        self._counted: dict[str, Counted] = {}

    async def add_counted(self, config: EndpointConfig, counted: Counted) -> None:
        """Add an endpoint that tells these counts."""
        await self.add_endpoint(config)
        counted.endpoint = self._endpoints[-1]
        self._counted[counted.endpoint._subject] = counted

    async def _handle_stats_request(self, msg: Msg) -> None:
        if self._status is not None:
            with contextlib.suppress(DrapeError):  # the log is away: the last figures stand
                status = msgspec.json.decode(await self._status(b"{}", {}))
                self._figures = {
                    "last_seq": status["seq"],
                    "lag": status["lag"],
                    "replay_ms": round(status["replay_s"] * 1000),
                }
        await super()._handle_stats_request(msg)

    def _data(self, stats: EndpointStats) -> dict[str, Any]:
        counted = self._counted.get(stats.subject)
        return {**self._figures, "under_way": counted.under_way if counted is not None else 0}
