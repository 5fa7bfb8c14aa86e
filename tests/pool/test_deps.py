"""The pool's answers about dependencies: only to whoever holds the VM, under a key that is the owner's and the machine's."""

import asyncio
import os
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from services.pool.adapters.deps_cache import CacheLimits, DepsCache, names
from services.pool.adapters.local_deps import LocalDeps, platform_of, trees_below
from services.pool.adapters.local_vm import Record
from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.deps import Deps, Platform, deps_key
from shared.deps import DepsAnswer, DepsRequest
from shared.errors import Refused
from shared.events import Event
from tests.builders import OWNER, PREVIEW, PROJECT, vm, vm_acquired, vm_released, warm_vms
from tests.deploy.waiting import eventually
from tests.spec import Given

OTHER = "preview-2"
RECORD = Record(
    vm_id=vm(1),
    pid=1,
    created=0.0,
    identity="",
    port=None,
    labels={},
    sandbox="bubblewrap",
)
LINUX = Platform(system="Linux", machine="x86_64", libc="glibc 2.36", node="24.1.0", abi="137")


def answers(folder: Path, *past: Event, platform: Platform = LINUX, sandbox: bool = True) -> Deps:
    """The pool's answers after these events, with a cache and two VMs' folders below `folder`."""
    state = Given(definition(PoolConfig()), *warm_vms(1, 2), *past).state
    store = LocalDeps(DepsCache(folder / "cache", CacheLimits()), folder / "vms")
    for number in (1, 2):
        for name in ("app", "home"):
            (folder / "vms" / vm(number) / "root" / name).mkdir(parents=True, exist_ok=True)
        record = RECORD if sandbox else msgspec.structs.replace(RECORD, sandbox="process_group")
        (folder / "vms" / vm(number) / "vm.json").write_bytes(msgspec.json.encode(record))
    told = asyncio.get_running_loop().create_future()
    told.set_result(platform)
    return Deps(store, lambda: state, told, prepare_after_s=0.0)


def app_of(folder: Path, number: int) -> Path:
    return folder / "vms" / vm(number) / "root" / "app"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


async def ask(
    deps: Deps,
    verb: str,
    number: int,
    preview: str,
    key: str = "key",
    trees: tuple[str, ...] = (),
    project: str = PROJECT,
) -> DepsAnswer:
    body = msgspec.json.encode(
        DepsRequest(vm_id=vm(number), preview_id=preview, key=key, manager="npm", trees=trees, project_id=project)
    )
    answer = await (deps.restore if verb == "restore" else deps.publish)(body, {})
    return msgspec.json.decode(answer, type=DepsAnswer)


async def test_what_one_preview_installed_another_of_the_owner_gets(tmp_path: Path) -> None:
    """The outermost `node_modules` folders of the project, workspaces' included, and nothing beside them."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    write(app_of(tmp_path, 1) / "node_modules" / "vite" / "index.js", "vite")
    write(app_of(tmp_path, 1) / "apps" / "web" / "node_modules" / "react" / "index.js", "react")
    write(app_of(tmp_path, 1) / "src" / "main.js", "the project's own")

    assert (await ask(deps, "publish", 1, PREVIEW)).done
    restored = await ask(deps, "restore", 2, OTHER)

    assert (restored.done, restored.took_s > 0) == (True, True)
    there = app_of(tmp_path, 2)
    assert (there / "node_modules" / "vite" / "index.js").read_text() == "vite"
    assert (there / "apps" / "web" / "node_modules" / "react" / "index.js").read_text() == "react"
    assert not (there / "src").exists()


CACHES = (".next/cache", ".next/dev/cache")


async def test_named_folders_are_kept_in_place_of_an_install(tmp_path: Path) -> None:
    """Those that are there, and nothing else; the newest counts; what is in the way of a restore stays."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    here, there = app_of(tmp_path, 1), app_of(tmp_path, 2)
    write(here / ".next" / "dev" / "cache" / "pack", "one")
    write(here / ".next" / "server" / "page.js", "built")
    write(here / "node_modules" / "next" / "index.js", "next")
    assert (await ask(deps, "publish", 1, PREVIEW, trees=CACHES)).done
    write(here / ".next" / "dev" / "cache" / "pack", "two")
    assert (await ask(deps, "publish", 1, PREVIEW, trees=CACHES)).done

    assert (await ask(deps, "restore", 2, OTHER, trees=CACHES)).done
    assert [path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()] == [
        ".next/dev/cache/pack"
    ]
    assert (there / ".next" / "dev" / "cache" / "pack").read_text() == "two"
    write(there / ".next" / "dev" / "cache" / "pack", "the project's own")
    assert (await ask(deps, "restore", 2, OTHER, trees=CACHES)).code == "target_taken"
    assert (there / ".next" / "dev" / "cache" / "pack").read_text() == "the project's own"


async def test_without_a_sandbox_no_build_is_kept(tmp_path: Path) -> None:
    """Each VM's project is at another path then, and what was built names the one that it was built at."""
    deps = answers(tmp_path, vm_acquired(1), sandbox=False)
    write(app_of(tmp_path, 1) / ".next" / "cache" / "pack", "mine")
    assert (await ask(deps, "publish", 1, PREVIEW, trees=CACHES)).code == "path_varies"
    assert (await ask(deps, "restore", 1, PREVIEW, trees=CACHES)).code == "path_varies"


async def test_two_installs_whose_names_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry's manifest tells what it is for: nothing of it reaches the other project, and it goes."""
    monkeypatch.setattr(names, "folder_name", lambda _owner, _key: "0" * 64)
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "of another lockfile")
    assert (await ask(deps, "publish", 1, PREVIEW, key="one lockfile")).done

    answer = await ask(deps, "restore", 2, OTHER, key="another lockfile")

    assert (answer.done, answer.code) == (False, "entry_damaged")
    assert list(app_of(tmp_path, 2).iterdir()) == []
    assert list((tmp_path / "cache" / "entries").iterdir()) == []
    await deps.close()


async def test_what_a_project_has_changed_since_its_install_is_not_kept(tmp_path: Path) -> None:
    """Else the next project of the owner would run on it. What a dev server caches there is no change."""
    deps = answers(tmp_path, vm_acquired(1))
    app = app_of(tmp_path, 1)
    write(app / "node_modules" / "is-odd" / "index.js", "right")
    write(app / "node_modules" / ".bin" / "odd", "right")
    installed_at = time.time() + 0.01
    await eventually(lambda: time.time() > installed_at + 0.05)
    write(app / "node_modules" / ".vite" / "deps" / "a.js", "optimized")

    async def publish(key: str) -> DepsAnswer:
        asked = DepsRequest(vm_id=vm(1), preview_id=PREVIEW, key=key, manager="npm", unchanged_since=installed_at)
        return msgspec.json.decode(await deps.publish(msgspec.json.encode(asked), {}), type=DepsAnswer)

    assert (await publish("as installed")).done
    for changed in ("is-odd/index.js", ".bin/odd", "new/index.js"):
        write(app / "node_modules" / changed, "poisoned")
        assert (await publish(changed)).code == "dependencies_changed"
    await deps.close()


async def test_a_folder_that_a_project_has_made_a_link_is_not_kept(tmp_path: Path) -> None:
    deps = answers(tmp_path, vm_acquired(1))
    write(app_of(tmp_path, 1) / ".modules" / "a.js", "a")
    (app_of(tmp_path, 1) / "node_modules").symlink_to(".modules")
    assert (await ask(deps, "publish", 1, PREVIEW)).code == "source_missing"


async def test_a_deleted_project_takes_its_build_cache_along(tmp_path: Path) -> None:
    """And nothing of another project's, nor what the owner's installs gave; another project never gets it."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    write(app_of(tmp_path, 1) / ".next" / "cache" / "pack", "mine")
    write(app_of(tmp_path, 1) / "node_modules" / "next" / "index.js", "next")
    assert (await ask(deps, "publish", 1, PREVIEW, trees=CACHES)).done
    assert (await ask(deps, "publish", 1, PREVIEW, "install")).done
    assert (await ask(deps, "restore", 2, OTHER, trees=CACHES, project="another")).code == "not_cached"
    await deps.forget("another")
    assert (await ask(deps, "restore", 2, OTHER, trees=CACHES)).done
    await deps.forget(PROJECT)
    shutil.rmtree(app_of(tmp_path, 2) / ".next")
    assert (await ask(deps, "restore", 2, OTHER, trees=CACHES)).code == "not_cached"
    assert (await ask(deps, "restore", 2, OTHER, "install")).done


@pytest.mark.parametrize("tree", ["../home", "/etc", "a/../../home", "", "link"])
async def test_folders_that_are_none_of_the_projects_are_not_kept(tmp_path: Path, tree: str) -> None:
    """Whoever names them, and whatever a project has put where its cache should be."""
    deps = answers(tmp_path, vm_acquired(1))
    (app_of(tmp_path, 1) / "link").symlink_to("/etc")
    write(tmp_path / "vms" / vm(1) / "root" / "home" / "secret", "mine")
    answer = await ask(deps, "publish", 1, PREVIEW, trees=(tree,))
    assert (answer.done, answer.code in ("source_missing", "source_is_link")) == (False, True), answer


@pytest.mark.parametrize(
    "past",
    [
        [vm_acquired(1)],
        [vm_acquired(1), vm_acquired(2, preview=OTHER), vm_released(2, preview=OTHER)],
        [vm_acquired(1), vm_acquired(2, preview="preview-3")],
    ],
    ids=["nobody holds it", "it was released", "another holds it"],
)
@pytest.mark.parametrize("verb", ["restore", "publish"])
async def test_only_who_holds_a_vm_may_ask_about_it(tmp_path: Path, past: list[Event], verb: str) -> None:
    deps = answers(tmp_path, *past)
    with pytest.raises(Refused, match="does not hold"):
        await ask(deps, verb, 2, OTHER)


async def test_another_owner_gets_nothing_of_it(tmp_path: Path) -> None:
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER, owner="mallory"))
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "a")
    assert (await ask(deps, "publish", 1, PREVIEW)).done
    assert (await ask(deps, "restore", 2, OTHER)).code == "not_cached"


async def test_another_platform_gets_nothing_of_it(tmp_path: Path) -> None:
    """What was compiled for one Node does not run on the next."""
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "a")
    assert (await ask(answers(tmp_path, vm_acquired(1)), "publish", 1, PREVIEW)).done
    later = answers(
        tmp_path, vm_acquired(2, preview=OTHER), platform=msgspec.structs.replace(LINUX, node="26.0.0", abi="147")
    )
    assert (await ask(later, "restore", 2, OTHER)).code == "not_cached"


async def test_without_dependencies_there_is_nothing_to_keep(tmp_path: Path) -> None:
    deps = answers(tmp_path, vm_acquired(1))
    answer = await ask(deps, "publish", 1, PREVIEW)
    assert (answer.done, answer.code) == (False, "source_missing")


@pytest.mark.parametrize("part", msgspec.structs.fields(Platform), ids=lambda field: field.name)
def test_each_part_of_the_platform_counts(part: msgspec.structs.FieldInfo) -> None:
    changed = msgspec.structs.replace(LINUX, **{part.name: "another"})
    assert deps_key(OWNER, "fingerprint", changed) != deps_key(OWNER, "fingerprint", LINUX)


def test_owner_and_fingerprint_count_and_do_not_run_into_each_other() -> None:
    keys = {deps_key(owner, fingerprint, LINUX) for owner in ("a", "ab") for fingerprint in ("c", "bc")}
    assert len(keys) == 4
    assert deps_key("a", "bc", LINUX) == deps_key("a", "bc", LINUX)


def test_only_the_outermost_folders_are_trees(tmp_path: Path) -> None:
    for path in ("node_modules/a/node_modules/b", "packages/ui/node_modules/c", ".cache/node_modules/d"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "linked").mkdir()
    os.symlink(tmp_path / "node_modules", tmp_path / "linked" / "node_modules")
    assert sorted(trees_below(tmp_path)) == ["node_modules", "packages/ui/node_modules"]


def test_this_machines_platform_names_node_and_its_abi() -> None:
    found = platform_of(None)
    assert (found.system, found.machine) == (os.uname().sysname, os.uname().machine)
    assert found.node.count(".") == 2
    assert found.abi.isdecimal()


async def test_what_the_manager_fetched_serves_the_next_install(tmp_path: Path) -> None:
    """For other dependencies of the same owner, and for another owner not."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    store = "root/home/.npm/_cacache/content"
    write(tmp_path / "vms" / vm(1) / store, "a tarball")
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "a")
    assert (await ask(deps, "publish", 1, PREVIEW)).store
    answer = await ask(deps, "restore", 2, OTHER, key="another lockfile")
    assert (answer.done, answer.code, answer.store) == (False, "not_cached", True)
    assert (tmp_path / "vms" / vm(2) / store).read_text() == "a tarball"

    strangers = answers(tmp_path, vm_acquired(2, preview=OTHER, owner="mallory"))
    assert not (await ask(strangers, "restore", 2, OTHER, key="another lockfile")).store


async def test_without_a_key_only_the_store_is_kept(tmp_path: Path) -> None:
    """An install whose scripts may write anywhere, or that did not hold on to its lockfile."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    write(tmp_path / "vms" / vm(1) / "root/home/.npm/_cacache/content", "a tarball")
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "a")
    answer = await ask(deps, "publish", 1, PREVIEW, key="")
    assert (answer.done, answer.store) == (False, True)
    assert (await ask(deps, "restore", 2, OTHER, key="")).store
    assert not (app_of(tmp_path, 2) / "node_modules").exists()


async def test_the_next_restore_is_prepared(tmp_path: Path) -> None:
    """In the background; the preview that comes then gets what was written ahead, and the one after it the same files."""
    deps = answers(tmp_path, vm_acquired(1), vm_acquired(2, preview=OTHER))
    write(app_of(tmp_path, 1) / "node_modules" / "a.js", "a")
    assert (await ask(deps, "publish", 1, PREVIEW)).done
    await eventually(lambda: len(list((tmp_path / "cache" / "spares").iterdir())) == 1)
    assert (await ask(deps, "restore", 2, OTHER)).done
    assert (app_of(tmp_path, 2) / "node_modules" / "a.js").read_text() == "a"
    await eventually(lambda: len(list((tmp_path / "cache" / "spares").iterdir())) == 1)
    await deps.close()
