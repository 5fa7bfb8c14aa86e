"""What cannot be published, and that nothing is left of trying."""

import hashlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.pool.adapters.deps_cache import CacheError, CacheLimits, VmPlace
from services.pool.adapters.deps_cache.collect import Collector
from services.pool.adapters.deps_cache.folders import opened
from services.pool.adapters.deps_cache.manifest import File
from tests.pool.deps_cache.world import KEY, OWNER, TREES, World, app_of, refused, write


def _fifo(modules: Path) -> None:
    os.mkfifo(modules / "pipe")


def _socket(modules: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        fd = os.open(modules, os.O_RDONLY)  # a socket's own path may have 107 bytes only
        try:
            server.bind(f"/proc/self/fd/{fd}/socket")
        finally:
            os.close(fd)


def _strange_name(modules: Path) -> None:
    (Path(os.fsdecode(os.fsencode(modules) + b"/\xff"))).touch()


def _deep(modules: Path) -> None:
    modules.joinpath(*["d"] * 102).mkdir(parents=True)


def _link(target: str) -> Callable[[Path], None]:
    def make(modules: Path) -> None:
        (modules / "pkg").mkdir()
        (modules / "pkg/link").symlink_to(target)

    return make


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_fifo, "source_unsupported"),
        (_socket, "source_unsupported"),
        (_strange_name, "source_unsupported"),
        (_deep, "too_large"),
        (_link("/etc/passwd"), "link_leaves_project"),
        (_link("/vm/app/node_modules/vite"), "link_leaves_project"),
        (_link("../../../home"), "link_leaves_project"),
        (_link("../vite/../../../home"), "link_leaves_project"),
    ],
)
def test_a_tree_with_what_is_not_kept(
    world: World, installed: VmPlace, spoil: Callable[[Path], None], code: str
) -> None:
    spoil(app_of(installed) / "node_modules")
    _is_refused(world, installed, code)


def test_links_to_the_project_itself_are_kept(world: World, installed: VmPlace) -> None:
    modules = app_of(installed) / "node_modules"
    (modules / "self").symlink_to("..")
    (modules / "elsewhere").symlink_to("../packages/gone")

    assert world.cache().publish(OWNER, KEY, installed, TREES).stored


@pytest.mark.parametrize("target", ["../home/modules", "../app2"])
def test_a_tree_that_is_a_link(world: World, target: str) -> None:
    place = world.vm("a", {"package.json": b"{}"})
    (place.root / "home/modules").mkdir(parents=True)
    (app_of(place) / "node_modules").symlink_to(target)
    _is_refused(world, place, "source_is_link")


def test_a_folder_above_a_tree_that_is_a_link(world: World, tmp_path: Path) -> None:
    write(tmp_path / "outside/node_modules/secret", b"of this machine")
    place = world.vm("a")
    (app_of(place) / "web").symlink_to(tmp_path / "outside")
    _is_refused(world, place, "source_is_link", ("web/node_modules",))


def test_a_project_folder_that_is_a_link(world: World, tmp_path: Path) -> None:
    write(tmp_path / "outside/node_modules/secret", b"of this machine")
    place = world.vm("a")
    app_of(place).rmdir()
    app_of(place).symlink_to(tmp_path / "outside")
    _is_refused(world, place, "source_is_link")


def test_a_tree_that_is_not_there(world: World) -> None:
    place = world.vm("a", {"dist": b"a file"})
    _is_refused(world, place, "source_missing")
    _is_refused(world, place, "source_missing", ("apps/web/node_modules",))
    _is_refused(world, place, "source_unsupported", ("dist",))
    _is_refused(world, place, "source_unsupported", ("dist/node_modules",))


@pytest.mark.parametrize(
    "trees", [(), ("",), ("..",), ("/etc",), ("a/../b",), ("a", "a/b"), ("a", "a"), ("a", "a-b", "a/b"), ("a\0",)]
)
def test_trees_that_cannot_be_named(world: World, installed: VmPlace, trees: tuple[str, ...]) -> None:
    _is_refused(world, installed, "request_invalid", trees)


@pytest.mark.parametrize(("owner", "key"), [("", KEY), (OWNER, ""), ("x" * 513, KEY), (OWNER, "\ud800")])
def test_owners_and_keys_that_cannot_be(world: World, installed: VmPlace, owner: str, key: str) -> None:
    with pytest.raises(CacheError) as error:
        world.cache().publish(owner, key, installed, TREES)
    assert refused(error) == "request_invalid"


@pytest.mark.parametrize(
    "limits", [CacheLimits(files_max=5), CacheLimits(entry_bytes_max=1000), CacheLimits(bytes_max=10_000)]
)
def test_a_tree_beyond_a_limit(world: World, installed: VmPlace, limits: CacheLimits) -> None:
    _is_refused(world, installed, "too_large", limits=limits)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _swap_for_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _swap_for_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _swap_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to("/etc")


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": _append,
    "is cut": lambda path: os.truncate(path, 10),
    "is rewritten": lambda path: path.write_bytes(b"y" * path.stat().st_size),
    "vanishes": Path.unlink,
    "becomes a link": _swap_for_link,
    "becomes a pipe": _swap_for_pipe,
    "changes its mode": lambda path: path.chmod(0o600),
    "gets a neighbour": lambda path: path.with_name("new").touch(),
    "gets another folder": _swap_folder,
}


class Disk:
    """A data file that runs `act` once, when the first part of m.js is written to it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self.acted = False

    def write(self, chunk: bytes) -> int:
        if chunk.startswith(b"m.js") and not self.acted:
            self.acted = True
            self._act()
        return len(chunk)

    def flush(self) -> None:
        assert self.acted


def _three(world: World) -> VmPlace:
    """A tree of three files, which are copied in this order."""
    names = ("node_modules/a/a.js", "node_modules/m/m.js", "node_modules/z/z.js")
    return world.vm("a", {name: name[-4:].encode() * 10_000 for name in names})


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("victim", ["node_modules/a/a.js", "node_modules/m/m.js"])
def test_a_file_that_changes_once_it_is_copied(world: World, change: Callable[[Path], object], victim: str) -> None:
    place = _three(world)
    disk = Disk(lambda: change(app_of(place) / victim))

    with opened(app_of(place)) as app, pytest.raises(CacheError) as error:
        Collector(disk, CacheLimits()).collect(app, TREES)

    assert refused(error) == "source_changed"
    assert error.value.retryable
    assert disk.acted


def test_a_file_that_changes_before_it_is_copied_is_copied_as_it_is_then(world: World) -> None:
    place = _three(world)
    path = app_of(place) / "node_modules/z/z.js"
    collector = Collector(Disk(lambda: _append(path)), CacheLimits())

    with opened(app_of(place)) as app:
        collector.collect(app, TREES)

    (digest,) = [item.sha256 for item in collector.items if isinstance(item, File) and item.path.endswith("z.js")]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tree_under_constant_change_is_published_right_or_not_at_all(world: World) -> None:
    """A writer counts in z, then in a: a copy in which they differ by more was never there at one moment."""
    place = world.vm(
        "a", {"node_modules/a": b"0", "node_modules/z": b"0"} | {f"node_modules/f{n}": b"x" for n in range(50)}
    )
    modules, ended = app_of(place) / "node_modules", threading.Event()

    def work() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            for name in ("z", "a"):
                (modules / "new").write_bytes(str(turn).encode())
                (modules / "new").rename(modules / name)

    cache = world.cache()
    writer = threading.Thread(target=work)
    writer.start()
    codes = set()
    try:
        for turn in range(20):
            try:
                cache.publish(OWNER, f"{turn}", place, TREES)
            except CacheError as error:
                codes.add(error.code)
    finally:
        ended.set()
        writer.join()

    assert codes <= {"source_changed"}
    for entry in cache.entries():
        target = world.vm(f"restored-{entry.key}")
        cache.restore(OWNER, entry.key, target)
        first, second = ((app_of(target) / "node_modules" / name).read_bytes() for name in ("z", "a"))
        assert int(first) - int(second) in (0, 1)


LIMITED = """
import sys
from pathlib import Path
from services.pool.adapters.deps_cache import CacheError, CacheLimits, DepsCache, VmPlace
cache = DepsCache(Path(sys.argv[1]), CacheLimits())
place = VmPlace(root=Path(sys.argv[2]), staging=Path(sys.argv[2]).parent)
try:
    cache.publish("alice", "npm-lock-1", place, ["node_modules"])
except CacheError as error:
    print(error.code)
"""


def test_a_file_that_may_not_grow_is_a_full_disk(world: World, installed: VmPlace) -> None:
    """The kernel's own limit on the size of files ends the copy in the middle."""
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, str(world.deps), str(installed.root)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )

    assert said.stdout.strip() == "disk_full"
    assert world.entries() == []
    assert world.leftovers() == []


def _is_refused(
    world: World, place: VmPlace, code: str, trees: tuple[str, ...] = TREES, limits: CacheLimits | None = None
) -> None:
    cache = world.cache(limits)
    with pytest.raises(CacheError) as error:
        cache.publish(OWNER, KEY, place, trees)
    assert refused(error) == code
    assert world.entries() == []
    assert world.leftovers() == []
