"""Apps of an Nx workspace that have a project.json, with or without a package.json of their own."""

from collections.abc import Iterator

import msgspec

from services.orchestrator.rules.detection.tree import Json, Package, Tree, join, mapping, parse_json
from services.orchestrator.rules.frameworks import FRAMEWORKS

TARGETS = ("dev", "serve", "start")
EXECUTORS = {
    "@nx/next:": "nextjs",
    "@nx/vite:dev-server": "vite",
    "@nx/angular:dev-server": "angular",
    "@angular-devkit/build-angular:dev-server": "angular",
    "@angular/build:dev-server": "angular",
    "@nx/webpack:dev-server": "webpack",
    "@nx/rspack:dev-server": "webpack",
    "@nx/remix:": "remix",
    "@nx/nuxt:": "nuxt",
    "@nx/expo:": "expo",
    "@nx/storybook:": "storybook",
    "@nx/js:node": "",
    "@nx/node:": "",
}
"""What serves a project, by the beginning of its executor; "": a server, see the dependencies. `@nrwl/` is the older `@nx/`."""
SERVERS = ("nestjs", "fastify", "koa", "hono", "express")
FLAGS = ("--host=127.0.0.1", "--port={port}")
ENV = {"NX_DAEMON": "false", "NX_TUI": "false", "NX_NO_CLOUD": "true"}


class NxApp(msgspec.Struct, frozen=True, kw_only=True):
    """An app of the workspace. `target`: what Nx is asked to run; empty: the framework's own command is run in the folder."""

    path: str
    name: str
    framework: str
    target: str = ""
    evidence: str


def nx_apps(tree: Tree) -> Iterator[NxApp]:
    """The apps that Nx would serve; libraries and end-to-end tests are none."""
    root = tree.package(".")
    if root is None or not tree.has(".", "nx.json"):
        return
    for folder in tree.folders_with("project.json"):
        project = parse_json(tree.text(folder, "project.json"))
        found = _app(tree, folder, project, root)
        if found is not None:
            yield found


def _app(tree: Tree, folder: str, project: Json, root: Package) -> NxApp | None:
    if project.get("projectType") == "library" or folder.endswith("-e2e"):
        return None
    named = project.get("name")
    name = named if isinstance(named, str) and named else folder.rpartition("/")[2]
    targets = mapping(project.get("targets")) or mapping(project.get("architect"))
    for target in TARGETS:
        executor = mapping(targets.get(target)).get("executor")
        slug = _by_executor(executor, root) if isinstance(executor, str) else None
        if slug is not None:
            evidence = f"{executor} in {join(folder, 'project.json')}"
            return NxApp(path=folder, name=name, framework=slug, target=f"{name}:{target}", evidence=evidence)
    slug = _by_config(tree, folder, root)
    if slug is None:
        return None
    evidence = f"{tree.has(folder, *FRAMEWORKS[slug].config)} beside {join(folder, 'project.json')}"
    return NxApp(path=folder, name=name, framework=slug, evidence=evidence)


def _by_executor(executor: str, root: Package) -> str | None:
    executor = executor.replace("@nrwl/", "@nx/")
    for beginning, slug in EXECUTORS.items():
        if executor.startswith(beginning):
            return slug or next((each for each in SERVERS if _has(root, each)), "node")
    return None


def _by_config(tree: Tree, folder: str, root: Package) -> str | None:
    """Targets that Nx infers are in no file: the framework's own config file tells of them."""
    for slug, framework in FRAMEWORKS.items():
        known = framework.kind == "web" and framework.config and framework.command and _has(root, slug)
        if known and tree.has(folder, *framework.config):
            return slug
    return None


def _has(root: Package, slug: str) -> bool:
    return any(name in root.dependencies for name in FRAMEWORKS[slug].dependencies)
