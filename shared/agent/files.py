"""Brings the project's folder to a version: writes what is new, leaves alone what is right, removes what is gone.

Every file is written beside its place and verified; then it is renamed to it or, where a file is there already, copied into
that (see `inplace`). A sync that breaks off leaves the old version's number with a note of what was begun, and the next one
repairs it. Never: follows a symlink, leaves the folder, or
touches node_modules, .git and the folders to keep. Everything here blocks; call it in a thread, one sync at a time.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from .inplace import overwrite
from .paths import Folder, ancestors, basename, check_path, conflict
from .protocol import SYNC_HEADER_NAME, AgentProblem, FileEntry, FileSync, SyncResult
from .sweep import Sweep, too_deep, unlink_if_there
from .tarstream import Member, Read, TarReader

_READ_BYTES = 256 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER_BYTES_MAX = 32 * 1024 * 1024


class FileLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of a project's folder."""

    files_max: int = 20_000
    bytes_max: int = 512 * 1024 * 1024
    path_bytes_max: int = 1024
    read_bytes_max: int = 1024 * 1024
    """The largest file that may be read back."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered across a restart. `pending`: a sync to that version was begun and not finished."""

    project: str = ""
    version: int = 0
    pending: int | None = None


class ProjectFiles:
    """The files of one project, in `app_dir`; its version is remembered in `state_dir`."""

    def __init__(self, app_dir: Path, state_dir: Path, limits: FileLimits) -> None:
        self._app_dir = app_dir
        self._state_file = state_dir / "files.json"
        self._limits = limits
        self._stored = self._load()

    @property
    def version(self) -> int:
        """The version that is on disk; 0 before the first."""
        return self._stored.version

    def apply(self, read: Read) -> SyncResult:
        """Does what the stream says. Raises AgentProblem; the folder's version is then unchanged."""
        reader = TarReader(self._bounded(read))
        members = reader.members()
        sync = self._header(reader, members)
        check_sync(sync, self._limits)
        if self._is_stale(sync):
            for _ in members:
                continue
            return SyncResult(version=self.version, stale=True)
        folder = Folder(self._app_dir)
        try:
            return _Apply(sync, folder, reader, members, self._begin).run(lambda: self._finish(sync))
        except RecursionError as error:
            raise too_deep() from error
        except OSError as error:
            raise _disk_problem(error) from error
        finally:
            folder.close()

    def reset(self) -> None:
        """The folder holds no version any more; whoever calls has emptied it."""
        self._store(_Stored())

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises AgentProblem: file_unknown (404), file_too_large (413), and those of bad paths."""
        check_path(path, self._limits.path_bytes_max)
        folder = Folder(self._app_dir)
        try:
            fd = folder.open_file(path)
        except FileNotFoundError as error:
            raise AgentProblem(404, "file_unknown", f"There is no file {path!r} in the project's folder.") from error
        except OSError as error:
            raise _disk_problem(error) from error
        finally:
            folder.close()
        with open(fd, "rb") as file:
            data = file.read(self._limits.read_bytes_max + 1)
        if len(data) > self._limits.read_bytes_max:
            limit = self._limits.read_bytes_max
            raise AgentProblem(413, "file_too_large", f"{path!r} is larger than {limit} bytes, the most to read back.")
        return data

    def _header(self, reader: TarReader, members: Iterator[Member]) -> FileSync:
        first = next(members, None)
        if first is None or first.path != SYNC_HEADER_NAME or first.size > _HEADER_BYTES_MAX:
            raise AgentProblem(
                400, "sync_header_missing", f"The stream has to begin with {SYNC_HEADER_NAME}, at most 32 MiB long."
            )
        return msgspec.json.decode(b"".join(reader.contents()), type=FileSync)

    def _is_stale(self, sync: FileSync) -> bool:
        version, pending = self._stored.version, self._stored.pending
        own = self._stored.project in ("", sync.project)
        if own and (sync.version < version or (sync.version == version and pending is None)):
            return True
        if sync.base_version is None:
            return False
        broken_off = pending is not None and pending != sync.version
        fits = self._stored.project in ("", sync.base_project or sync.project) and sync.base_version == version
        if not fits or broken_off or (own and sync.version == version):
            begun = f", and a sync to {pending} was broken off" if pending is not None else ""
            raise AgentProblem(
                409,
                "files_version_conflict",
                f"The folder has version {version}{begun}; changes from {sync.base_version} do not fit.",
                "Send the whole folder (base_version null).",
                current=version,
            )
        return False

    def _bounded(self, read: Read) -> Read:
        left = self._limits.bytes_max + self._limits.files_max * 4096 + _HEADER_BYTES_MAX

        def bounded() -> bytes:
            nonlocal left
            data = read()
            left -= len(data)
            if left < 0:
                raise _too_many_bytes(self._limits.bytes_max)
            return data

        return bounded

    def _begin(self, version: int) -> None:
        self._store(msgspec.structs.replace(self._stored, pending=version))

    def _finish(self, sync: FileSync) -> None:
        self._store(_Stored(project=sync.project, version=sync.version))

    def _store(self, stored: _Stored) -> None:
        fresh = self._state_file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(stored))
        fresh.replace(self._state_file)
        self._stored = stored

    def _load(self) -> _Stored:
        try:
            return msgspec.json.decode(self._state_file.read_bytes(), type=_Stored)
        except FileNotFoundError:
            return _Stored()


class _Apply:
    """One sync, from the checked header to the result."""

    def __init__(
        self,
        sync: FileSync,
        folder: Folder,
        reader: TarReader,
        members: Iterator[Member],
        begin: Callable[[int], None],
    ) -> None:
        self._sync = sync
        self._full = sync.base_version is None
        self._folder = folder
        self._reader = reader
        self._members = members
        self._begin = begin
        # In a whole replacement every file or link that is not listed has to go, so it may go early.
        self._may_unlink = None if self._full else frozenset(sync.delete)
        self._folders = frozenset(above for path in sync.files for above in ancestors(path))

    def run(self, finish: Callable[[], None]) -> SyncResult:
        sync = self._sync
        needed = {path: entry for path, entry in sorted(sync.files.items()) if not self._is_right(path, entry)}
        self._begin(sync.version)
        late = [path for path in sync.delete if not self._in_the_way(path)]
        deleted = self._delete([path for path in sync.delete if self._in_the_way(path)])
        written = self._write_members(needed)
        if needed:
            raise AgentProblem(
                409,
                "content_missing",
                f"{len(needed)} listed files are neither on disk nor in the stream.",
                "Send the sync again with the contents of these files.",
                paths=tuple(needed),
            )
        deleted += self._delete(late) if not self._full else self._purge()
        finish()
        return SyncResult(version=sync.version, written=written, deleted=deleted, unchanged=len(sync.files) - written)

    # --- what is right already -------------------------------------------------------------------------------------

    def _is_right(self, path: str, entry: FileEntry) -> bool:
        """True when the file on disk has this content; then its mode is put right, and its time kept."""
        try:
            found = self._folder.stat(path)
            if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
                return False
            fd = self._folder.open_file(path)
        except FileNotFoundError:
            return False
        except AgentProblem:
            if self._full:
                return False  # what is in the way goes when the file is written
            raise
        with open(fd, "rb", buffering=0) as file:
            if _hash_of(fd) != entry.sha256:
                return False
            if stat.S_IMODE(found.st_mode) != _mode_of(entry):
                os.fchmod(file.fileno(), _mode_of(entry))
        return True

    # --- writing ---------------------------------------------------------------------------------------------------

    def _write_members(self, needed: dict[str, FileEntry]) -> int:
        """Writes the members that are needed and takes them out of `needed`; others are read past."""
        written = 0
        seen: set[str] = set()
        for member in self._members:
            entry = self._sync.files.get(member.path)
            if entry is None or member.path in seen or member.size != entry.size:
                raise AgentProblem(
                    400,
                    "content_unexpected",
                    f"The stream holds {member.path[:200]!r}, which is not listed, came before, or has another size.",
                    paths=(member.path[:200],),
                )
            seen.add(member.path)
            if member.path in needed:
                self._write(member.path, entry)
                del needed[member.path]
                written += 1
        return written

    def _write(self, path: str, entry: FileEntry) -> None:
        parent = self._folder.parent(path, create=True, may_unlink=self._may_unlink)
        fresh = f".{secrets.token_hex(8)}.drape-tmp"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        try:
            with open(fd, "wb", buffering=0) as file:
                digest = hashlib.sha256()
                for part in self._reader.contents():
                    digest.update(part)
                    _write_all(fd, part)
                if digest.hexdigest() != entry.sha256:
                    raise AgentProblem(
                        400,
                        "content_damaged",
                        f"The bytes of {path!r} are not those that its hash names.",
                        paths=(path,),
                    )
                os.fchmod(file.fileno(), _mode_of(entry))
            if not overwrite(basename(path), fresh, parent):
                self._rename(fresh, path, parent)
        except BaseException:
            unlink_if_there(fresh, parent)
            raise

    def _rename(self, fresh: str, path: str, parent: int) -> None:
        name = basename(path)
        try:
            os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
        except (IsADirectoryError, FileExistsError) as error:
            if not self._full:
                raise conflict(path) from error
            Sweep().clear(parent, name)
            os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)

    # --- deleting --------------------------------------------------------------------------------------------------

    def _in_the_way(self, path: str) -> bool:
        """A deleted path that must go first: a file where a folder comes, or below what becomes a file."""
        return path in self._folders or any(above in self._sync.files for above in ancestors(path))

    def _delete(self, paths: list[str]) -> int:
        count = 0
        for path in paths:
            try:
                os.unlink(basename(path), dir_fd=self._folder.parent(path))
            except (FileNotFoundError, IsADirectoryError):
                continue
            count += 1
            self._prune(path)
        return count

    def _prune(self, path: str) -> None:
        """Removes the folders above that have become empty."""
        for above in reversed([*ancestors(path)]):
            self._folder.forget()
            try:
                os.rmdir(basename(above), dir_fd=self._folder.parent(above))
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    return
                raise

    def _purge(self) -> int:
        self._folder.forget()
        sweep = Sweep(frozenset(self._sync.files), self._folders, frozenset(self._sync.keep))
        sweep.purge(self._folder.root_fd, "", 0)
        return sweep.deleted


def check_sync(sync: FileSync, limits: FileLimits) -> None:
    """Refuses a header that asks for what can't or must not be: AgentProblem 400 or 413."""
    if len(sync.files) + len(sync.delete) > limits.files_max:
        count = len(sync.files) + len(sync.delete)
        raise AgentProblem(
            413,
            "too_many_files",
            f"{count} files are more than the limit of {limits.files_max}.",
            "Leave out build output and dependencies.",
        )
    for path in (*sync.files, *sync.delete, *sync.keep):
        check_path(path, limits.path_bytes_max)
    bad = [path for path, entry in sync.files.items() if entry.size < 0 or not _SHA256.fullmatch(entry.sha256)]
    if bad or sync.version < 1:
        raise AgentProblem(
            400,
            "sync_invalid",
            "A version below 1, a negative size, or a hash that is no SHA-256.",
            paths=tuple(bad[:20]),
        )
    if sum(entry.size for entry in sync.files.values()) > limits.bytes_max:
        raise _too_many_bytes(limits.bytes_max)
    both = [path for path in sync.delete if path in sync.files]
    clash = [path for path in sync.files if any(above in sync.files for above in ancestors(path))]
    if both or clash:
        raise AgentProblem(
            400,
            "sync_contradicts_itself",
            "A path is both written and deleted, or both a file and a folder.",
            paths=tuple((both + clash)[:20]),
        )


def _mode_of(entry: FileEntry) -> int:
    return 0o755 if entry.mode & 0o111 else 0o644


def _hash_of(fd: int) -> str:
    digest = hashlib.sha256()
    while part := os.read(fd, _READ_BYTES):
        digest.update(part)
    return digest.hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _too_many_bytes(bytes_max: int) -> AgentProblem:
    return AgentProblem(
        413,
        "too_many_bytes",
        f"The files are larger than the limit of {bytes_max} bytes together.",
        "Leave out build output and large assets.",
    )


def _disk_problem(error: OSError) -> AgentProblem:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AgentProblem(507, "disk_full", "The VM's disk is full.", "Remove build output, or ask for a larger VM.")
    reason = error.strerror or type(error).__name__
    return AgentProblem(500, "files_failed", f"The VM's disk refused a step of the file sync: {reason}.")
