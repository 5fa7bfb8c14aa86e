"""The secrets of one installation, made once and kept in files that only this user can read.

Never logs a secret, never changes one that exists.
"""

import os
import secrets
from pathlib import Path

import msgspec

from deploy.local.errors import LauncherError
from deploy.local.paths import Home

_BYTES_MAX = 256
"""A longer file in the secrets folder was not written by us."""


class Secrets(msgspec.Struct, frozen=True):
    """Passwords are URL-safe text; `platform` is 32 bytes in hexadecimal, from which services derive their keys."""

    nats_password: str
    postgres_password: str
    platform: str

    def __repr__(self) -> str:
        return "Secrets(...)"


def load_or_make(home: Home) -> Secrets:
    """Reads the secrets, making those that are missing. Two processes doing this at once get the same ones."""
    return Secrets(
        nats_password=load_or_make_one(home.secrets / "nats_password", secrets.token_urlsafe(32)),
        postgres_password=load_or_make_one(home.secrets / "postgres_password", secrets.token_urlsafe(32)),
        platform=load_or_make_one(home.secrets / "platform", secrets.token_hex(32)),
    )


def load_or_make_one(path: Path, fresh: str) -> str:
    """What the file holds; `fresh` where there is none. Raises LauncherError `secret_unreadable`."""
    if not path.exists():
        _publish(path, fresh)
    try:
        value = path.read_text("ascii")[:_BYTES_MAX].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path) from error
    if not value:
        raise _unreadable(path)
    return value


def _publish(path: Path, value: str) -> None:
    """Links a complete file into place, so that nobody ever reads half a secret; the first one to arrive wins."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _unreadable(path: Path) -> LauncherError:
    return LauncherError(
        "secret_unreadable",
        f"The secret {path} cannot be read.",
        "Restore it from a backup. Without it the data in DRAPE_HOME cannot be opened; a new DRAPE_HOME starts empty.",
    )
