"""VMs whose work is only said to be done: installs and dev servers that go by a script, for simulations and journeys.

Nothing runs and nothing is stored but names and numbers. What an agent promises is kept: a job has one run whatever
often it is asked for, goes on while nobody looks, and whoever waits on a VM that goes hears of it at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from services.orchestrator.model import Vm
from services.orchestrator.ports import SocketAnswer
from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import (
    Answering,
    ErrorBody,
    Exited,
    FileSync,
    JobSpec,
    JobStatus,
    Listening,
    LogLine,
    ReadinessUpdate,
    Ready,
    ReadySpec,
    ReadyTimeout,
    SyncResult,
    Unusable,
    Waiting,
)
from shared.deps import DepsAnswer, DepsRequest
from shared.errors import Unavailable
from shared.ids import PreviewId, VmId

MACHINES_MAX = 20_000
"""VMs remembered; the ones longest unused go first, as if they had been lost."""
WAITING_PERIOD_S = 1.0
"""How often a wait for a dev server says that it still waits."""
SILENCE_S = 30.0
"""A frozen VM's agent is taken for gone after so long, as the real client does it."""
CLOCK_SLACK_S = 1e-6
"""A wake-up this little early counts as on time: floating point."""
PORT = 5173


class JobScript(msgspec.Struct, frozen=True, kw_only=True):
    """How a job goes. Times are seconds from its start; None: never.

    `lasts_s`: until it ends by itself, with `exit_code` and `signal`. `lines`: (when, text) of its output, in order.
    `listens_s`, `answers_s`: a dev server's port opens, and answers with `status`. `mended_s`: from then on with 200.
    """

    lasts_s: float | None = None
    exit_code: int | None = 0
    signal: str | None = None
    lines: tuple[tuple[float, str], ...] = ()
    listens_s: float | None = None
    answers_s: float | None = None
    status: int = 200
    mended_s: float | None = None


INSTALL = JobScript(lasts_s=2.0, lines=((0.2, "resolving"), (1.8, "added 42 packages in 2s")))
DEV_SERVER = JobScript(listens_s=0.4, answers_s=0.6, lines=((0.3, "dev server ready in 300 ms"),))


class SimulatedWorkspace:
    """A `Workspace`. `installs` and `dev_servers` may hold scripts for the next jobs; after them `install` and
    `dev_server` serve. A VM exists from the first word to it until `end`.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, sync_s: float = 0.02) -> None:
        self.install = INSTALL
        self.dev_server = DEV_SERVER
        self.installs: deque[JobScript] = deque()
        self.dev_servers: deque[JobScript] = deque()
        self.sync_s = sync_s
        self._clock = clock
        self._machines: dict[VmId, _Machine] = {}
        self._ended: dict[VmId, None] = {}

    # --- the script's side ------------------------------------------------------------------------------------

    def end(self, vm_id: VmId) -> None:
        """The VM is gone: its jobs end with it, and nobody answers there any more."""
        machine = self._machines.pop(vm_id, None)
        if machine is not None and not machine.gone.done():
            machine.gone.set_result(None)
        self._ended[vm_id] = None
        while len(self._ended) > MACHINES_MAX:
            del self._ended[next(iter(self._ended))]

    def reboot(self, vm_id: VmId) -> None:
        """The VM boots anew: it answers, and knows nothing of what was done in it."""
        machine = self._machines.pop(vm_id, None)
        if machine is not None and not machine.gone.done():
            machine.gone.set_result(None)

    def clean(self, vm_id: VmId) -> None:
        """The VM is emptied for its owner's next preview: no job and no version of the files is left."""
        machine = self._machines.get(vm_id)
        if machine is not None:
            for job in machine.jobs.values():
                job.finish(None, "SIGKILL")
            machine.jobs.clear()
            machine.version = 0

    def freeze(self, vm_id: VmId) -> None:
        """The VM stands still: nothing there answers until `thaw`."""
        machine = self._machines.get(vm_id)
        if machine is not None:
            machine.awake.clear()

    def thaw(self, vm_id: VmId) -> None:
        """The VM goes on."""
        machine = self._machines.get(vm_id)
        if machine is not None:
            machine.awake.set()

    def end_job(self, vm_id: VmId, job_id: str, *, exit_code: int | None = 1, signal: str | None = None) -> None:
        """The job's process dies now. Raises `KeyError` where there is no such job."""
        self._machines[vm_id].jobs[job_id].finish(exit_code, signal)

    def jobs(self, vm_id: VmId) -> tuple[str, ...]:
        """The ids of the jobs that this VM has had, in the order in which they began."""
        machine = self._machines.get(vm_id)
        return tuple(machine.jobs) if machine is not None else ()

    # --- the agent's side -------------------------------------------------------------------------------------

    async def sync(self, vm: Vm, files: FileSync, contents: Mapping[str, bytes]) -> SyncResult:
        machine = self._machine(vm)
        await self._answering(machine)
        await self._or_gone(machine, asyncio.sleep(self.sync_s))
        own = machine.project in ("", files.project)
        if own and files.version <= machine.version:
            return SyncResult(version=machine.version, stale=True)
        fits = machine.project in ("", files.base_project or files.project)
        if files.base_version is not None and not (fits and files.base_version == machine.version):
            raise AgentError(
                "files_version_conflict",
                f"The folder is at version {machine.version}, not {files.base_version}.",
                409,
                ErrorBody(code="files_version_conflict", message="conflict", current=machine.version),
            )
        machine.project, machine.version = files.project, files.version
        return SyncResult(version=files.version, written=len(contents), deleted=len(files.delete))

    async def start_job(self, vm: Vm, job_id: str, spec: JobSpec) -> JobStatus:
        machine = self._machine(vm)
        await self._answering(machine)
        job = machine.jobs.get(job_id)
        if job is None:
            job = machine.jobs[job_id] = _Job(job_id, self._script(job_id), spec, self._clock)
        return job.status()

    async def wait_job(self, vm: Vm, job_id: str, wait_s: float) -> JobStatus:
        machine, job = self._job(vm, job_id)
        await self._pause(machine, job, wait_s)
        return job.status()

    async def stop_job(self, vm: Vm, job_id: str) -> None:
        job = self._machine(vm).jobs.get(job_id)
        if job is not None:
            job.finish(None, "SIGTERM")

    async def read_log(self, vm: Vm, job_id: str, offset: int) -> AsyncIterator[LogLine]:
        machine, job = self._job(vm, job_id)
        for index, (after_s, text) in enumerate(job.script.lines[offset:], offset):
            at = job.started_at + after_s
            await self._pause(machine, job, at - self._clock())
            if job.over.done() and (job.exited_at or 0.0) < at - CLOCK_SLACK_S:
                return
            yield LogLine(offset=index, at=at, stream="stdout", text=text)
        await self._pause(machine, job, None)

    async def wait_ready(self, vm: Vm, job_id: str, spec: ReadySpec) -> AsyncIterator[ReadinessUpdate]:
        machine, job = self._job(vm, job_id)
        deadline = self._clock() + spec.timeout_s
        told = False
        while True:
            now = self._clock()
            update = job.readiness(now, spec, deadline, told)
            told = told or isinstance(update, Listening)
            yield update
            if isinstance(update, Ready | Exited | Unusable | ReadyTimeout):
                return
            await self._pause(machine, job, job.next_change(now, spec, deadline) - now)

    # --- inside -----------------------------------------------------------------------------------------------

    def _script(self, job_id: str) -> JobScript:
        scripts, usual = (
            (self.installs, self.install) if job_id.startswith("install") else (self.dev_servers, self.dev_server)
        )
        return scripts.popleft() if scripts else usual

    def _machine(self, vm: Vm) -> "_Machine":
        if vm.vm_id in self._ended:
            raise AgentUnreachable(f"The simulated VM {vm.vm_id} is gone.")
        machine = self._machines.get(vm.vm_id)
        if machine is None:
            machine = self._machines[vm.vm_id] = _Machine()
            if len(self._machines) > MACHINES_MAX:
                self.end(next(iter(self._machines)))
        return machine

    def _job(self, vm: Vm, job_id: str) -> "tuple[_Machine, _Job]":
        machine = self._machine(vm)
        if job_id not in machine.jobs:
            raise AgentError("job_unknown", f"There is no job {job_id}.", 404)
        return machine, machine.jobs[job_id]

    async def _pause(self, machine: "_Machine", job: "_Job", wait_s: float | None) -> None:
        """Until the job has ended, or for `wait_s`. Raises `AgentUnreachable` when the VM goes."""
        if wait_s is None or wait_s > 0:
            await asyncio.wait({machine.gone, job.over}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        await self._answering(machine)

    async def _answering(self, machine: "_Machine") -> None:
        """Until the agent can speak: at once, unless it is frozen. Raises `AgentUnreachable` when it never does."""
        if not machine.awake.is_set():
            waking = asyncio.ensure_future(_set(machine.awake))
            try:
                await asyncio.wait({machine.gone, waking}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waking.cancel()
        if machine.gone.done() or not machine.awake.is_set():
            raise AgentUnreachable("The simulated VM does not answer.")

    async def _or_gone(self, machine: "_Machine", work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({machine.gone, task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        if machine.gone.done():
            raise AgentUnreachable("The simulated VM went away.")


async def _set(event: asyncio.Event) -> None:
    await event.wait()


class _Machine:
    """What a VM remembers."""

    def __init__(self) -> None:
        self.project = ""
        self.version = 0
        self.jobs: dict[str, _Job] = {}
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.awake = asyncio.Event()
        self.awake.set()


class _Job:
    """One run of a script."""

    def __init__(self, job_id: str, script: JobScript, spec: JobSpec, clock: Callable[[], float]) -> None:
        loop = asyncio.get_running_loop()
        self.script = script
        self.started_at = clock()
        self.exited_at: float | None = None
        self.over: asyncio.Future[None] = loop.create_future()
        self._id = job_id
        self._clock = clock
        self._end: dict[str, Any] = {}
        limit_s = spec.timeout_s
        if limit_s is not None and (script.lasts_s is None or script.lasts_s > limit_s):
            loop.call_later(limit_s, self.finish, None, "SIGKILL", True)
        elif script.lasts_s is not None:
            loop.call_later(script.lasts_s, self.finish, script.exit_code, script.signal)

    def finish(self, exit_code: int | None, signal: str | None, timed_out: bool = False) -> None:
        if self.over.done():
            return
        self.exited_at = self._clock()
        self._end = {"exit_code": exit_code, "signal": signal, "timed_out": timed_out, "exited_at": self.exited_at}
        self.over.set_result(None)

    def status(self) -> JobStatus:
        state: Any = "exited" if self.over.done() else "running"
        return JobStatus(id=self._id, state=state, started_at=self.started_at, **self._end)

    def readiness(self, now: float, spec: ReadySpec, deadline: float, told: bool) -> ReadinessUpdate:
        """What the agent would say at `now`. `told`: that the port is open has been said."""
        elapsed_s = round(now - self.started_at, 6)
        listening, answering = self._since(self.script.listens_s, now), self._since(self.script.answers_s, now)
        status = 200 if self._since(self.script.mended_s, now) is not None else self.script.status
        if self.over.done():
            return Exited(exit_code=self._end["exit_code"], signal=self._end["signal"], elapsed_s=elapsed_s)
        if answering is not None and (status < 500 or answering >= spec.error_grace_s):
            return self._answer(status, elapsed_s)
        quiet_s = self._quiet_s(now)
        if answering is None and quiet_s >= spec.hung_s:
            return Unusable(cause="hung", detail=f"It has printed nothing for {quiet_s:.0f} s.", elapsed_s=elapsed_s)
        if now >= deadline - CLOCK_SLACK_S:
            reason = "it listens but does not answer" if listening is not None else "no port of it is open"
            return ReadyTimeout(port=PORT if listening is not None else None, elapsed_s=elapsed_s, reason=reason)
        if answering is not None:
            return Answering(port=PORT, status=status, elapsed_s=elapsed_s)
        if listening is not None and not told:
            return Listening(port=PORT, host="127.0.0.1", elapsed_s=elapsed_s)
        asking_s = listening or 0.0
        return Waiting(elapsed_s=elapsed_s, listening=listening is not None, asking_s=asking_s, quiet_s=quiet_s)

    def _answer(self, status: int, elapsed_s: float) -> Ready:
        return Ready(
            port=PORT,
            host="127.0.0.1",
            status=status,
            listening_s=self.script.listens_s or 0.0,
            first_response_s=self.script.answers_s or 0.0,
            elapsed_s=elapsed_s,
            with_errors=status >= 500,
            detail=f"/ answered {status}" if status >= 500 else "",
        )

    def _quiet_s(self, now: float) -> float:
        """Since the last line, or the start."""
        elapsed_s = now - self.started_at + CLOCK_SLACK_S
        return elapsed_s - max((after_s for after_s, _ in self.script.lines if after_s <= elapsed_s), default=0.0)

    def next_change(self, now: float, spec: ReadySpec, deadline: float) -> float:
        """When `readiness` may say something else, or has to say the same again."""
        marks = [self.script.listens_s, self.script.answers_s]
        if self.script.answers_s is not None:
            marks.append(self.script.answers_s + spec.error_grace_s)
        marks.extend(after_s + spec.hung_s for after_s, _ in self.script.lines or ((0.0, ""),))
        times = [self.started_at + mark for mark in marks if mark is not None]
        return min(t for t in (*times, deadline, now + WAITING_PERIOD_S) if t > now + CLOCK_SLACK_S)

    def _since(self, after_s: float | None, now: float) -> float | None:
        if after_s is None or now < self.started_at + after_s - CLOCK_SLACK_S:
            return None
        return now - self.started_at - after_s + CLOCK_SLACK_S


class SimulatedDepsCache:
    """A `DepsCache`. `keeping`: whether anything is kept; `kept`: the fingerprints that are, whoever they belong to; `busy`:
    how many of the next publishes find the folder changing."""

    def __init__(self, *, keeping: bool = False, restore_s: float = 0.2) -> None:
        self.keeping = keeping
        self.kept: set[str] = set()
        self.busy = 0
        self._restore_s = restore_s

    async def restore(self, asked: DepsRequest) -> DepsAnswer:
        if asked.key not in self.kept:
            return DepsAnswer(done=False, code="not_cached")
        await asyncio.sleep(self._restore_s)
        return DepsAnswer(done=True, took_s=self._restore_s)

    async def publish(self, asked: DepsRequest) -> DepsAnswer:
        if self.busy:
            self.busy -= 1
            return DepsAnswer(done=False, code="source_changed")
        if self.keeping and asked.key:
            self.kept.add(asked.key)
        return DepsAnswer(done=self.keeping)


class SimulatedGatewayProbe:
    """A `GatewayProbe`. `reachable` says whether the gateway would answer; `faults`: statuses for the next answers."""

    def __init__(self, answer_s: float = 0.01, reachable: Callable[[PreviewId], bool] = lambda _: True) -> None:
        self.answer_s = answer_s
        self.faults: deque[int] = deque()
        self._reachable = reachable

    async def page(self, preview_id: PreviewId, url: str, min_seq: int, timeout_s: float) -> int:
        await asyncio.sleep(min(self.answer_s, timeout_s))
        if not self._reachable(preview_id):
            raise Unavailable("gateway_silent", "the simulated gateway does not answer")
        return self.faults.popleft() if self.faults else 200

    async def socket(
        self, preview_id: PreviewId, url: str, min_seq: int, paths: Sequence[str], protocol: str, timeout_s: float
    ) -> SocketAnswer:
        await asyncio.sleep(min(self.answer_s, timeout_s))
        if not self._reachable(preview_id):
            return SocketAnswer(state="silent", path=paths[0] if paths else "")
        return SocketAnswer(state="open", path=paths[0] if paths else "")
