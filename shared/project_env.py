"""A project's environment variables as they are stored: sealed, with a key of the project's own.

The gateway seals, the orchestrator unseals; nothing in between, and nobody who reads the store, learns a value.
"""

import os
import re

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import Invalid
from shared.ids import ProjectId

NONCE_BYTES = 12
NAMES_MAX = 100
BYTES_MAX = 32 * 1024
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
OURS = frozenset({"PORT", "HOST", "PATH", "HOME", "TMPDIR"})
"""Set by Drape: a preview with others would not be found where it listens, or not start at all."""

_values = msgspec.json.Decoder(dict[str, str])


def check(values: dict[str, str]) -> None:
    """Raises `Invalid("bad_variable")` for a name or a value that can't be one; never with the value in it."""
    for name, value in values.items():
        if NAME.fullmatch(name) is None:
            raise Invalid("bad_variable", f"{name[:50]!r} is no name for a variable.", "Use letters, digits and _.")
        if name in OURS:
            raise Invalid("bad_variable", f"{name} is set by Drape.", "Leave it out.")
        if "\0" in value:
            raise Invalid("bad_variable", f"The value of {name} contains NUL.", "Leave NUL out.")
    if len(values) > NAMES_MAX or sum(len(n) + len(v.encode()) for n, v in values.items()) > BYTES_MAX:
        raise Invalid(
            "too_many_variables",
            f"A project has at most {NAMES_MAX} variables, {BYTES_MAX // 1024} KiB in all.",
            "Keep large values in files.",
        )


def seal(secret: str, project_id: ProjectId, values: dict[str, str]) -> bytes:
    """The values as nobody can read them without the platform's secret."""
    nonce = os.urandom(NONCE_BYTES)
    data = msgspec.json.encode(values)
    return nonce + AESGCM(_key(secret, project_id)).encrypt(nonce, data, project_id.encode())


def unseal(secret: str, project_id: ProjectId, sealed: bytes) -> dict[str, str]:
    """The values. Raises `Invalid("env_unreadable")` where they were sealed with another secret, or damaged."""
    try:
        nonce, data = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        return _values.decode(AESGCM(_key(secret, project_id)).decrypt(nonce, data, project_id.encode()))
    except (InvalidTag, ValueError, msgspec.MsgspecError) as error:
        raise Invalid(
            "env_unreadable",
            "The project's variables can't be read with this platform's secret.",
            "Set them again: `drape env set`.",
        ) from error


def _key(secret: str, project_id: ProjectId) -> bytes:
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=f"drape/env/{project_id}".encode())
    return derive.derive(secret.encode())
