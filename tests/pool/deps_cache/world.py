"""VM folders with real files, and what is in them."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from services.pool.adapters.deps_cache import CacheError, CacheLimits, DepsCache, VmPlace
from services.pool.adapters.deps_cache.manifest import File, Item, Manifest, decode, encode

OWNER, KEY = "alice", "npm-lock-1"
TREES = ("node_modules",)
Seen: TypeAlias = dict[str, tuple[str, int, int, str]]

FILES = {
    "node_modules/vite/package.json": b'{"name": "vite"}',
    "node_modules/vite/bin/vite.js": b"#!/usr/bin/env node\n",
    "node_modules/vite/dist/chunk.js": bytes(range(256)) * 1024,
    "node_modules/empty/index.js": b"",
}


class Clock:
    """Seconds since 1970, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A cache, and VMs beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deps = folder / "deps"
        self.clock = Clock()

    def cache(self, limits: CacheLimits | None = None) -> DepsCache:
        return DepsCache(self.deps, limits or CacheLimits(), clock=self.clock)

    def vm(self, name: str, files: Mapping[str, bytes] | None = None) -> VmPlace:
        staging = self.folder / "vms" / name
        (staging / "root/app").mkdir(parents=True)
        place = VmPlace(root=staging / "root", staging=staging)
        for path, content in (files or {}).items():
            write(app_of(place) / path, content)
        return place

    def entry(self, name: str | None = None) -> Path:
        """The folder of the only entry, or of the one with that folder's name."""
        found = list((self.deps / "entries").iterdir())
        (path,) = found if name is None else [each for each in found if each.name == name]
        return path

    def entries(self) -> list[str]:
        return sorted(path.name for path in (self.deps / "entries").iterdir())

    def leftovers(self) -> list[Path]:
        """What no publish or restore may leave behind, wherever it ended."""
        staged = [path for vm in (self.folder / "vms").glob("*") for path in vm.iterdir() if path.name != "root"]
        return [*(self.deps / "tmp").iterdir(), *staged]


def app_of(place: VmPlace) -> Path:
    return place.root / place.app


def write(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def seen(place: VmPlace, *trees: str) -> Seen:
    """Everything in the trees: kind, mode, time of change, and contents or target."""
    found: Seen = {}
    for tree in trees or TREES:
        top = app_of(place) / tree
        for path in [top, *sorted(top.rglob("*"))]:
            status = path.lstat()
            what = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else _digest(path)
            mtime = 0 if path.is_symlink() else status.st_mtime_ns
            mode = 0 if path.is_symlink() else stat.S_IMODE(status.st_mode)
            found[path.relative_to(app_of(place)).as_posix()] = (oct(stat.S_IFMT(status.st_mode)), mode, mtime, what)
    return found


def refused(error: "pytest.ExceptionInfo[CacheError]") -> str:
    return error.value.code


def tampered(entry: Path, change: dict[str, object], *, of: type = File) -> None:
    """Rewrites a manifest with a right checksum: the first item of that kind gets other fields."""
    content = decode((entry / "manifest").read_bytes())
    items: list[Item] = [*content.folders, *content.files, *content.links]
    at = next(index for index, item in enumerate(items) if isinstance(item, of))
    fields = {name: getattr(items[at], name) for name in items[at].__struct_fields__}
    items[at] = type(items[at])(**fields | change)
    (entry / "manifest").write_bytes(encode(content.header, items))


def manifest_of(entry: Path) -> Manifest:
    return decode((entry / "manifest").read_bytes())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
