"""Folders by descriptor: walking without following links, working folders that a killed process leaves, removal."""

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger("drape.pool.deps_cache")

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.ELOOP})


@contextlib.contextmanager
def opened(path: str | Path, flags: int = FOLDER_FLAGS, dir_fd: int | None = None) -> Iterator[int]:
    """A descriptor that is closed in the end."""
    fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def walk(fd: int, path: str, made: list[str] | None = None) -> int:
    """A descriptor of the folder `path` below `fd`, which stays open. "" is the folder itself.

    No link is followed: OSError with an errno of NOT_A_FOLDER where one stands in the way. `made`: folders that are
    missing are made, and their paths added to it.
    """
    current = os.open(".", FOLDER_FLAGS, dir_fd=fd)
    gone = ""
    for name in path.split("/") if path else ():
        gone = f"{gone}/{name}" if gone else name
        try:
            if made is not None and _make(name, current):
                made.append(gone)
            inner = os.open(name, FOLDER_FLAGS, dir_fd=current)
        finally:
            os.close(current)
        current = inner
    return current


@contextlib.contextmanager
def working(parent: Path, prefix: str = "") -> Iterator[Path]:
    """A new folder below `parent` that is removed in the end, whatever is in it then (or if it was renamed away, not).

    A lock on it, which the kernel lets go of when this process dies, tells it from what a killed process left.
    """
    path = parent / f"{prefix}{secrets.token_hex(8)}"
    path.mkdir(mode=0o700)
    fd = os.open(path, FOLDER_FLAGS)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(fd)
        remove_tree(path)


def remove_left(parent: Path, prefix: str = "") -> int:
    """Removes the working folders (`prefix` as in `working`) of processes that are gone, and counts them."""
    removed = 0
    for path in sorted(parent.glob(f"{prefix}*")):
        with contextlib.suppress(FileNotFoundError):  # its process has just removed it
            if path.is_dir() and not path.is_symlink():
                with opened(path) as fd:
                    if _is_locked(fd):
                        continue
                    remove_tree(path)
            else:
                path.unlink()
            removed += 1
    return removed


def remove_tree(path: Path) -> None:
    """Removes a tree that no project can reach, folders without write permission included.

    What stays is logged: the caller's own failure counts more, and the next start tries again.
    """
    if not os.path.lexists(path):
        return
    problems: list[str] = []

    def note(_: object, where: str, error: Any) -> None:
        problems.append(f"{where}: {error[1]}")

    shutil.rmtree(path, onerror=note)
    if os.path.lexists(path):
        problems.clear()
        for folder, inner, _ in os.walk(path):  # from the top: each is opened before it is entered
            for name in inner:
                with contextlib.suppress(OSError):  # rmtree then says what is wrong
                    if not os.path.islink(os.path.join(folder, name)):
                        os.chmod(os.path.join(folder, name), 0o700)
        shutil.rmtree(path, onerror=note)
    if problems:
        log.warning(
            "%s could not be removed: %s",
            path,
            problems[0],
            extra={"code": "deps_cache_left"},
        )


def sync(path: Path) -> None:
    """Makes a file or the names in a folder durable."""
    with opened(path, os.O_RDONLY | os.O_CLOEXEC) as fd:
        os.fsync(fd)


def _make(name: str, dir_fd: int) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=dir_fd)
    except FileExistsError:
        return False
    return True


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
