"""Removes from a folder what a version of the project does not list.

Never: follows a symlink, or takes what is protected.
"""

import errno
import os

from .paths import conflict
from .protocol import AgentProblem

PROTECTED_NAMES = frozenset({"node_modules", ".git"})
_DEPTH_MAX = 200


class Sweep:
    """Removes what is not listed below a folder; by default everything but what is protected. `keep`: paths left alone."""

    def __init__(
        self,
        files: frozenset[str] = frozenset(),
        folders: frozenset[str] = frozenset(),
        keep: frozenset[str] = frozenset(),
        protected: frozenset[str] = PROTECTED_NAMES,
    ) -> None:
        self._files, self._folders, self._keep, self._protected = files, folders, keep, protected
        self.deleted = 0

    def clear(self, parent: int, name: str) -> None:
        """Removes the folder `name`; AgentProblem path_conflict when it holds something protected."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            empty = self.purge(fd, "", 0)
        finally:
            os.close(fd)
        if not empty:
            raise conflict(name)
        os.rmdir(name, dir_fd=parent)

    def purge(self, fd: int, prefix: str, depth: int) -> bool:
        """Removes what may go below `fd`. True when nothing is left in it."""
        if depth > _DEPTH_MAX:
            raise too_deep()
        empty = True
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            path = prefix + name
            if name in self._protected or path in self._keep or path in self._files:
                empty = False
            elif not is_folder:
                unlink_if_there(name, fd)
                self.deleted += 1
            elif not self._purge_folder(fd, name, path, depth):
                empty = False
        return empty

    def _purge_folder(self, fd: int, name: str, path: str, depth: int) -> bool:
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            empty = self.purge(inner, f"{path}/", depth + 1)
        finally:
            os.close(inner)
        if not empty or path in self._folders:
            return False
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False  # the running project has just put something there
            raise
        return True


def unlink_if_there(name: str, parent: int) -> None:
    """Removes a file or link; nothing when it has gone already."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def too_deep() -> AgentProblem:
    """The refusal for a folder tree that goes on and on."""
    return AgentProblem(409, "foldertoo_deep", f"The folder in the VM is nested more than {_DEPTH_MAX} deep.")
