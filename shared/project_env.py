"""A project's variables as they are kept: checked, then encrypted with a key of that project. Values are secrets: no
error here repeats one.

Both ends use it: the gateway seals, the orchestrator unseals. Pure but for the nonce.
"""

import os
import re
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import Invalid
from shared.ids import OwnerId, ProjectId

VARIABLES_MAX = 100
VARIABLES_BYTES_MAX = 32 * 1024
"""Names and values of a project, added up. Linux takes some MiB for a process; a project that needs them uses files."""
NAME_CHARS_MAX = 200
REFUSED = frozenset({"PORT", "HOST", "PATH", "HOME", "TMPDIR"})
"""Drape's own: where the dev server listens, so that the gateway reaches it; and where a VM's programs, its Node and its
caches are found. `NODE_OPTIONS` is the project's: it is how a build gets more memory, and it harms nobody else."""
REFUSED_PREFIX = "DRAPE_"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FORMAT = b"\x01"
_KEY_BYTES = 32
_NONCE_BYTES = 12

_values = msgspec.json.Decoder(dict[str, str])


def object_name(owner: OwnerId, project_id: ProjectId, salt: str) -> str:
    """Where sealed variables are stored. `salt`: a new one each time, so that no object ever changes under its name."""
    return f"{owner}/{project_id}/env/{salt}"


def check_name(name: str) -> None:
    """Raises `Invalid`: `bad_env_name`, `env_name_refused`."""
    if len(name) > NAME_CHARS_MAX or not _NAME.match(name):
        raise Invalid(
            "bad_env_name",
            f"{name[:80]!r} can't name a variable.",
            "Names are letters, digits and '_', and begin with no digit.",
        )
    if name in REFUSED or name.startswith(REFUSED_PREFIX):
        raise Invalid("env_name_refused", f"{name} is set by Drape itself.", "Use another name.")


def check_variables(values: Mapping[str, str]) -> None:
    """All that makes variables fit to be kept. Raises `Invalid` naming the variable, never its value: as `check_name`
    does, and `bad_env_value`, `too_many_variables`, `env_too_large`."""
    if len(values) > VARIABLES_MAX:
        raise Invalid("too_many_variables", f"A project has at most {VARIABLES_MAX} variables, not {len(values)}.")
    size = 0
    for name, value in values.items():
        check_name(name)
        if "\0" in value:
            raise Invalid("bad_env_value", f"The value of {name} contains NUL, which no environment can hold.")
        try:
            size += len(name) + len(value.encode())
        except UnicodeEncodeError:
            # From here on the error would hold the value.
            raise Invalid("bad_env_value", f"The value of {name} is not valid text.") from None
    if size > VARIABLES_BYTES_MAX:
        raise Invalid(
            "env_too_large",
            f"The variables are {size} bytes; the limit is {VARIABLES_BYTES_MAX}.",
            "Keep large values in a file of the project.",
        )


def seal(secret: str, project_id: ProjectId, values: Mapping[str, str], nonce: bytes = b"") -> bytes:
    """The variables, encrypted (AES-256-GCM) so that only this project's key opens them. `secret`: the platform's;
    `nonce`: 12 bytes, never the same twice; empty: random ones."""
    chosen = nonce or os.urandom(_NONCE_BYTES)
    plain = msgspec.json.encode(dict(values))
    return _FORMAT + chosen + AESGCM(_key(secret, project_id)).encrypt(chosen, plain, project_id.encode())


def unseal(secret: str, project_id: ProjectId, blob: bytes) -> dict[str, str]:
    """What `seal` was given. Raises `Invalid` (`env_unreadable`) where secret, project or bytes are others."""
    nonce, sealed = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]
    if blob[:1] != _FORMAT or len(nonce) < _NONCE_BYTES:
        raise _unreadable(project_id)
    try:
        plain = AESGCM(_key(secret, project_id)).decrypt(nonce, sealed, project_id.encode())
        return _values.decode(plain)
    except (InvalidTag, msgspec.DecodeError, ValueError):
        raise _unreadable(project_id) from None


def _key(secret: str, project_id: ProjectId) -> bytes:
    info = f"drape/project-env/{project_id}".encode()
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret.encode())


def _unreadable(project_id: ProjectId) -> Invalid:
    return Invalid(
        "env_unreadable",
        f"The variables of project {project_id[:64]} can't be decrypted: DRAPE_SECRET is another than when they were set.",
        "Set them again (PUT /api/projects/{id}/env, `drape env set`), or restore the secret.",
    )
