"""Which framework a package is built with, and which of its scripts shows it."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from services.orchestrator.rules.detection import scripts
from services.orchestrator.rules.detection.tree import Package, Tree, join
from services.orchestrator.rules.frameworks import FRAMEWORKS, Framework

MAIN_SCRIPTS = ("dev", "develop", "start:dev", "dev:web", "web", "start", "serve", "server")
OTHER_SCRIPTS = ("docs:dev", "docs:start", "docs:serve", "docs", "storybook")
"""Scripts that show something beside the app; they count where nothing else does."""
MAIN_FILES = ("server.js", "index.js", "app.js", "server.mjs", "index.mjs", "app.mjs", "server.ts", "index.ts")
BUN_FILES = ("index.ts", "index.tsx", "src/index.ts", "index.js", "server.ts")
Certainty = Literal["script", "runner", "default"]


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """What a package is. `dependency`: what tells it; `script`: the one to run (empty: the framework's own command), `line`
    its text; `run`: the framework's tool in it; `main`: a file to run where there is no script.

    `certainty`: a script runs the framework's tool; a script runs something that may well serve it; or nothing does.
    """

    framework: Framework
    certainty: Certainty
    dependency: str = ""
    evidence: str = ""
    script: str = ""
    line: str = ""
    run: scripts.ToolRun | None = None
    main: str = ""
    hooks: bool = False
    """The package manager runs something before or after the script, so it has to run it."""


def recognise(tree: Tree, package: Package, root: Package | None = None, forced: str = "") -> Match | None:
    """What this package is; None where it has nothing to run. `root`: the workspace's, whose dependencies serve it too."""
    candidates = _candidates(tree, package, root, forced)
    found = _by_tool(package, candidates, MAIN_SCRIPTS) or _by_script(package, candidates)
    return (
        found
        or _by_tool(package, candidates, OTHER_SCRIPTS)
        or _by_default(package, candidates)
        or _plain(tree, package, forced)
    )


class Candidate(msgspec.Struct, frozen=True):
    """A framework that the package's dependencies or files tell of."""

    framework: Framework
    dependency: str
    evidence: str


def _candidates(tree: Tree, package: Package, root: Package | None, forced: str) -> list[Candidate]:
    found = []
    for framework in FRAMEWORKS.values():
        if framework.kind not in ("web", "server") or (forced and framework.slug != forced):
            continue
        candidate = _candidate(tree, package, root, framework)
        if candidate is not None:
            found.append(candidate)
        elif forced:
            found.append(Candidate(framework, framework.dependencies[0], "drape.toml"))
    return found


def _candidate(tree: Tree, package: Package, root: Package | None, framework: Framework) -> Candidate | None:
    own, path = package.dependencies, join(package.folder, "package.json")
    if any(name in own for name in framework.excludes) or not all(name in own for name in framework.all_dependencies):
        return None
    dependency = _first_of(framework.dependencies, own)
    if dependency:
        return Candidate(framework, dependency, f"dependency {dependency} in {path}")
    if root is None or root.folder == package.folder:
        return None
    config = tree.has(package.folder, *framework.config)
    shared = _first_of(framework.dependencies, root.dependencies)
    if config and shared:
        return Candidate(
            framework, shared, f"{join(package.folder, config)}, and {shared} in {join(root.folder, 'package.json')}"
        )
    return None


def _first_of(names: Iterable[str], held: Mapping[str, str]) -> str:
    return next((name for name in names if name in held), "")


def _by_tool(package: Package, candidates: list[Candidate], names: Iterable[str]) -> Match | None:
    """The first script that runs the dev server of one of the frameworks."""
    for name in names:
        if name not in package.scripts:
            continue
        script, line = scripts.resolved(name, package.scripts)
        for each in candidates:
            run = scripts.find_tool(line, each.framework.tools)
            if run is not None:
                return _match(package, each, "script", script=script, line=line, run=run)
    return None


def _by_script(package: Package, candidates: list[Candidate]) -> Match | None:
    """A script that may well serve one of them: `node server.js` of a Next app, `tsx watch src/index.ts` of an Express one."""
    script, line = _serving_script(package, candidates)
    if not script:
        return None
    serving = [each for each in candidates if not each.framework.secondary and not each.framework.docs]
    if scripts.first_command(line) in scripts.BUILDERS:
        return None
    return next((_match(package, each, "runner", script=script, line=line) for each in serving), None)


def _serving_script(package: Package, candidates: list[Candidate]) -> tuple[str, str]:
    tools = [tool for each in candidates for tool in each.framework.tools]
    watching = any(each.framework.slug == "nestjs" for each in candidates)
    for name in (
        ("start:dev", "dev", "start") if watching else ("dev", "start", "start:dev", "develop", "serve", "server")
    ):
        if name in package.scripts:
            script, line = scripts.resolved(name, package.scripts)
            if not scripts.runs_otherwise(line, tools):
                return script, line
    return "", ""


def _by_default(package: Package, candidates: list[Candidate]) -> Match | None:
    """The framework's own command, where no script is any use."""
    for each in candidates:
        if each.framework.command and not _serving_script(package, candidates)[0]:
            return _match(package, each, "default")
    return None


def _match(
    package: Package,
    candidate: Candidate,
    certainty: Certainty,
    *,
    script: str = "",
    line: str = "",
    run: scripts.ToolRun | None = None,
) -> Match:
    return Match(
        framework=candidate.framework,
        certainty=certainty,
        dependency=candidate.dependency,
        evidence=candidate.evidence,
        script=script,
        line=line,
        run=run,
        hooks=scripts.has_hooks(script, package.scripts),
    )


def _plain(tree: Tree, package: Package, forced: str) -> Match | None:
    """No framework, or none that a script serves: any `dev` or `start` script, else the main file."""
    server = next((each for each in _candidates(tree, package, None, forced) if each.framework.kind == "server"), None)
    for name in ("dev", "start"):
        if name in package.scripts:
            script, line = scripts.resolved(name, package.scripts)
            slug = "bun" if _runs_bun(line) else "deno" if scripts.first_command(line) == "deno" else "node"
            runner = scripts.first_command(line) in scripts.NODE_RUNNERS | scripts.RUNTIMES
            return Match(
                framework=FRAMEWORKS[forced or slug],
                certainty="runner" if runner else "default",
                evidence=join(package.folder, "package.json"),
                script=script,
                line=line,
                hooks=scripts.has_hooks(script, package.scripts),
            )
    return _main_file(tree, package, server)


def _main_file(tree: Tree, package: Package, server: Candidate | None) -> Match | None:
    path = join(package.folder, "package.json")
    named = package.data.get("main")
    bun = "@types/bun" in package.dependencies or "bun-types" in package.dependencies
    module = package.data.get("module")
    for file in (named, *((module, *BUN_FILES) if bun else ()), *MAIN_FILES):
        if isinstance(file, str) and join(package.folder, file) in tree.paths and not file.startswith("-"):
            framework = server.framework if server else FRAMEWORKS["bun" if bun else "node"]
            evidence = server.evidence if server else path
            dependency = server.dependency if server else ""
            return Match(framework=framework, certainty="default", evidence=evidence, dependency=dependency, main=file)
    return None


def _runs_bun(line: str) -> bool:
    """Whether the script runs a file on Bun, as `bun --hot src/index.ts` does; `bun run build` is another script."""
    return scripts.first_command(line) == "bun"
