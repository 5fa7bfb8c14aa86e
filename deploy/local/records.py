"""Which processes are ours: one record a process in `run/`, strong enough to survive the reuse of process ids.

`run/<name>.pid` holds the process id alone, for people and scripts. `run/<name>.json` holds what proves that the
process with that id is still the one we started, and how it is to be ended. Never signals a process.
"""

import os
from pathlib import Path

import msgspec
import psutil

from deploy.local.paths import Home

SUPERVISED_BY = "DRAPE_SUPERVISED_BY"
"""Environment variable in every supervised child: the home it belongs to. It finds a child that was started in the
instant before its supervisor was killed, when no record had been written."""

SUPERVISOR = "supervisor"
"""Name of the supervisor's own record."""

_CREATED_TOLERANCE_S = 2.0
"""The kernel's boot time, from which start times are counted, moves by a second when the clock is corrected."""


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One process of ours. `stop` holds (signal, grace in seconds) in the order in which to send them before SIGKILL;
    `rank` orders the ending of left-overs, lowest first."""

    name: str
    pid: int
    created: float
    stop: tuple[tuple[int, float], ...] = ()
    rank: int = 0

    def process(self) -> psutil.Process | None:
        """The process, when it lives and is the one that was recorded (a zombie does not live)."""
        return process_if(self.pid, self.created)


def process_if(pid: int, created: float) -> psutil.Process | None:
    """The living process with this id and start time (seconds since the epoch), else None."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) <= _CREATED_TOLERANCE_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, ValueError):
        return None


def write(home: Home, record: ProcessRecord) -> None:
    """Stores the record, then the plain process id."""
    write_private(home.run / f"{record.name}.json", msgspec.json.encode(record))
    write_private(home.run / f"{record.name}.pid", b"%d\n" % record.pid)


def read(home: Home, name: str) -> ProcessRecord | None:
    """The record of a process, or None when there is none or it cannot be understood."""
    return _decode(home.run / f"{name}.json")


def read_all(home: Home) -> list[ProcessRecord]:
    """All records, in the order in which their processes are to be ended."""
    found = (_decode(path) for path in home.run.glob("*.json"))
    return sorted((record for record in found if record), key=lambda record: (record.rank, record.name))


def remove(home: Home, name: str, pid: int | None = None) -> None:
    """Forgets a process; with `pid` only where the record is still that one's."""
    if pid is not None and (record := read(home, name)) is not None and record.pid != pid:
        return
    (home.run / f"{name}.pid").unlink(missing_ok=True)
    (home.run / f"{name}.json").unlink(missing_ok=True)


def marked(home: Home) -> list[psutil.Process]:
    """Living processes that carry this home's mark, whether recorded or not."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(SUPERVISED_BY) == str(home.root):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # Gone meanwhile, or another user's: not ours.
    return found


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file as a whole, readable by this user only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def _decode(path: Path) -> ProcessRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
