"""What a framework keeps of its own work beside the dependencies, so that its next start is quicker. Pure."""

import msgspec

from services.orchestrator.model import Preview
from services.orchestrator.rules.frameworks import FRAMEWORKS
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
    prefix = "" if found.app_root == "." else f"{found.app_root}/"
    trees = tuple(f"{prefix}{folder}" for folder in framework.cache if TREE not in folder.split("/"))
    if not trees:
        return None
    key = derive(preview.project_id, "build", found.framework, found.version, found.deps, found.app_root)
    return BuildCache(key, trees)
