"""Which files' texts detection needs."""

import re
from collections.abc import Collection

from services.orchestrator.rules.detection.managers import LOCKFILES, PATCH_FOLDERS
from services.orchestrator.rules.detection.python import ENTRY_FILES
from services.orchestrator.rules.detection.tree import split, usable

WANTED_FILES_MAX = 500
DEPTH_MAX = 6
NAMES = frozenset(
    {
        "package.json",
        "drape.toml",
        "pnpm-workspace.yaml",
        "turbo.json",
        "nx.json",
        "project.json",
        "lerna.json",
        "angular.json",
    }
    | {".npmrc", ".yarnrc.yml", ".yarnrc", ".pnpmfile.cjs", "bunfig.toml", ".nvmrc", ".node-version"}
    | {"deno.json", "deno.jsonc", "requirements.txt", "pyproject.toml", "Pipfile"}
    | (set(LOCKFILES) - {"bun.lockb"})
)
PYTHON_NAMES = frozenset(path.rpartition("/")[2] for path in ENTRY_FILES)
REQUIREMENTS = re.compile(r"(.*/)?(requirements|constraints)[^/]*\.txt|(.*/)?requirements/[^/]+\.txt")
PATCHES = re.compile(rf"(.*/)?({'|'.join(map(re.escape, PATCH_FOLDERS))})/[^/]+")


def wanted_files(paths: Collection[str]) -> list[str]:
    """The paths whose texts `detect` reads, at most `WANTED_FILES_MAX`: those nearest to the top first."""
    wanted = [path for path in paths if path.count("/") < DEPTH_MAX and _counts(path) and usable(path)]
    return sorted(wanted, key=lambda path: (path.count("/"), split(path)[1] not in NAMES, path))[:WANTED_FILES_MAX]


def _counts(path: str) -> bool:
    name = split(path)[1]
    return name in NAMES or name in PYTHON_NAMES or bool(REQUIREMENTS.fullmatch(path) or PATCHES.fullmatch(path))
