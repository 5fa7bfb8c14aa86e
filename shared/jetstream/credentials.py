"""The seed of an nkey, with which a process proves to NATS who it is: from a file, or from the environment."""

import os
from collections.abc import Mapping
from pathlib import Path

import nkeys

from shared.errors import Invalid

SEED_FILE = "DRAPE_NATS_SEED_FILE"
SEED = "DRAPE_NATS_NKEY_SEED"
_BYTES_MAX = 256


def seed_from(seed_file: str, seed: str) -> str:
    """The seed itself; the file goes before. Empty where neither is given. Raises `Invalid`, never with the seed."""
    if seed_file:
        try:
            seed = Path(seed_file).expanduser().read_text("ascii")[:_BYTES_MAX]
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(
                "seed_unreadable",
                f"{SEED_FILE} names {seed_file}, which cannot be read ({type(error).__name__}).",
                "`drape provision` makes the keys; each process needs the file of its own identity.",
            ) from error
    seed = seed.strip()
    if seed:
        _check(seed, seed_file or SEED)
    return seed


def seed_from_environment(env: Mapping[str, str] = os.environ) -> str:
    """The same by the variables' names, for tools that have no settings."""
    return seed_from(env.get(SEED_FILE, ""), env.get(SEED, ""))


def _check(seed: str, where: str) -> None:
    try:
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except Exception:  # several unrelated kinds, and their words may hold the seed
        raise Invalid(
            "seed_wrong", f"{where} holds no seed of an nkey.", "It is one line that begins with SU."
        ) from None
