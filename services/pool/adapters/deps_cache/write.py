"""Writes an entry's trees into a folder that no project can reach, comparing contents as it goes.

Folders are made first, then files are written by some threads, then links; modes and times of folders come last, since
a folder may forbid writing into it.
"""

import errno
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from services.pool.adapters.deps_cache import folders, names
from services.pool.adapters.deps_cache.errors import damaged, of_os
from services.pool.adapters.deps_cache.manifest import File, Manifest

READ_BYTES = 1 << 20
BATCH_COST = 4 << 20
FILE_COST = 16 << 10
"""Making a file costs about as much as copying this many bytes."""
NOT_BY_KERNEL = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
OWNER_ALL = 0o700


class Sample(msgspec.Struct, frozen=True):
    """Which files are compared: every `stride`-th, beginning at `start`. `stride` restores in turn compare all."""

    stride: int = 1
    start: int = 0

    def has(self, index: int) -> bool:
        return (index + self.start) % self.stride == 0


def sample_of(share: float, turn: int) -> Sample:
    """The sample of the restore number `turn` (0, 1, 2, …)."""
    stride = max(1, round(1 / share)) if share > 0 else sys.maxsize
    return Sample(stride, turn % stride)


class Writer:
    """Writes one manifest's trees below the folder `fd`."""

    def __init__(self, manifest: Manifest, data: int, fd: int, sample: Sample) -> None:
        self._manifest = manifest
        self._data = data
        self._fd = fd
        self._sample = sample
        self._by_kernel = sys.platform == "linux"
        self._stop = threading.Event()

    def write(self, workers: int) -> None:
        """Raises CacheError: entry_damaged where data is not what the manifest says, else disk_full or io_failed."""
        try:
            self._make_folders()
            self._write_files(workers)
            for link in self._manifest.links:
                os.symlink(link.target, link.path, dir_fd=self._fd)
            for folder in reversed(self._manifest.folders):
                # A tree's own folder is yet to be renamed, which needs write permission.
                mode = folder.mode | OWNER_ALL if folder.path in self._manifest.header.trees else folder.mode
                with folders.opened(folder.path, dir_fd=self._fd) as fd:
                    os.fchmod(fd, mode)
                    os.utime(fd, ns=(folder.mtime_ns, folder.mtime_ns))
        except OSError as error:
            if error.errno == errno.EIO:
                raise damaged(f"reading it failed ({error})") from error
            raise of_os(error, "restoring") from error

    def _make_folders(self) -> None:
        above = {path: None for tree in self._manifest.header.trees for path in names.ancestors(tree)}
        for path in [*above, *(folder.path for folder in self._manifest.folders)]:
            os.mkdir(path, OWNER_ALL, dir_fd=self._fd)

    def _write_files(self, workers: int) -> None:
        with ThreadPoolExecutor(workers, thread_name_prefix="drape-deps") as threads:
            pending = [threads.submit(self._write_batch, *batch) for batch in _batches(self._manifest.files)]
            try:
                for each in pending:
                    each.result()
            finally:
                self._stop.set()

    def _write_batch(self, first: int, files: Sequence[File]) -> None:
        for index, file in enumerate(files, first):
            if self._stop.is_set():
                return
            with folders.opened(file.path, folders.CREATE_FLAGS, self._fd) as fd:
                if self._sample.has(index):
                    self._write_checked(file, fd)
                else:
                    self._copy(file, fd)
                os.fchmod(fd, file.mode)
                os.utime(fd, ns=(file.mtime_ns, file.mtime_ns))

    def _write_checked(self, file: File, fd: int) -> None:
        """The very bytes that are written are the ones that are compared."""
        digest = hashlib.sha256()
        for chunk in self._chunks(file, 0):
            digest.update(chunk)
            _write_all(fd, chunk)
        if digest.hexdigest() != file.sha256:
            raise damaged(f"the contents of {file.path!r} were changed")

    def _copy(self, file: File, fd: int) -> None:
        done = 0
        while self._by_kernel and done < file.size:
            copied = self._copy_in_kernel(file, fd, done)
            if copied is None:
                break
            if copied == 0:
                raise damaged(f"its data ends before {file.path!r}")
            done += copied
        for chunk in self._chunks(file, done):
            _write_all(fd, chunk)

    def _copy_in_kernel(self, file: File, fd: int, done: int) -> int | None:
        """Bytes copied, or shared where the filesystem can. None: it cannot be done here, and is not tried again."""
        if sys.platform == "linux":
            try:
                return os.copy_file_range(self._data, fd, file.size - done, offset_src=file.offset + done)
            except OSError as error:
                if error.errno not in NOT_BY_KERNEL:
                    raise
        self._by_kernel = False
        return None

    def _chunks(self, file: File, done: int) -> Iterator[bytes]:
        while done < file.size:
            chunk = os.pread(self._data, min(READ_BYTES, file.size - done), file.offset + done)
            if not chunk:
                raise damaged(f"its data ends before {file.path!r}")
            done += len(chunk)
            yield chunk


def check(manifest: Manifest, fd: int, sample: Sample) -> None:
    """Whether the trees below `fd` are the manifest's: every file's kind, size and mode, the contents of a sample, every
    link. Raises CacheError entry_damaged, OSError."""
    for index, file in enumerate(manifest.files):
        found = os.stat(file.path, dir_fd=fd, follow_symlinks=False)
        if (found.st_mode, found.st_size) != (stat.S_IFREG | file.mode, file.size):
            raise damaged(f"{file.path!r} is not what was written")
        if sample.has(index):
            with (
                folders.opened(file.path, folders.READ_FLAGS, fd) as opened,
                os.fdopen(os.dup(opened), "rb") as content,
            ):
                if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                    raise damaged(f"the contents of {file.path!r} were changed")
    for link in manifest.links:
        if os.readlink(link.path, dir_fd=fd) != link.target:
            raise damaged(f"the link {link.path!r} was changed")


def _batches(files: Sequence[File]) -> Iterator[tuple[int, Sequence[File]]]:
    """Neighbours of about equal cost, each with the index of its first file."""
    first, cost = 0, 0
    for index, file in enumerate(files):
        cost += file.size + FILE_COST
        if cost >= BATCH_COST:
            yield first, files[first : index + 1]
            first, cost = index + 1, 0
    if first < len(files):
        yield first, files[first:]


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]
