"""The apps in a project: which there are, and which one is meant."""

import re
from collections.abc import Iterable, Iterator

import msgspec

from services.orchestrator.rules.detection import scripts
from services.orchestrator.rules.detection.model import CHOICES_MAX, AppChoiceNeeded
from services.orchestrator.rules.detection.nx import NxApp, nx_apps
from services.orchestrator.rules.detection.python import ENTRY_FILES, MANIFESTS, PythonMatch, recognise_python
from services.orchestrator.rules.detection.recognise import Match, recognise
from services.orchestrator.rules.detection.settings import shown
from services.orchestrator.rules.detection.tree import Package, Tree, join, mapping, parse_json
from services.orchestrator.rules.detection.workspaces import install_root, members
from services.orchestrator.rules.frameworks import FRAMEWORKS
from shared.errors import Invalid
from shared.events import AppChoice

DEPTH_MAX = 4
FOLDERS_MAX = 500
ASIDE = frozenset(
    {"example", "examples", "demo", "demos", "test", "tests", "__tests__", "fixture", "fixtures", "__fixtures__", "e2e"}
    | {"template", "templates", "dist", "build", "out", "coverage", "vendor", "third_party"}
)
"""Folders whose packages count only where there is nothing else."""
DENO_CONFIGS = ("deno.json", "deno.jsonc")
DENO_FILES = ("main.ts", "main.tsx", "server.ts", "mod.ts", "main.js", "index.ts", "dev.ts")


class DenoMatch(msgspec.Struct, frozen=True, kw_only=True):
    """A Deno project: a task to run, or a file."""

    evidence: str
    task: str = ""
    line: str = ""
    file: str = ""


class App(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can be shown. `found`: what it is; None: a folder with an index.html."""

    path: str
    framework: str
    name: str
    found: Match | NxApp | PythonMatch | DenoMatch | None = None

    @property
    def certain(self) -> bool:
        """Whether something says that this is an app, and not a library or the root of one."""
        match self.found:
            case Match(certainty="script"):
                return True
            case Match(certainty="runner", framework=framework, line=line):
                node = scripts.first_command(line) in scripts.NODE_RUNNERS
                return framework.kind != "runtime" and (node or not framework.bundler)
            case NxApp() | PythonMatch() | DenoMatch():
                return True
            case _:
                return False

    @property
    def runs(self) -> bool:
        """Whether a program of its own is run, whatever it is."""
        return self.certain or (isinstance(self.found, Match) and self.found.certainty == "runner")

    def choice(self) -> AppChoice:
        """As a person is asked."""
        return AppChoice(path=self.path, framework=self.framework, name=self.name)


def choose_app(tree: Tree, wanted: str, forced: str = "") -> App:
    """The app that is named, else the only one. Raises `AppChoiceNeeded`, `Invalid`."""
    if wanted:
        return _named(tree, wanted, forced)
    root = tree.package(".")
    if root is not None and root.broken:
        raise Invalid("bad_package_json", root.broken, "Mend package.json.")
    apps = find_apps(tree)
    if forced and len(apps) > 1:
        apps = [app for app in apps if app.framework == forced] or apps
    if len(apps) > 1:
        raise AppChoiceNeeded(tuple(app.choice() for app in apps[:CHOICES_MAX]))
    if not apps:
        return _required(tree, ".", forced)
    return apps[0] if forced in ("", apps[0].framework) else _required(tree, apps[0].path, forced)


def find_apps(tree: Tree) -> list[App]:
    """All apps, sorted by path. A root that is an app itself is the only one, unless it is a workspace or names others."""
    root = app_at(tree, ".")
    workspace = members(tree, ".")
    found = [*nx_apps_of(tree)]
    if workspace or found:
        inside = [*_apps_in(tree, workspace), *found]
        apps = [*([root] if root and root.certain else ()), *inside]
        return _counting(apps) or _programs(tree, [".", *workspace])
    if root is not None and root.runs:
        others = [app for app in _apps_in(tree, _folders(tree)) if _goes_with(root, app)]
        return _counting([root, *others])
    folders = [folder for folder in _folders(tree) if folder != "."]
    return _counting(_apps_in(tree, folders)) or _counting(_apps_in(tree, _aside(tree)) if root is None else ())


def nx_apps_of(tree: Tree) -> Iterator[App]:
    """Nx's apps that are not packages with scripts, which are found as packages."""
    for app in nx_apps(tree):
        package = tree.package(app.path)
        if package is None or not package.scripts:
            yield App(path=app.path, framework=app.framework, name=app.name, found=app)


def _counting(apps: Iterable[App]) -> list[App]:
    """Each folder once; a Storybook only where there is nothing that it is about."""
    by_path = {app.path: app for app in sorted(apps, key=lambda app: app.path)}
    main = [app for app in by_path.values() if not FRAMEWORKS[app.framework].secondary]
    return main or [*by_path.values()]


def _apps_in(tree: Tree, folders: Iterable[str]) -> list[App]:
    found = (app_at(tree, folder) for folder in folders)
    return [app for app in found if app is not None and app.certain]


def _programs(tree: Tree, folders: Iterable[str]) -> list[App]:
    """Where no framework is known: packages that run a program of their own."""
    found = (app_at(tree, folder) for folder in folders)
    return _counting(app for app in found if app is not None and app.runs)


def _goes_with(root: App, app: App) -> bool:
    """A front end beside a server: the root's script names its folder, or the root is in Python."""
    if app.path == ".":
        return False
    match root.found:
        case Match(line=line):
            return re.search(rf"(^|[\s/'\"=]){re.escape(app.path)}($|[\s/'\"&;])", line) is not None
        case PythonMatch():
            return not isinstance(app.found, PythonMatch)
        case _:
            return False


def _folders(tree: Tree) -> list[str]:
    return [folder for folder in _near(tree) if not ASIDE.intersection(folder.split("/"))][:FOLDERS_MAX]


def _aside(tree: Tree) -> list[str]:
    return [folder for folder in _near(tree) if ASIDE.intersection(folder.split("/"))][:FOLDERS_MAX]


def _near(tree: Tree) -> Iterator[str]:
    for folder in tree.folders_with("package.json", *DENO_CONFIGS, *MANIFESTS, "manage.py", "app.py", "main.py"):
        hidden = any(part.startswith(".") for part in folder.split("/")) and folder != "."
        if folder.count("/") < DEPTH_MAX and not hidden:
            yield folder


def app_at(tree: Tree, folder: str, forced: str = "") -> App | None:
    """What is in this folder, if anything that can be shown."""
    package = tree.package(folder)
    kind = FRAMEWORKS[forced].kind if forced else ""
    match = (
        _package_match(tree, folder, package, forced) if kind not in ("python", "static") and forced != "deno" else None
    )
    python = recognise_python(tree, folder, forced) if kind in ("", "python") else None
    deno = _deno(tree, folder) if forced in ("", "deno") else None
    name = package.name if package and package.name else folder.rpartition("/")[2]
    strong = match is not None and match.certainty != "default"
    assets = strong and match is not None and match.framework.bundler and "index.html" not in tree.names(folder)
    if match and strong and not (python and assets):
        return App(path=folder, framework=match.framework.slug, name=name, found=match)
    if deno is not None and not (match and match.framework.kind == "web"):
        return App(path=folder, framework="deno", name=name, found=deno)
    if python is not None:
        return App(path=folder, framework=python.framework.slug, name=name, found=python)
    if match is not None:
        return App(path=folder, framework=match.framework.slug, name=name, found=match)
    if "index.html" in tree.names(folder) or kind == "static":
        return App(path=folder, framework="static", name=name)
    return None


def _package_match(tree: Tree, folder: str, package: Package | None, forced: str) -> Match | None:
    if package is None or package.broken:
        return None
    root = install_root(tree, folder)
    return recognise(tree, package, tree.package(root) if root != folder else None, forced)


def _deno(tree: Tree, folder: str) -> DenoMatch | None:
    config = tree.has(folder, *DENO_CONFIGS)
    if not config:
        return None
    tasks = mapping(parse_json(tree.text(folder, config)).get("tasks"))
    for name in ("dev", "start", "serve"):
        line = tasks.get(name)
        line = mapping(line).get("command") if isinstance(line, dict) else line
        if isinstance(line, str) and line.strip():
            return DenoMatch(evidence=f"task {name} in {join(folder, config)}", task=name, line=line)
    file = tree.has(folder, *DENO_FILES)
    return DenoMatch(evidence=join(folder, config), file=file) if file else None


def _named(tree: Tree, wanted: str, forced: str) -> App:
    path = "/".join(part for part in wanted.split("/") if part not in ("", ".")) or "."
    nx = [*nx_apps_of(tree)]
    for app in nx:
        if path == app.path:
            return app
    if path == "." or tree.has(
        path, "package.json", "index.html", "manage.py", *DENO_CONFIGS, *MANIFESTS, *ENTRY_FILES
    ):
        return _required(tree, path, forced)
    for folder in tree.folders_with("package.json"):
        package = tree.package(folder)
        if package is not None and package.name == wanted:
            return _required(tree, folder, forced)
    for app in nx:
        if wanted == app.name:
            return app
    known = ", ".join(app.path for app in find_apps(tree)[:10])
    hint = f"The apps are: {known}." if known else "Name the folder of an app, below the project."
    raise Invalid("app_not_found", f"The project has no app {shown(wanted)}.", hint)


def _required(tree: Tree, folder: str, forced: str) -> App:
    package = tree.package(folder)
    path = join(folder, "package.json")
    if package is not None and package.broken:
        raise Invalid("bad_package_json", package.broken, f"Mend {path}.")
    app = app_at(tree, folder, forced)
    if app is not None:
        return app
    if package is not None:
        raise Invalid(
            "no_dev_script",
            f"{path} has neither a `dev` nor a `start` script, and there is no server.js or index.js.",
            'Add one, for example "scripts": {"dev": "vite"}.',
        )
    place = "at the top of the project" if folder == "." else f"in {shown(folder)}"
    raise Invalid(
        "not_a_web_project",
        f"There is neither a package.json nor an index.html {place}.",
        "Preview the folder that holds one of them, or say in drape.toml how it is started (`dev`).",
    )
