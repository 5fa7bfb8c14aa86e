"""What a project is and how its dev server is started, from its file names and package.json. Pure."""

import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from shared.errors import Invalid

PORT = "{port}"
"""Stands for the port in argv and environment; the agent puts in a free one."""


class Framework(msgspec.Struct, frozen=True, kw_only=True):
    """How one framework is recognised and started. `flags`: appended to its command; `binary`: the command's name."""

    slug: str
    dependency: str
    binary: str
    subcommand: str = ""
    flags: tuple[str, ...] = ()
    env: dict[str, str] = {}


FRAMEWORKS = (
    Framework(
        slug="nextjs",
        dependency="next",
        binary="next",
        subcommand="dev",
        flags=("-H", "127.0.0.1", "-p", PORT),
        env={"NEXT_TELEMETRY_DISABLED": "1"},
    ),
    Framework(
        slug="vite",
        dependency="vite",
        binary="vite",
        flags=("--host", "127.0.0.1", "--port", PORT, "--strictPort"),
    ),
    Framework(slug="express", dependency="express", binary="node"),
)
"""In the order in which they are tried: a Next project may well have vite among its tools."""

BASE_ENV = {
    "PORT": PORT,
    "HOST": "127.0.0.1",
    "BROWSER": "none",
    "NODE_ENV": "development",
    "FORCE_COLOR": "1",
    "npm_config_update_notifier": "false",
    "npm_config_fund": "false",
}
NPM_QUIET = ("--no-audit", "--no-fund", "--no-update-notifier", "--no-progress", "--prefer-offline")
STATIC_COMMAND = ("{python}", "-m", "shared.agent.static_server", "--port", PORT, "--root", ".")
LOCKFILES = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, and the evidence for it. Empty `install_command`: nothing to install."""

    framework: str
    version: str
    package_manager: str
    app_root: str
    dev_command: tuple[str, ...]
    dev_env: dict[str, str]
    install_command: tuple[str, ...]
    evidence: tuple[str, ...]


def detect(paths: Collection[str], package_json: str | None, lockfile: str | None = None) -> Detection:
    """What the project is. `paths`: its files; `package_json`, `lockfile`: the texts of the root's, where there are.

    Raises `Invalid`: `empty_project`, `bad_package_json`, `no_dev_script`, `not_a_web_project`.
    """
    if not paths:
        raise Invalid(
            "empty_project", "The project has no files.", "Upload a folder with an index.html or a package.json."
        )
    package = parse_package_json(package_json) if package_json is not None else None
    if package is not None and not (_is_plain(package) and "index.html" in paths):
        return _detect_node(paths, package, lockfile)
    if "index.html" in paths:
        return Detection(
            framework="static",
            version="",
            package_manager="none",
            app_root=".",
            dev_command=STATIC_COMMAND,
            dev_env={},
            install_command=(),
            evidence=("index.html", "no package.json" if package is None else "package.json without scripts"),
        )
    raise Invalid(
        "not_a_web_project",
        "There is neither a package.json nor an index.html at the top of the project.",
        "Preview the folder that holds one of them.",
    )


def parse_package_json(text: str) -> dict[str, Any]:
    """The object in package.json. Raises `Invalid("bad_package_json")` saying where it breaks."""
    try:
        value = json.loads(text.removeprefix("\ufeff"))
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair fits in JSON, but in no event or argv
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise Invalid("bad_package_json", f"package.json is not JSON: {error}.", "Mend package.json.") from error
    if not isinstance(value, dict):
        raise Invalid(
            "bad_package_json", f"package.json holds a {type(value).__name__}, not an object.", "Mend package.json."
        )
    return value


def _detect_node(paths: Collection[str], package: Mapping[str, Any], lockfile: str | None) -> Detection:
    dependencies = _dependencies(package)
    framework = next((each for each in FRAMEWORKS if each.dependency in dependencies), None)
    script_name, script = _dev_script(package, paths)
    manager = _package_manager(package, paths)
    evidence = [f"package.json: {framework.dependency}" if framework else "package.json", f"script {script_name}"]
    evidence += [name for name in LOCKFILES if name in paths]
    dev_command = _dev_command(framework, script_name, script)
    return Detection(
        framework=framework.slug if framework else "node",
        version=_version(framework, dependencies, lockfile) if framework else "",
        package_manager=manager if dependencies else "none",
        app_root=".",
        dev_command=dev_command,
        dev_env={**BASE_ENV, **(framework.env if framework else {})},
        install_command=_install_command(paths) if dependencies else (),
        evidence=tuple(evidence),
    )


def _is_plain(package: Mapping[str, Any]) -> bool:
    """A package.json that starts nothing and needs nothing, as generators and editors leave them beside plain pages."""
    return not _dependencies(package) and not package.get("scripts") and not package.get("main")


def _dependencies(package: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for group in ("devDependencies", "optionalDependencies", "dependencies"):
        entries = package.get(group)
        if isinstance(entries, dict):
            found.update({str(name): str(version) for name, version in entries.items()})
    return found


def _dev_script(package: Mapping[str, Any], paths: Collection[str]) -> tuple[str, str]:
    scripts = package.get("scripts")
    scripts = scripts if isinstance(scripts, dict) else {}
    for name in ("dev", "start"):
        script = scripts.get(name)
        if isinstance(script, str) and script.strip():
            return name, script.strip()
    main = package.get("main")
    for candidate in (main, "server.js", "index.js", "app.js"):
        if isinstance(candidate, str) and candidate in paths:
            return "main", f"node {shlex.quote(candidate)}"
    raise Invalid(
        "no_dev_script",
        "package.json has neither a `dev` nor a `start` script, and there is no server.js or index.js.",
        'Add one, for example "scripts": {"dev": "vite"}.',
    )


def _package_manager(package: Mapping[str, Any], paths: Collection[str]) -> str:
    named = package.get("packageManager")
    if isinstance(named, str) and named.split("@")[0] in ("npm", "pnpm", "yarn", "bun"):
        return named.split("@")[0]
    return next((manager for name, manager in LOCKFILES.items() if name in paths), "npm")


def _install_command(paths: Collection[str]) -> tuple[str, ...]:
    """`npm ci` wherever there is a lockfile of npm's, for the same tree every time."""
    locked = "package-lock.json" in paths or "npm-shrinkwrap.json" in paths
    return ("npm", "ci" if locked else "install", *NPM_QUIET)


def _dev_command(framework: Framework | None, script_name: str, script: str) -> tuple[str, ...]:
    """The script's own binary where the script is one plain command (npm costs 0.1 s and a process), else through npm."""
    words = _plain_words(script)
    flags = framework.flags if framework else ()
    if words and words[0] == "node":
        return tuple(words)
    if words and framework and words[0] == framework.binary and framework.subcommand in ("", *words[1:2]):
        return (f"node_modules/.bin/{framework.binary}", *words[1:], *flags)
    if script_name == "main":
        return tuple(shlex.split(script))
    passes_flags = bool(words) and framework is not None and framework.binary in words
    return ("npm", "run", script_name, *(("--", *flags) if passes_flags and flags else ()))


def _plain_words(script: str) -> list[str]:
    """The words of a script that needs no shell; empty where it does."""
    if re.search(r"[&|;<>$`*?~(){}\n\\]|^\s*\w+=", script):
        return []
    try:
        return shlex.split(script)
    except ValueError:
        return []


def _version(framework: Framework, dependencies: Mapping[str, str], lockfile: str | None) -> str:
    """The locked version, else the one that package.json's range starts from."""
    locked = _locked_version(framework.dependency, lockfile)
    if locked:
        return locked
    match = re.search(r"\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?", dependencies[framework.dependency])
    return match.group(0) if match else ""


def _locked_version(dependency: str, lockfile: str | None) -> str:
    if not lockfile:
        return ""
    try:
        packages = json.loads(lockfile).get("packages", {})
        version = packages.get(f"node_modules/{dependency}", {}).get("version", "")
    except (ValueError, AttributeError, RecursionError):
        return ""  # a lockfile that is broken is npm's to complain about
    return version if isinstance(version, str) and re.fullmatch(r"[0-9A-Za-z.+-]{1,100}", version) else ""
