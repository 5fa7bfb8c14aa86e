"""Tells what happens while it happens: progress ticks, and a job's output into the preview's log."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from services.orchestrator import views
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.model import Preview, Vm
from services.orchestrator.rules.failures import Explanation
from services.orchestrator.rules.masking import Mask
from services.orchestrator.rules.output import OutputLimit
from services.orchestrator.state import State
from shared.agent.client import AgentUnreachable
from shared.agent.protocol import JobSpec
from shared.agent.protocol import LogLine as AgentLine
from shared.commands import CheckVm
from shared.errors import Unavailable
from shared.ids import PreviewId
from shared.output import LogLine
from shared.ports import Bus

TAIL_LINES = 400
"""Lines in which the cause of a failure is looked for, from the end."""
DEV_SERVER = "dev_server"
SERVED = ("exited", "confirming", "ready", "suspended")
"""Statuses of a preview whose dev server has answered, or ended."""


class Job:
    """One job as this replica follows it: where it runs, what it is, and its newest lines. `served`: the VM has run it."""

    def __init__(self, preview: Preview, vm: Vm, job_id: str, step: str, spec: JobSpec, mask: Mask) -> None:
        self.preview_id = preview.preview_id
        self.attempt = preview.attempt
        self.served = step == DEV_SERVER and preview.status in SERVED
        self.vm = vm
        self.id = job_id
        self.step = step
        self.spec = spec
        self.mask = mask
        self.recent: deque[AgentLine] = deque(maxlen=TAIL_LINES)


def unreachable(vm: Vm, error: AgentUnreachable) -> CheckVm:
    """For the pool: it counts these, and says when the VM is lost."""
    return CheckVm(vm_id=vm.vm_id, healthy=False, detail=str(error)[:200])


def began_anew(vm: Vm) -> CheckVm:
    """For the pool: the VM answers, and knows nothing of what was done in it."""
    return CheckVm(vm_id=vm.vm_id, healthy=False, detail="It has booted anew, and what was in it is gone.", anew=True)


class Teller:
    """Progress and logs of this replica's previews."""

    def __init__(
        self, bus: Bus, state: Callable[[], State], config: OrchestratorConfig, clock: Callable[[], float] = time.time
    ) -> None:
        self._bus = bus
        self._state = state
        self._config = config
        self._clock = clock
        self._noted: dict[PreviewId, dict[str, str | int | float | bool | None]] = {}

    def running(self, preview_id: PreviewId, attempt: int) -> Preview | None:
        """The preview, if this attempt still runs."""
        preview = self._state().previews.get(preview_id)
        if preview is None or preview.attempt != attempt or preview.status in ("failed", "stopped"):
            return None
        return preview

    async def opened(self, preview: Preview) -> Preview:
        """The preview as its project's owner knows it: the state holds personal texts sealed. Raises `Unavailable`."""
        return await self._bus.seals.opened(preview)

    def fingerprint(self, why: Explanation) -> str:
        """Of a cause that the catalogue does not know, by what was printed; a known one has its message's, from its seal."""
        return self._bus.seals.fingerprint(f"{why.message}\n{why.signature}") if why.signature else ""

    def note(self, preview_id: PreviewId, **details: str | int | float | bool | None) -> None:
        """What the next ticks tell besides the step: its phase, for how long nothing was printed."""
        self._noted[preview_id] = details

    async def tick(self, preview_id: PreviewId, attempt: int) -> None:
        """Tell how far the preview is, now."""
        preview = self.running(preview_id, attempt)
        if preview is not None and preview.status not in ("ready", "suspended"):
            noted = self._noted.get(preview_id, {})
            await self._bus.progress.publish(views.progress_of(preview, self._clock(), noted))

    @contextlib.asynccontextmanager
    async def telling(self, preview_id: PreviewId, attempt: int) -> AsyncIterator[None]:
        """Tell progress every `tick_s` until the block ends."""

        async def tell() -> None:
            while True:
                await self.tick(preview_id, attempt)
                await asyncio.sleep(self._config.tick_s)

        task = asyncio.create_task(tell(), name=f"progress-{preview_id}")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._noted.pop(preview_id, None)

    async def next_offset(self, preview_id: PreviewId, attempt: int, step: str) -> int:
        """The first line of this job's output that the preview's log does not hold yet."""
        batch = await self._bus.preview_logs.last(preview_id)
        if batch is None or not batch.lines:
            return 0
        last = batch.lines[-1]
        return last.offset + 1 if (last.attempt, last.step) == (attempt, step) else 0

    async def pump(self, job: Job, lines: AsyncIterator[AgentLine]) -> None:
        """Move a job's output into the preview's log, in batches, until it ends, without what is secret in it."""
        queue: asyncio.Queue[AgentLine | None] = asyncio.Queue(maxsize=self._config.log_batch_lines_max * 4)

        async def fill() -> None:
            try:
                async for line in lines:
                    job.recent.append(line)
                    await queue.put(line)
            finally:
                await queue.put(None)

        filler = asyncio.create_task(fill(), name=f"log-{job.preview_id}")
        limit = OutputLimit(self._config.log_rate_bytes, self._config.log_burst_bytes)
        try:
            open_ended = True
            while open_ended:
                batch, open_ended = await self._batch(queue)
                kept = limit.kept([_line(line, job) for line in batch], self._clock(), ended=not open_ended)
                if kept:
                    await self._store(job.preview_id, kept)
            await filler
        finally:
            filler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await filler

    async def _batch(self, queue: asyncio.Queue[AgentLine | None]) -> tuple[list[AgentLine], bool]:
        first = await queue.get()
        if first is None:
            return [], False
        batch = [first]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.log_batch_s):
                while len(batch) < self._config.log_batch_lines_max:
                    line = await queue.get()
                    if line is None:
                        return batch, False
                    batch.append(line)
        return batch, True

    async def _store(self, preview_id: PreviewId, batch: list[LogLine]) -> None:
        while True:
            try:
                await self._bus.preview_logs.append(preview_id, batch)
            except Unavailable:
                # The agent keeps the lines meanwhile; its buffer is the limit.
                await asyncio.sleep(self._config.agent_retry_s)
            else:
                return


def _line(line: AgentLine, job: Job) -> LogLine:
    return LogLine(
        at=line.at,
        step=job.step,
        stream=line.stream,
        text=job.mask(line.text),
        attempt=job.attempt,
        offset=line.offset,
    )
