"""What is published is what is restored."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.pool.adapters.deps_cache import CacheError, CacheLimits, VmPlace
from services.pool.adapters.deps_cache.write import sample_of
from tests.pool.deps_cache.world import FILES, KEY, OWNER, TREES, World, app_of, refused, seen, write

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)
CONTENTS = st.binary(max_size=300) | st.integers(60_000, 140_000).map(lambda size: os.urandom(64) * (size // 64))
FILE_MODES = st.sampled_from([0o644, 0o755, 0o600, 0o444, 0o400, 0o777])
FOLDER_MODES = st.sampled_from([0o755, 0o700, 0o555, 0o777])
LINKS = st.sampled_from(["gone", "./a/b", "..", "../packages/ui"])
TREE = st.recursive(
    st.tuples(FILE_MODES, CONTENTS) | LINKS,
    lambda inner: st.tuples(FOLDER_MODES, st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


def test_a_restored_tree_is_the_one_that_was_published(world: World, installed: VmPlace) -> None:
    cache, target = world.cache(), world.vm("new")

    published = cache.publish(OWNER, KEY, installed, TREES)
    restored = cache.restore(OWNER, KEY, target)

    assert seen(target) == seen(installed)
    assert published.stored
    assert (published.files, published.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert (restored.trees, restored.files, restored.bytes) == (TREES, published.files, published.bytes)
    assert world.leftovers() == []


def _build(path: Path, tree: object) -> None:
    match tree:
        case (int(mode), bytes(content)):
            write(path, content, mode)
        case str(target):
            path.symlink_to(target)
        case (int(mode), dict(inner)):
            path.mkdir()
            for name, each in inner.items():
                _build(path / name, each)
            path.chmod(mode)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(top=st.dictionaries(NAMES, TREE, max_size=5), workers=st.integers(1, 3), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_any_tree_comes_back(top: dict[str, object], workers: int, share: float) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        world = World(folder)
        source, target = world.vm("a"), world.vm("b")
        _build(app_of(source) / "node_modules", (0o755, top))
        cache = world.cache(CacheLimits(workers_max=workers, sample_share=share))

        cache.publish(OWNER, KEY, source, TREES)
        cache.restore(OWNER, KEY, target)

        assert seen(target) == seen(source)
        assert world.leftovers() == []
    finally:
        for each in folder.rglob("*"):
            if each.is_dir() and not each.is_symlink():
                each.chmod(0o700)
        shutil.rmtree(folder)


def test_several_trees_of_a_workspace(world: World) -> None:
    trees = ("node_modules", "apps/web/node_modules", ".next/cache")
    source = world.vm("a", {f"{tree}/pkg/index.js": tree.encode() for tree in trees})
    target = world.vm("b")
    cache = world.cache()

    cache.publish(OWNER, KEY, source, trees)

    assert set(cache.restore(OWNER, KEY, target).trees) == set(trees)
    assert seen(target, *trees) == seen(source, *trees)


def test_the_structure_of_pnpm_works(world: World) -> None:
    source = world.vm("a", {"packages/ui/index.js": b"ui"})
    modules = app_of(source) / "node_modules"
    write(modules / ".pnpm/vite@7.0.0/node_modules/vite/package.json", b"{}")
    write(modules / ".pnpm/esbuild@0.25.0/node_modules/esbuild/package.json", b"{}")
    (modules / ".pnpm/vite@7.0.0/node_modules/esbuild").symlink_to("../../esbuild@0.25.0/node_modules/esbuild")
    (modules / "vite").symlink_to(".pnpm/vite@7.0.0/node_modules/vite")
    (modules / "ui").symlink_to("../packages/ui")
    cache, target = world.cache(), world.vm("b", {"packages/ui/index.js": b"ui"})

    cache.publish(OWNER, KEY, source, TREES)
    cache.restore(OWNER, KEY, target)

    assert seen(target) == seen(source)
    assert (app_of(target) / "node_modules/ui/index.js").read_bytes() == b"ui"
    assert (app_of(target) / "node_modules/.pnpm/vite@7.0.0/node_modules/esbuild/package.json").is_file()


def test_hard_links_in_the_source_become_files_of_their_own(world: World) -> None:
    source = world.vm("a", {"node_modules/a.js": b"same", "store/a.js": b"same"})
    os.link(app_of(source) / "node_modules/a.js", app_of(source) / "node_modules/b.js")
    cache, target = world.cache(), world.vm("b")
    cache.publish(OWNER, KEY, source, TREES)
    cache.restore(OWNER, KEY, target)

    (app_of(target) / "node_modules/a.js").write_bytes(b"changed")

    assert (app_of(target) / "node_modules/b.js").read_bytes() == b"same"


def test_writing_in_a_vm_reaches_neither_the_cache_nor_another_vm(world: World, installed: VmPlace) -> None:
    cache, first, second = world.cache(), world.vm("first"), world.vm("second")
    before = seen(installed)
    cache.publish(OWNER, KEY, installed, TREES)
    cache.restore(OWNER, KEY, first)

    for place in (installed, first):
        with (app_of(place) / "node_modules/vite/dist/chunk.js").open("r+b") as file:
            file.write(b"evil")
    cache.restore(OWNER, KEY, second, full=True)

    assert seen(second) == before


def test_set_user_id_is_dropped(world: World) -> None:
    source = world.vm("a", {"node_modules/tool": b"x"})
    (app_of(source) / "node_modules/tool").chmod(0o6755)
    cache, target = world.cache(), world.vm("b")
    cache.publish(OWNER, KEY, source, TREES)
    cache.restore(OWNER, KEY, target)

    assert (app_of(target) / "node_modules/tool").stat().st_mode & 0o7777 == 0o755


def test_an_install_that_is_there_is_kept_unless_it_is_to_be_replaced(world: World) -> None:
    cache = world.cache()
    old, new = world.vm("old", {"node_modules/a": b"old"}), world.vm("new", {"node_modules/a": b"new"})
    first, second = world.vm("first"), world.vm("second")
    cache.publish(OWNER, KEY, old, TREES)

    assert not cache.publish(OWNER, KEY, new, TREES).stored
    cache.restore(OWNER, KEY, first)
    assert cache.publish(OWNER, KEY, new, TREES, replace=True).stored
    cache.restore(OWNER, KEY, second)

    assert seen(first) == seen(old)
    assert seen(second) == seen(new)


def test_nothing_of_one_owner_is_served_to_another(world: World, installed: VmPlace) -> None:
    cache, target = world.cache(), world.vm("b")
    cache.publish(OWNER, KEY, installed, TREES)

    for owner, key in (("mallory", KEY), (OWNER, "another"), (f"{OWNER}{KEY[0]}", KEY[1:])):
        with pytest.raises(CacheError) as error:
            cache.restore(owner, key, target)
        assert refused(error) == "not_cached"
    assert list(app_of(target).iterdir()) == []


def test_restores_in_turn_compare_every_file() -> None:
    compared = {index for turn in range(10) for index in range(137) if sample_of(0.1, turn).has(index)}

    assert compared == set(range(137))
    assert sum(sample_of(0.1, 3).has(index) for index in range(1000)) == 100
    assert sum(sample_of(0, 3).has(index) for index in range(1000)) == 0
    assert sum(sample_of(1, 3).has(index) for index in range(1000)) == 1000
