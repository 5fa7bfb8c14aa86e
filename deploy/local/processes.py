"""One supervised child process: started, watched, started again when it dies, ended when asked.

Knows nothing of what the child does. A child lives in its own session, so that neither the terminal nor Ctrl-C
reaches it: it ends when the supervisor says so.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import psutil

from deploy.local import logs, records
from deploy.local.errors import LauncherError
from deploy.local.paths import Home

_log = logging.getLogger("drape.local")

_KILL_WAIT_S = 5.0
"""How long a process may take to vanish after SIGKILL (it may be in an uninterruptible read)."""


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a child that dies is brought back."""

    first_delay_s: float = 0.2
    delay_max_s: float = 10.0
    healthy_after_s: float = 30.0
    """A child that lived this long starts again with the first delay."""

    def delay_s(self, failures: int) -> float:
        """The wait before the next start, after so many failures in a row (1, 2, 3 ...)."""
        doublings = min(max(failures - 1, 0), 30)
        return min(self.delay_max_s, self.first_delay_s * float(2**doublings))


async def _nothing() -> None:
    return None


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. `env` is the whole environment but for the supervisor's mark."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    cwd: Path | None = None
    stop: tuple[tuple[int, float], ...] = ((signal.SIGTERM, 10.0),)
    """(signal, grace in seconds), sent in order until the child ends; SIGKILL follows."""
    rank: int = 0
    """Left-overs with lower rank are ended first: services 0, their servers 1."""
    restart: RestartPolicy = RestartPolicy()
    limits: logs.LogLimits = logs.LogLimits()
    log_check_s: float = 5.0
    pass_fds: tuple[int, ...] = ()
    """Open files that the child gets, under the same numbers."""
    prepare: Callable[[], Awaitable[None]] = _nothing
    """Awaited before every start, the first one and those after a crash."""
    stuck: Callable[[], Awaitable[bool]] | None = None
    """Asked every `stuck_check_s` while the child lives, bounded by itself: True `stuck_checks` times in a row, and the
    child is ended and started again, as one that died."""
    stuck_check_s: float = 5.0
    stuck_checks: int = 3


class Supervised:
    """A child under supervision. `pid` is None between two lives; `exits` counts the ends that nobody asked for."""

    def __init__(self, spec: ChildSpec, home: Home) -> None:
        self.spec = spec
        self.pid: int | None = None
        self.exits = 0
        self.last_exit: int | None = None
        self.log_from = 0
        self._home = home
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins supervision; the child is started by the event loop. Once only."""
        assert self._task is None, "a child is started once"
        self._task = asyncio.create_task(self._supervise(), name=f"supervise-{self.spec.name}")

    async def wait(self) -> None:
        """Returns when supervision has ended; raises what broke it."""
        assert self._task is not None, "start first"
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends the child: polite signals, then SIGKILL. Returns when it is gone. Harmless when repeated."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping.is_set():
            started = loop.time()
            await self._live_once()
            if self._stopping.is_set():
                break
            self.exits += 1
            failures = 1 if loop.time() - started >= self.spec.restart.healthy_after_s else failures + 1
            delay_s = self.spec.restart.delay_s(failures)
            _log.warning(
                "%s ended by itself and is started again",
                self.spec.name,
                extra={"child": self.spec.name, "exit_code": self.last_exit, "delay_s": delay_s},
            )
            await _set_within(self._stopping, delay_s)

    async def _live_once(self) -> None:
        """One life of the child, from start to end."""
        await self.spec.prepare()
        await asyncio.to_thread(logs.rotate, self.spec.log, self.spec.limits)
        self.log_from = logs.size(self.spec.log)
        output = logs.open_for_append(self.spec.log)
        try:
            child = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.spec.cwd,
                env={**self.spec.env, records.SUPERVISED_BY: str(self._home.root)},
                start_new_session=True,
                pass_fds=self.spec.pass_fds,
            )
        except OSError as error:
            os.write(output, f"cannot start {self.spec.argv[0]}: {error.strerror}\n".encode())
            self.last_exit = 127
            return
        finally:
            os.close(output)
        try:
            self._record(child.pid)
            await self._watch(child)
        finally:
            self.last_exit = child.returncode
            self.pid = None
            records.remove(self._home, self.spec.name, child.pid)

    def record_again(self) -> None:
        """Say once more that this is the process of that name, after another has said so and ended."""
        if self.pid is not None:
            self._record(self.pid)

    def _record(self, pid: int) -> None:
        self.pid = pid
        try:
            created = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return  # Dead already; `_watch` sees it.
        record = records.ProcessRecord(
            name=self.spec.name, pid=pid, created=created, stop=self.spec.stop, rank=self.spec.rank
        )
        records.write(self._home, record)

    async def _watch(self, child: asyncio.subprocess.Process) -> None:
        """Returns when the child has ended, by itself or because it was told to."""
        ended = asyncio.create_task(child.wait(), name=f"wait-{self.spec.name}")
        asked = asyncio.create_task(self._stopping.wait(), name=f"stop-{self.spec.name}")
        stuck = asyncio.create_task(self._until_stuck(), name=f"stuck-{self.spec.name}")
        reasons = {ended, asked, stuck}
        try:
            while not any(reason.done() for reason in reasons):
                await asyncio.wait(reasons, timeout=self.spec.log_check_s, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.to_thread(logs.rotate, self.spec.log, self.spec.limits)
            for number, grace_s in self.spec.stop:
                if not ended.done():
                    _signal(child.pid, number)
                    await asyncio.wait({ended}, timeout=grace_s)
        finally:
            # Also when supervision itself is cancelled or broken: a child is never left without a supervisor.
            asked.cancel()
            stuck.cancel()
            if not ended.done():
                _signal(child.pid, signal.SIGKILL)
                await asyncio.wait({ended}, timeout=_KILL_WAIT_S)
            _end_group(child.pid)
            await asyncio.gather(asked, stuck, return_exceptions=True)

    async def _until_stuck(self) -> None:
        """Returns when the child lives but does not work; never, where nothing tells."""
        failures = 0
        while self.spec.stuck is None or failures < self.spec.stuck_checks:
            await asyncio.sleep(self.spec.stuck_check_s)
            if self.spec.stuck is None:
                continue
            try:
                failures = failures + 1 if await self.spec.stuck() else 0
            except Exception:
                # What cannot be asked is not known to be stuck.
                _log.exception("%s cannot be asked", self.spec.name, extra={"child": self.spec.name})
        _log.warning("%s is stuck and is started again", self.spec.name, extra={"child": self.spec.name})


async def wait_answering(
    child: Supervised,
    probe: Callable[[], Awaitable[bool]],
    *,
    code: str,
    timeout_s: float,
    exits_max: int = 3,
    poll_s: float = 0.02,
) -> None:
    """Polls `probe` until it is true. Raises LauncherError `code` with the log's end when the time is over or the child
    has died `exits_max` times; a probe is itself bounded by `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await probe():
                notice_cancellation()
                if child.exits >= exits_max:
                    raise LauncherError(
                        code,
                        f"{child.spec.name} ended {child.exits} times instead of starting "
                        f"(exit code {child.last_exit}). {logs.tail_text(child.spec.log, child.log_from)}",
                        f"Its log is {child.spec.log}.",
                    )
                await asyncio.sleep(poll_s)
    except TimeoutError as error:
        raise LauncherError(
            code,
            f"{child.spec.name} did not answer within {timeout_s:g} s. {logs.tail_text(child.spec.log, child.log_from)}",
            f"Its log is {child.spec.log}.",
        ) from error


def notice_cancellation() -> None:
    """Raises CancelledError when this task was cancelled and a library has swallowed it, as nats-py does while it
    connects: without this, a time-out around a loop of such calls would never end it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return False


def _signal(pid: int, number: int) -> None:
    """Signals a child that has not been waited for, whose id therefore cannot have been reused."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # Ended a moment ago.


def _end_group(pid: int) -> None:
    """Kills what a dead child left in its process group (it led the group, so the group has its id)."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # Nothing left; macOS says "not permitted" of a group of zombies.
