"""Runs a command with the Node and the package managers that its project asks for.

    python -m shared.agent.toolchain [--node MAJOR] [--tool NAME@VERSION]... -- COMMAND ARGS...

What is not there yet is installed with the VM's own npm below `$HOME/.drape/tools`, from whichever registry the project is
configured for, and stays for the VM's next command. Then the command takes this program's place. Never: writes into the
project, or keeps a command from running on the Node that is there where another one can't be had.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FETCH_TIMEOUT_S = 110.0
VERSION_TIMEOUT_S = 10.0
EXIT_UNAVAILABLE = 69
USAGE = "usage: python -m shared.agent.toolchain [--node MAJOR] [--tool NAME@VERSION]... -- COMMAND [ARGS...]"
BERRY = "@yarnpkg/cli-dist"
CPUS = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
NOT_THE_REASON = tuple(f"npm error {word} " for word in ("code", "errno", "syscall", "path"))
"""What npm says of an error before it says what happened."""
COMMANDS_OF_NPM = {"npm": "npm-cli.js", "npx": "npx-cli.js"}


class CannotFetch(Exception):
    """A tool is not to be had; the message is one line for a person."""


def main(arguments: list[str]) -> int:
    """Prepare, then become the command. Returns only where it could not (exit code)."""
    try:
        node, tools, command = parse(arguments)
    except ValueError as error:
        _say(f"{error}\n{USAGE}")
        return 2
    try:
        folders = [*_node_folders(node), *(folder for tool in tools for folder in _tool_folders(tool))]
    except CannotFetch as error:
        _say(str(error))
        return EXIT_UNAVAILABLE
    env = _environment(folders, tools)
    program = shutil.which(command[0], path=env["PATH"])
    if program is not None:
        os.execve(program, command, env)
    _say(f"{command[0]}: command not found")
    return 127


def parse(arguments: list[str]) -> tuple[str, list[str], list[str]]:
    """(node's major or "", tools as NAME@VERSION, the command). Raises `ValueError` saying what is wrong."""
    if "--" not in arguments:
        raise ValueError("`--` and a command are missing")
    options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    if not command:
        raise ValueError("there is no command after `--`")
    node, tools = "", []
    for name, value in zip(options[::2], [*options[1::2], ""], strict=False):
        if name == "--node" and value.isdecimal():
            node = value
        elif name == "--tool" and value.partition("@")[2]:
            tools.append(value)
        else:
            raise ValueError(f"{name} {value} is not understood")
    return node, tools, command


# --- Node ---------------------------------------------------------------------------------------------------------


def _node_folders(major: str) -> list[Path]:
    """Where that Node's commands are; nothing where it is the one that is there, or can't be had."""
    if not major or _version_of("node").startswith(f"v{major}."):
        return []
    cpu = CPUS.get(platform.machine().lower(), platform.machine())
    package = f"node-{sys.platform}-{cpu}"
    try:
        home = _fetched(f"node-{major}", f"Node {major}", f"{package}@{major}")
    except CannotFetch as error:
        _say(f"{error}; going on with Node {_version_of('node') or 'that is not there'}")
        return []
    commands = home / "commands"
    if not commands.is_dir():
        _write_commands(home / "node_modules" / package / "bin" / "node", commands)
    return [commands]


def _write_commands(node: Path, folder: Path) -> None:
    """`node`, and npm's commands on it: the VM's own npm would start the Node that it was installed with."""
    building = Path(tempfile.mkdtemp(prefix="commands-", dir=folder.parent))
    (building / "node").symlink_to(node)
    scripts = _npm_folder()
    for name, script in COMMANDS_OF_NPM.items() if scripts is not None else ():
        target = building / name
        target.write_text(f'#!/bin/sh\nexec "{node}" "{scripts}/{script}" "$@"\n')
        target.chmod(0o755)
    _put(building, folder)


def _npm_folder() -> Path | None:
    """The folder with npm's own programs: behind the link on the PATH, or named by the VM's start script."""
    found = shutil.which("npm")
    if found is None:
        return None
    program = Path(found).resolve()
    if program.name in COMMANDS_OF_NPM.values():
        return program.parent
    words = program.read_text("utf-8", "replace")[:4096].replace('"', " ").replace("'", " ").split()
    named = [Path(word) for word in words if word.endswith("npm-cli.js")]
    return named[0].parent if named else None


# --- package managers ---------------------------------------------------------------------------------------------


def _tool_folders(tool: str) -> list[Path]:
    name, _, version = tool.partition("@")
    if name == "npm" and _version_of("npm") == version:
        return []
    package = BERRY if name == "yarn" and not version.startswith(("0.", "1.")) and version != "1" else name
    home = _fetched(f"{name}-{version}", f"{name} {version}", f"{package}@{version}")
    return [home / "node_modules" / ".bin"]


def _fetched(folder: str, title: str, package: str) -> Path:
    """The folder that the package is installed in, now or before. Raises `CannotFetch`."""
    tools = Path(os.environ.get("HOME", tempfile.gettempdir())) / ".drape" / "tools"
    target = tools / "".join(c if c.isalnum() or c in ".-" else "_" for c in folder)
    if target.is_dir():
        return target
    tools.mkdir(parents=True, exist_ok=True)
    _say(f"Fetching {title}")
    building = Path(tempfile.mkdtemp(prefix="fetching-", dir=tools))
    try:
        _install(package, title, building)
        _put(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _install(package: str, title: str, folder: Path) -> None:
    """From an empty folder, so that the project's package.json has no part in it; its .npmrc has."""
    (folder / "package.json").write_text('{"private":true}')
    words = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--loglevel=error", package]
    npmrc = _project_npmrc()
    env = {**_plain_environment(), **({"npm_config_userconfig": str(npmrc)} if npmrc else {})}
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise CannotFetch(f"drape: could not fetch {title}: there is no npm in this VM") from error
    except subprocess.TimeoutExpired as error:
        raise CannotFetch(f"drape: could not fetch {title}: not done after {FETCH_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip() and "log of this" not in line]
        words = [line for line in said if not line.startswith(NOT_THE_REASON)] or said
        reason = words[0] if words else f"npm ended with {done.returncode}"
        raise CannotFetch(f"drape: could not fetch {title}: {reason}"[:500])


def _project_npmrc() -> Path | None:
    """The nearest .npmrc of the project: it may name the registry, and the token for it."""
    home = Path(os.environ.get("HOME", "/"))
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / ".npmrc").is_file():
            return folder / ".npmrc"
        if folder in (home, home.parent):
            break
    return None


def _put(building: Path, target: Path) -> None:
    """The whole folder at once; where another was quicker, that one serves."""
    try:
        building.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(building, ignore_errors=True)


# --- the command's surroundings -----------------------------------------------------------------------------------


def _environment(folders: list[Path], tools: list[str]) -> dict[str, str]:
    env = _plain_environment()
    path = env.get("PATH", os.defpath).split(os.pathsep)
    # What the project has installed comes first, as it does without us.
    project = [folder for folder in path if folder.endswith("node_modules/.bin")]
    rest = [folder for folder in path if folder not in project]
    env["PATH"] = os.pathsep.join([*project, *map(str, folders), *rest])
    # The version is chosen; a manager must not go and fetch another one, or refuse to be this one.
    env |= {"COREPACK_ENABLE_STRICT": "0", "npm_config_manage_package_manager_versions": "false"}
    if any(tool.startswith("yarn@") and not tool.startswith("yarn@1") for tool in tools):
        env.setdefault("YARN_ENABLE_TELEMETRY", "0")
        registry = "" if "YARN_NPM_REGISTRY_SERVER" in env else _npm_registry(env)
        if registry:
            env["YARN_NPM_REGISTRY_SERVER"] = registry
            if registry.startswith("http://"):
                env.setdefault("YARN_UNSAFE_HTTP_WHITELIST", registry.split("/")[2].partition(":")[0])
    return env


def _npm_registry(env: dict[str, str]) -> str:
    """The registry that npm is configured for: yarn does not read that by itself."""
    value = _asked(["npm", "config", "get", "registry"], env).rstrip("/")
    return value if value.startswith("http") else ""


def _plain_environment() -> dict[str, str]:
    """Without what lets this program find its own code: that is no business of a project."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _version_of(program: str) -> str:
    return _asked([program, "--version"], _plain_environment())


def _asked(words: list[str], env: dict[str, str]) -> str:
    """What a program says; empty where it fails, or says nothing in time."""
    try:
        asked = subprocess.run(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
