"""Dependencies of local VMs: their `node_modules` folders, copied between a VM's files and the cache of this machine."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from services.pool.adapters.deps_cache import CacheError, DepsCache, VmPlace
from shared.deps import DepsAnswer
from shared.ids import OwnerId, VmId

APP = "app"
TREE = "node_modules"
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

    def publish(self, owner: OwnerId, key: str, vm_id: VmId) -> DepsAnswer:
        place = self._place(vm_id)
        trees = sorted(trees_below(place.root / APP))
        if not trees:
            return DepsAnswer(done=False, code="source_missing")
        try:
            published = self._cache.publish(owner, key, place, trees)
        except CacheError as error:
            return DepsAnswer(done=False, code=error.code)
        return DepsAnswer(done=True, files=published.files, bytes=published.bytes)

    def restore(self, owner: OwnerId, key: str, vm_id: VmId) -> DepsAnswer:
        try:
            restored = self._cache.restore(owner, key, self._place(vm_id))
        except CacheError as error:
            return DepsAnswer(done=False, code=error.code)
        return DepsAnswer(done=True, files=restored.files, bytes=restored.bytes)

    def _place(self, vm_id: VmId) -> VmPlace:
        folder = self._vms_dir / vm_id
        return VmPlace(root=folder / "root", staging=folder, app=APP)


def trees_below(app: Path) -> Iterator[str]:
    """The outermost `node_modules` folders of a project, as paths below it. Links are not followed; a project that
    hides one behind too many folders gets it installed."""
    for seen, (folder, names, _) in enumerate(os.walk(app, followlinks=False)):
        below = Path(folder).relative_to(app)
        if TREE in names and not (Path(folder) / TREE).is_symlink():
            yield (below / TREE).as_posix()
        deeper = len(below.parts) < DEPTH_MAX and seen < FOLDERS_MAX
        names[:] = [name for name in names if name != TREE and not name.startswith(".")] if deeper else []


def platform_of(node_dir: Path | None) -> str:
    """System, processor, libc, Node and its ABI, and the registry that installs come from. Raises OSError and
    `subprocess.SubprocessError` where Node does not run."""
    node = str(node_dir / "bin" / "node") if node_dir is not None else shutil.which("node") or "node"
    words = [node, "-p", "process.versions.node + ' ' + process.versions.modules"]
    asked = subprocess.run(words, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True)
    libc, version = platform.libc_ver()
    registry = next((os.environ[name] for name in REGISTRY if name in os.environ), "")
    parts = (platform.system(), platform.machine(), libc, version, asked.stdout.strip(), registry)
    return " ".join(parts)
