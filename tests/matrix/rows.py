"""The rows of the matrix, and how a row's project is made: generator or files, then a lock file of one day's versions."""

import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from services.pool.adapters.node import node_dir

ROWS = Path(__file__).with_name("rows.toml")
NPM_CLI = "lib/node_modules/npm/bin/npm-cli.js"
NPX_CLI = "lib/node_modules/npm/bin/npx-cli.js"
CREATE_TIMEOUT_S = 180.0
LOCK_TIMEOUT_S = 240.0


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One project. See rows.toml for what the fields mean."""

    slug: str
    expect: str
    path: str = "/"
    ci: bool = False
    before: str = ""
    create: tuple[str, ...] = ()
    files: dict[str, str] = {}


class Matrix(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All rows by name. `before`: the day whose versions are taken."""

    before: str
    row: dict[str, Row]


class NotMade(Exception):
    """The project could not be made; the message has the generator's or npm's last words."""


def read_matrix() -> Matrix:
    return msgspec.toml.decode(ROWS.read_bytes(), type=Matrix)


def make_project(row: Row, before: str, folder: Path) -> None:
    """Write the row's project into `folder`, with its lock file. Raises `NotMade`. Blocks."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    env = _environment(row.before or before)
    if row.create:
        words = ["npx", "--yes", *(word.replace("{folder}", folder.name) for word in row.create)]
        _run(words, folder.parent, env, CREATE_TIMEOUT_S)
    for name, text in row.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    lock = [
        "npm",
        "install",
        "--package-lock-only",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--legacy-peer-deps",
    ]
    _run(lock, folder, env, LOCK_TIMEOUT_S)


def _environment(before: str) -> dict[str, str]:
    """The Node that VMs get, and only versions that were there on that day."""
    env: dict[str, Any] = {**os.environ, "CI": "1", "NG_CLI_ANALYTICS": "false", "npm_config_update_notifier": "false"}
    env["npm_config_before"] = before
    # A lock file must fit whichever registry installs from it.
    env["npm_config_omit_lockfile_registry_resolved"] = "true"
    folder = node_dir(os.environ.get("DRAPE_POOL_NODE_DIR", ""))
    if folder is not None:
        env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env['PATH']}"
    return env


def _run(words: list[str], cwd: Path, env: dict[str, str], timeout_s: float) -> None:
    """npm and npx by their real programs: a wheel's wrappers for them can't be links."""
    folder = node_dir(os.environ.get("DRAPE_POOL_NODE_DIR", ""))
    if folder is not None:
        program = NPM_CLI if words[0] == "npm" else NPX_CLI
        words = [str(folder / "bin" / "node"), str(folder / program), *words[1:]]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotMade(f"{words[-1]}: not done after {timeout_s:g} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-3:]
        raise NotMade(f"ended with {done.returncode}: {' '.join(last)}"[:300])
