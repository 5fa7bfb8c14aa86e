"""Dependencies of local VMs: their `node_modules` folders, and what package managers have fetched, copied between a VM's
files and the cache of this machine."""

import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from services.pool.adapters import local_vm
from services.pool.adapters.deps_cache import CacheError, DepsCache, VmPlace
from services.pool.adapters.deps_cache.names import is_path
from services.pool.deps import Platform
from shared.deps import DepsAnswer, DepsRequest
from shared.ids import OwnerId, ProjectId, VmId

log = logging.getLogger("drape.pool")

APP, HOME = "app", "home"
STORES = {
    "npm": ".npm/_cacache",
    "pnpm": ".local/share/pnpm/store",
    "yarn": ".cache/yarn",
    "bun": ".bun/install/cache",
    "pip": ".cache/pip",
}
"""Where package managers keep what they have fetched, below the home folder. They check it by hash when they use it."""
TREE = "node_modules"
PATH_VARIES = DepsAnswer(done=False, code="path_varies")
DEPTH_MAX = 5
FOLDERS_MAX = 5_000
TREES_MAX = 200
ASK_TIMEOUT_S = 10.0
REGISTRY = ("npm_config_registry", "NPM_CONFIG_REGISTRY", "YARN_NPM_REGISTRY_SERVER")


class LocalDeps:
    """The `DepsStore` of the local provider. `vms_dir`: the provider's own."""

    def __init__(self, cache: DepsCache, vms_dir: Path) -> None:
        self._cache = cache
        self._vms_dir = vms_dir

    def publish(self, owner: OwnerId, key: str, asked: DepsRequest) -> DepsAnswer:
        if asked.trees and not self._has_the_path(asked.vm_id):
            return PATH_VARIES
        stored = not asked.trees and self._publish_store(owner, asked.vm_id, asked.manager)
        place = self._place(asked.vm_id, APP)
        trees = self._trees(place, asked) if key else []
        if not trees:
            return DepsAnswer(done=False, code="source_missing", store=stored)
        try:
            published = self._cache.publish(
                _for(owner, asked), key, place, trees, replace=bool(asked.trees), since_s=asked.unchanged_since or None
            )
        except CacheError as error:
            return DepsAnswer(done=False, code=error.code, store=stored)
        return DepsAnswer(done=True, store=stored, files=published.files, bytes=published.bytes)

    def restore(self, owner: OwnerId, key: str, asked: DepsRequest) -> DepsAnswer:
        code = "not_cached"
        if asked.trees and not self._has_the_path(asked.vm_id):
            return PATH_VARIES
        if key:
            try:
                place = self._place(asked.vm_id, APP)
                restored = self._cache.restore(_for(owner, asked), key, place, full=bool(asked.trees))
            except CacheError as error:
                code = error.code
            else:
                return DepsAnswer(done=True, files=restored.files, bytes=restored.bytes)
        store = not asked.trees and self._restore_store(owner, asked.vm_id, asked.manager)
        return DepsAnswer(done=False, code=code, store=store)

    def prepare(self, owner: OwnerId, key: str) -> None:
        try:
            self._cache.prepare(owner, key)
        except CacheError as error:
            log.info("restore_not_prepared", extra={"code": error.code})

    def forget(self, project_id: ProjectId) -> int:
        return self._cache.drop_owner(_of_project(project_id))

    def _has_the_path(self, vm_id: VmId) -> bool:
        """What is built holds paths. In a sandbox a project's is the same in every VM, without one in no two."""
        vm = local_vm.load(self._vms_dir / vm_id)
        return vm is not None and vm.record.sandbox == "bubblewrap"

    def _trees(self, place: VmPlace, asked: DepsRequest) -> list[str]:
        if not asked.trees:
            return sorted(trees_below(place.root / APP))
        # Whether each is a folder, reached without a link, is found out when it is opened.
        return [tree for tree in asked.trees if is_path(tree) and os.path.lexists(place.root / APP / tree)]

    def _publish_store(self, owner: OwnerId, vm_id: VmId, manager: str) -> bool:
        """Over what was there: the VM has begun with that."""
        place, store = self._place(vm_id, HOME), STORES.get(manager, "")
        if not store or not (place.root / HOME / store).is_dir():
            return False
        try:
            return self._cache.publish(owner, f"store {manager}", place, [store], replace=True).stored
        except CacheError as error:
            log.info("store_not_kept", extra={"vm_id": vm_id, "manager": manager, "code": error.code})
            return False

    def _restore_store(self, owner: OwnerId, vm_id: VmId, manager: str) -> bool:
        if manager not in STORES:
            return False
        try:
            self._cache.restore(owner, f"store {manager}", self._place(vm_id, HOME))
        except CacheError as error:
            log.debug("store_not_restored", extra={"vm_id": vm_id, "manager": manager, "code": error.code})
            return False
        return True

    def _place(self, vm_id: VmId, folder: str) -> VmPlace:
        vm = self._vms_dir / vm_id
        return VmPlace(root=vm / "root", staging=vm, app=folder)


def _for(owner: OwnerId, asked: DepsRequest) -> str:
    """Whose an entry is: an install is for all of an owner's projects, a build cache for one. The key names the owner too."""
    return _of_project(asked.project_id) if asked.trees else owner


def _of_project(project_id: ProjectId) -> str:
    return f"project {project_id}"


def trees_below(app: Path) -> Iterator[str]:
    """The outermost `node_modules` folders of a project, as paths below it. Links are not followed; a project that
    hides one behind too many folders gets it installed."""
    for seen, (folder, names, _) in enumerate(os.walk(app, followlinks=False)):
        below = Path(folder).relative_to(app)
        if TREE in names and not (Path(folder) / TREE).is_symlink():
            yield (below / TREE).as_posix()
        deeper = len(below.parts) < DEPTH_MAX and seen < FOLDERS_MAX
        names[:] = [name for name in names if name != TREE and not name.startswith(".")] if deeper else []


def platform_of(node_dir: Path | None) -> Platform:
    """This machine's, with the Node that VMs get. Raises OSError and `subprocess.SubprocessError` where that does not
    run."""
    node = str(node_dir / "bin" / "node") if node_dir is not None else shutil.which("node") or "node"
    words = [node, "-p", "process.versions.node + ' ' + process.versions.modules"]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
    version, _, abi = asked.stdout.strip().partition(" ")
    return Platform(
        system=platform.system(),
        machine=platform.machine(),
        libc=" ".join(platform.libc_ver()),
        node=version,
        abi=abi,
        registry=next((os.environ[name] for name in REGISTRY if name in os.environ), ""),
    )
