"""Moves trees that are whole into a VM's project, each by one rename, all of them or none."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence

import msgspec

from services.pool.adapters.deps_cache import folders, names
from services.pool.adapters.deps_cache.errors import CacheError, of_os
from services.pool.adapters.deps_cache.manifest import Manifest
from services.pool.adapters.deps_cache.model import VmPlace

log = logging.getLogger("drape.pool.deps_cache")

TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})
"""What rename says where the target is something else than a free name or an empty folder."""


class _Moved(msgspec.Struct, frozen=True):
    tree: str
    parent: int
    """A descriptor of the folder that holds the tree now, wherever the project may have moved that to."""


@contextlib.contextmanager
def opened_app(place: VmPlace) -> Iterator[int]:
    """A descriptor of the project's folder. Raises OSError."""
    with folders.opened(place.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) as root:
        app = folders.walk(root, place.app)
    try:
        yield app
    finally:
        os.close(app)


def check_free(app: int, trees: Sequence[str]) -> None:
    """Tells early what `move` would refuse. Raises CacheError target_taken, target_is_link, io_failed."""
    for tree in trees:
        try:
            fd = folders.walk(app, tree)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise refusal(error, tree) from error
        try:
            with os.scandir(fd) as found:
                taken = next(found, None) is not None
        finally:
            os.close(fd)
        if taken:
            raise CacheError("target_taken", f"something stands at {tree!r} already; remove it first")


def move(manifest: Manifest, staged: int, app: int) -> None:
    """Renames every tree from the folder `staged` to its place below `app`; folders above it are made.

    Raises CacheError: target_taken, target_is_link, target_elsewhere, disk_full, io_failed. What was moved is then
    moved back.
    """
    moved: list[_Moved] = []
    made: list[str] = []
    modes = {folder.path: folder.mode for folder in manifest.folders}
    try:
        for tree in manifest.header.trees:
            moved.append(_Moved(tree, _parent(app, tree, made)))
            _move(tree, modes[tree], staged, moved)
    except BaseException:
        _move_back(moved, staged)
        _remove_made(app, made)
        raise
    finally:
        for each in moved:
            os.close(each.parent)


def _parent(app: int, tree: str, made: list[str]) -> int:
    try:
        return folders.walk(app, names.parent_of(tree), made)
    except OSError as error:
        raise refusal(error, tree) from error


def _move(tree: str, mode: int, staged: int, moved: list[_Moved]) -> None:
    try:
        with folders.opened(tree, dir_fd=staged) as fd:
            os.rename(tree, names.base_of(tree), src_dir_fd=staged, dst_dir_fd=moved[-1].parent)
            os.fchmod(fd, mode)
    except OSError as error:
        raise refusal(error, tree) from error


def _move_back(moved: list[_Moved], staged: int) -> None:
    for each in reversed(moved):
        if os.access(each.tree, os.F_OK, dir_fd=staged, follow_symlinks=False):
            continue  # the one that could not be moved
        try:
            os.rename(names.base_of(each.tree), each.tree, src_dir_fd=each.parent, dst_dir_fd=staged)
        except OSError as error:
            log.warning(
                "%s stays in the VM after a restore that failed: %s",
                each.tree,
                error,
                extra={"code": "deps_cache_left"},
            )


def _remove_made(app: int, made: list[str]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):  # the project has put something there
            os.rmdir(path, dir_fd=app)


def refusal(error: OSError, tree: str) -> CacheError:
    """What it means that `tree` could not be reached or put in place."""
    if error.errno == errno.EXDEV:
        return CacheError("target_elsewhere", "the staging folder is on another filesystem than the project")
    if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and error.filename2 is None):
        return CacheError("target_is_link", f"a link or a file stands on the way to {tree!r}")
    if error.errno in TAKEN:
        return CacheError("target_taken", f"something stands at {tree!r} already; remove it first")
    return of_os(error, f"putting {tree!r} in place")
