"""Restarts a running platform's services one process at a time, so that nobody notices.

Whoever wants it leaves a request in `run/` and signals the supervisor, which does the work and writes what it does to a
file beside it, one JSON object a line, that the asker reads while it grows. No socket: `DRAPE_HOME` may be a long path.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.local.options import SERVICES
from deploy.local.paths import Home
from deploy.local.processes import Supervised
from deploy.local.status import supervisor

_log = logging.getLogger("drape.local")

SIGNAL = signal.SIGUSR1
SILENCE_MAX_S = 180.0
"""How long nothing may be told of a rollout: one process takes as long as its start and its drain may."""
POLL_S = 0.1

Json = dict[str, Any]
State = Literal["starting", "draining", "done"]


class Request(msgspec.Struct, frozen=True):
    """Restart the processes of these services."""

    id: str
    services: tuple[str, ...]


class Rollouts:
    """The supervisor's side. `children` is the supervisor's own list: a new process is in it before it is started, an
    old one until it has ended, so that whatever happens none is forgotten."""

    def __init__(self, home: Home, children: list[Supervised], ready: Callable[[Supervised], Awaitable[None]]) -> None:
        """`ready`: returns once the child serves; raises LauncherError."""
        self._home = home
        self._children = children
        self._ready = ready
        self._asked = asyncio.Event()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Requests are noticed from here on; the signal would otherwise end the supervisor."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(SIGNAL, self._asked.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(SIGNAL)
            for path in self._home.run.glob("rollout-*"):
                path.unlink(missing_ok=True)

    async def serve(self, watch: Callable[[Supervised], None]) -> None:
        """Work off what is asked for, one request after another; for ever. `watch`: takes a new child under watch."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            for path in sorted(self._home.run.glob("rollout-*.request")):
                request = msgspec.json.decode(path.read_bytes(), type=Request)
                path.unlink()
                await self._carry_out(request, watch)

    async def _carry_out(self, request: Request, watch: Callable[[Supervised], None]) -> None:
        begun = time.monotonic()
        report = _Report(self._home, request.id)
        done: list[str] = []
        try:
            for child in [each for each in self._children if service_of(each.spec.name) in request.services]:
                await self._replace(child, report, watch)
                done.append(child.spec.name)
        except LauncherError as error:
            _log.warning("rollout failed", extra={"code": error.code, "error": str(error)})
            report.add({"type": "error", "code": error.code, "detail": error.message, "hint": error.hint})
        else:
            took_s = round(time.monotonic() - begun, 3)
            report.add({"type": "rollout", "processes": done, "total_s": took_s})

    async def _replace(self, old: Supervised, report: "_Report", watch: Callable[[Supervised], None]) -> None:
        """Start the new, wait until it serves, then drain and end the old. Where the new does not come up, the old stays."""
        name = old.spec.name
        report.step(name, "starting", None)
        new = Supervised(old.spec, self._home)
        self._children.append(new)
        new.start()
        try:
            await self._ready(new)
        except LauncherError:
            await new.stop()
            self._children.remove(new)
            old.record_again()
            raise
        watch(new)
        report.step(name, "draining", old.pid)
        await old.stop()
        self._children.remove(old)
        report.step(name, "done", new.pid)


class _Report:
    """What is told of one rollout."""

    def __init__(self, home: Home, request_id: str) -> None:
        self._path = _report_path(home, request_id)

    def step(self, process: str, state: State, pid: int | None) -> None:
        self.add({"type": "rollout_step", "process": process, "state": state, "pid": pid})

    def add(self, line: Json) -> None:
        """One more line, whole or not at all: the reader takes only what ends with a line break."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


async def ask(home: Home, request: Request) -> AsyncIterator[Json]:
    """Asks the supervisor of this home, and gives each line of what it tells; the last one is the result, or an error.

    Raises LauncherError: `not_running`, `supervisor_died`, `rollout_silent`.
    """
    process = supervisor(home)
    if process is None or not (home.run / "status.json").exists():
        raise LauncherError("not_running", "Drape is not running here.", "Start it with `drape up --detach`.")
    report = _report_path(home, request.id)
    report.touch(mode=0o600)
    records.write_private(home.run / f"rollout-{request.id}.request", msgspec.json.encode(request))
    process.send_signal(SIGNAL)
    position, told_at = 0, time.monotonic()
    try:
        while True:
            lines, position = _read_on(report, position)
            for line in lines:
                told_at = time.monotonic()
                yield line
                if line["type"] != "rollout_step":
                    return
            if supervisor(home) is None:
                raise LauncherError("supervisor_died", "Drape ended during the rollout.", "`drape up` starts it.")
            if time.monotonic() - told_at > SILENCE_MAX_S:
                raise LauncherError(
                    "rollout_silent",
                    f"The supervisor has told nothing for {SILENCE_MAX_S:g} s.",
                    f"Its log is in {home.logs}; `drape status` shows what runs.",
                )
            await asyncio.sleep(POLL_S)
    finally:
        report.unlink(missing_ok=True)


def checked_services(given: tuple[str, ...]) -> tuple[str, ...]:
    """The services to restart; all where none is named."""
    return tuple(name for name in SERVICES if not given or name in given)


def serves(child: Supervised, answers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether this process says that it is ready; where processes are not told apart, whether its service does."""
    answer = answers.get(service_of(child.spec.name), {})
    if "replicas" not in answer:
        return child.pid is not None and answer.get("ready") is True
    return any(each["pid"] == child.pid and each["ready"] for each in answer["replicas"])


def _read_on(path: os.PathLike[str], position: int) -> tuple[list[Json], int]:
    try:
        with open(path, "rb") as file:
            file.seek(position)
            text = file.read()
    except FileNotFoundError:
        return [], position
    whole = text[: text.rfind(b"\n") + 1]
    return [msgspec.json.decode(line) for line in whole.splitlines()], position + len(whole)


def _report_path(home: Home, request_id: str) -> Any:
    return home.run / f"rollout-{request_id}.log"


def service_of(process: str) -> str:
    """`pool-1` is a process of `pool`."""
    name, _, number = process.rpartition("-")
    return name if number.isdecimal() else process
