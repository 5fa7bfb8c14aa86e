"""Every instrument, and how what is measured gets into it. Names and units are OpenTelemetry's, dots and all.

What an event tells is recorded once, by the replica that appended it, never in a replay (`record`). What is true now is
asked when metrics are collected, about every ten seconds (`live`).
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from shared import tallies
from shared.commands import Command
from shared.measures import Measure

log = logging.getLogger("drape.metrics")

VALUES_MAX = 200
"""Distinct values of one attribute in this process; whatever comes beyond is `other`."""
OTHER = "other"
READ_TIMEOUT_S = 2.0
"""For all that is asked at a collection: what does not answer by then is left out of it."""
FRESH_S = 1.0
"""One look serves all gauges of a collection."""
Source = Callable[[], Awaitable[Sequence[Measure]]]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_STEP_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120, 300)
_NATS = {"messaging.system": "nats"}
_meter = metrics.get_meter("drape")

# --- the loop -----------------------------------------------------------------------------------------------------

process_duration = tallies.create_histogram(
    "messaging.process.duration",
    unit="s",
    description="Time to decide a command or to react to an event",
    bounds=_SECONDS,
)
operation_duration = tallies.create_histogram(
    "messaging.client.operation.duration",
    unit="s",
    description="Time until an event that was published is stored",
    bounds=_SECONDS,
)
append_conflicts = _meter.create_counter(
    "drape.append.conflicts", unit="{conflict}", description="Appends that another writer was ahead of"
)
duplicate_revisions = _meter.create_counter(
    "drape.fold.duplicate_revisions",
    unit="{event}",
    description="Events ignored because their revision was folded before",
)
reaction_failures = _meter.create_counter(
    "drape.reaction.failures", unit="{reaction}", description="Reactions that failed and are tried again or parked"
)
replay_duration = tallies.create_histogram(
    "drape.replay.duration",
    unit="s",
    description="From a replica's start to a state that is live",
    bounds=_STEP_SECONDS,
)
snapshot_size = tallies.create_histogram(
    "drape.snapshot.size",
    unit="By",
    description="A service's state as it was written, before compression",
    bounds=[4**n * 1024 for n in range(11)],
)
http_request_duration = tallies.create_histogram(
    "http.server.request.duration",
    unit="s",
    description="Time to answer a request to the API; streams and previews are not in it",
    bounds=_SECONDS,
)

# --- VMs ----------------------------------------------------------------------------------------------------------

pool_reconciled = _meter.create_counter(
    "drape.pool.reconciled",
    unit="{vm}",
    description="What the comparison of the provider's list with the log had to put right, by kind",
)
_claim_duration = tallies.create_histogram(
    "drape.pool.claim.duration",
    unit="s",
    description="From a claim to its VM",
    bounds=_STEP_SECONDS,
)
_boot_duration = tallies.create_histogram(
    "drape.vm.boot.duration",
    unit="s",
    description="From the provider's being asked for a VM to its agent's answer",
    bounds=_STEP_SECONDS,
)
_boots_failed = _meter.create_counter(
    "drape.vm.boots.failed", unit="{vm}", description="VMs that the provider could not make, or that never answered"
)

# --- previews -----------------------------------------------------------------------------------------------------

_ready_duration = tallies.create_histogram(
    "drape.preview.ready.duration",
    unit="s",
    description="From the request to a preview that answers through the gateway",
    bounds=[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120, 300],
)
_step_duration = tallies.create_histogram(
    "drape.preview.step.duration",
    unit="s",
    description="How long a step took that ended well",
    bounds=_STEP_SECONDS,
)
_outcomes = _meter.create_counter(
    "drape.preview.outcomes", unit="{preview}", description="Attempts that became ready, failed or were stopped"
)
_install_duration = tallies.create_histogram(
    "drape.install.duration",
    unit="s",
    description="How long the package manager took",
    bounds=_STEP_SECONDS,
)
_installs_skipped = _meter.create_counter(
    "drape.installs.skipped", unit="{install}", description="Installs that were not needed, by reason"
)

_HISTOGRAMS = {
    "drape.pool.claim.duration": _claim_duration,
    "drape.vm.boot.duration": _boot_duration,
    "drape.preview.ready.duration": _ready_duration,
    "drape.preview.step.duration": _step_duration,
    "drape.install.duration": _install_duration,
}
_COUNTERS = {
    "drape.vm.boots.failed": _boots_failed,
    "drape.preview.outcomes": _outcomes,
    "drape.installs.skipped": _installs_skipped,
}


class _Values:
    """Keeps an attribute from having ever more values, whatever its source says."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self._known: dict[str, set[str]] = {}

    def bounded(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """The attributes, `other` in place of a value too many."""
        return {key: self._one(key, value) for key, value in attributes.items()}

    def _one(self, key: str, value: str) -> str:
        known = self._known.setdefault(key, set())
        if value in known or len(known) < self._values_max:
            known.add(value)
            return value
        return OTHER


_values = _Values(VALUES_MAX)


def record(measures: Iterable[Measure]) -> None:
    """Put them into their instruments. In a span, for then the backend can lead from the figure to the trace."""
    for each in measures:
        attributes = _values.bounded(each.attributes)
        histogram = _HISTOGRAMS.get(each.name)
        if histogram is not None:
            histogram.record(each.value, attributes)
        else:
            _COUNTERS[each.name].add(each.value, attributes)


class publishing:  # noqa: N801 - used as a function is; made by `contextmanager` it would take three times as long
    """Measures an append; one that another writer was ahead of, or that nobody answered, says so."""

    __slots__ = ("_begun", "_event")

    def __init__(self, event_type: str) -> None:
        self._event = event_type
        self._begun = time.perf_counter()

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        took_s = time.perf_counter() - self._begun
        attributes = {"messaging.operation.name": "publish", "drape.event": self._event}
        if error is None:
            operation_duration.record(took_s, attributes)
            _sent["publish", "drape.event", self._event] += 1
        elif isinstance(error, Exception):
            operation_duration.record(took_s, {**attributes, "error.type": error_type(error)})


def sent(command: type[Command]) -> None:
    """A command leaves for another service."""
    _sent["send", "drape.command", command.__name__] += 1


def consumed(kind: type[Command] | str) -> None:
    """A command or (by its type's name) an event comes to be worked on."""
    key = ("process", "drape.event", kind) if isinstance(kind, str) else ("process", "drape.command", kind.__name__)
    _consumed[key] += 1


def error_type(error: BaseException) -> str:
    """The `error.type` of a failure: its code, or its class."""
    return _values.bounded({"error.type": str(getattr(error, "code", "") or type(error).__name__)})["error.type"]


# --- what is true now ---------------------------------------------------------------------------------------------


_Tally = Counter[tuple[str, str, str]]
"""Messages by operation, and by the name and value of one more attribute. Counted here and asked for at a collection: there is
one for each message."""
_sent: _Tally = Counter()
_consumed: _Tally = Counter()


def _counted(tally: _Tally) -> "_Asked":
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        for (operation, name, value), count in tally.copy().items():
            yield Observation(count, {**_NATS, "messaging.operation.name": operation, name: value})

    return observe


class _Asked(Protocol):
    def __call__(self, options: CallbackOptions) -> Iterable[Observation]: ...


class Live:
    """What gauges show: asked of the services when metrics are collected, on their own loop and all at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sources: dict[Source, asyncio.AbstractEventLoop] = {}
        self._found: Sequence[Measure] = ()
        self._looked_at = float("-inf")
        self._looking = threading.Lock()

    @contextlib.contextmanager
    def asking(self, source: Source) -> Iterator[None]:
        """This source is asked, on the present loop, as long as the block lasts."""
        self._sources[source] = asyncio.get_running_loop()
        try:
            yield
        finally:
            del self._sources[source]

    def create_observable_gauge(self, name: str, unit: str, description: str) -> None:
        """A gauge that shows what the sources say under this name."""
        make = _meter.create_observable_gauge  # what lists instruments reads their names where they are written out
        make(name, [lambda _options: self.read(name)], unit, description)

    async def refresh(self) -> None:
        """Ask all sources of this loop. One that fails or takes too long has nothing to show this time."""
        mine = [source for source, loop in self._sources.items() if loop is asyncio.get_running_loop()]
        answers = await asyncio.gather(
            *(asyncio.wait_for(source(), READ_TIMEOUT_S) for source in mine), return_exceptions=True
        )
        found: list[Measure] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                log.debug("gauge_unknown", extra={"error": f"{type(answer).__name__}: {answer}"})
            else:
                found += answer
        self._found, self._looked_at = found, self._clock()

    def read(self, name: str) -> list[Observation]:
        """The values of one gauge. Called by the exporter's thread, which waits for the loop; on the loop itself, which
        can't wait for itself, what the last `refresh` found."""
        loop = next(iter(self._sources.values()), None)
        if loop is not None and not loop.is_closed() and _running() is not loop:
            with self._looking:
                if self._clock() - self._looked_at > FRESH_S:
                    self._ask(loop)
        return [Observation(each.value, dict(each.attributes)) for each in self._found if each.name == name]

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = asyncio.run_coroutine_threadsafe(self.refresh(), loop)
        try:
            asked.result(READ_TIMEOUT_S + 1.0)
        except Exception as error:  # the loop stands still, or has ended: better nothing than what was true once
            asked.cancel()
            self._found, self._looked_at = (), self._clock()
            log.debug("gauges_unknown", extra={"error": type(error).__name__})


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


live = Live()


live.create_observable_gauge(
    "drape.log.position",
    unit="{event}",
    description="The log's sequence up to which this replica's state holds",
)
live.create_observable_gauge("drape.log.lag", unit="{event}", description="Events in the log that it has not folded")
live.create_observable_gauge(
    "drape.reactions.parked",
    unit="{reaction}",
    description="Reactions that were given up, of all services",
)
live.create_observable_gauge(
    "drape.projection.lag",
    unit="{event}",
    description="Events in the log that a projection's rows lack",
)
live.create_observable_gauge("drape.pool.vms", unit="{vm}", description="VMs by state")
live.create_observable_gauge("drape.pool.target", unit="{vm}", description="VMs that the pool keeps warm")
live.create_observable_gauge(
    "drape.pool.claims.waiting",
    unit="{claim}",
    description="Claims that wait for a VM",
)
live.create_observable_gauge("drape.previews", unit="{preview}", description="Previews that live, by state")
live.create_observable_gauge(
    "drape.gateway.connections",
    unit="{connection}",
    description="What clients hold open at this gateway",
)
live.create_observable_gauge(
    "drape.alert.raised",
    unit="{alert}",
    description="1 while the alert is raised, else 0",
)
_meter.create_observable_counter(
    "messaging.client.sent.messages",
    [_counted(_sent)],
    unit="{message}",
    description="Events published and commands sent",
)
_meter.create_observable_counter(
    "messaging.client.consumed.messages",
    [_counted(_consumed)],
    unit="{message}",
    description="Events and commands taken to work on",
)
