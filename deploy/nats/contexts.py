"""Contexts for the `nats` command: `nats --context drape stream ls`. They name the seed's file, and hold no secret."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.nats.identities import seed_file
from deploy.nats.permissions import OBSERVER, OPERATOR
from shared.jetstream.connection import inbox_prefix

CONTEXTS = {
    "drape": (OPERATOR, "Drape: reads everything, sends commands"),
    "drape-observer": (OBSERVER, "Drape: reads events, timers, parked reactions and figures; can change nothing"),
}
"""The contexts' names, whose key each uses, and what it is for."""


def contexts_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the `nats` command looks for them."""
    given = environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    config = Path(given) if os.path.isabs(given) else Path(environ.get("HOME") or Path.home()) / ".config"
    return config / "nats" / "context"


def write_contexts(folder: Path, seeds: Path, url: str) -> list[Path]:
    """Write both; `url` holds no password. Gives the files. Raises LauncherError `contexts_not_writable`."""
    written = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, (identity, description) in CONTEXTS.items():
            told = {
                "description": description,
                "url": url,
                "nkey": str(seed_file(seeds, identity).absolute()),
                "inbox_prefix": inbox_prefix(identity),
            }
            path = folder / f"{name}.json"
            records.write_private(path, f"{json.dumps(told, indent=2)}\n".encode())
            written.append(path)
    except OSError as error:
        raise LauncherError(
            "contexts_not_writable",
            f"The contexts cannot be written to {folder}: {error.strerror or type(error).__name__}.",
            "Set XDG_CONFIG_HOME to a folder that you may write.",
        ) from error
    return written
