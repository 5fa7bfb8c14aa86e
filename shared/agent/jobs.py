"""Starts commands once each by id, watches them to their end, and ends whole process trees.

A job is known by its id: asking for it again attaches to it. Its end is noticed when its first process ends, whoever
still holds its pipes. Never: runs a job twice, or hands it anything from the agent's own environment but what is named.
"""

import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil

from . import processes
from .blocks import NoPortLeft, any_free_port
from .logs import LineSplitter, LogBuffer
from .protocol import JOB_ID_PATTERN, AgentProblem, JobSpec, JobState, JobStatus
from .trees import History

log = logging.getLogger("drape.agent.jobs")

PYTHON = "{python}"
PORT = "{port}"
HOME = "{home}"
EXIT_NOT_FOUND = 127
EXIT_NOT_RUNNABLE = 126


class JobLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of the job supervisor."""

    jobs_max: int = 64
    """Jobs remembered, running or ended; the oldest ended ones give way."""
    log_bytes_max: int = 4 * 1024 * 1024
    line_bytes_max: int = 8192
    partial_line_silence_s: float = 0.2
    drain_quiet_s: float = 0.25
    """After the exit, a pipe that a grandchild holds open counts as read when it has been quiet this long."""
    drain_s_max: float = 2.0
    kill_grace_s: float = 3.0
    """Between SIGTERM and SIGKILL when a job's own time-out ends it."""
    exit_wait_s: float = 5.0
    """How long a stop waits to see the exit that it has forced."""
    reap_poll_s: float = 0.02
    """How often it is looked whether all that was killed has been collected, for `exit_wait_s`."""


class JobWorld(msgspec.Struct, frozen=True, kw_only=True):
    """Where jobs run and what they see: the project's folder, HOME, and environment keys of the agent to pass on.
    `isolated`: every process that can be seen is of this VM. `free_port`: gives a dev server its port."""

    app_dir: Path
    home_dir: Path
    pass_env: tuple[str, ...] = ()
    isolated: bool = False
    free_port: Callable[[], int] = any_free_port


class Job:
    """One command's life. Read it through `status()`; only the supervisor and the protocol below write it."""

    def __init__(self, job_id: str, spec: JobSpec, limits: JobLimits, port: int | None) -> None:
        self.id = job_id
        self.spec = spec
        self.log = LogBuffer(limits.log_bytes_max)
        self.pid: int | None = None
        self.port = port
        self.started_at = time.time()
        self.started_monotonic_s = time.monotonic()
        self.exited_at: float | None = None
        self.exit_code: int | None = None
        self.signal: str | None = None
        self.timed_out = False
        self.killed = False
        self.started = asyncio.Event()
        self.exited = asyncio.Event()
        self.stop_lock = asyncio.Lock()
        self.leftovers: asyncio.Future[list[psutil.Process]] | None = None
        self.transport: asyncio.SubprocessTransport | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> JobState:
        return "exited" if self.exited.is_set() else "running"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_monotonic_s

    def members(self) -> list[psutil.Process]:
        """The living processes of this job, also after its end. Blocks for milliseconds: call it in a thread."""
        root_pid = None if self.exited.is_set() else self.pid
        known: list[psutil.Process] = []
        if self.leftovers is not None and self.leftovers.done() and self.leftovers.exception() is None:
            known = self.leftovers.result()
        return processes.job_members(self.id, root_pid, known)

    def end(self, exit_code: int | None, signal_name: str | None) -> None:
        """Records the end, once."""
        self.exit_code, self.signal = exit_code, signal_name
        self.exited_at = time.time()
        if self.timer is not None:
            self.timer.cancel()
        self.exited.set()

    def status(self, rss_bytes: int | None = None) -> JobStatus:
        """A snapshot to send."""
        return JobStatus(
            id=self.id,
            state=self.state,
            pid=self.pid,
            started_at=self.started_at,
            exited_at=self.exited_at,
            exit_code=self.exit_code,
            signal=self.signal,
            timed_out=self.timed_out,
            killed=self.killed,
            log_next_offset=self.log.next_offset,
            log_dropped_lines=self.log.dropped_lines,
            port=self.port,
            rss_bytes=rss_bytes,
        )


class _JobProtocol(asyncio.SubprocessProtocol):
    """asyncio's view of one process: bytes to lines, and the exit as soon as the kernel tells it."""

    def __init__(self, job: Job, limits: JobLimits) -> None:
        self._job = job
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        bounds = (limits.line_bytes_max, limits.partial_line_silence_s)
        self._splitters = {
            1: LineSplitter(lambda text: job.log.append("stdout", text), *bounds),
            2: LineSplitter(lambda text: job.log.append("stderr", text), *bounds),
        }
        self._open_pipes = {1, 2}
        self._last_data_s = time.monotonic()
        self._exited_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._job.transport = cast(asyncio.SubprocessTransport, transport)
        self._job.pid = self._job.transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._last_data_s = time.monotonic()
        self._splitters[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        self._splitters[fd].close()

    def process_exited(self) -> None:
        job = self._job
        assert job.transport is not None
        code = job.transport.get_returncode()
        # Its session may live on. Note who is in it now, before the number of its first process can be used again.
        job.leftovers = self._loop.run_in_executor(None, processes.job_members, job.id, job.pid)
        if code is not None and code < 0:
            job.end(None, signal_name(-code))
        else:
            job.end(code, None)
        self._exited_s = time.monotonic()
        self._drain()

    def _drain(self) -> None:
        now_s = time.monotonic()
        quiet_s = now_s - max(self._last_data_s, self._exited_s)
        waited_s = now_s - self._exited_s
        if self._open_pipes and quiet_s < self._limits.drain_quiet_s and waited_s < self._limits.drain_s_max:
            self._loop.call_later(0.02, self._drain)
            return
        for fd in self._open_pipes:
            self._splitters[fd].close()
        self._job.log.end()


class JobSupervisor:
    """All jobs of one VM. Use it from one event loop only."""

    def __init__(self, world: JobWorld, limits: JobLimits) -> None:
        self._world = world
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawning = 0
        self._closing = False
        self._adopts = False
        self.history = History(world.app_dir)

    def watch_orphans(self) -> None:
        """Adopts processes that lose their parent and collects them when they end, where the system can do that."""
        self._adopts = processes.adopt_orphans()
        if self._adopts:
            self._loop.add_signal_handler(signal.SIGCHLD, self._reap)

    async def put(self, job_id: str, spec: JobSpec) -> tuple[Job, bool]:
        """Starts the job, or attaches to the one with this id. Gives it and whether it was started now.

        Raises AgentProblem: job_id_invalid, job_spec_invalid, job_cwd_invalid (400), job_spec_conflict (409),
        too_many_jobs (429), agent_stopping, no_free_port (503).
        """
        job = self._jobs.get(job_id)
        if job is not None:
            if job.spec != spec:
                raise AgentProblem(
                    409, "job_spec_conflict", f"Job {job_id} exists and runs something else.", "Use another id."
                )
            await job.started.wait()
            return job, False
        check_spec(job_id, spec)
        cwd = self._cwd(spec.cwd)
        self._make_room()
        job = self._jobs[job_id] = Job(job_id, spec, self._limits, self._port(spec))
        try:
            await self.history.begin(job)
            await self._spawn(job, cwd)
        except BaseException:
            del self._jobs[job_id]
            job.log.end()
            job.end(None, None)
            raise
        finally:
            job.started.set()
        return job, True

    def _port(self, spec: JobSpec) -> int | None:
        """The port that the job is told, where it asks for one."""
        if not any(PORT in text for text in (*spec.argv, *spec.env.values())):
            return None
        try:
            return self._world.free_port()
        except NoPortLeft as error:
            raise AgentProblem(
                503, "no_free_port", f"This VM has no port left: {error}.", "Restart the preview."
            ) from error

    def get(self, job_id: str) -> Job:
        """The job, or AgentProblem job_unknown (404)."""
        job = self._jobs.get(job_id)
        if job is None:
            raise AgentProblem(
                404, "job_unknown", f"There is no job {job_id} in this VM.", "It may have given way to newer jobs."
            )
        return job

    def states(self) -> dict[str, JobState]:
        """Every job that is remembered, by id."""
        return {job.id: job.state for job in self._jobs.values()}

    async def stop(self, job: Job, grace_s: float) -> None:
        """Ends the whole tree; returns when it is gone. Harmless when it is gone already."""
        await job.started.wait()
        async with job.stop_lock:
            if not job.exited.is_set():
                job.killed = True
            elif job.leftovers is not None:
                await asyncio.wait((job.leftovers,))
            await asyncio.to_thread(processes.end_processes, job.members, grace_s)
            await self._await_exit(job)

    async def close(self, grace_s: float) -> None:
        """Ends everything below the agent, jobs or not, and takes no more jobs."""
        self._closing = True
        for job in self._jobs.values():
            job.killed = job.killed or not job.exited.is_set()
        await asyncio.to_thread(processes.end_processes, self.everything, grace_s)
        for job in self._jobs.values():
            await self._await_exit(job)
            if job.transport is not None:
                job.transport.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def emptied(self) -> AsyncGenerator[None, None]:
        """Within the block nothing runs in the VM. After it no job is known, and new ones are taken; where the block
        fails, none are. Raises AgentProblem processes_left (409) where that can't be had."""
        self._closing = True
        for job in list(self._jobs.values()):
            await job.started.wait()
        await self.close(0.0)
        await self._none_left()
        yield
        self._jobs.clear()
        self.history.forget()
        self._closing = False

    async def _none_left(self) -> None:
        deadline_s = time.monotonic() + self._limits.exit_wait_s
        while not (self._adopts and processes.childless()):
            if not self._adopts or time.monotonic() > deadline_s:
                raise AgentProblem(409, "processes_left", "Processes of the VM may still run.", "Destroy the VM.")
            self._reap()
            await asyncio.to_thread(processes.end_processes, self.everything, 0.0)
            await asyncio.sleep(self._limits.reap_poll_s)
        if self._world.isolated and processes.strangers():
            raise AgentProblem(409, "processes_left", "Processes of the VM still run.", "Destroy the VM.")

    def everything(self) -> list[psutil.Process]:
        """The processes of all jobs, and all else below the agent. Blocks: call it in a thread."""
        found = {process.pid: process for process in processes.all_descendants()}
        for job in list(self._jobs.values()):
            found.update((process.pid, process) for process in job.members())
        return list(found.values())

    async def _await_exit(self, job: Job) -> None:
        try:
            async with asyncio.timeout(self._limits.exit_wait_s):
                await job.exited.wait()
        except TimeoutError:
            log.exception("a job did not end", extra={"job_id": job.id, "pid": job.pid})

    def _make_room(self) -> None:
        if self._closing:
            raise AgentProblem(503, "agent_stopping", "The agent is ending its jobs and takes no more.")
        while len(self._jobs) >= self._limits.jobs_max:
            ended = next((job for job in self._jobs.values() if job.exited.is_set()), None)
            if ended is None:
                raise AgentProblem(
                    429, "too_many_jobs", f"{len(self._jobs)} jobs run in this VM already.", "End one of them first."
                )
            del self._jobs[ended.id]
            if ended.transport is not None:
                ended.transport.close()

    def _cwd(self, relative: str) -> Path:
        """The folder to start in: inside the project, also after symlinks."""
        app_dir = self._world.app_dir.resolve()
        parts = relative.split("/")
        cwd = (app_dir / relative).resolve() if "\0" not in relative else app_dir / "\0"
        if relative.startswith("/") or ".." in parts or not cwd.is_relative_to(app_dir) or not cwd.is_dir():
            raise AgentProblem(
                400, "job_cwd_invalid", f"{relative!r} is no folder of the project.", "Name a folder inside it, or '.'."
            )
        return cwd

    async def _spawn(self, job: Job, cwd: Path) -> None:
        argv = [self._filled(word, job) for word in job.spec.argv]
        self._spawning += 1
        try:
            await self._loop.subprocess_exec(
                lambda: _JobProtocol(job, self._limits),
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                cwd=cwd,
                env=self._environment(job, cwd),
                start_new_session=True,
                umask=0o022,
            )
        except OSError as error:
            code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_RUNNABLE
            reason = "command not found" if code == EXIT_NOT_FOUND else error.strerror or type(error).__name__
            job.log.append("agent", f"{argv[0]}: {reason}")
            job.log.end()
            job.end(code, None)
        else:
            if job.spec.timeout_s is not None:
                job.timer = self._loop.call_later(job.spec.timeout_s, self._time_out, job)
        finally:
            self._spawning -= 1

    def _environment(self, job: Job, cwd: Path) -> dict[str, str]:
        own: Mapping[str, str] = os.environ
        base = {
            "PATH": os.pathsep.join([*self._project_bins(cwd), own.get("PATH", os.defpath)]),
            "HOME": str(self._world.home_dir),
            "LANG": "C.UTF-8",
            "TMPDIR": own.get("TMPDIR", "/tmp"),
        }
        passed = {key: own[key] for key in self._world.pass_env if key in own}
        asked = {key: self._filled(value, job) for key, value in job.spec.env.items()}
        # Only our own programs, run by our own interpreter, may find our code.
        code = {"PYTHONPATH": own["PYTHONPATH"]} if job.spec.argv[0] == PYTHON and "PYTHONPATH" in own else {}
        return {**base, **passed, **code, **asked, processes.JOB_MARK: job.id}

    def _filled(self, word: str, job: Job) -> str:
        """The word, with what only the agent knows put in."""
        word = word.replace(PYTHON, sys.executable).replace(HOME, str(self._world.home_dir))
        return word.replace(PORT, str(job.port))

    def _project_bins(self, cwd: Path) -> list[str]:
        """Where package managers put the commands of a project: in its folder, and in those of its workspace above."""
        app_dir = self._world.app_dir.resolve()
        folders = [cwd, *(folder for folder in cwd.parents if folder.is_relative_to(app_dir))]
        return [str(folder / "node_modules" / ".bin") for folder in folders]

    def _time_out(self, job: Job) -> None:
        if job.exited.is_set():
            return
        job.timed_out = True
        job.log.append("agent", f"[stopped: still running after {job.spec.timeout_s:g} s]")
        self._background(self.stop(job, self._limits.kill_grace_s), f"time-out of job {job.id}")

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work failed", extra={"task": task.get_name()}, exc_info=error)

    def _reap(self) -> None:
        """Called at every SIGCHLD. A child that asyncio has yet to collect puts it off for a moment."""
        if self._spawning or processes.reap_adopted(self._is_root):
            self._loop.call_later(0.05, self._reap)

    def _is_root(self, pid: int) -> bool:
        return any(job.pid == pid and not job.exited.is_set() for job in self._jobs.values())


def check_spec(job_id: str, spec: JobSpec) -> None:
    """Refuses what could not be started as asked: AgentProblem job_id_invalid or job_spec_invalid (400)."""
    if re.match(JOB_ID_PATTERN, job_id) is None:
        raise AgentProblem(
            400, "job_id_invalid", "A job's id has 1 to 64 letters, digits, '-' and '_'.", "Choose another id."
        )
    words = [*spec.argv, *spec.env, *spec.env.values()]
    bad_key = any(not key or "=" in key for key in spec.env)
    bad_time = spec.timeout_s is not None and spec.timeout_s <= 0
    if not spec.argv or not spec.argv[0] or bad_key or bad_time or any("\0" in word for word in words):
        raise AgentProblem(
            400,
            "job_spec_invalid",
            "The job can't be started as asked: empty argv, NUL, a bad variable name, or timeout_s not above 0.",
        )


def signal_name(number: int) -> str:
    """`SIGKILL` for 9, and the plain number for one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
