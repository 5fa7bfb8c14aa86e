"""From a chosen app to a `Detection`: the commands that install and start it, their environment, and why."""

import hashlib
import re
from collections.abc import Sequence

import msgspec

from services.orchestrator.rules.detection import nx, scripts
from services.orchestrator.rules.detection.apps import App, DenoMatch
from services.orchestrator.rules.detection.managers import (
    INSTALL_ENV,
    INSTALL_SCRIPTS,
    VERSIONS,
    Chosen,
    Manager,
    choose_manager,
    fingerprint,
    install_argv,
    prefixed,
    run_argv,
)
from services.orchestrator.rules.detection.model import PORT, Detection
from services.orchestrator.rules.detection.nx import NxApp
from services.orchestrator.rules.detection.python import (
    ENV,
    PythonMatch,
    python_fingerprint,
    python_install,
    python_version,
)
from services.orchestrator.rules.detection.python import INSTALL_ENV as PIP_ENV
from services.orchestrator.rules.detection.recognise import Match
from services.orchestrator.rules.detection.settings import Settings, env_of
from services.orchestrator.rules.detection.tree import Package, Tree, join
from services.orchestrator.rules.detection.versions import choose_node, framework_version
from services.orchestrator.rules.detection.workspaces import install_root, members
from services.orchestrator.rules.frameworks import FRAMEWORKS, TOOLS, Framework
from services.orchestrator.rules.warnings import warnings_for

SOURCES = ("**/*.js", "**/*.cjs", "**/*.mjs", "**/*.ts", "**/*.mts", "**/*.cts", "**/*.tsx", "**/*.jsx", "**/*.json")
"""What a server without a watcher has to be started anew for."""
ENV_FILES = (".env", ".env.*")
DENO_RUN = ("deno", "run", "--allow-all", "--watch")


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What an app in JavaScript stands on: where it is installed, by what, on which Node. `node`: empty for the default;
    `contained`: an install gives nothing outside `node_modules`, and follows from the fingerprint."""

    install_root: str
    members: tuple[str, ...]
    chosen: Chosen
    node: str
    node_unmet: bool
    evidence: tuple[str, ...]
    installs: bool
    contained: bool

    @property
    def manager(self) -> Manager:
        """The package manager."""
        return self.chosen.manager


def describe(tree: Tree, app: App, settings: Settings, default_node: int) -> Detection:
    """All there is to know about how this app is shown, `drape.toml` on top."""
    match app.found:
        case PythonMatch():
            found = _python(tree, app, app.found)
        case DenoMatch():
            found = _deno(tree, app, app.found)
        case Match() | NxApp():
            found = _javascript(tree, app, settings, default_node)
        case _:
            found = _static(tree, app, settings, default_node)
    memory_mb = settings.memory_mb or FRAMEWORKS[found.framework].memory_mb
    return msgspec.structs.replace(_overridden(found, settings), memory_mb=memory_mb)


def _static(tree: Tree, app: App, settings: Settings, default_node: int) -> Detection:
    """A folder of HTML; with a command in `drape.toml` and a package.json, whatever that starts."""
    if settings.dev is not None and tree.package(app.path) is not None:
        return _javascript(tree, app, settings, default_node)
    evidence = [join(app.path, "index.html")] if "index.html" in tree.names(app.path) else ["drape.toml"]
    if tree.package(app.path) is None:
        evidence.append("no package.json")
    return Detection(
        framework=app.framework,
        version="",
        package_manager="none",
        app_root=app.path,
        install_root=app.path,
        dev_command=FRAMEWORKS["static"].command,
        dev_env={},
        install_command=(),
        evidence=tuple(evidence),
    )


def _python(tree: Tree, app: App, found: PythonMatch) -> Detection:
    command = python_install(tree, app.path, found)
    return Detection(
        framework=app.framework,
        version=python_version(found),
        package_manager="pip",
        app_root=app.path,
        install_root=app.path,
        dev_command=found.command,
        dev_env={**ENV, **found.framework.env},
        install_command=command,
        install_env=PIP_ENV,
        deps=python_fingerprint(tree, app.path, command),
        restart_on=found.framework.restart_on,
        ready_path=found.framework.ready_path,
        evidence=(found.evidence,),
    )


def _deno(tree: Tree, app: App, found: DenoMatch) -> Detection:
    command = ("deno", "task", found.task) if found.task else (*DENO_RUN, found.file)
    watching = not found.task or scripts.is_watching(found.line) or "vite" in found.line
    return Detection(
        framework="deno",
        version="",
        package_manager="none",
        package_manager_version="",
        app_root=app.path,
        install_root=app.path,
        dev_command=prefixed("", f"deno@{VERSIONS['deno'][0]}", command),
        dev_env={"DENO_NO_UPDATE_CHECK": "1"},
        install_command=(),
        restart_on=ENV_FILES if watching else (*SOURCES, *ENV_FILES),
        evidence=(found.evidence,),
    )


def _javascript(tree: Tree, app: App, settings: Settings, default_node: int) -> Detection:
    ground = _ground(tree, app, settings, default_node)
    framework = FRAMEWORKS[app.framework]
    version = _version(tree, app, ground, framework)
    install, retry = install_argv(ground.manager, node_unmet=ground.node_unmet)
    tool = ground.manager.tool
    return Detection(
        framework=app.framework,
        version=version,
        package_manager=ground.manager.name if ground.installs else "none",
        package_manager_version=ground.manager.version if ground.installs else "",
        app_root=app.path,
        install_root=ground.install_root,
        dev_command=_dev_command(app, ground),
        dev_env={**framework.env, **(nx.ENV if isinstance(app.found, NxApp) and app.found.target else {})},
        install_command=prefixed(ground.node, tool, install) if ground.installs else (),
        install_retry_command=prefixed(ground.node, tool, retry) if ground.installs and retry else (),
        install_env=INSTALL_ENV[ground.manager.name] if ground.installs else {},
        node_version=ground.node,
        deps=_deps(tree, ground) if ground.installs else "",
        keeps=ground.installs and ground.contained and not ground.manager.pnp,
        ready_path=framework.ready_path,
        restart_on=_restart_on(app, framework),
        warnings=(*ground.chosen.warnings, *warnings_for(app.framework, version)),
        evidence=(*_evidence(app), *ground.chosen.evidence, *ground.evidence),
    )


def _ground(tree: Tree, app: App, settings: Settings, default_node: int) -> Ground:
    root = "." if isinstance(app.found, NxApp) else install_root(tree, app.path)
    inside = tuple(members(tree, root))
    chosen = choose_manager(tree, root, settings.package_manager)
    folders = (app.path,) if root == app.path else (app.path, root)
    node, evidence, unmet = choose_node(tree, folders, default_node, str(settings.node))
    packages = [tree.package(folder) for folder in (root, app.path, *inside)]
    return Ground(
        install_root=root,
        members=inside,
        chosen=msgspec.structs.replace(chosen, warnings=(*chosen.warnings, *unmet)),
        node=node,
        node_unmet=bool(unmet),
        evidence=(*((f"workspace {join(root, 'package.json')}",) if inside and root != app.path else ()), *evidence),
        installs=any(package is not None and _has_to_install(package) for package in packages),
        contained=not any(package is not None and _reaches_out(package) for package in packages),
    )


def _has_to_install(package: Package) -> bool:
    """Without dependencies too, where an install runs scripts of the project's own."""
    return bool(package.dependencies) or _has_install_scripts(package)


def _reaches_out(package: Package) -> bool:
    """Whether an install may write elsewhere, or copy what its fingerprint does not see: the project's own packages."""
    copied = any(version.startswith("file:") for version in package.dependencies.values())
    return copied or _has_install_scripts(package)


def _has_install_scripts(package: Package) -> bool:
    """Scripts of the project's own, which may write anywhere in it."""
    return any(name in package.scripts for name in INSTALL_SCRIPTS)


def _deps(tree: Tree, ground: Ground) -> str:
    return fingerprint(tree, ground.install_root, ground.members, ground.manager, ground.node)


def _version(tree: Tree, app: App, ground: Ground, framework: Framework) -> str:
    if isinstance(app.found, Match) and app.found.dependency:
        names: Sequence[str] = (app.found.dependency,)
    else:
        names = framework.dependencies
    for folder in (app.path, ground.install_root):
        package = tree.package(folder)
        name = next((name for name in names if package is not None and name in package.dependencies), "")
        if package is not None and name:
            return framework_version(tree, ground.install_root, app.path, name, package.dependencies[name])
    return ""


def _evidence(app: App) -> tuple[str, ...]:
    match app.found:
        case Match(evidence=evidence, script=script, main=main):
            path = join(app.path, "package.json")
            how = (
                f"script {script} in {path}"
                if script
                else f"main file {join(app.path, main)}"
                if main
                else "no script for it"
            )
            return (evidence, how)
        case NxApp(evidence=evidence):
            return (evidence,)
        case _:
            return (join(app.path, "package.json"),)


def _dev_command(app: App, ground: Ground) -> tuple[str, ...]:
    match app.found:
        case Match():
            return _of_package(app.found, ground)
        case NxApp(target=target) if target:
            served = FRAMEWORKS[app.framework].kind == "web"
            return _direct(("nx", "run", target, *(nx.FLAGS if served else ())), ground)
        case NxApp():
            return _own_command(FRAMEWORKS[app.framework], ground)
        case _:
            return ()


def _of_package(found: Match, ground: Ground) -> tuple[str, ...]:
    """The script's own binary where the script is one plain command (a package manager costs time and a process), else
    through the manager, with our options where they reach the tool."""
    if found.main:
        return _direct((*(("bun", "--hot") if found.framework.slug == "bun" else ("node",)), found.main), ground)
    if not found.script:
        return _own_command(found.framework, ground)
    words = scripts.plain_words(found.line)
    tool = TOOLS[found.run.tool] if found.run else None
    if words and not ground.manager.pnp and not found.hooks:
        if tool is not None and found.run is not None and found.run.mode == "plain":
            return _direct((scripts.command_name(words[0]), *scripts.with_flags(words[1:], tool)), ground)
        if tool is None and scripts.command_name(words[0]) in scripts.NODE_RUNNERS | scripts.RUNTIMES:
            return _direct((scripts.command_name(words[0]), *words[1:]), ground)
    reaching = tool is not None and found.run is not None and found.run.mode != "inside"
    flags = tool.flags if tool is not None and reaching and not scripts.has_own_flags(found.line, tool) else ()
    return _through_manager(found, flags, ground)


def _through_manager(found: Match, flags: Sequence[str], ground: Ground) -> tuple[str, ...]:
    runtime = scripts.first_command(found.line)
    manager = ground.manager
    if runtime in scripts.RUNTIMES and manager.name != runtime:
        # One tool at a time: the runtime that the script needs can run scripts as well.
        verb = "run" if runtime == "bun" else "task"
        return prefixed(ground.node, f"{runtime}@{VERSIONS[runtime][0]}", (runtime, verb, found.script, *flags))
    return prefixed(ground.node, manager.tool, run_argv(manager, found.script, flags))


def _own_command(framework: Framework, ground: Ground) -> tuple[str, ...]:
    flags = TOOLS[framework.tools[0]].flags if framework.tools else ()
    return _direct((*framework.command, *flags), ground)


def _direct(words: Sequence[str], ground: Ground) -> tuple[str, ...]:
    """A binary that is found in node_modules/.bin, or Node; only Bun and Deno have to be brought first."""
    if ground.manager.pnp:
        return prefixed(ground.node, ground.manager.tool, ("yarn", *words))
    if words[0] in scripts.RUNTIMES:
        version = ground.manager.version if ground.manager.name == words[0] else VERSIONS[words[0]][0]
        return prefixed(ground.node, f"{words[0]}@{version}", words)
    return prefixed(ground.node, "", words)


def _restart_on(app: App, framework: Framework) -> tuple[str, ...]:
    """The framework's own; for a program that nothing watches also its sources."""
    if not isinstance(app.found, Match) or (app.found.certainty == "script" and framework.kind == "web"):
        return framework.restart_on
    line = app.found.line or (f"node {app.found.main}" if app.found.main else "")
    runs_node = scripts.first_command(line) in scripts.NODE_RUNNERS | scripts.RUNTIMES
    if framework.kind == "web":
        return (*framework.restart_on, *(_files_in(line) if runs_node and not scripts.is_watching(line) else ()))
    if not runs_node and framework.kind != "server":
        return framework.restart_on
    if not line or scripts.is_watching(line) or (app.found.main and framework.slug == "bun"):
        return (*framework.restart_on, *ENV_FILES)
    return (*framework.restart_on, *SOURCES, *ENV_FILES)


def _files_in(line: str) -> tuple[str, ...]:
    """The files that a command runs, as `server.mjs` in `node server.mjs`."""
    return tuple(
        word.removeprefix("./") for word in line.split() if re.fullmatch(r"[\w./-]{1,200}\.[cm]?[jt]sx?", word)
    )


def _overridden(found: Detection, settings: Settings) -> Detection:
    """What `drape.toml` says in place of what was found."""
    if settings == Settings():
        return found
    tool = f"{found.package_manager}@{found.package_manager_version}" if found.package_manager_version else ""
    command, install, retry, deps = found.dev_command, found.install_command, found.install_retry_command, found.deps
    if settings.dev is not None:
        command = prefixed(found.node_version, tool, _command(settings.dev))
    if settings.install is not None:
        install = () if settings.install is False else prefixed(found.node_version, tool, _command(settings.install))
        retry = ()
        deps = hashlib.sha256("\0".join((deps, *install)).encode()).hexdigest() if deps and install else ""
    env = {**found.dev_env, **env_of(settings)}
    if settings.port is not None:
        port = str(settings.port)
        command = tuple(word.replace(PORT, port) for word in command)
        env = {"PORT": port, **{name: value.replace(PORT, port) for name, value in env.items()}}
    return msgspec.structs.replace(
        found,
        dev_command=command,
        dev_env=env,
        install_command=install,
        install_retry_command=retry,
        deps=deps,
        ready_path=settings.ready_path or found.ready_path,
        evidence=(*found.evidence, "drape.toml"),
    )


_PORT_WORD = "\ue000"
"""Stands for the placeholder while a line is split: its braces are nothing to the shell."""


def _command(given: str | list[str]) -> tuple[str, ...]:
    """An argv as it is; a line as words where it needs no shell."""
    if isinstance(given, list):
        return tuple(given)
    words = scripts.plain_words(given.strip().replace(PORT, _PORT_WORD))
    return tuple(word.replace(_PORT_WORD, PORT) for word in words) or ("sh", "-c", given)
