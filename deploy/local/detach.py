"""Drape in the background: starts a supervisor that outlives the terminal, and ends one from anywhere."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import msgspec

from deploy.local import containers, logs, records
from deploy.local.errors import LauncherError
from deploy.local.leftovers import end_leftovers, end_process
from deploy.local.options import AlreadyRunning, RunStatus, UpOptions
from deploy.local.paths import Home
from deploy.local.status import supervisor, supervisor_lock
from deploy.local.vms import end_vms

START_TIMEOUT_S = 120.0
"""Longer than the sum of the time-outs inside, which end with a better reason."""
DOWN_TIMEOUT_S = 30.0
_SOURCE = Path(__file__).parents[2]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The supervisor's report that everything runs."""

    status: RunStatus


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The supervisor's report that it gave up."""

    code: str
    message: str
    hint: str
    running: RunStatus | None = None


Report = Ready | Failed
"""What a background supervisor tells the one who started it: one JSON object through a pipe, then end of file."""


class DownReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `down` found and did: how the supervisor ended, the names of the processes that ended, and how many VMs
    `down` had to end by itself."""

    supervisor: Literal["stopped", "killed", "not_running"]
    ended: list[str]
    vms: int = 0
    problems: tuple[str, ...] = ()
    """Why VMs may be left on a Docker engine."""


async def up_detached(
    options: UpOptions, home: Home, service_status: str, *, timeout_s: float = START_TIMEOUT_S
) -> RunStatus:
    """Starts a supervisor in the background and returns when all is ready. `service_status` names the status function,
    as `module:function`. Raises AlreadyRunning or LauncherError, as `launcher.run` does in there."""
    home.create()
    log = home.logs / "supervisor.log"
    logs.rotate(log, logs.LogLimits())
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            child = _spawn(options, home, service_status, log, writing)
        finally:
            os.close(writing)
        try:
            async with asyncio.timeout(timeout_s):
                text = await _read_all(pipe)
        except BaseException as error:
            # Time-out or Ctrl-C: what was asked for is not wanted any more.
            child.send_signal(signal.SIGTERM)
            if isinstance(error, TimeoutError):
                reason = f"Drape did not start within {timeout_s:g} s. {logs.tail_text(log)}"
                raise LauncherError("start_timeout", reason, f"All logs are in {home.logs}.") from None
            raise
        finally:
            # Reaps the supervisor should it end while this process lives.
            threading.Thread(target=child.wait, daemon=True).start()
    return _result(text, log)


def _spawn(options: UpOptions, home: Home, service_status: str, log: Path, report: int) -> "subprocess.Popen[bytes]":
    output = logs.open_for_append(log)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", service_status, str(report)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=_SOURCE,
            env={**os.environ, "DRAPE_HOME": str(home.root)},
            pass_fds=(report,),
            start_new_session=True,
        )
    finally:
        os.close(output)
    assert child.stdin is not None
    with child.stdin as stdin:
        # Not by argument or environment: addresses hold passwords.
        stdin.write(msgspec.json.encode(options))
    return child


async def _read_all(pipe: object) -> bytes:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        return await reader.read()  # To the end of file; the report is bounded by what log tails are.
    finally:
        transport.close()


def _result(text: bytes, log: Path) -> RunStatus:
    try:
        report = msgspec.json.decode(text, type=Report)
    except msgspec.DecodeError:
        raise LauncherError(
            "supervisor_died", f"Drape ended while starting. {logs.tail_text(log)}", f"Its log is {log}."
        ) from None
    if isinstance(report, Ready):
        return report.status
    if report.code == "already_running":
        raise AlreadyRunning(report.running)
    raise LauncherError(report.code, report.message, report.hint)


async def down(home: Home, *, timeout_s: float = DOWN_TIMEOUT_S) -> DownReport:
    """Ends Drape: asks the supervisor, forces it after `timeout_s`, then ends whatever it left. Harmless when nothing
    runs, and when repeated. A new supervisor that starts meanwhile is left alone."""
    if not home.run.is_dir():
        return DownReport(supervisor="not_running", ended=[])
    alive = [record.name for record in records.read_all(home) if record.process()]
    process = supervisor(home)
    outcome: Literal["stopped", "killed", "not_running"] = "not_running"
    if process is not None:
        politely = await end_process(process, ((signal.SIGTERM, timeout_s + containers.allowance_s(home)),))
        outcome = "stopped" if politely else "killed"
    left: list[str] = []
    vms = 0
    problems: tuple[str, ...] = ()
    try:
        async with supervisor_lock(home):
            left = await end_leftovers(home)
            vms, problems = await containers.end_containers(home)
            vms += await end_vms(home)
            records.remove(home, records.SUPERVISOR)
            (home.run / "status.json").unlink(missing_ok=True)
    except AlreadyRunning:
        return DownReport(supervisor=outcome, ended=_ended(alive, left))
    return DownReport(supervisor=outcome, ended=_ended(alive, left), vms=vms, problems=problems)


def _ended(before: list[str], left: list[str]) -> list[str]:
    return [name for name in dict.fromkeys([*before, *left]) if name != records.SUPERVISOR]
