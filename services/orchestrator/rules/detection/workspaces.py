"""Workspaces of npm, yarn, bun and pnpm: their roots, and the packages in them."""

from fnmatch import fnmatchcase

from services.orchestrator.rules.detection.tree import Tree, mapping, parse_yaml, strings

GLOBS_MAX = 100
GLOB_PARTS_MAX = 20
GLOB_CHARS_MAX = 200


def workspace_globs(tree: Tree, folder: str) -> list[str]:
    """The globs by which this folder, as a workspace's root, names its packages; empty: it is none."""
    package = tree.package(folder)
    globs: list[str] = []
    if package is not None:
        named = package.data.get("workspaces")
        globs = strings(named) or strings(mapping(named).get("packages"))
    if not globs and tree.has(folder, "pnpm-workspace.yaml"):
        globs = strings(mapping(parse_yaml(tree.text(folder, "pnpm-workspace.yaml"))).get("packages"))
    return [each for glob in globs[:GLOBS_MAX] if len(glob) <= GLOB_CHARS_MAX for each in _expanded(glob)][:GLOBS_MAX]


def members(tree: Tree, root: str) -> list[str]:
    """The folders of the workspace's packages, the root not among them, sorted."""
    globs = workspace_globs(tree, root)
    if not globs:
        return []
    found = []
    for folder in tree.folders_with("package.json"):
        below = relative(folder, root)
        if below not in ("", ".") and is_member(below, globs):
            found.append(folder)
    return found


def install_root(tree: Tree, app: str) -> str:
    """Where the install for this app runs: the nearest workspace's root that it belongs to, else the app itself."""
    folder = app
    while folder != ".":
        folder = folder.rpartition("/")[0] or "."
        if is_member(relative(app, folder), workspace_globs(tree, folder)):
            return folder
    return app


def relative(folder: str, root: str) -> str:
    """`folder` as seen from `root`; empty where it is not below it."""
    if root == ".":
        return folder
    return folder[len(root) + 1 :] if folder.startswith(f"{root}/") else ""


def is_member(folder: str, globs: list[str]) -> bool:
    """Whether the globs name this folder; the last that matches decides, `!` takes out again."""
    named = False
    for glob in globs:
        pattern = glob.removeprefix("!").removeprefix("./").strip("/")
        if pattern and _matches(folder.split("/"), pattern.split("/")):
            named = not glob.startswith("!")
    return named


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Segment by segment; `**` stands for any number of them."""
    if len(pattern) > GLOB_PARTS_MAX or len(parts) > GLOB_PARTS_MAX:
        return False
    reached = {0}
    for glob in pattern:
        if glob == "**":
            reached = set(range(min(reached, default=len(parts) + 1), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatchcase(parts[at], glob)}
    return len(parts) in reached


def _expanded(glob: str) -> list[str]:
    """One level of braces: `packages/{a,b}`."""
    head, opening, rest = glob.partition("{")
    inner, closing, tail = rest.partition("}")
    if not opening or not closing:
        return [glob]
    return [f"{head}{each}{tail}" for each in inner.split(",")]
