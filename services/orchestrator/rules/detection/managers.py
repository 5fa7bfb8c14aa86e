"""Package managers: which one a project uses, in which version, and how it installs and runs scripts."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

import msgspec

from services.orchestrator.rules.detection.tree import Json, Package, Tree, join, mapping
from services.orchestrator.rules.detection.versions import satisfies
from shared.commands import PreviewWarning

TOOLCHAIN = ("{python}", "-m", "shared.agent.toolchain")
"""The agent's program that puts a Node and a tool in front of the PATH."""

LOCKFILES = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
LOCKFILE_ORDER = ("pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb", "package-lock.json", "npm-shrinkwrap.json")
"""Of several lockfiles the first here counts: npm's is the one that an `npm install` by mistake leaves behind."""

VERSIONS = {
    "npm": ("11.15.0", "10.9.8", "9.9.4"),
    "pnpm": ("10.34.5", "9.15.9", "8.15.9", "7.33.7"),
    "yarn": ("4.17.1", "3.8.7", "2.4.2", "1.22.22"),
    "bun": ("1.3.14",),
    "deno": ("2.9.5",),
}
"""The versions to take where a project names none, or a range; newest first, one for each generation of lockfile."""
PNPM_BY_LOCKFILE = {"5": "7.33.7", "6": "8.15.9", "9": "10.34.5"}
YARN_CLASSIC = "1.22.22"
BERRY_BY_LOCKFILE = {"4": "2.4.2", "5": "3.8.7", "6": "3.8.7"}
"""By `__metadata.version`; later ones are of yarn 4."""

NPM_QUIET = ("--no-audit", "--no-fund", "--no-update-notifier", "--no-progress", "--prefer-offline")
PATCH_FOLDERS = ("patches", ".yarn/patches")
INSTALL_ENV: dict[str, dict[str, str]] = {
    "npm": {},
    "pnpm": {"npm_config_manage_package_manager_versions": "false"},
    "yarn": {"YARN_ENABLE_TELEMETRY": "0", "YARN_ENABLE_PROGRESS_BARS": "0", "DISABLE_OPENCOLLECTIVE": "1"},
    "bun": {"BUN_TELEMETRY_DISABLED": "1"},
}
MANIFEST_KEYS = (
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundledDependencies",
    "overrides",
    "resolutions",
    "workspaces",
    "pnpm",
    "patchedDependencies",
    "trustedDependencies",
    "installConfig",
)
"""The parts of package.json that decide what an install gives, beside its install scripts."""
INSTALL_SCRIPTS = ("preinstall", "install", "postinstall", "prepare")


class Manager(msgspec.Struct, frozen=True, kw_only=True):
    """One package manager. `version`: exact; empty: the npm that comes with Node. `lockfile`: its own; empty: none.

    `pnp`: yarn without `node_modules`, where nothing runs but through yarn.
    """

    name: str
    version: str = ""
    lockfile: str = ""
    pnp: bool = False

    @property
    def berry(self) -> bool:
        """Yarn 2 or later."""
        return self.name == "yarn" and not self.version.startswith("1.")

    @property
    def tool(self) -> str:
        """`NAME@VERSION` for the toolchain; empty: npm as it is."""
        return f"{self.name}@{self.version}" if self.version else ""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """A manager, why, and what is odd about it."""

    manager: Manager
    evidence: tuple[str, ...] = ()
    warnings: tuple[PreviewWarning, ...] = ()


def choose_manager(tree: Tree, root: str, wanted: str = "") -> Chosen:
    """By `drape.toml`, the `packageManager` field, the lockfile, else npm. `root`: where the install runs."""
    package = tree.package(root) or Package(folder=root)
    found = [name for name in LOCKFILE_ORDER if tree.has(root, name)]
    name, version, why = _named(package, root)
    if wanted and wanted != name:
        name, version, why = wanted, "", f"package_manager {wanted} in drape.toml"
    if not name and found:
        name = LOCKFILES[found[0]]
    lockfile = next((each for each in found if LOCKFILES[each] == name), "")
    name = name or "npm"
    version = _version(tree, root, package, name, version, lockfile)
    manager = Manager(name=name, version=version, lockfile=lockfile)
    manager = msgspec.structs.replace(manager, pnp=manager.berry and _is_pnp(tree, root))
    evidence = [why] if why else []
    evidence += [f"lockfile {join(root, lockfile)}"] if lockfile else []
    warnings = (*_unmet(package, root, manager), *_several(root, found, name, lockfile))
    return Chosen(manager=manager, evidence=tuple(evidence), warnings=warnings)


def _unmet(package: Package, root: str, manager: Manager) -> tuple[PreviewWarning, ...]:
    """Where the `packageManager` field names a manager or a version that is not to be had."""
    field = package.data.get("packageManager")
    if field is None:
        return ()
    name, _, version = field.partition("@") if isinstance(field, str) else ("", "", "")
    if name in INSTALL_ENV and re.fullmatch(r"[\w.*^~<>=| -]{0,60}(\+[\w.=/+-]{1,200})?", version):
        return ()
    return (
        PreviewWarning(
            code="package_manager_unmet",
            message=f"packageManager in {join(root, 'package.json')} is {str(field)[:60]!r}, which names no manager "
            f"that Drape knows in a version; {manager.name} is used.",
            recommendation="Name one with its exact version, such as pnpm@10.34.5",
        ),
    )


def _several(root: str, found: list[str], name: str, lockfile: str) -> tuple[PreviewWarning, ...]:
    if len({LOCKFILES[each] for each in found}) < 2:
        return ()
    others = [join(root, each) for each in found if each != lockfile]
    used = f"{name} and {join(root, lockfile)} are used" if lockfile else f"{name} is used, which has none of them"
    return (
        PreviewWarning(
            code="several_lockfiles",
            message=f"There are lockfiles of several package managers; {used}.",
            recommendation=f"Remove {', '.join(others)}, or say which one counts by `packageManager` in package.json.",
        ),
    )


def _named(package: Package, root: str) -> tuple[str, str, str]:
    """Name, version or range, and evidence, from `packageManager` and `devEngines`; empty where they name none we know."""
    path = join(root, "package.json")
    field = package.data.get("packageManager")
    if isinstance(field, str):
        name, _, version = field.partition("@")
        if name in INSTALL_ENV:
            return name, version.partition("+")[0], f"packageManager {field[:60]} in {path}"
    engine = mapping(package.data.get("devEngines")).get("packageManager")
    for each in engine if isinstance(engine, list) else [engine]:
        named, wanted = mapping(each).get("name"), mapping(each).get("version")
        if isinstance(named, str) and named in INSTALL_ENV:
            return named, wanted if isinstance(wanted, str) else "", f"devEngines {named} in {path}"
    return "", "", ""


def _version(tree: Tree, root: str, package: Package, name: str, asked: str, lockfile: str) -> str:
    """The exact version to use: the one that is named, one in the range, or what the lockfile was written by."""
    if re.fullmatch(r"\d{1,9}\.\d{1,9}\.\d{1,9}(-[0-9A-Za-z.-]{1,50})?", asked):
        return asked
    asked = {"berry": ">=4", "stable": ">=4", "classic": "1", "latest": ""}.get(asked, asked)
    own = _own_version(tree, root, name, lockfile)
    engine = mapping(package.data.get("engines")).get(name)
    for wanted in (asked, engine if isinstance(engine, str) and name != "npm" else ""):
        if not wanted.strip() or (own and satisfies(own, wanted)):
            continue
        fitting = next((each for each in VERSIONS[name] if satisfies(each, wanted)), "")
        if fitting:
            return "" if name == "npm" and fitting == VERSIONS["npm"][0] else fitting
    return own


def _own_version(tree: Tree, root: str, name: str, lockfile: str) -> str:
    """The version that the manager's own files tell of."""
    text = tree.text(root, lockfile) if lockfile else ""
    match name:
        case "npm":
            return ""
        case "pnpm":
            found = re.search(r"^lockfileVersion: *['\"]?(\d+)", text, flags=re.MULTILINE)
            return PNPM_BY_LOCKFILE.get(found[1] if found else "9", VERSIONS["pnpm"][0])
        case "yarn":
            return _yarn_version(tree, root, text)
        case _:
            return VERSIONS[name][0]


def _yarn_version(tree: Tree, root: str, lockfile: str) -> str:
    released = re.search(
        r"^yarnPath: *[^\n]{0,200}?yarn-(\d+\.\d+\.\d+)\.c?js", tree.text(root, ".yarnrc.yml"), flags=re.MULTILINE
    )
    if released:
        return released[1]
    metadata = re.search(r"^__metadata:\s+version: *['\"]?(\d+)", lockfile, flags=re.MULTILINE)
    if metadata:
        return BERRY_BY_LOCKFILE.get(metadata[1], VERSIONS["yarn"][0])
    return VERSIONS["yarn"][0] if not lockfile and tree.has(root, ".yarnrc.yml") else YARN_CLASSIC


def _is_pnp(tree: Tree, root: str) -> bool:
    linker = re.search(r"^nodeLinker: *['\"]?([\w-]+)", tree.text(root, ".yarnrc.yml"), flags=re.MULTILINE)
    return (linker[1] if linker else "pnp") == "pnp"


def prefixed(node: str, tool: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The command behind the toolchain, where it needs another Node or a tool."""
    options = [*(("--node", node) if node else ()), *(("--tool", tool) if tool else ())]
    return (*TOOLCHAIN, *options, "--", *argv) if options else tuple(argv)


def install_argv(manager: Manager, *, node_unmet: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How dependencies are installed, and the second try for a lockfile that does not fit (empty: there is none)."""
    frozen, loose = _installs(manager, node_unmet=node_unmet)
    return (frozen, loose) if manager.lockfile else (loose, ())


def _installs(manager: Manager, *, node_unmet: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As the lockfile says, and freely."""
    match manager.name:
        case "pnpm":
            # Without the last option a complete install counts as failed where a dependency has build scripts.
            pnpm = ("pnpm", "install", "--prefer-offline", "--config.strictDepBuilds=false")
            return (*pnpm, "--frozen-lockfile"), (*pnpm, "--no-frozen-lockfile")
        case "yarn" if manager.berry:
            # With CI set, which installs have, yarn is strict unless it is told otherwise.
            return ("yarn", "install", "--immutable"), ("yarn", "install", "--no-immutable")
        case "yarn":
            engines = ("--ignore-engines",) if node_unmet else ()
            yarn = ("yarn", "install", "--non-interactive", "--prefer-offline", *engines)
            return (*yarn, "--frozen-lockfile"), yarn
        case "bun":
            return ("bun", "install", "--frozen-lockfile"), ("bun", "install")
        case _:
            return ("npm", "ci", *NPM_QUIET), ("npm", "install", *NPM_QUIET)


def run_argv(manager: Manager, script: str, flags: Iterable[str]) -> tuple[str, ...]:
    """A script through its manager, with options for what it runs. Only npm wants `--` before them; pnpm would pass it on."""
    options = tuple(flags)
    dashes = ("--",) if manager.name == "npm" and options else ()
    return (manager.name, "run", script, *dashes, *options)


NPM_LOCKFILES = ("package-lock.json", "npm-shrinkwrap.json")


def fingerprint(tree: Tree, root: str, members: Iterable[str], manager: Manager, node: str) -> str:
    """SHA-256 over all that decides what an install gives, as far as the texts were given."""
    parts: list[tuple[str, object]] = [("manager", [manager.name, manager.version]), ("node", node)]
    for name in (
        manager.lockfile,
        ".npmrc",
        ".yarnrc.yml",
        ".yarnrc",
        "pnpm-workspace.yaml",
        "bunfig.toml",
        ".pnpmfile.cjs",
    ):
        if name and tree.has(root, name):
            parts.append((name, _lockfile(tree.text(root, name)) if name in NPM_LOCKFILES else tree.text(root, name)))
    folders = sorted({root, *members})
    for folder in folders:
        package = tree.package(folder)
        if package is not None:
            # In a workspace packages are found by their names; alone, a project may be called what it likes.
            parts.append((folder, _manifest(package.data, named=len(folders) > 1)))
        if folder != root and tree.has(folder, ".npmrc"):
            parts.append((join(folder, ".npmrc"), tree.text(folder, ".npmrc")))
    parts += [(path, tree.text(*_split(path))) for path in sorted(tree.paths) if _is_patch(path, root)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _lockfile(text: str) -> object:
    """npm's, without the name and version that it repeats of the project."""
    try:
        lock = json.loads(text)
    except ValueError:
        return text
    if not isinstance(lock, dict):
        return text
    packages = mapping(lock.get("packages"))
    own = {key: value for key, value in mapping(packages.get("")).items() if key not in ("name", "version")}
    kept = {key: value for key, value in lock.items() if key not in ("name", "version")}
    return {**kept, "packages": {**packages, "": own}}


def _manifest(data: Json, *, named: bool) -> Json:
    kept = {key: data[key] for key in MANIFEST_KEYS if key in data}
    scripts = mapping(data.get("scripts"))
    return {
        **kept,
        **({"name": data.get("name")} if named else {}),
        "scripts": {key: scripts[key] for key in INSTALL_SCRIPTS if key in scripts},
    }


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or ".", name


def _is_patch(path: str, root: str) -> bool:
    return any(path.startswith(f"{join(root, folder)}/") for folder in PATCH_FOLDERS)
