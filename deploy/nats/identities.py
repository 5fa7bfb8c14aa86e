"""One nkey an identity, made once: seeds in files that only this user can read, public keys for the server.

Never prints or logs a seed.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import nkeys

from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.local.secrets import load_or_make_one
from deploy.nats.permissions import IDENTITIES
from shared.jetstream.credentials import SEED, SEED_FILE

_SEED_BYTES = 32
_PRIVATE = 0o700


def seed_file(folder: Path, identity: str) -> Path:
    """Where the seed of an identity is."""
    return folder / f"{identity}.nk"


def make_identities(folder: Path) -> dict[str, str]:
    """The public keys by identity; seeds that are missing in `folder` are made. Raises LauncherError
    `secret_unreadable`, `seed_wrong`, `identities_not_writable`."""
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        return {identity: _public_key(_kept(folder, identity)) for identity in IDENTITIES}
    except OSError as error:
        raise LauncherError(
            "identities_not_writable",
            f"Keys cannot be kept in {folder}: {error.strerror or type(error).__name__}.",
            "Give a folder that you may write.",
        ) from error


def seed_environment(
    folder: Path, identity: str, external_url: str | None, environ: Mapping[str, str]
) -> dict[str, str]:
    """What a process with this identity gets: its own seed's file, and nobody else's.

    On another's server (`external_url`) the address or the caller's environment may say who we are; then nothing. A
    caller with a key of this same folder stands among the others, who get theirs.
    """
    path = seed_file(folder, identity)
    if not path.exists():
        return {}
    callers = environ.get(SEED_FILE, "")
    ours = bool(callers) and Path(callers).expanduser().parent == folder
    if external_url and ("@" in external_url or ((callers or environ.get(SEED)) and not ours)):
        return {}
    return {SEED_FILE: str(path), SEED: ""}


def new_seed() -> str:
    """A fresh user's seed."""
    return bytes(nkeys.encode_seed(os.urandom(_SEED_BYTES), nkeys.PREFIX_BYTE_USER)).decode()


def replace_seeds(folder: Path, seeds: Mapping[str, str]) -> None:
    """New seeds for old ones, each file as a whole."""
    for identity, seed in seeds.items():
        records.write_private(seed_file(folder, identity), seed.encode())


def public_key(seed: str) -> str:
    """The public key that belongs to a seed. Raises `ValueError` where it is none."""
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
    except Exception as error:  # nkeys raises several unrelated kinds, some with the seed in them
        raise ValueError(f"not an nkey seed ({type(error).__name__})") from None
    key = bytes(pair.public_key).decode()
    pair.wipe()
    return key


def _kept(folder: Path, identity: str) -> tuple[Path, str]:
    path = seed_file(folder, identity)
    return path, load_or_make_one(path, new_seed())


def _public_key(kept: tuple[Path, str]) -> str:
    path, seed = kept
    try:
        return public_key(seed)
    except ValueError as error:
        raise LauncherError(
            "seed_wrong",
            f"{path} holds no seed of an nkey.",
            "Restore it from a backup, or `drape provision --rotate` makes new ones.",
        ) from error
