"""Empties a VM for its owner's next preview: all goes but the dependencies, and those stay only as their install left them.

Nothing of the project runs any more when this looks and removes. It never follows a symlink, and where it is in doubt
it refuses: the VM is then destroyed, as others are. Everything here but `Cleaner` blocks.
"""

import asyncio
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from .files import ProjectFiles
from .jobs import JobSupervisor
from .paths import ancestors
from .protocol import AgentProblem, Cleaned, CleanSpec
from .sweep import Sweep
from .trees import Names, entries_of, outermost, unfit

log = logging.getLogger("drape.agent.cleaning")

CACHES = frozenset({".cache", ".vite", ".vite-temp"})
"""Folders directly in `node_modules` in which dev servers keep what they made of the project: it goes with the project."""
ENTRIES_MAX = 500_000
"""Files and folders of dependencies that are looked at; the largest project measured had 60,000."""
_NOTHING = frozenset[str]()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM's jobs can write to: `root` with `app_dir`, `home_dir` and the agent's own folder in it, and `scratch`
    folders; without those the VM is not told apart from its machine, and can't be emptied. `fixed`: folders that could be
    written to as well, where nothing may have changed. `isolated`: no other VM or machine shares its kernel objects."""

    root: Path
    app_dir: Path
    home_dir: Path
    scratch: tuple[Path, ...] = ()
    fixed: tuple[Path, ...] = ()
    isolated: bool = False


class Cleaner:
    """Empties one VM, any number of times, once for each lease."""

    def __init__(self, place: Place, jobs: JobSupervisor, files: ProjectFiles) -> None:
        self._place = place
        self._jobs = jobs
        self._files = files
        self._at_start = _surroundings(place)
        self._mounts = _mounts()
        self._done: Cleaned | None = None
        self.floor = 0
        """The lowest lease whose holder may still use the VM."""

    async def clean(self, spec: CleanSpec) -> Cleaned:
        """Raises AgentProblem (409) where the VM can't be emptied or should not be used again; see `CleanSpec`."""
        if self._done is not None and spec.lease < self.floor:
            return self._done  # asked again; what the VM holds now may be the next preview's
        if not self._place.scratch:
            raise _refusal("clean_unsupported", "This VM shares folders with its machine.")
        self.floor, self._done = spec.lease + 1, None
        since_s, noted = await self._jobs.history.dependencies(spec.keep_since_job)
        async with self._jobs.emptied():
            self._done = await asyncio.to_thread(self._empty, spec, since_s, noted)
        return self._done

    def _empty(self, spec: CleanSpec, since_s: float | None, noted: Names | None) -> Cleaned:
        try:
            if _surroundings(self._place) != self._at_start:
                raise _refusal("leftovers", "Something is left outside the project's folders.")
            kept = _Dependencies(self._place.app_dir, since_s, noted, spec.bytes_max)
            kept.check()
            kept.remove_caches()
            self._remove_all_but(kept.trees)
            self._files.reset()
        except (OSError, RecursionError) as error:
            log.warning("the VM could not be emptied", exc_info=error)
            raise _refusal("clean_failed", f"A step failed: {type(error).__name__}.") from error
        return Cleaned(bytes=kept.bytes, entries=kept.entries, trees=tuple(kept.trees))

    def _remove_all_but(self, trees: list[str]) -> None:
        """App, home, the agent's notes, and whatever else was put beside them."""
        place = self._place
        state_dir = place.root / "state"
        own = frozenset(path.name for path in (place.app_dir, place.home_dir, state_dir) if path.parent == place.root)
        _purge(place.app_dir, frozenset(trees))
        _purge(place.root, own)
        for folder in (place.home_dir, state_dir):
            _purge(folder, _NOTHING)
        for folder in place.scratch:
            # What the sandbox shows there (an interpreter below /tmp) was put there before the project, and stays.
            _purge(folder, frozenset(str(each.relative_to(folder)) for each in self._mounts if folder in each.parents))
        for folder in (place.app_dir, place.home_dir):
            folder.chmod(0o700)
        for path in {above for tree in trees for above in ancestors(tree)}:
            (place.app_dir / path).chmod(0o755)


class _Dependencies:
    """The outermost `node_modules` folders of a project whose processes have ended.

    `since_s`: nothing in them may have changed after that (Unix time; None: nothing has run). `noted`: what lay directly
    in each at that time; a folder's own time does not tell, since caches are made there.
    """

    def __init__(self, app_dir: Path, since_s: float | None, noted: Names | None, bytes_max: int) -> None:
        self._app_dir = app_dir
        self._since_ns = None if since_s is None else int(since_s * 1e9)
        self._noted = noted
        self._bytes_max = bytes_max
        self._caches: list[tuple[str, str]] = []
        self._linked: set[tuple[int, int]] = set()
        self.trees: list[str] = []
        self.bytes = 0
        self.entries = 0

    def check(self) -> None:
        """AgentProblem where they may not be used again."""
        found = set(outermost(self._app_dir))
        self.trees = sorted(found if self._noted is None else self._noted)
        if not self.trees:
            raise _refusal("nothing_kept", "There is no node_modules folder.")
        if missing := set(self.trees) - found:
            raise _changed(min(missing))
        for tree in self.trees:
            self._check_names(tree)
            self._check_inside(tree)

    def _check_names(self, tree: str) -> None:
        now = entries_of(self._app_dir / tree)
        before = now if self._noted is None else self._noted[tree]
        caches = {name for name in now if name in CACHES or (name.startswith(".") and name not in before)}
        self._caches += [(tree, name) for name in caches]
        for name in (now.keys() | before.keys()) - caches - CACHES:
            if now.get(name) != before.get(name):
                raise _changed(f"{tree}/{name}")

    def _check_inside(self, tree: str) -> None:
        caches = {name for at, name in self._caches if at == tree}
        top = self._app_dir / tree
        for folder, names, files, fd in os.fwalk(top, onerror=_fail, follow_symlinks=False):
            passed_over = caches if folder == str(top) else _NOTHING
            names[:] = [name for name in names if name not in passed_over]
            if folder != str(top):
                self._check_one(os.fstat(fd), folder)
            # A link to a folder stands among the folders.
            for name in [*names, *(name for name in files if name not in passed_over)]:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    continue  # its turn comes
                self._check_one(found, f"{folder}/{name}")
                if stat.S_ISLNK(found.st_mode):
                    self._check_link(folder, name, os.readlink(name, dir_fd=fd))

    def _check_one(self, found: os.stat_result, path: str) -> None:
        if unfit(found):
            raise _refusal("foreign_file", f"{self._shown(path)} is another user's, or no file, folder or link.")
        if self._since_ns is not None and found.st_ctime_ns > self._since_ns:
            raise _changed(self._shown(path))
        inode = (found.st_dev, found.st_ino)
        if inode not in self._linked:
            self.bytes += found.st_blocks * 512
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            self._linked.add(inode)  # pnpm links a file into each place that needs it
        self.entries += 1
        if self.bytes > self._bytes_max or self.entries > ENTRIES_MAX:
            raise _refusal("too_large", f"The dependencies are larger than {self._bytes_max} bytes, or too many.")

    def _check_link(self, folder: str, name: str, target: str) -> None:
        """Where it leads by its text: links on the way are links of this tree too, and have been looked at."""
        if not Path(os.path.normpath(Path(folder) / target)).is_relative_to(self._app_dir):
            raise _refusal("link_outside", f"{self._shown(f'{folder}/{name}')} leads out of the project.")

    def remove_caches(self) -> None:
        for tree, name in self._caches:
            fd = os.open(self._app_dir / tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    Sweep(protected=_NOTHING).clear(fd, name)
                else:
                    os.unlink(name, dir_fd=fd)
            finally:
                os.close(fd)

    def _shown(self, path: str) -> str:
        return path.removeprefix(f"{self._app_dir}/")[:200]


def _purge(folder: Path, keep: frozenset[str]) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        Sweep(keep=keep, protected=_NOTHING).purge(fd, "", 0)
    finally:
        os.close(fd)


def _mounts() -> list[Path]:
    """Where something is mounted; read when the VM is new, and nothing of a project has run."""
    points = (line.split()[4] for line in _lines(Path("/proc/self/mountinfo")))
    # Blanks and backslashes are written as octal numbers.
    return [Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)) for point in points]


def _surroundings(place: Place) -> tuple[object, ...]:
    """What outlives its maker without being a file in one of the VM's folders. Compared, never read further."""
    fixed = tuple((folder.stat().st_ctime_ns, folder.stat().st_mode) for folder in place.fixed)
    if not place.isolated:
        return fixed
    return fixed, *(tuple(_lines(Path("/proc/sysvipc") / kind)) for kind in ("shm", "msg", "sem")), tuple(_keys())


def _keys() -> Iterator[str]:
    """The kernel's keys, without the rings that hold them: those come and go by themselves."""
    for line in _lines(Path("/proc/keys")):
        fields = line.split()
        if len(fields) > 7 and fields[7] != "keyring":
            yield fields[0]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []  # this system has none, or does not show them


def _fail(error: OSError) -> None:
    raise error


def _changed(path: str) -> AgentProblem:
    return _refusal("dependencies_changed", f"{path[:200]} is not as the install left it.")


def _refusal(code: str, message: str) -> AgentProblem:
    return AgentProblem(409, code, message, "Destroy the VM.")
