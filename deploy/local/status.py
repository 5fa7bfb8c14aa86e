"""The supervisor's lock and what it says of itself: `run/supervisor.lock` and `run/status.json`."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import msgspec
import psutil

from deploy.local import records
from deploy.local.options import AlreadyRunning, RunStatus
from deploy.local.paths import Home

_DYING_WAIT_S = 2.0
"""A supervisor that was killed counts as dead when its first thread is; the lock goes with its last one."""
_POLL_S = 0.02


@asynccontextmanager
async def supervisor_lock(home: Home) -> AsyncIterator[None]:
    """Holds the home for one supervisor; the kernel lets go of it however that process ends. Raises AlreadyRunning."""
    descriptor = os.open(home.run / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _DYING_WAIT_S
        while not _locked(descriptor):
            if supervisor(home) is not None or time.monotonic() >= deadline:
                raise AlreadyRunning(read_status(home))
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def supervisor(home: Home) -> psutil.Process | None:
    """The living supervisor of this home."""
    record = records.read(home, records.SUPERVISOR)
    return record.process() if record else None


@contextmanager
def recorded_supervisor(home: Home) -> Iterator[None]:
    """Says in `run/` that this process is the supervisor, and takes back all claims at the end."""
    own = psutil.Process()
    (home.run / "status.json").unlink(missing_ok=True)
    records.write(home, records.ProcessRecord(name=records.SUPERVISOR, pid=own.pid, created=own.create_time()))
    try:
        yield
    finally:
        (home.run / "status.json").unlink(missing_ok=True)
        records.remove(home, records.SUPERVISOR)


def write_status(home: Home, status: RunStatus) -> None:
    """Publishes that everything is ready."""
    records.write_private(home.run / "status.json", msgspec.json.encode(status))


def read_status(home: Home) -> RunStatus | None:
    """What runs now, with today's process ids; None when nothing does or it is still starting."""
    if supervisor(home) is None:
        return None
    try:
        status = msgspec.json.decode((home.run / "status.json").read_bytes(), type=RunStatus)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    pids = {record.name: record.pid for record in records.read_all(home) if record.name != records.SUPERVISOR}
    return msgspec.structs.replace(status, pids=pids)
