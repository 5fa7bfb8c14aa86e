"""What a VM uses, as its agent sees it: of the agent's own process and all below it, which are all that run in the VM.

Looking takes a scan of the process table, so it is done in a thread, after an answer and not before: whoever asks gets
what was seen last. An agent must answer even where a project has taken every process that the VM may have.
"""

import asyncio
import contextlib
import logging
import time

import psutil

from .protocol import Usage

log = logging.getLogger("drape.agent.usage")

FRESH_S = 10.0
"""Not looked at again before this time has passed."""


def measure() -> Usage:
    """Blocks for milliseconds. `cpu_s` holds what ended processes have used, as far as somebody waited for them. Memory is
    what the processes have of their own: pages of files, which several share and the system takes back, are left out."""
    cpu_s, memory_bytes = 0.0, 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has just ended: its parent has its time
            times, memory = process.cpu_times(), process.memory_info()
            cpu_s += times.user + times.system + times.children_user + times.children_system
            memory_bytes += memory.rss - getattr(memory, "shared", 0)
    return Usage(at=time.time(), cpu_s=round(cpu_s, 3), memory_bytes=memory_bytes)


class UsageMeter:
    """What was seen last; `look` has it looked at again."""

    def __init__(self) -> None:
        self.seen: Usage | None = None
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin to look, unless that is under way or was done a moment ago."""
        fresh = self.seen is not None and 0 <= time.time() - self.seen.at < FRESH_S
        if not fresh and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(), name="usage")

    async def _look(self) -> None:
        try:
            self.seen = await asyncio.to_thread(measure)
        except (OSError, psutil.Error) as error:
            log.warning("what this VM uses can't be seen", extra={"error": str(error)})
