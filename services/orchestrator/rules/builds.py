"""What a framework keeps of its own work beside the dependencies, so that its next start is quicker. Pure."""

import msgspec

from services.orchestrator.model import Preview, Vm
from services.orchestrator.rules.detection.tree import join
from services.orchestrator.rules.frameworks import FRAMEWORKS
from shared.deps import DepsRequest
from shared.ids import derive

TREE = "node_modules"


class BuildCache(msgspec.Struct, frozen=True):
    """`trees`: folders of the project; `key`: what they are good for. One inside `node_modules` goes with that."""

    key: str
    trees: tuple[str, ...]


def build_cache(preview: Preview) -> BuildCache | None:
    """The project's own: it holds code of its files. None where the framework keeps nothing, or the dependencies are none
    that are kept."""
    found = preview.found
    framework = FRAMEWORKS.get(found.framework) if found is not None else None
    if found is None or framework is None or not found.deps or not found.keeps:
        return None
    trees = tuple(join(found.app_root, folder) for folder in framework.cache if TREE not in folder.split("/"))
    if not trees:
        return None
    key = derive(preview.project_id, "build", found.framework, found.version, found.deps, found.app_root)
    return BuildCache(key, trees)


def build_request(preview: Preview, vm: Vm) -> DepsRequest | None:
    """What to ask of the pool about it, in either direction."""
    build = build_cache(preview)
    if build is None:
        return None
    return DepsRequest(
        vm_id=vm.vm_id,
        preview_id=preview.preview_id,
        key=build.key,
        trees=build.trees,
        project_id=preview.project_id,
    )
