"""What the agent measures of its own work for the trace of whoever asked for it. It can't reach a collector: what has ended
waits here for the next request of the same trace, whose answer takes it along.

Times are told as durations and ages, by the clock that never jumps: whoever gets them needs not know how this VM's clock
stands. Never: names, paths or texts of the project.
"""

import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .protocol import SpanReport

ENDED_MAX = 256
"""Spans that wait to be taken along; the oldest give way."""
JOBS_MAX = 64
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-([0-9a-f]{2})")


class Ending(Protocol):
    """As much of a job as is needed to see its end."""

    exited_at: float | None
    exit_code: int | None
    timed_out: bool
    killed: bool


class Span:
    """One piece of work under way. Only the first `end` counts."""

    def __init__(self, name: str, parent: str, keep: "Callable[[Span], None]") -> None:
        self.name = name
        self.parent = parent
        self.begun_s = time.monotonic()
        self.ended_s = 0.0
        self.error = ""
        self.facts: dict[str, int | float | bool] = {}
        self._keep = keep

    def end(self, error: str = "", *, ago_s: float = 0.0, **facts: int | float | bool) -> None:
        """It ended `ago_s` ago, well or with this code."""
        if not self.ended_s:
            self.ended_s = max(self.begun_s, time.monotonic() - ago_s)
            self.error, self.facts = error, facts
            self._keep(self)


class Spans:
    """Of one agent."""

    def __init__(self) -> None:
        self._ended: deque[Span] = deque(maxlen=ENDED_MAX)
        self._jobs: dict[str, tuple[Ending, Span]] = {}

    def begin(self, name: str, traceparent: str) -> Span:
        """A span below `traceparent`; where nobody traces, one that is dropped."""
        valid = _TRACEPARENT.fullmatch(traceparent)
        sampled = valid is not None and int(valid[1], 16) & 1  # beside it there may be a flag for random ids
        kept = self._ended.append if sampled else _drop
        return Span(name, traceparent, kept)

    def watch(self, job_id: str, job: Ending, span: Span) -> None:
        """The span ends with the job, if not before."""
        if len(self._jobs) >= JOBS_MAX:
            del self._jobs[next(iter(self._jobs))]
        self._jobs[job_id] = (job, span)

    def ready(self, job_id: str) -> None:
        """The job is a server that answers now: what follows has no end in sight, and belongs to no start."""
        _, span = self._jobs.pop(job_id, (None, None))
        if span is not None:
            span.end()

    def take(self, traceparent: str) -> tuple[SpanReport, ...]:
        """What has ended of that trace; it is given once."""
        for job_id, (job, span) in list(self._jobs.items()):
            if job.exited_at is not None:
                del self._jobs[job_id]
                span.end(_error_of(job), ago_s=time.time() - job.exited_at, exit_code=job.exit_code or 0)
        mine = [each for each in self._ended if traceparent and each.parent[:35] == traceparent[:35]]
        for each in mine:
            self._ended.remove(each)
        now_s = time.monotonic()
        return tuple(
            SpanReport(
                name=each.name,
                parent=each.parent,
                span_id=secrets.token_hex(8),
                age_s=round(now_s - each.ended_s, 6),
                duration_s=round(each.ended_s - each.begun_s, 6),
                error=each.error,
                facts=each.facts,
            )
            for each in mine
        )


def _drop(_span: Span) -> None:
    """Nobody traces."""


def _error_of(job: Ending) -> str:
    if job.timed_out:
        return "job_timed_out"
    if job.killed:
        return "job_killed"
    return "" if job.exit_code == 0 else "job_failed"
