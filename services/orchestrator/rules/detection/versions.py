"""Which Node a project asks for, and versions as lockfiles name them."""

import re
from collections.abc import Callable, Iterable

import nodesemver

from services.orchestrator.rules.detection.tree import Tree, join, mapping
from shared.commands import PreviewWarning

NODES = {24: "24.19.0", 22: "22.20.0", 20: "20.20.0"}
"""The majors that there are, highest first, each with the version that ranges are compared with."""
RANGE_CHARS_MAX = 200
NEWEST = frozenset({"node", "latest", "current", "lts/*", "lts", "stable", "*", "x", ""})
LTS = {"krypton": "24", "jod": "22", "iron": "20", "hydrogen": "18", "gallium": "16"}
VERSION = re.compile(r"[0-9A-Za-z.+-]{1,100}")


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is in a range of npm's; never raises, a range that can't be read holds nothing."""
    if len(wanted) > RANGE_CHARS_MAX or not wanted.isascii():
        return False
    try:
        return bool(nodesemver.satisfies(version, wanted, loose=True))
    except Exception:  # whatever the library makes of rubbish
        return False


def choose_node(
    tree: Tree, folders: Iterable[str], default: int, wanted: str = ""
) -> tuple[str, list[str], list[PreviewWarning]]:
    """The major to run on (empty: the default serves), the evidence, and the warning where none does.

    `folders`: the app's, then the workspace's. `wanted`: what `drape.toml` says.
    """
    asked = [("drape.toml", wanted)] if wanted else [each for folder in folders for each in _asked(tree, folder)]
    if not asked:
        return "", [], []
    where, text = asked[0]
    evidence = [f"Node {text[:50]} in {where}"]
    majors = [default, *(major for major in NODES if major != default)]
    found = next((major for major in majors if _serves(major, text)), None)
    if found is not None:
        return ("" if found == default else str(found)), evidence, []
    warning = PreviewWarning(
        code="node_version_unmet",
        version=text[:50],
        message=f"{where} asks for Node {text[:50]}, which is not among {', '.join(map(str, NODES))}.",
        recommendation=f"Node {default} is used. Ask for a version that there is, or for none.",
    )
    return "", evidence, [warning]


def _serves(major: int, text: str) -> bool:
    text = text.strip()
    if text.lower() in NEWEST:
        return True
    text = LTS.get(text.lower().removeprefix("lts/"), text)
    exact = re.fullmatch(r"[vV=]{0,2}(\d{1,3})(\.\d+){0,2}", text, flags=re.ASCII)
    if exact:
        return int(exact[1]) == major
    # A major that is not in the table (a machine's own Node) is compared as its newest.
    return satisfies(NODES.get(major, f"{major}.99.0"), text)


def _asked(tree: Tree, folder: str) -> list[tuple[str, str]]:
    """What a folder says about Node, the most binding first."""
    found = [(join(folder, name), _first_line(tree.text(folder, name))) for name in (".nvmrc", ".node-version")]
    package = tree.package(folder)
    if package is not None:
        path = join(folder, "package.json")
        found.append((f"volta in {path}", _text(mapping(package.data.get("volta")).get("node"))))
        found.append((f"engines in {path}", _text(mapping(package.data.get("engines")).get("node"))))
        runtime = mapping(mapping(package.data.get("devEngines")).get("runtime"))
        if runtime.get("name") == "node":
            found.append((f"devEngines in {path}", _text(runtime.get("version"))))
    return [each for each in found if each[1]]


def _first_line(text: str) -> str:
    lines = (line.partition("#")[0].strip() for line in text[:1_000].splitlines())
    return next((line for line in lines if line), "")


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def framework_version(tree: Tree, install_root: str, app_root: str, dependency: str, declared: str) -> str:
    """The locked version, else the one that package.json's range starts from; empty where neither tells."""
    for name, reader in _READERS.items():
        text = tree.text(install_root, name)
        found = reader(text, dependency, app_root) if text else ""
        if found and VERSION.fullmatch(found):
            return found
    match = re.search(r"\d{1,9}(\.\d{1,9}){0,2}(-[0-9A-Za-z.-]{1,50})?", declared)
    return match.group(0) if match else ""


def _npm(text: str, dependency: str, app_root: str) -> str:
    name = re.escape(dependency)
    keys = [] if app_root == "." else [f"{re.escape(app_root)}/node_modules/{name}"]
    for key in (*keys, f"node_modules/{name}", name):
        match = re.search(rf'"{key}"\s*:\s*\{{\s*"version"\s*:\s*"([^"\s]{{1,100}})"', text)
        if match:
            return match[1]
    return ""


def _pnpm(text: str, dependency: str, app_root: str) -> str:
    name = re.escape(dependency)
    importers = text.find("\nimporters:")
    at = text.find(f"\n  {app_root}:\n", importers) if importers >= 0 else 0
    part = text[max(at, 0) : max(at, 0) + 200_000]
    for pattern in (
        rf"\n +'?{name}'?:\n +specifier: [^\n]*\n +version: '?(\d[^\s('_]*)",
        rf"\n +'?{name}'?: (\d[^\s(_]*)",
        rf"\n  '?/?{name}[@/](\d[^\s:('_]*)",
    ):
        match = re.search(pattern, part) or re.search(pattern, text)
        if match:
            return match[1]
    return ""


def _yarn(text: str, dependency: str, app_root: str) -> str:
    match = re.search(rf'^"?{re.escape(dependency)}@[^\n]*:\n +version:? "?([^"\s]+)', text, flags=re.MULTILINE)
    return match[1] if match else ""


def _bun(text: str, dependency: str, app_root: str) -> str:
    name = re.escape(dependency)
    match = re.search(rf'"{name}"\s*:\s*\[\s*"{name}@([^"\s]+)"', text)
    return match[1] if match else ""


_READERS: dict[str, Callable[[str, str, str], str]] = {
    "package-lock.json": _npm,
    "npm-shrinkwrap.json": _npm,
    "pnpm-lock.yaml": _pnpm,
    "yarn.lock": _yarn,
    "bun.lock": _bun,
}
