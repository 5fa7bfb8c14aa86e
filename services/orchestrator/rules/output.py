"""How much of a job's output is kept: a burst, then a rate; what is over is left out, and a line says so. Pure.

The newest lines that were left out are held, for the end of an output is what tells why a job ended.
"""

from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from shared.output import LogLine

LINE_COST_BYTES = 80
"""What a line costs beside its text; else empty lines would be free."""
TAIL_LINES = 40
"""Lines that are kept of the end, however much came before."""
SAID_EVERY_S = 1.0
"""Seconds between two lines that say that something was left out."""


class OutputLimit:
    """Of one job, from line to line. `now`: seconds of a clock that does not turn back."""

    def __init__(self, rate_bytes: int, burst_bytes: int) -> None:
        self._rate_bytes = rate_bytes
        self._burst_bytes = float(burst_bytes)
        self._left = float(burst_bytes)
        self._at: float | None = None
        self._held: deque[LogLine] = deque(maxlen=TAIL_LINES)
        self._lines = 0
        self._said_at = 0.0

    def kept(self, batch: Sequence[LogLine], now: float, *, ended: bool = False) -> list[LogLine]:
        """What of these is stored, in order; `ended`: no more will come."""
        self._refill(now)
        kept: list[LogLine] = []
        for line in batch:
            cost = len(line.text.encode("utf-8", "replace")) + LINE_COST_BYTES
            if cost <= self._left:
                self._left -= cost
                kept += [*self._said(now), line]
            else:
                self._held.append(line)
                self._lines += 1
        if ended:
            tail = list(self._held)
            self._lines -= len(tail)
            self._held.clear()
            kept += [*self._said_before(tail, now), *tail]
        elif self._held and now - self._said_at >= SAID_EVERY_S:
            kept += self._said(now)
        return kept

    def _refill(self, now: float) -> None:
        passed_s = max(0.0, now - self._at) if self._at is not None else 0.0
        self._left = min(self._burst_bytes, self._left + passed_s * self._rate_bytes)
        self._at = now

    def _said(self, now: float) -> list[LogLine]:
        """The line for what was left out so far, at its end, so that reading goes on after it."""
        if not self._lines:
            return []
        about = self._held[-1] if self._held else None
        self._held.clear()
        return [self._line(about, now)] if about is not None else []

    def _said_before(self, tail: Sequence[LogLine], now: float) -> list[LogLine]:
        if self._lines <= 0 or not tail:
            self._lines = 0
            return []
        return [self._line(replace(tail[0], offset=max(0, tail[0].offset - 1)), now)]

    def _line(self, about: LogLine, now: float) -> LogLine:
        text = (
            f"[drape] {self._lines} lines left out here: more output than {self._rate_bytes // 1024} KiB/s is not kept "
            "(DRAPE_ORCHESTRATOR_LOG_RATE_BYTES)"
        )
        self._lines = 0
        self._said_at = now
        return replace(about, stream="stderr", text=text)
