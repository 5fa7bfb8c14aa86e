"""One target's run: inputs that a seed repeats, a limit for each, what was found, and whether anything was left behind."""

import asyncio
import gc
import random
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

INPUT_LIMIT_S = 60.0
"""For one input over a wire. Far more than any takes, so that only a hang reaches it."""
CPU_LIMIT_S = 10.0
"""Processor time of one input in this process."""
FOUND_MAX = 20
SHOWN_CHARS_MAX = 2_000
MEMORY_SLACK_BYTES = 96 * 1024 * 1024
"""What the allocator keeps, and what a service remembers within its own bounds."""
FILES_SLACK = 8


class Finding(msgspec.Struct, frozen=True):
    """An input that was not answered as it should be. `number` repeats it, with the same seed."""

    target: str
    seed: int
    number: int
    given: str
    why: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run."""

    target: str
    inputs: int
    took_s: float
    grown_bytes: int
    findings: tuple[Finding, ...]


class Trial:
    """Counts inputs and keeps what they found. Each has randomness of its own: (seed, target, number)."""

    def __init__(self, target: str, seed: int, inputs: int, first: int = 0) -> None:
        self.target = target
        self.seed = seed
        self.inputs = inputs
        self.first = first
        self.done = 0
        self.findings: list[Finding] = []
        self._kinds: set[str] = set()

    def each(self) -> Iterator[tuple[int, random.Random]]:
        """The inputs' numbers and randomness; ends early once much was found."""
        for number in range(self.first, self.first + self.inputs):
            if len(self.findings) >= FOUND_MAX:
                return
            yield number, random.Random(f"{self.seed}/{self.target}/{number}")
            self.done += 1

    @contextmanager
    def one(self, number: int, given: Any) -> Iterator[None]:
        """What goes wrong inside is noted, once a kind, and so is an input that takes the processor for too long."""
        begun = time.thread_time()
        try:
            yield
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__}@{place.filename}:{place.lineno}"
            self._note(number, given, kind, "".join(traceback.format_exception(error))[-SHOWN_CHARS_MAX:])
        took_s = time.thread_time() - begun
        if took_s > CPU_LIMIT_S:
            self._note(number, given, "slow", f"took {took_s:.1f} s of the processor")

    @asynccontextmanager
    async def within(self, number: int, given: Any) -> AsyncIterator[None]:
        """As `one`, for what waits: it has to end within the limit."""
        try:
            async with asyncio.timeout(INPUT_LIMIT_S):
                with self.one(number, given):
                    yield
        except TimeoutError:
            self._note(number, given, "hang", f"no end within {INPUT_LIMIT_S:g} s")

    def _note(self, number: int, given: Any, kind: str, why: str) -> None:
        if kind not in self._kinds:
            self._kinds.add(kind)
            shown = given if isinstance(given, str) else repr(given)
            self.findings.append(Finding(self.target, self.seed, number, shown[:SHOWN_CHARS_MAX], why))


class Leaks:
    """What this process holds, before and after."""

    def __init__(self) -> None:
        gc.collect()
        self._process = psutil.Process()
        self._begun = time.monotonic()
        self._files = self._process.num_fds()
        self._threads = threading.active_count()
        self._bytes = self._process.memory_info().rss
        self._temporary = _temporary()

    def outcome(self, trial: Trial) -> Outcome:
        """The run's outcome. What was left behind is a finding of its own."""
        gc.collect()
        grown = self._process.memory_info().rss - self._bytes
        left = {
            "descriptors": (self._process.num_fds(), self._files + FILES_SLACK),
            "threads": (threading.active_count(), self._threads + FILES_SLACK + 32),
            "bytes": (grown, MEMORY_SLACK_BYTES),
        }
        why = [f"{name}: {found}, at most {most} expected" for name, (found, most) in left.items() if found > most]
        if fresh := sorted(_temporary() - self._temporary):
            why.append(f"temporary files: {fresh[:10]}")
        found = [Finding(trial.target, trial.seed, -1, "all of the run", each) for each in why]
        took_s = time.monotonic() - self._begun
        return Outcome(trial.target, trial.done, took_s, grown, (*trial.findings, *found))


def _temporary() -> set[str]:
    """Entries of the temporary folder that a gateway or an agent may have left."""
    return {each.name for each in Path(tempfile.gettempdir()).iterdir() if each.name.startswith(("tmp", "drape-fuzz"))}
