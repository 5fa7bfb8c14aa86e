"""Paths of a project's files, and a way to reach them on disk that no symlink can lead astray.

A path is checked as text first, then walked folder by folder from an open descriptor of the root, never following a
symlink, so that what a running project does to its folder meanwhile can't send a write elsewhere.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .protocol import AgentProblem

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COMPONENT_BYTES_MAX = 255


def check_path(path: str, path_bytes_max: int) -> str:
    """Gives the path back if it is a relative path of plain names; else AgentProblem path_invalid (400)."""
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError:
        raw = b""
    parts = path.split("/")
    if (
        not raw
        or len(raw) > path_bytes_max
        or "\0" in path
        or any(part in ("", ".", "..") or len(part.encode()) > _COMPONENT_BYTES_MAX for part in parts)
    ):
        raise AgentProblem(
            400,
            "path_invalid",
            f"{path[:200]!r} is not a path inside the project.",
            "Use relative paths of plain names: no '..', no empty parts, no NUL, no leading slash.",
            paths=(path[:200],) if raw else (),
        )
    return path


def ancestors(path: str) -> Iterator[str]:
    """The folders above a path, from the top: "a/b/c" gives "a", "a/b"."""
    end = path.find("/")
    while end != -1:
        yield path[:end]
        end = path.find("/", end + 1)


class Folder:
    """An open folder tree. Holds one descriptor for the root and one for the folder used last. Not thread-safe."""

    def __init__(self, root: Path) -> None:
        self.root_fd = os.open(root, _FOLDER_FLAGS)
        self._last: tuple[str, int] | None = None

    def close(self) -> None:
        """Gives the descriptors back."""
        self.forget()
        os.close(self.root_fd)

    def forget(self) -> None:
        """Lets go of the folder used last; needed after folders were removed."""
        if self._last is not None:
            os.close(self._last[1])
            self._last = None

    def parent(self, path: str, *, create: bool = False, may_unlink: frozenset[str] | None = frozenset()) -> int:
        """A descriptor of the folder that holds `path`; valid until the next call.

        `create`: makes missing folders. `may_unlink`: files or links that may give way to a folder (None: all).
        Raises FileNotFoundError (not `create`), or AgentProblem path_through_symlink or path_conflict (409).
        """
        folder = path.rpartition("/")[0]
        if self._last is not None and self._last[0] == folder:
            return self._last[1]
        self.forget()
        fd = os.dup(self.root_fd)
        try:
            for name in [*ancestors(path)]:
                inner = self._enter(fd, name, create=create, may_unlink=may_unlink)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        self._last = (folder, fd)
        return fd

    def stat(self, path: str) -> os.stat_result | None:
        """What is at `path` itself, or None."""
        try:
            return os.stat(basename(path), dir_fd=self.parent(path), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open_file(self, path: str) -> int:
        """A descriptor to read a regular file. Raises FileNotFoundError, or AgentProblem (409) for anything else."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(basename(path), flags, dir_fd=self.parent(path))
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise through_symlink(path) from error
            if error.errno == errno.ENXIO:
                raise conflict(path) from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise conflict(path)
        return fd

    def _enter(self, fd: int, name: str, *, create: bool, may_unlink: frozenset[str] | None) -> int:
        own = basename(name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self._open_folder(fd, own)
        found = _lstat(own, fd)
        if found is not None and stat.S_ISLNK(found.st_mode) and not (create and _allowed(name, may_unlink)):
            raise through_symlink(name)
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if found is not None:
            if not _allowed(name, may_unlink):
                raise conflict(name)
            os.unlink(own, dir_fd=fd)
        os.mkdir(own, 0o755, dir_fd=fd)
        made = self._open_folder(fd, own)
        os.fchmod(made, 0o755)  # whatever the umask
        return made

    @staticmethod
    def _open_folder(fd: int, own: str) -> int:
        try:
            return os.open(own, _FOLDER_FLAGS, dir_fd=fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(error.errno, error.strerror, own) from error
            raise


def basename(path: str) -> str:
    """The last name of a path."""
    return path.rpartition("/")[2]


def through_symlink(path: str) -> AgentProblem:
    """The refusal for a path that a symlink on disk would lead elsewhere."""
    return AgentProblem(
        409,
        "path_through_symlink",
        f"{path!r} is a symlink in the VM; nothing is read or written through it.",
        "Remove it, or send the whole folder again, which does.",
        paths=(path,),
    )


def conflict(path: str) -> AgentProblem:
    """The refusal for a path where something of another kind stands."""
    return AgentProblem(
        409,
        "path_conflict",
        f"Something of another kind stands at {path!r} in the VM (a folder, a file, a device).",
        "Send the whole folder again.",
        paths=(path,),
    )


def _allowed(name: str, may_unlink: frozenset[str] | None) -> bool:
    return may_unlink is None or name in may_unlink


def _lstat(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
