"""Copies trees out of a VM, whose project may change them meanwhile: all of it as it was at one moment, or an error.

Each file is read between two looks at it, and when all are read, everything is looked at once more. Nothing having
changed between the first and the last look, there was a moment at which all of it stood as it was copied.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NoReturn, Protocol, TypeAlias

from services.pool.adapters.deps_cache import folders, names
from services.pool.adapters.deps_cache.errors import CacheError, of_os
from services.pool.adapters.deps_cache.manifest import MODE_BITS, File, Folder, Item, Link
from services.pool.adapters.deps_cache.model import CacheLimits

READ_BYTES = 1 << 20
DEPTH_MAX = 100
BLOCK = 4096
ALIGN_FROM = 64 << 10
"""Files from this size on begin at a block's boundary, so that a filesystem that shares blocks can share theirs."""

INSTALLED = frozenset(
    {".bin", ".pnpm", ".store", ".modules.yaml", ".package-lock.json", ".pnpm-workspace-state.json"}
    | {".pnpm-workspace-state-v1.json", ".yarn-integrity", ".yarn-state.yml"}
)
"""What package managers make directly in a tree; other names with a dot are caches of what runs there."""
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What opening says of a name that has become nothing, or something else."""

Stamp: TypeAlias = tuple[int, int, int, int, int]


class Data(Protocol):
    """Where contents go, one after another; a file that is open for writing."""

    def write(self, chunk: bytes, /) -> int: ...

    def flush(self) -> None: ...


class Collector:
    """Reads trees below one folder into `data` and `items`. Methods raise CacheError."""

    def __init__(self, data: Data, limits: CacheLimits, since_s: float | None = None) -> None:
        """`since_s`: nothing but caches may have changed after that (Unix time): a project's processes have run since."""
        self.items: list[Item] = []
        self.files = 0
        self.bytes = 0
        self.offset = 0
        self._data = data
        self._limits = limits
        self._since_ns = None if since_s is None else int(since_s * 1e9)
        self._in_cache = False
        self._stamps: dict[str, list[tuple[str, Stamp]]] = {}

    def collect(self, app: int, trees: tuple[str, ...]) -> None:
        """Copies the trees below the folder `app` (a descriptor), and makes sure that they stood still meanwhile."""
        for tree in trees:
            parent = _enter(app, tree)
            try:
                self._folder(parent, tree, 0)
            finally:
                os.close(parent)
        for folder, stamps in self._stamps.items():
            self._look_again(app, folder, stamps)
        self._write(b"", flush=True)

    def _folder(self, parent: int, path: str, depth: int) -> None:
        if depth > DEPTH_MAX:
            raise CacheError("too_large", f"{path!r} is more than {DEPTH_MAX} folders deep")
        name = path.rpartition("/")[2]
        with _opened(name, parent, folders.FOLDER_FLAGS, path) as fd:
            found = os.fstat(fd)
            self._add(Folder(path, found.st_mode & MODE_BITS, found.st_mtime_ns), found)
            for each in _listing(fd, path):
                if depth == 0:
                    self._in_cache = each.startswith(".") and each not in INSTALLED
                self._member(fd, f"{path}/{each}", each, depth)
            if _stamp(os.fstat(fd)) != _stamp(found):
                _changed(path)

    def _member(self, parent: int, path: str, name: str, depth: int) -> None:
        if not names.is_path(path):
            raise CacheError("source_unsupported", f"{path!r} is no name that can be kept")
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            _changed(path)
        except OSError as error:
            raise CacheError("source_unreadable", f"{path!r}: {error}") from error
        if self._since_ns is not None and found.st_ctime_ns > self._since_ns and not self._in_cache:
            raise CacheError("dependencies_changed", f"{path!r} was changed after the install")
        if stat.S_ISDIR(found.st_mode):
            self._folder(parent, path, depth + 1)
        elif stat.S_ISREG(found.st_mode):
            self._file(parent, path, name)
        elif stat.S_ISLNK(found.st_mode):
            self._link(parent, path, name, found)
        else:
            raise CacheError("source_unsupported", f"{path!r} is a device, a pipe or a socket")

    def _file(self, parent: int, path: str, name: str) -> None:
        with _opened(name, parent, folders.READ_FLAGS, path) as fd:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                _changed(path)
            if self.bytes + found.st_size > self._limits.entry_bytes_max:
                raise CacheError("too_large", f"the trees hold more than {self._limits.entry_bytes_max} bytes")
            self._align(found.st_size)
            offset, digest = self.offset, self._contents(fd, path, found.st_size)
            if _stamp(os.fstat(fd)) != _stamp(found):
                _changed(path)
        self.files += 1
        self.bytes += found.st_size
        mode = found.st_mode & MODE_BITS
        self._add(File(path, mode, found.st_mtime_ns, found.st_size, offset, digest), found)

    def _link(self, parent: int, path: str, name: str, found: os.stat_result) -> None:
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError:
            _changed(path)
        if names.link_leaves(path, target):
            raise CacheError(
                "link_leaves_project",
                f"the link {path!r} leads to {target[:200]!r}; only relative links inside the project are kept",
            )
        self._add(Link(path, target), found)

    def _add(self, item: Item, found: os.stat_result) -> None:
        if len(self.items) >= self._limits.files_max:
            raise CacheError("too_large", f"the trees hold more than {self._limits.files_max} files")
        self.items.append(item)
        folder, _, name = item.path.rpartition("/")
        self._stamps.setdefault(folder, []).append((name, _stamp(found)))

    def _align(self, size: int) -> None:
        padding = -self.offset % BLOCK if size >= ALIGN_FROM else 0
        self._write(b"\0" * padding)

    def _contents(self, fd: int, path: str, size: int) -> str:
        digest, left = hashlib.sha256(), size
        while left:
            try:
                chunk = os.read(fd, min(left, READ_BYTES))
            except OSError as error:
                raise CacheError("source_unreadable", f"{path!r}: {error}") from error
            if not chunk:
                _changed(path)
            digest.update(chunk)
            self._write(chunk)
            left -= len(chunk)
        return digest.hexdigest()

    def _write(self, chunk: bytes, *, flush: bool = False) -> None:
        try:
            self._data.write(chunk)
            if flush:
                self._data.flush()
        except OSError as error:
            raise of_os(error, "writing to the cache") from error
        self.offset += len(chunk)

    def _look_again(self, app: int, folder: str, stamps: list[tuple[str, Stamp]]) -> None:
        """What stood in `folder` still does, unchanged; a name that came is seen by its folder's own stamp."""
        try:
            fd = folders.walk(app, folder)
        except OSError:
            _changed(folder)
        try:
            for name, stamp in stamps:
                if _stamp(os.stat(name, dir_fd=fd, follow_symlinks=False)) != stamp:
                    _changed(f"{folder}/{name}")
        except FileNotFoundError:
            _changed(folder)
        finally:
            os.close(fd)


def _enter(app: int, tree: str) -> int:
    """The folder that holds a tree. Raises CacheError unless the tree and all above it are real folders."""
    for path in [*names.ancestors(tree), tree]:
        parent, _, name = path.rpartition("/")
        try:
            fd = folders.walk(app, parent)
        except FileNotFoundError as error:
            raise CacheError("source_missing", f"there is no {tree!r} in the project") from error
        except OSError as error:
            raise CacheError("source_unreadable", f"{parent!r}: {error}") from error
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise CacheError("source_missing", f"there is no {tree!r} in the project") from error
        except OSError as error:
            raise CacheError("source_unreadable", f"{path!r}: {error}") from error
        finally:
            os.close(fd)
        if stat.S_ISLNK(found.st_mode):
            raise CacheError("source_is_link", f"{path!r} is a link; only folders are kept")
        if not stat.S_ISDIR(found.st_mode):
            raise CacheError("source_unsupported", f"{path!r} is not a folder")
    try:
        return folders.walk(app, names.parent_of(tree))
    except OSError:
        _changed(tree)


@contextlib.contextmanager
def _opened(name: str, parent: int, flags: int, path: str) -> Iterator[int]:
    """What was seen there a moment ago; anything else by now is a change."""
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except PermissionError as error:
        raise CacheError("source_unreadable", f"{path!r}: {error}") from error
    except OSError as error:
        if error.errno in GONE:
            _changed(path)
        raise CacheError("source_unreadable", f"{path!r}: {error}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _listing(fd: int, path: str) -> list[str]:
    try:
        return sorted(os.listdir(fd))
    except OSError as error:
        raise CacheError("source_unreadable", f"{path!r}: {error}") from error


def _stamp(found: os.stat_result) -> Stamp:
    """What differs once a file was written to: its ctime cannot be set back."""
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _changed(path: str) -> NoReturn:
    raise CacheError("source_changed", f"{path!r} changed while it was copied", retryable=True)
