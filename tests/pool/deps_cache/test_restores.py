"""A restore is right, or an error that leaves nothing: neither in the VM, nor (where it is at fault) the entry."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.pool.adapters.deps_cache import CacheError, CacheLimits, DepsCache, VmPlace
from services.pool.adapters.deps_cache.manifest import Folder, Item, Link, encode
from services.pool.adapters.deps_cache.names import folder_name
from services.pool.adapters.deps_cache.write import Sample, Writer
from tests.pool.deps_cache.world import KEY, OWNER, TREES, World, app_of, manifest_of, refused, seen, tampered, write


@pytest.fixture
def cache(world: World, installed: VmPlace) -> DepsCache:
    """A cache with one install; its restores compare all contents."""
    cache = world.cache(CacheLimits(sample_share=1.0))
    cache.publish(OWNER, KEY, installed, TREES)
    return cache


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def _lose_data_in_middle(entry: Path) -> None:
    """The same size, but a hole where contents were."""
    data = entry / "data"
    size = data.stat().st_size
    os.truncate(data, 10)
    os.truncate(data, size)


def _data_by_link(entry: Path) -> None:
    (entry / "data").rename(entry / "moved")
    (entry / "data").symlink_to("moved")


def _manifest_folder(entry: Path) -> None:
    (entry / "manifest").unlink()
    (entry / "manifest").mkdir()


def _trees(*trees: str) -> Callable[[Path], object]:
    def change(entry: Path) -> None:
        content = manifest_of(entry)
        fields = {name: getattr(content.header, name) for name in content.header.__struct_fields__}
        header = type(content.header)(**fields | {"trees": trees})
        (entry / "manifest").write_bytes(encode(header, [*content.folders, *content.files, *content.links]))

    return change


def _twice(entry: Path) -> None:
    content = manifest_of(entry)
    fields = {name: getattr(content.header, name) for name in content.header.__struct_fields__}
    header = type(content.header)(**fields | {"items": content.header.items + 1})
    items: list[Item] = [*content.folders, content.folders[0], *content.files, *content.links]
    (entry / "manifest").write_bytes(encode(header, items))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "data cut": lambda entry: os.truncate(entry / "data", (entry / "data").stat().st_size - 1),
    "data grown": lambda entry: os.truncate(entry / "data", (entry / "data").stat().st_size + 1),
    "a byte of data changed": lambda entry: _flip(entry / "data", 5),
    "the last byte changed": lambda entry: _flip(entry / "data", -1),
    "data lost": _lose_data_in_middle,
    "no data": lambda entry: (entry / "data").unlink(),
    "data is a link": _data_by_link,
    "manifest cut": lambda entry: os.truncate(entry / "manifest", 300),
    "manifest empty": lambda entry: os.truncate(entry / "manifest", 0),
    "a bit of the manifest changed": lambda entry: _flip(entry / "manifest", -20),
    "a bit of the checksum changed": lambda entry: _flip(entry / "manifest", 3),
    "manifest not text": lambda entry: (entry / "manifest").write_bytes(b"\xff" * 300),
    "manifest a folder": _manifest_folder,
    "no manifest": lambda entry: (entry / "manifest").unlink(),
    "a name that goes up": lambda entry: tampered(entry, {"path": "node_modules/../../evil"}),
    "an absolute name": lambda entry: tampered(entry, {"path": "/tmp/evil"}),
    "a name outside of the trees": lambda entry: tampered(entry, {"path": "package.json"}),
    "a name below a file": lambda entry: tampered(entry, {"path": "node_modules/vite/package.json/x"}, of=Folder),
    "a name below a link": lambda entry: tampered(entry, {"path": "node_modules/.bin/vite/x"}),
    "a name with NUL": lambda entry: tampered(entry, {"path": "node_modules/a\0"}),
    "a name twice": _twice,
    "a link that goes up": lambda entry: tampered(entry, {"target": "../../../../etc"}, of=Link),
    "an absolute link": lambda entry: tampered(entry, {"target": "/etc/passwd"}, of=Link),
    "a set-user-id mode": lambda entry: tampered(entry, {"mode": 0o4755}),
    "a negative size": lambda entry: tampered(entry, {"size": -1}),
    "an offset beyond the data": lambda entry: tampered(entry, {"offset": 1 << 40}),
    "a size that does not fit": lambda entry: tampered(entry, {"size": 1}),
    "no sha256": lambda entry: tampered(entry, {"sha256": ""}),
    "another tree": _trees("node_modules", "other"),
    "a tree that goes up": _trees(".."),
    "no trees": _trees(),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_dropped(world: World, cache: DepsCache, harm: Callable[[Path], object]) -> None:
    target = world.vm("b")
    harm(world.entry())

    with pytest.raises(CacheError) as error:
        cache.restore(OWNER, KEY, target)

    assert refused(error) == "entry_damaged"
    assert world.entries() == []
    assert list(app_of(target).iterdir()) == []
    assert world.leftovers() == []


def test_a_damaged_entry_can_be_published_anew(world: World, cache: DepsCache, installed: VmPlace) -> None:
    _flip(world.entry() / "data", 5)
    target = world.vm("b")
    with pytest.raises(CacheError):
        cache.restore(OWNER, KEY, target)

    assert cache.publish(OWNER, KEY, installed, TREES).stored
    cache.restore(OWNER, KEY, target)

    assert seen(target) == seen(installed)


def test_a_changed_byte_is_found_within_as_many_restores_as_the_share_says(world: World, installed: VmPlace) -> None:
    cache = world.cache(CacheLimits(sample_share=0.25))
    cache.publish(OWNER, KEY, installed, TREES)
    _flip(world.entry() / "data", -1)
    codes = []
    for turn in range(4):
        try:
            cache.restore(OWNER, KEY, world.vm(f"b{turn}"))
        except CacheError as error:
            codes.append(error.code)

    assert codes[0] == "entry_damaged"


def test_full_finds_every_changed_byte_at_once(world: World, installed: VmPlace) -> None:
    cache = world.cache(CacheLimits(sample_share=0))
    cache.publish(OWNER, KEY, installed, TREES)
    _flip(world.entry() / "data", -1)

    with pytest.raises(CacheError) as error:
        cache.restore(OWNER, KEY, world.vm("b"), full=True)
    assert refused(error) == "entry_damaged"


def test_two_owners_whose_folders_collide(world: World, cache: DepsCache) -> None:
    """The entry of alice stands where mallory's would."""
    world.entry().rename(world.deps / "entries" / folder_name("mallory", KEY))
    target = world.vm("b")

    with pytest.raises(CacheError) as error:
        cache.restore("mallory", KEY, target)

    assert refused(error) == "entry_damaged"
    assert list(app_of(target).iterdir()) == []
    assert world.entries() == []


def test_a_publish_where_another_owner_stands(world: World, cache: DepsCache) -> None:
    world.entry().rename(world.deps / "entries" / folder_name("mallory", KEY))
    own, target = world.vm("own", {"node_modules/a": b"mallory's"}), world.vm("b")

    assert cache.publish("mallory", KEY, own, TREES).stored
    cache.restore("mallory", KEY, target)

    assert seen(target) == seen(own)


# -- an entry that changes while it is read


@pytest.mark.parametrize("by_kernel", [True, False])
def test_data_cut_while_it_is_restored(world: World, installed: VmPlace, tmp_path: Path, by_kernel: bool) -> None:
    world.cache().publish(OWNER, KEY, installed, TREES)
    entry, out = world.entry(), tmp_path / "out"
    out.mkdir()
    with (entry / "data").open("rb") as data:
        os.truncate(entry / "data", 100)
        fd = os.open(out, os.O_RDONLY)
        try:
            writer = Writer(
                manifest_of(entry), data.fileno(), fd, Sample(stride=1 if not by_kernel else 10**9, start=1)
            )
            with pytest.raises(CacheError) as error:
                writer.write(2)
        finally:
            os.close(fd)
    assert refused(error) == "entry_damaged"


def test_an_entry_removed_while_it_is_restored(world: World, installed: VmPlace) -> None:
    """Whichever comes first, a restore is whole or says that there is nothing; and nothing is left."""
    cache = world.cache()
    outcomes: list[str] = []

    def drop() -> None:
        cache.drop(OWNER, KEY)

    for turn in range(15):
        cache.publish(OWNER, KEY, installed, TREES)
        target = world.vm(f"b{turn}")
        dropping = threading.Thread(target=drop)
        dropping.start()
        try:
            cache.restore(OWNER, KEY, target)
        except CacheError as error:
            outcomes.append(error.code)
            assert list(app_of(target).iterdir()) == []
        else:
            assert seen(target) == seen(installed)
        dropping.join()

    assert set(outcomes) <= {"not_cached"}
    assert world.entries() == []
    assert world.leftovers() == []


# -- targets


def test_a_target_that_is_taken(world: World, cache: DepsCache) -> None:
    target = world.vm("b", {"node_modules/own.js": b"own"})
    before = seen(target)
    _is_refused(world, cache, target, "target_taken")
    assert seen(target) == before


def test_an_empty_folder_is_no_obstacle(world: World, cache: DepsCache, installed: VmPlace) -> None:
    target = world.vm("b")
    (app_of(target) / "node_modules").mkdir()
    cache.restore(OWNER, KEY, target)
    assert seen(target) == seen(installed)


def test_a_target_that_is_a_link(world: World, cache: DepsCache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = world.vm("b")
    (app_of(target) / "node_modules").symlink_to(outside)
    _is_refused(world, cache, target, "target_is_link")
    assert list(outside.iterdir()) == []


def test_a_target_that_is_a_file(world: World, cache: DepsCache) -> None:
    target = world.vm("b", {"node_modules": b"a file"})
    _is_refused(world, cache, target, "target_is_link")


def test_a_project_folder_that_is_a_link(world: World, cache: DepsCache, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    target = world.vm("b")
    app_of(target).rmdir()
    app_of(target).symlink_to(outside)
    _is_refused(world, cache, target, "target_is_link")
    assert list(outside.iterdir()) == []


def test_one_tree_of_several_that_cannot_be_placed(world: World, tmp_path: Path) -> None:
    """The trees before it are taken back, and the folders that were made for them."""
    source = world.vm("a", {"apps/a/node_modules/x": b"1", "node_modules/y": b"2", "web/node_modules/z": b"3"})
    trees = ("apps/a/node_modules", "node_modules", "web/node_modules")
    cache = world.cache()
    cache.publish(OWNER, KEY, source, trees)
    outside = tmp_path / "outside"
    outside.mkdir()
    target = world.vm("b")
    (app_of(target) / "web").symlink_to(outside)

    _is_refused(world, cache, target, "target_is_link")

    assert [path.name for path in app_of(target).iterdir()] == ["web"]
    assert list(outside.iterdir()) == []


def test_a_target_that_a_project_takes_at_the_last_moment(world: World, installed: VmPlace) -> None:
    """Trees move back also where the early look found nothing in the way."""
    from services.pool.adapters.deps_cache import targets

    source = world.vm("a", {"apps/a/node_modules/x": b"1", "node_modules/y": b"2"})
    world.cache().publish(OWNER, KEY, source, ("apps/a/node_modules", "node_modules"))
    staged = world.folder / "staged"
    shutil.copytree(app_of(source), staged)
    target = world.vm("b", {"node_modules/own.js": b"own"})
    staged_fd, app = os.open(staged, os.O_RDONLY), os.open(app_of(target), os.O_RDONLY)
    try:
        with pytest.raises(CacheError) as error:
            targets.move(manifest_of(world.entry()), staged_fd, app)
    finally:
        os.close(staged_fd)
        os.close(app)

    assert refused(error) == "target_taken"
    assert [path.name for path in app_of(target).iterdir()] == ["node_modules"]
    assert sorted(path.name for path in staged.rglob("*") if path.is_file()) == ["x", "y"]


def test_what_a_killed_restore_left_in_a_vm_goes_with_the_next(world: World, cache: DepsCache) -> None:
    target = world.vm("b")
    write(target.staging / "restore-0123456789abcdef/node_modules/x", b"x")
    write(target.staging / "agent.log", b"kept")

    cache.restore(OWNER, KEY, target)

    assert sorted(path.name for path in target.staging.iterdir()) == ["agent.log", "root"]


def _is_refused(world: World, cache: DepsCache, target: VmPlace, code: str) -> None:
    with pytest.raises(CacheError) as error:
        cache.restore(OWNER, KEY, target)
    assert refused(error) == code
    assert len(world.entries()) == 1
    assert world.leftovers() == []
