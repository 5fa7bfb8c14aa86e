"""What was written ahead of a restore: used once, right or not at all, and gone with its entry."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.pool.adapters.deps_cache import CacheError, CacheLimits, DepsCache, VmPlace
from tests.pool.deps_cache.world import KEY, OWNER, TREES, World, app_of, seen

ALL = CacheLimits(sample_share=1.0)
CHUNK = "node_modules/vite/dist/chunk.js"


@pytest.fixture
def cache(world: World, installed: VmPlace) -> DepsCache:
    """A cache with one install, whose next restore is prepared."""
    cache = world.cache(ALL)
    cache.publish(OWNER, KEY, installed, TREES)
    assert cache.prepare(OWNER, KEY)
    return cache


def spares(world: World) -> list[Path]:
    return list((world.deps / "spares").iterdir())


def test_a_spare_is_what_a_restore_would_have_written(world: World, cache: DepsCache, installed: VmPlace) -> None:
    """Names, modes, times, contents and links; the restore after it writes them itself again."""
    first, second = world.vm("first"), world.vm("second")
    assert cache.restore(OWNER, KEY, first).spare
    assert spares(world) == []
    assert not cache.restore(OWNER, KEY, second).spare
    assert seen(first) == seen(second) == seen(installed)


def test_one_spare_is_enough(world: World, cache: DepsCache) -> None:
    assert not cache.prepare(OWNER, KEY)
    assert len(spares(world)) == 1


def test_a_project_that_writes_to_its_files_reaches_no_later_spare(world: World, cache: DepsCache) -> None:
    """In place, which a hard link would carry over."""
    first, second = world.vm("first"), world.vm("second")
    cache.restore(OWNER, KEY, first)
    assert cache.prepare(OWNER, KEY)
    with (app_of(first) / CHUNK).open("r+b") as file:
        file.write(b"poison")
    assert cache.restore(OWNER, KEY, second).spare
    assert not (app_of(second) / CHUNK).read_bytes().startswith(b"poison")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [_flip, lambda path: path.unlink(), lambda path: os.truncate(path, 3), lambda path: path.chmod(0o4755)],
    ids=["a byte", "gone", "cut short", "another mode"],
)
def test_a_spoiled_spare_is_not_used(world: World, cache: DepsCache, spoil: Callable[[Path], object]) -> None:
    """The entry is: the restore is right all the same."""
    [spare] = spares(world)
    spoil(spare / CHUNK)
    place = world.vm("next")
    restored = cache.restore(OWNER, KEY, place)
    assert (restored.spare, spares(world)) == (False, [])
    assert (app_of(place) / CHUNK).read_bytes() == bytes(range(256)) * 1024
    assert [path.name for path in app_of(place).iterdir()] == ["node_modules"]


def test_a_spare_goes_with_its_entry(world: World, cache: DepsCache, installed: VmPlace) -> None:
    """Dropped, or replaced by another install."""
    cache.publish(OWNER, KEY, installed, TREES, replace=True)
    assert spares(world) == []
    assert cache.prepare(OWNER, KEY)
    assert cache.drop(OWNER, KEY)
    assert spares(world) == []


def test_spares_do_not_outlive_a_restart(world: World, cache: DepsCache) -> None:
    """They are not made durable: after a crash of the machine anything may be in them."""
    world.cache(ALL)
    assert spares(world) == []


def test_the_oldest_spares_go_first(world: World, installed: VmPlace) -> None:
    cache = world.cache(CacheLimits(spares_max=2))
    for key in ("one", "two", "three"):
        cache.publish(OWNER, key, installed, TREES)
        assert cache.prepare(OWNER, key)
    assert len(spares(world)) == 2
    assert cache.restore(OWNER, "three", world.vm("a")).spare
    assert not cache.restore(OWNER, "one", world.vm("b")).spare


def test_without_room_for_them_there_are_none(world: World, installed: VmPlace) -> None:
    cache = world.cache(CacheLimits(spares_max=0))
    cache.publish(OWNER, KEY, installed, TREES)
    assert not cache.prepare(OWNER, KEY)
    assert spares(world) == []


def test_what_is_not_kept_is_not_prepared(world: World) -> None:
    with pytest.raises(CacheError, match="not_cached"):
        world.cache(ALL).prepare(OWNER, KEY)
