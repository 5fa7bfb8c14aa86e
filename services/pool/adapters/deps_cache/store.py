"""The cache's folder: which entries there are, how they come and go, which of them have to go first.

An entry appears and disappears by one rename. Who has its files open goes on reading them. Order of use is a counter,
not a clock; ages are never negative, and a time that lies in the future (the clock was set back) becomes now.
"""

import contextlib
import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from services.pool.adapters.deps_cache import folders, manifest
from services.pool.adapters.deps_cache.errors import CacheError, damaged, of_os
from services.pool.adapters.deps_cache.model import CacheLimits

log = logging.getLogger("drape.pool.deps_cache")

MANIFEST, DATA, USE = "manifest", "data", "use"
USE_BYTES_MAX = 4096
THERE = frozenset({errno.ENOTEMPTY, errno.EEXIST})


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """How an entry was used. `order` grows with each use of any entry; times are seconds since 1970."""

    order: int
    published_at: float
    used_at: float
    restores: int = 0


NEVER = Use(order=0, published_at=0, used_at=0)
"""For a `use` that cannot be read: such an entry is the first to go."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """An entry on disk. `bytes` counts its data and its manifest."""

    name: str
    header: manifest.Header
    use: Use
    bytes: int


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that is being read: descriptors of its folder and of its files."""

    name: str
    folder: int
    manifest: int
    data: int


class Store:
    """One cache's folder. Thread-safe; several processes may share it."""

    def __init__(self, folder: Path, limits: CacheLimits, clock: Callable[[], float] = time.time) -> None:
        self._entries, self._spares, self._tmp = folder / "entries", folder / "spares", folder / "tmp"
        self._limits = limits
        self._clock = clock
        self._lock = threading.RLock()
        for each in (folder, self._entries, self._spares, self._tmp):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = folders.remove_left(self._tmp)
        # Spares are not made durable: after a crash their contents may be anything. Each is moved away whole before it
        # goes, so that another process, which may be taking it, has all of it or nothing.
        for each in sorted(self._spares.iterdir()):
            self._remove_spare(each.name)
            left += 1
        if left:
            log.info("removed %d unfinished copies", left, extra={"code": "deps_cache_recovered"})
        self._order = max((each.use.order for each in self.scan()), default=0)

    def working(self) -> contextlib.AbstractContextManager[Path]:
        """A folder on the cache's filesystem that is removed in the end."""
        return folders.working(self._tmp)

    # -- reading

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Opened]:
        """Raises CacheError: not_cached, or entry_damaged where a file of it is missing (it is dropped then)."""
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(folders.opened(self._entries / name))
            except FileNotFoundError as error:
                raise CacheError("not_cached", "no install is kept for this owner and key") from error
            try:
                fds = [
                    stack.enter_context(folders.opened(each, folders.READ_FLAGS, folder)) for each in (MANIFEST, DATA)
                ]
            except OSError as error:
                if not self._is_there(name, folder):
                    raise CacheError("not_cached", "the install was evicted just now") from error
                self.remove(name, folder)
                raise damaged(f"it cannot be opened ({error})") from error
            yield Opened(name=name, folder=folder, manifest=fds[0], data=fds[1])

    def header(self, name: str) -> manifest.Header | None:
        """Whose entry this is; None where there is none. Raises CacheError entry_damaged."""
        try:
            with folders.opened(self._entries / name / MANIFEST, folders.READ_FLAGS) as fd:
                return manifest.decode_header(manifest.read_bounded(fd, manifest.HEADER_BYTES_MAX))
        except FileNotFoundError:
            if (self._entries / name).is_dir():
                raise damaged("it has no manifest") from None
            return None
        except OSError as error:
            raise damaged(f"its manifest cannot be read ({error})") from error

    def scan(self) -> list[Stored]:
        """All entries; what is none is removed."""
        found = []
        for name in sorted(os.listdir(self._entries)):
            try:
                stored = self._stored(name)
            except CacheError as error:
                log.warning("dropped an entry: %s", error.message, extra={"code": error.code, "entry": name})
                self.remove(name)
            else:
                found += [stored] if stored is not None else []
        return found

    def use(self, opened: Opened) -> Use:
        """How an entry was used so far."""
        return self._read_use(opened.folder)

    # -- changing

    def put(self, work: Path, name: str, *, replace: bool) -> bool:
        """Makes the finished entry in `work` appear as `name`. False: one was there already (and is kept)."""
        with self._lock:
            try:
                now = self._clock()
                fresh = Use(order=self._next(), published_at=now, used_at=now)
                with folders.opened(work) as fd:
                    _write_use(fd, fresh)
                folders.sync(work)
                if replace:
                    self.remove(name)
                work.rename(self._entries / name)
                folders.sync(self._entries)
            except OSError as error:
                if error.errno in THERE:
                    return False
                raise of_os(error, "publishing") from error
            return True

    def touch(self, opened: Opened) -> None:
        """Notes that an entry was restored. One that has been evicted meanwhile stays so."""
        with self._lock:
            before = self._read_use(opened.folder)
            after = Use(
                order=self._next(),
                published_at=before.published_at,
                used_at=self._clock(),
                restores=before.restores + 1,
            )
            _note_use(opened.folder, after)

    def remove(self, name: str, folder: int | None = None) -> bool:
        """Removes an entry, if it is (still) the one whose folder is open as `folder`. False: there was none."""
        if folder is not None and not self._is_there(name, folder):
            return False
        away = self._tmp / secrets.token_hex(8)  # a rename also works on a disk that is full
        try:
            (self._entries / name).rename(away)
        except FileNotFoundError:
            return False
        folders.remove_tree(away)
        self._remove_spare(name)
        return True

    def make_room(self, incoming: int = 0, entries: int = 0) -> list[str]:
        """Evicts until so many more bytes and entries fit. Returns the names of what was evicted."""
        with self._lock:
            leaving = to_evict(self.scan(), self._limits, self._clock(), incoming, entries)
            return [each.name for each in leaving if self.remove(each.name)]

    # -- spares: an entry's trees, written ahead of the next restore

    def has_spare(self, name: str) -> bool:
        return (self._spares / name).is_dir()

    def put_spare(self, work: Path, opened: Opened) -> bool:
        """Makes the trees in `work` the entry's spare, and the oldest ones go. False: there is one, or the entry is gone."""
        with self._lock:
            if not self._is_there(opened.name, opened.folder):
                return False
            try:
                work.rename(self._spares / opened.name)
            except OSError as error:
                if error.errno in THERE:
                    return False
                raise of_os(error, "keeping a spare") from error
            oldest_first = sorted(self._spares.iterdir(), key=lambda each: each.stat().st_mtime)
            for each in oldest_first[: max(0, len(oldest_first) - self._limits.spares_max)]:
                self._remove_spare(each.name)
            return True

    def take_spare(self, name: str, target: Path) -> bool:
        """Moves the entry's spare to `target`, which is then the caller's alone. False: there is none within reach."""
        try:
            (self._spares / name).rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EXDEV):
                log.warning("a spare could not be taken: %s", error, extra={"code": "deps_cache_spare"})
            return False
        return True

    def _remove_spare(self, name: str) -> None:
        away = self._tmp / secrets.token_hex(8)
        if self.take_spare(name, away):
            folders.remove_tree(away)

    # -- details

    def _stored(self, name: str) -> Stored | None:
        header = self.header(name)
        if header is None:
            return None
        try:
            with folders.opened(self._entries / name) as folder:
                use = self._not_in_future(folder, self._read_use(folder))
                size = sum(os.stat(each, dir_fd=folder).st_size for each in (MANIFEST, DATA))
        except FileNotFoundError as error:
            if not (self._entries / name).is_dir():
                return None
            raise damaged("it has no data") from error
        return Stored(name=name, header=header, use=use, bytes=size)

    def _not_in_future(self, folder: int, use: Use) -> Use:
        now = self._clock()
        if use.published_at <= now and use.used_at <= now:
            return use
        fixed = msgspec.structs.replace(use, published_at=min(use.published_at, now), used_at=min(use.used_at, now))
        _note_use(folder, fixed)
        return fixed

    def _read_use(self, folder: int) -> Use:
        try:
            with folders.opened(USE, folders.READ_FLAGS, folder) as fd:
                return msgspec.json.decode(manifest.read_bounded(fd, USE_BYTES_MAX), type=Use)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return NEVER

    def _is_there(self, name: str, folder: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._entries / name), os.fstat(folder))
        except FileNotFoundError:
            return False

    def _next(self) -> int:
        with self._lock:
            self._order += 1
            return self._order


def to_evict(
    stored: Sequence[Stored], limits: CacheLimits, now: float, incoming: int = 0, entries: int = 0
) -> list[Stored]:
    """Which entries have to go so that what is `incoming` fits: those that are too old, then the least recently used."""
    leaving = [each for each in stored if now - each.use.published_at > limits.age_max_s]
    staying = sorted(
        (each for each in stored if each not in leaving),
        key=lambda each: (each.use.order, each.name),
    )
    total = sum(each.bytes for each in staying) + incoming
    for at, each in enumerate(staying):
        if total <= limits.bytes_max and len(staying) - at + entries <= limits.entries_max:
            break
        leaving.append(each)
        total -= each.bytes
    return leaving


def _note_use(folder: int, use: Use) -> None:
    """Where it cannot be written (a full disk, an entry that is gone), the order of eviction is a little off."""
    try:
        _write_use(folder, use)
    except OSError as error:
        log.info("a use was not noted: %s", error, extra={"code": "deps_cache_use"})


def _write_use(folder: int, use: Use) -> None:
    """Written beside and renamed over, so that it is never half there."""
    fresh = f"{USE}.{os.getpid()}.{threading.get_ident()}"
    with folders.opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, folder) as fd:
        os.write(fd, msgspec.json.encode(use))
    os.rename(fresh, USE, src_dir_fd=folder, dst_dir_fd=folder)
