"""What is kept and for how long: eviction, listing, dropping, publishes at once, what a killed process leaves."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.pool.adapters.deps_cache import CacheError, CacheLimits, DepsCache, VmPlace
from services.pool.adapters.deps_cache.store import Store
from tests.pool.deps_cache.world import FILES, KEY, OWNER, TREES, World, app_of, refused, seen, write

DAY_S = 86400.0


@pytest.fixture
def small(world: World) -> VmPlace:
    return world.vm("small", {"node_modules/a.js": b"x" * 10_000})


def keys(cache: DepsCache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def test_the_least_recently_used_goes_first(world: World, small: VmPlace) -> None:
    cache = world.cache(CacheLimits(entries_max=3))
    for key in "abc":
        cache.publish(OWNER, key, small, TREES)
    cache.restore(OWNER, "a", world.vm("t"))

    cache.publish(OWNER, "d", small, TREES)

    assert keys(cache) == ["d", "a", "c"]
    assert world.leftovers() == []


def test_the_bytes_of_all_entries_stay_below_their_limit(world: World, small: VmPlace) -> None:
    cache = world.cache(CacheLimits(bytes_max=40_000))
    for key in "abcdef":
        cache.publish(OWNER, key, small, TREES)

    found = cache.entries()

    assert [entry.key for entry in found] == ["f", "e", "d"]
    assert sum(entry.bytes for entry in found) <= 40_000
    assert all(entry.bytes == 10_000 + _manifest(world) for entry in found)


def _manifest(world: World) -> int:
    return (world.deps / "entries" / world.entries()[0] / "manifest").stat().st_size


def test_an_old_entry_goes_though_it_is_used(world: World, small: VmPlace) -> None:
    cache = world.cache(CacheLimits(age_max_s=DAY_S))
    cache.publish(OWNER, "old", small, TREES)
    world.clock.now += DAY_S / 2
    cache.publish(OWNER, "new", small, TREES)
    cache.restore(OWNER, "old", world.vm("t"))

    assert cache.evict() == 0
    world.clock.now += DAY_S / 2 + 1

    assert cache.evict() == 1
    assert keys(cache) == ["new"]


def test_a_clock_that_is_set_back(world: World, small: VmPlace) -> None:
    """Nothing is evicted for it, the order of use holds, and no entry stays for longer than its age allows."""
    cache = world.cache(CacheLimits(age_max_s=DAY_S, entries_max=2))
    cache.publish(OWNER, "a", small, TREES)
    world.clock.now -= 1000 * DAY_S
    cache.publish(OWNER, "b", small, TREES)
    assert cache.evict() == 0
    assert {entry.published_at for entry in cache.entries()} == {world.clock.now}

    cache.publish(OWNER, "c", small, TREES)
    assert keys(cache) == ["c", "b"]

    world.clock.now += DAY_S + 1
    assert cache.evict() == 2


def test_the_order_of_use_outlives_a_restart(world: World, small: VmPlace) -> None:
    first = world.cache()
    for key in "abc":
        first.publish(OWNER, key, small, TREES)
    first.restore(OWNER, "a", world.vm("t1"))

    second = world.cache(CacheLimits(entries_max=3))
    second.restore(OWNER, "b", world.vm("t2"))
    second.publish(OWNER, "d", small, TREES)

    assert keys(second) == ["d", "b", "a"]


@pytest.mark.parametrize("harm", [Path.unlink, lambda use: use.write_bytes(b"{"), lambda use: use.write_bytes(b"\xff")])
def test_an_entry_whose_use_is_unknown_goes_first(world: World, small: VmPlace, harm: Callable[[Path], object]) -> None:
    cache = world.cache()
    cache.publish(OWNER, "a", small, TREES)
    harm(world.entry() / "use")
    cache.publish(OWNER, "b", small, TREES)

    assert keys(cache) == ["b"]


def test_a_restore_that_reads_an_evicted_entry_finishes(world: World, installed: VmPlace) -> None:
    cache, target = world.cache(), world.vm("t")
    cache.publish(OWNER, KEY, installed, TREES)
    store = Store(world.deps, CacheLimits())
    with store.opened(world.entry().name) as opened:
        assert cache.drop(OWNER, KEY)
        cache._restore(opened, OWNER, KEY, target, full=True)

    assert seen(target) == seen(installed)
    assert world.entries() == []
    assert world.leftovers() == []


def test_listing(world: World, installed: VmPlace) -> None:
    cache = world.cache()
    cache.publish(OWNER, KEY, installed, TREES)
    world.clock.now += 60
    cache.restore(OWNER, KEY, world.vm("t"))

    (entry,) = cache.entries()

    assert (entry.owner, entry.key, entry.trees, entry.files) == (OWNER, KEY, TREES, len(FILES))
    assert (entry.used_at, entry.published_at, entry.restores) == (world.clock.now, world.clock.now - 60, 1)


def test_what_is_no_entry_is_neither_listed_nor_kept(world: World, small: VmPlace) -> None:
    cache = world.cache()
    cache.publish(OWNER, KEY, small, TREES)
    write(world.deps / "entries/ff/data", b"no manifest")
    write(world.deps / "entries/fe/manifest", b"rubbish")
    write(world.deps / "entries/fd", b"a file")

    assert keys(cache) == [KEY]
    assert len(world.entries()) == 1


def test_dropping(world: World, small: VmPlace) -> None:
    cache = world.cache()
    for owner, key in (("alice", "a"), ("alice", "b"), ("bob", "a")):
        cache.publish(owner, key, small, TREES)

    assert cache.drop("alice", "a")
    assert not cache.drop("alice", "a")
    assert [(entry.owner, entry.key) for entry in cache.entries()] == [("bob", "a"), ("alice", "b")]
    assert cache.drop_owner("alice") == 1
    assert [(entry.owner, entry.key) for entry in cache.entries()] == [("bob", "a")]
    with pytest.raises(CacheError) as error:
        cache.restore("alice", "b", world.vm("t"))
    assert refused(error) == "not_cached"


@pytest.mark.parametrize("replace", [False, True])
def test_publishes_of_one_key_at_once(world: World, installed: VmPlace, replace: bool) -> None:
    cache, target = world.cache(), world.vm("t")
    barrier, stored = threading.Barrier(6), []

    def publish() -> None:
        barrier.wait()
        stored.append(cache.publish(OWNER, KEY, installed, TREES, replace=replace).stored)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(stored) == 6
    assert stored.count(True) == (6 if replace else 1)
    assert len(world.entries()) == 1
    assert world.leftovers() == []
    cache.restore(OWNER, KEY, target, full=True)
    assert seen(target) == seen(installed)


KILLED = """
import os, signal, sys
from pathlib import Path
from services.pool.adapters.deps_cache import CacheLimits, DepsCache, VmPlace, collect
cache = DepsCache(Path(sys.argv[1]), CacheLimits())
place = VmPlace(root=Path(sys.argv[2]), staging=Path(sys.argv[2]).parent)
seen = 0
def trace(event, args):
    global seen
    if event == "open" and str(args[0]).endswith("chunk.js"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(trace)
cache.publish("alice", "npm-lock-1", place, ["node_modules"])
"""


def test_what_a_killed_publish_left_is_removed_at_the_next_start(world: World, installed: VmPlace) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(world.deps), str(installed.root)], check=False)
    assert ended.returncode == -9
    assert len(world.leftovers()) == 1

    cache = world.cache()

    assert world.leftovers() == []
    assert cache.entries() == []
    assert cache.publish(OWNER, KEY, installed, TREES).stored


def test_a_start_leaves_alone_what_another_process_is_copying(world: World) -> None:
    world.cache()
    store = Store(world.deps, CacheLimits())
    with store.working() as work:
        write(work / "data", b"half")
        world.cache()
        assert (work / "data").read_bytes() == b"half"
    assert world.leftovers() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small filesystem needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,mode=700", "drape-test", str(folder)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run([umount, "--lazy", str(folder)], check=True)


def test_a_publish_onto_a_disk_that_is_full(world: World, small_disk: Path) -> None:
    place = world.vm("a", {f"node_modules/{n}.js": b"x" * 100_000 for n in range(20)})
    small = world.vm("small", {"node_modules/a.js": b"x"})
    cache = DepsCache(small_disk / "deps", CacheLimits())
    cache.publish(OWNER, "small", small, TREES)

    with pytest.raises(CacheError) as error:
        cache.publish(OWNER, KEY, place, TREES)

    assert refused(error) == "disk_full"
    assert error.value.retryable
    assert list((small_disk / "deps/tmp").iterdir()) == []
    assert keys(cache) == ["small"]


def test_a_restore_onto_a_disk_that_is_full(world: World, small_disk: Path) -> None:
    """The entry is not at fault and stays; what was written is removed."""
    source = world.vm("a", {f"node_modules/{n}.js": b"x" * 100_000 for n in range(20)})
    cache = world.cache()
    cache.publish(OWNER, KEY, source, TREES)
    (small_disk / "root/app").mkdir(parents=True)
    target = VmPlace(root=small_disk / "root", staging=small_disk)

    with pytest.raises(CacheError) as error:
        cache.restore(OWNER, KEY, target)

    assert refused(error) == "disk_full"
    assert list(app_of(target).iterdir()) == []
    assert [path.name for path in small_disk.iterdir()] == ["root"]
    assert keys(cache) == [KEY]


def test_a_vm_on_another_filesystem(world: World, installed: VmPlace, small_disk: Path) -> None:
    cache = world.cache()
    cache.publish(OWNER, KEY, installed, TREES)
    (small_disk / "root/app").mkdir(parents=True)
    target = VmPlace(root=small_disk / "root", staging=small_disk)
    cache.restore(OWNER, KEY, target)
    assert seen(target) == seen(installed)

    other = VmPlace(root=world.vm("t").root, staging=small_disk)
    with pytest.raises(CacheError) as error:
        cache.restore(OWNER, KEY, other)
    assert refused(error) == "target_elsewhere"
    assert list(app_of(other).iterdir()) == []
    assert [path.name for path in small_disk.iterdir()] == ["root"]
