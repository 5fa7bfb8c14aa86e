"""Logs of processes that write to a file by themselves: kept bounded, and read from their end.

A child appends to its file directly rather than to a pipe of ours: it then neither stalls nor dies when the supervisor
does. The price is paid at rotation: what is written between the copy and the cut (microseconds) is lost.
"""

import os
import shutil
from pathlib import Path

import msgspec

TAIL_LINES_MAX = 20
TAIL_BYTES_MAX = 8192


class LogLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a process's output is kept."""

    bytes_max: int = 10 * 1024 * 1024
    """Size at which a log is rotated; checked every few seconds, so a burst may go over it."""
    keep_count: int = 2
    """Rotated logs kept beside the current one: `name.log.1` is the newest."""


def open_for_append(path: Path) -> int:
    """A descriptor for a child's output. Append mode is what makes cutting the file safe while it is written."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def rotate(path: Path, limits: LogLimits) -> bool:
    """Copies a log that has grown too long aside, then cuts it to nothing. True when it did. Blocks; use a thread."""
    try:
        if path.stat().st_size < limits.bytes_max:
            return False
    except FileNotFoundError:
        return False
    for number in range(limits.keep_count - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    if limits.keep_count:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        path.with_name(f"{path.name}.1").chmod(0o600)
    os.truncate(path, 0)
    return True


def tail(path: Path, lines_max: int = TAIL_LINES_MAX, since: int = 0) -> list[str]:
    """The last lines of a log, none before the byte `since`; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - TAIL_BYTES_MAX))
            text = file.read(TAIL_BYTES_MAX).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines_max:]


def size(path: Path) -> int:
    """Bytes in it so far; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def tail_text(path: Path, since: int = 0) -> str:
    """The last lines for an error message."""
    lines = tail(path, since=since)
    return "The end of its log:\n" + "\n".join(f"  {line}" for line in lines) if lines else "It has logged nothing."
