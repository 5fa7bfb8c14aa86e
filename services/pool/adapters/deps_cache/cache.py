"""The cache's verbs. Everything here blocks; call it in a thread."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from services.pool.adapters.deps_cache import folders, manifest, names, targets
from services.pool.adapters.deps_cache.collect import Collector
from services.pool.adapters.deps_cache.errors import CacheError, damaged, of_os
from services.pool.adapters.deps_cache.model import CacheLimits, Entry, Published, Restored, VmPlace
from services.pool.adapters.deps_cache.store import DATA, MANIFEST, Opened, Store
from services.pool.adapters.deps_cache.write import Sample, Writer, check, sample_of

log = logging.getLogger("drape.pool.deps_cache")

STAGING_PREFIX = "restore-"
SPARE = "spare"


class DepsCache:
    """Installs by owner and key, below `folder`, which is made when missing (only this user may enter it).

    An owner is given only what was published for that owner. Thread-safe. Making one removes what killed publishes
    left. `clock` tells seconds since 1970.
    """

    def __init__(self, folder: Path, limits: CacheLimits, *, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        try:
            self._store = Store(folder, limits, clock)
        except OSError as error:
            raise of_os(error, "opening the cache") from error

    def publish(
        self,
        owner: str,
        key: str,
        place: VmPlace,
        trees: Sequence[str],
        *,
        replace: bool = False,
        since_s: float | None = None,
    ) -> Published:
        """Copies `trees` (paths of folders below the project's) into the cache. The VM may run meanwhile.

        An entry that is there is kept, unless `replace`. `since_s` (Unix time): what was changed after that is not kept, but
        for caches in the trees. Raises CacheError; the cache is then as it was.
        """
        name = names.folder_name(owner, key)
        wanted = tuple(sorted(trees))
        if (problem := names.tree_problem(wanted)) is not None:
            raise CacheError("request_invalid", problem)
        if not replace and self._has(name, owner, key):
            return Published(stored=False)
        try:
            with self._store.working() as work:
                header = self._collect(work, owner, key, place, wanted, since_s)
                size = sum((work / each).stat().st_size for each in (MANIFEST, DATA))
                if size > self._limits.bytes_max:
                    raise CacheError("too_large", f"{size} bytes are more than the whole cache may hold")
                self._store.make_room(size, 1)
                if not self._store.put(work, name, replace=replace):
                    return Published(stored=False)
        except OSError as error:
            raise of_os(error, "publishing") from error
        return Published(stored=True, files=header.files, bytes=header.bytes)

    def restore(self, owner: str, key: str, place: VmPlace, *, full: bool = False) -> Restored:
        """Puts the trees of an entry where they were in the project; nothing may be there but an empty folder.

        Sizes and kinds are always compared, contents of a sample (`full`: of all files). Raises CacheError; the
        project's folder is then as it was, and an entry that is damaged is dropped.
        """
        name = names.folder_name(owner, key)
        try:
            with self._store.opened(name) as opened, self._dropping(opened):
                return self._restore(opened, owner, key, place, full=full)
        except OSError as error:
            raise of_os(error, "restoring") from error

    def prepare(self, owner: str, key: str) -> bool:
        """Writes an entry's trees once, every file compared, so that the next restore only has to move them.

        False: it is so already, no spares are wanted, or the entry went meanwhile. Raises CacheError; an entry that is
        damaged is dropped.
        """
        name = names.folder_name(owner, key)
        if self._limits.spares_max == 0 or self._store.has_spare(name):
            return False
        try:
            with self._store.opened(name) as opened, self._dropping(opened):
                content = _content(opened, owner, key)
                with self._store.working() as work:
                    with folders.opened(work) as fd:
                        Writer(content, opened.data, fd, Sample()).write(1)
                    return self._store.put_spare(work, opened)
        except OSError as error:
            raise of_os(error, "preparing a restore") from error

    def entries(self) -> list[Entry]:
        """All entries, the one that was used last first."""
        found = sorted(self._store.scan(), key=lambda each: each.use.order, reverse=True)
        return [
            Entry(
                owner=each.header.owner,
                key=each.header.key,
                trees=each.header.trees,
                files=each.header.files,
                bytes=each.bytes,
                published_at=each.use.published_at,
                used_at=each.use.used_at,
                restores=each.use.restores,
            )
            for each in found
        ]

    def drop(self, owner: str, key: str) -> bool:
        """Removes an entry; False where there was none."""
        return self._store.remove(names.folder_name(owner, key))

    def drop_owner(self, owner: str) -> int:
        """Removes all entries of an owner, and says how many there were."""
        return sum(self._store.remove(each.name) for each in self._store.scan() if each.header.owner == owner)

    def evict(self) -> int:
        """Removes what is beyond the limits, and says how many entries that were. Each publish does it too."""
        return len(self._store.make_room())

    # -- details

    @contextlib.contextmanager
    def _dropping(self, opened: Opened) -> Iterator[None]:
        """Drops the entry that is open once it turns out to be damaged."""
        try:
            yield
        except CacheError as error:
            if error.code == "entry_damaged" and self._store.remove(opened.name, opened.folder):
                log.warning("dropped an entry: %s", error.message, extra={"code": error.code, "entry": opened.name})
            raise

    def _has(self, name: str, owner: str, key: str) -> bool:
        try:
            header = self._store.header(name)
            if header is not None:
                _check_owner(header, owner, key)
        except CacheError as error:
            log.warning("dropped an entry: %s", error.message, extra={"code": error.code, "entry": name})
            self._store.remove(name)
            return False
        return header is not None

    def _collect(
        self, work: Path, owner: str, key: str, place: VmPlace, trees: tuple[str, ...], since_s: float | None
    ) -> manifest.Header:
        """Writes data and manifest into `work`, durable when it returns."""
        with contextlib.ExitStack() as stack:
            data = stack.enter_context((work / DATA).open("xb"))
            app = stack.enter_context(_source(place))
            collector = Collector(data, self._limits, since_s)
            collector.collect(app, trees)
            os.fsync(data.fileno())
        header = manifest.Header(
            format=manifest.FORMAT,
            owner=owner,
            key=key,
            trees=trees,
            items=len(collector.items),
            files=collector.files,
            bytes=collector.bytes,
            data_bytes=collector.offset,
        )
        raw = manifest.encode(header, collector.items)
        if len(raw) > manifest.BYTES_MAX:
            raise CacheError("too_large", "the names of its files are too long to keep")
        with (work / MANIFEST).open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        return header

    def _restore(self, opened: Opened, owner: str, key: str, place: VmPlace, *, full: bool) -> Restored:
        content = _content(opened, owner, key)
        header = content.header
        sample = Sample() if full else sample_of(self._limits.sample_share, self._store.use(opened).restores)
        with contextlib.ExitStack() as stack:
            app = stack.enter_context(_target(place))
            targets.check_free(app, header.trees)
            folders.remove_left(place.staging, STAGING_PREFIX)
            work = stack.enter_context(folders.working(place.staging, STAGING_PREFIX))
            spare = self._take_spare(opened, content, work / SPARE, sample)
            staged = stack.enter_context(folders.opened(work / SPARE if spare else work))
            if not spare:
                Writer(content, opened.data, staged, sample).write(self._limits.workers_max)
            targets.move(content, staged, app)
        self._store.touch(opened)
        verified = sum(sample.has(index) for index in range(len(content.files)))
        return Restored(trees=header.trees, files=header.files, bytes=header.bytes, verified=verified, spare=spare)

    def _take_spare(self, opened: Opened, content: manifest.Manifest, target: Path, sample: Sample) -> bool:
        """Whether the entry's spare is at `target` now, and as it should be; one that is not is left to be removed."""
        if not self._store.take_spare(opened.name, target):
            return False
        try:
            with folders.opened(target) as fd:
                check(content, fd, sample)
        except (CacheError, OSError) as error:
            log.warning("a spare was not used: %s", error, extra={"code": "deps_cache_spare", "entry": opened.name})
            return False
        return True


def _content(opened: Opened, owner: str, key: str) -> manifest.Manifest:
    """The entry's manifest, if it is this owner's and key's and its data has its size. Raises CacheError."""
    try:
        raw = manifest.read_bounded(opened.manifest, manifest.BYTES_MAX)
    except OSError as error:
        raise damaged(f"its manifest cannot be read ({error})") from error
    content = manifest.decode(raw)
    _check_owner(content.header, owner, key)
    size = os.fstat(opened.data).st_size
    if size != content.header.data_bytes:
        raise damaged(f"its data has {size} bytes, and {content.header.data_bytes} were published")
    return content


def _check_owner(header: manifest.Header, owner: str, key: str) -> None:
    if (header.owner, header.key) != (owner, key):
        raise damaged("it is another owner's, or another key's")


@contextlib.contextmanager
def _source(place: VmPlace) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        try:
            app = stack.enter_context(targets.opened_app(place))
        except FileNotFoundError as error:
            raise CacheError("source_missing", "the project's folder is gone") from error
        except OSError as error:
            code = "source_is_link" if error.errno in folders.NOT_A_FOLDER else "source_unreadable"
            raise CacheError(code, f"the project's folder cannot be entered: {error}") from error
        yield app


@contextlib.contextmanager
def _target(place: VmPlace) -> Iterator[int]:
    with contextlib.ExitStack() as stack:
        try:
            app = stack.enter_context(targets.opened_app(place))
        except OSError as error:
            raise targets.refusal(error, place.app) from error
        yield app
