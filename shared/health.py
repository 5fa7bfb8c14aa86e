"""What a process says of its own health: whether it lives, has started, and may be sent work.

Three questions with different consequences: a process that does not live is killed, one that has not started is waited for,
one that is not ready gets no work. So a log that is out of reach makes none unfit to live.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from shared.errors import DrapeError
from shared.gauges import Gauge
from shared.ports import Bus

log = logging.getLogger("drape.health")

BEAT_S = 0.25
LOG_TIMEOUT_S = 0.7
"""For the log's last sequence: below the second that probes wait by default."""
FRESH_S = 0.25
"""An answer about the log is good for so long: whoever asks often costs no request each."""

Gauges = Callable[[], Sequence[Gauge]]


class Replica(Protocol):
    """What is asked of the loop; `shared.runtime.Runtime` is one."""

    bus: Bus
    seq: int
    replay_until: int
    """The log's last sequence when the replay began; 0 before that is known."""


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Where well ends. `lag_events`, `lag_s`: events, or seconds, behind the log; `stall_s`: the loop's standstill."""

    lag_events: int = 1_000
    lag_s: float = 15.0
    stall_s: float = 15.0


class Answer(NamedTuple):
    """An HTTP status and a JSON body. Without secrets: whoever reaches the port may read it."""

    status: int
    body: dict[str, Any]


class Lag:
    """How long what was in the log has not been folded. A replica that stands still shows by that, however few events."""

    def __init__(self) -> None:
        self._target = 0
        self._since = 0.0

    def seconds(self, seq: int, last: int, now: float) -> float:
        """0 where all that was there at the last look has been folded since."""
        if seq >= self._target:
            self._target, self._since = last, now
        return 0.0 if seq >= last else now - self._since


class Health:
    """One process's. `live` and `startup` may be asked from any thread, the others on the service's loop."""

    def __init__(
        self,
        service: str,
        instance: str,
        limits: HealthLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who = {"service": service, "instance": instance}
        self.limits = limits
        self._clock = clock
        self._beat = clock()
        self._told = False
        self._thread = threading.get_ident()
        self._replica: Replica | None = None
        self._gauges: Gauges | None = None
        self._started = False
        self._leaving = False
        self._lag = Lag()
        self._heard = clock()
        self._last: tuple[float, int | None] | None = None
        self._asking = asyncio.Lock()

    # --- what the process tells ---------------------------------------------------------------------------------

    async def beating(self) -> None:
        """Shows that the loop turns, for as long as it does."""
        while True:
            self._beat, self._told = self._clock(), False
            await asyncio.sleep(BEAT_S)

    def watch(self, replica: Replica) -> None:
        """NATS answers, and the replay begins."""
        self._replica = replica

    def started(self, gauges: Gauges | None = None) -> None:
        """It serves."""
        self._started, self._gauges = True, gauges
        self._heard = self._clock()

    def leave(self) -> None:
        """It ends soon: no more work, please."""
        self._leaving = True

    # --- what is asked of it ------------------------------------------------------------------------------------

    def stalled_s(self) -> float:
        """How long the service's loop has stood still; 0 while it turns."""
        still = self._clock() - self._beat
        return 0.0 if still < self.limits.stall_s else still

    def live(self) -> Answer:
        """503 once the loop has stood still for `stall_s`: only a new process helps."""
        still = self.stalled_s()
        if not still:
            return self._answer(200, "ok")
        if not self._told:
            self._told = True
            log.error("loop_stalled", extra={"stalled_s": round(still, 1), "at": self._place()})
        return self._answer(503, "stalled", stalled_s=round(still, 1))

    def startup(self) -> Answer:
        """200 once it has served, for ever; until then 503 and how far it is."""
        if self._started:
            return self._answer(200, "started")
        if self._replica is None:
            return self._answer(503, "connecting")
        seq, until = self._replica.seq, self._replica.replay_until
        percent = round(100.0 * min(1.0, seq / until), 1) if until else 0.0
        status = "replaying" if seq < until or not until else "opening"
        return self._answer(503, status, seq=seq, until=until, percent=percent)

    async def ready(self) -> Answer:
        """200 where it may be sent work: connected, started, not leaving, caught up; else 503 and the `reason`."""
        replica = self._replica
        if self._leaving:
            return self._unready("draining")
        if replica is None or not self._started:
            return self._unready("starting")
        if not replica.bus.connected():
            return self._unready("disconnected", seq=replica.seq)
        last = await self._last_seq(replica)
        if last is None:
            # For as long as it may be behind: an election of the log's leader must not take all replicas out at once.
            silent = self._clock() - self._heard
            figures = {"seq": replica.seq, "silent_s": round(silent, 1)}
            over = silent > self.limits.lag_s
            return self._unready("log_silent", **figures) if over else self._answer(200, "ready", **figures)
        self._heard = self._clock()
        behind, seconds = max(0, last - replica.seq), self._lag.seconds(replica.seq, last, self._clock())
        figures = {"seq": replica.seq, "lag": behind, "lag_s": round(seconds, 1)}
        if behind > self.limits.lag_events or seconds > self.limits.lag_s:
            return self._unready("behind", **figures)
        return self._answer(200, "ready", **figures)

    def busy(self) -> Answer:
        """What `ready` is where the service's loop does not answer in time."""
        return self._unready("loop_busy")

    async def gauges(self) -> list[Gauge]:
        """All figures; the log's only where it answers."""
        verdict = await self.ready()
        labels = {"service": self._who["service"]}
        found = [
            Gauge(
                name="drape_ready",
                help="1 where this process may be sent work, else 0.",
                value=float(verdict.status == 200),
                labels=labels,
            )
        ]
        if "lag" in verdict.body:
            behind = float(verdict.body["lag"])
            found.append(Gauge(name="drape_log_lag", help="Events not folded yet.", value=behind, labels=labels))
        return found + list(self._gauges() if self._gauges is not None else ())

    async def _last_seq(self, replica: Replica) -> int | None:
        """The log's last sequence; None where it does not say. Asked once for all who ask at a time."""
        async with self._asking:
            if self._last is not None and self._clock() - self._last[0] < FRESH_S:
                return self._last[1]
            found: int | None = None
            try:
                async with asyncio.timeout(LOG_TIMEOUT_S):
                    found = await replica.bus.log.last_seq()
            except (DrapeError, TimeoutError) as error:
                log.info("log_silent", extra={"error": str(error) or type(error).__name__})
            self._last = (self._clock(), found)
            return found

    def _unready(self, reason: str, **more: object) -> Answer:
        return self._answer(503, "unready", reason=reason, **more)

    def _answer(self, status: int, word: str, **more: object) -> Answer:
        return Answer(status, {**self._who, "status": word, **more})

    def _place(self) -> str:
        """Where the service's thread is, innermost last: what it hangs in."""
        frame = sys._current_frames().get(self._thread)
        calls = traceback.extract_stack(frame, limit=None)[-5:] if frame is not None else []
        return " > ".join(f"{call.filename.rpartition('/')[2]}:{call.lineno} {call.name}" for call in calls)
