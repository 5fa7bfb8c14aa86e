"""Seals personal texts with a key of their project, and opens them for as long as the key is there.

A project's key is random, made with its first personal text, and kept wrapped by the platform's secret: neither the bucket
of keys nor the log alone gives a text away. Without the key, which goes with the project, what the log holds is noise.
"""

import base64
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.commands import Command
from shared.errors import Invalid
from shared.events import Event, PreviewFailed
from shared.grouping import normalised
from shared.ids import ProjectId
from shared.sealed import ERASED, MARK, PERSONAL, is_sealed, opened, project_in, projects_in, sealed

KEYS_CACHED_MAX = 10_000
"""Keys, and projects known to be erased, that a replica remembers; others are asked for again."""
CLOSED = "sealed"
"""What a sealed text reads as for whoever does not have the platform's secret."""
FINGERPRINT_CHARS = 16
_KEY_BYTES = 32
_NONCE_BYTES = 12
_SAME_NONCE = bytes(_NONCE_BYTES)
"""AES-GCM-SIV keeps its promise under one nonce: all that shows is which texts of a project are equal. That is wanted: a
command that is tried again makes the same event, and a decision can compare sealed texts."""

T = TypeVar("T")
M = TypeVar("M", bound=Event | Command)


class Erased(Exception):
    """The project's key was dropped; there will never be another."""


class Keys(Protocol):
    """Wrapped keys by project. All raise `Unavailable` while the store does not answer."""

    async def get(self, project_id: ProjectId) -> bytes | None:
        """None where there never was one. Raises `Erased`."""
        ...

    async def create(self, project_id: ProjectId, wrapped: bytes) -> bool:
        """False where another was first, or the key was erased."""
        ...

    async def erase(self, project_id: ProjectId) -> None:
        """Drop the key for good, its bytes on the disk included. Again: nothing more."""
        ...


class Seals:
    """One replica's way to the keys. `secret`: the platform's; without it nothing is opened, and nothing sealed."""

    def __init__(self, keys: Keys, secret: str, random: Callable[[int], bytes] = os.urandom) -> None:
        """`random`: gives so many bytes that nobody can guess; a simulation gives the same ones again."""
        self._keys = keys
        self._random = random
        self._secret = secret
        self._known: OrderedDict[ProjectId, AESGCMSIV | None] = OrderedDict()  # None: erased

    async def seal(self, message: M, project_id: ProjectId) -> M:
        """The event or command with its personal texts sealed; `erased` where the project is gone (`project_id` empty).

        What is sealed with this project's key already, as it comes from the state, stays. Raises `Unavailable`.
        """
        values = {name: getattr(message, name) for name in PERSONAL.get(type(message), ())}
        if not any(values.values()):
            return message
        key = await self._key(project_id, make=True) if project_id else None

        def one(plain: bytes) -> str:
            return _sealed(key, project_id, plain)

        changed = {name: sealed(value, one) for name, value in values.items()}
        if isinstance(message, PreviewFailed) and key is not None and not message.fingerprint:
            changed["fingerprint"] = self.fingerprint(_plain(key, message.message))
        return msgspec.structs.replace(message, **changed)

    def fingerprint(self, text: str) -> str:
        """What failures with the same message have in common, whoever's they are. Keyed: without the platform's secret
        nobody can try out which message it is of."""
        key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"drape/error-fingerprint")
        return hmac.digest(key.derive(self._secret.encode()), normalised(text).encode(), "sha256").hex()[
            :FINGERPRINT_CHARS
        ]

    async def opened(self, value: T) -> T:
        """The tree with every sealed text in it opened, or `erased`. Raises `Unavailable`."""
        for project_id in projects_in(value):
            await self._key(project_id, make=False)
        return self.opened_now(value, ERASED)

    def opened_now(self, value: T, unknown: str = "") -> T:
        """The same with the keys that are at hand; without one a text reads as `unknown`, or, if empty, stays sealed."""

        def one(text: str) -> Any:
            if not self._secret:
                return CLOSED
            key = self._known.get(project_in(text), _UNKNOWN)
            return _opened(key, text) if key is not _UNKNOWN else unknown or text

        opened_value: T = opened(value, one)
        return opened_value

    def forget(self, project_id: ProjectId) -> None:
        """The project was deleted: from here on its texts are erased for this replica, whatever the store still has."""
        self._remember(project_id, None)

    async def erase(self, project_id: ProjectId) -> None:
        """Drop the key, for everybody and for ever. Idempotent. Raises `Unavailable`."""
        self.forget(project_id)
        await self._keys.erase(project_id)

    async def _key(self, project_id: ProjectId, *, make: bool) -> AESGCMSIV | None:
        if project_id in self._known:
            self._known.move_to_end(project_id)
            return self._known[project_id]
        if not self._secret:
            if make:
                raise Invalid("settings_missing", "DRAPE_SECRET is not set: nothing personal can be stored without it.")
            return None
        try:
            wrapped = await self._keys.get(project_id)
            if wrapped is None and make:
                fresh = self._wrap(project_id, self._random(_KEY_BYTES))
                wrapped = fresh if await self._keys.create(project_id, fresh) else await self._keys.get(project_id)
        except Erased:
            self.forget(project_id)
        else:
            if wrapped is not None and project_id not in self._known:  # not deleted, nor fetched, meanwhile
                self._remember(project_id, self._unwrap(project_id, wrapped))
        return self._known.get(project_id)

    def _remember(self, project_id: ProjectId, key: AESGCMSIV | None) -> None:
        self._known[project_id] = key
        self._known.move_to_end(project_id)
        if len(self._known) > KEYS_CACHED_MAX:
            self._known.popitem(last=False)

    def _wrap(self, project_id: ProjectId, key: bytes) -> bytes:
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._wrapping(project_id).encrypt(nonce, key, project_id.encode())

    def _unwrap(self, project_id: ProjectId, wrapped: bytes) -> AESGCMSIV:
        nonce, body = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            return AESGCMSIV(self._wrapping(project_id).decrypt(nonce, body, project_id.encode()))
        except (InvalidTag, ValueError):
            raise Invalid(
                "key_unreadable",
                f"The key of project {project_id[:64]} can't be unwrapped: DRAPE_SECRET is another than when it was made.",
                "Restore the secret from a backup.",
            ) from None

    def _wrapping(self, project_id: ProjectId) -> AESGCM:
        info = f"drape/project-key/{project_id}".encode()
        return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(self._secret.encode()))


_UNKNOWN: Any = object()


def _sealed(key: AESGCMSIV | None, project_id: ProjectId, plain: bytes) -> str:
    if key is None:
        return ERASED
    text = msgspec.json.decode(plain)
    only = (
        text[0]
        if isinstance(text, list) and len(text) == 1
        else next(iter(text), "")
        if isinstance(text, dict)
        else text
    )
    if is_sealed(only) and project_in(only) == project_id and _opened(key, only) != ERASED:
        return str(only)  # from the state; a text that only looks sealed is sealed as any other
    body = base64.urlsafe_b64encode(key.encrypt(_SAME_NONCE, plain, project_id.encode())).decode()
    return f"{MARK}{project_id}.{body}"


def _plain(key: AESGCMSIV, text: str) -> str:
    """A message as it was before it was sealed, where it comes from the state."""
    return str(_opened(key, text)) if is_sealed(text) else text


def _opened(key: AESGCMSIV | None, text: str) -> Any:
    if key is None:
        return ERASED
    project_id, _, body = text[len(MARK) :].partition(".")
    try:
        return msgspec.json.decode(key.decrypt(_SAME_NONCE, base64.urlsafe_b64decode(body), project_id.encode()))
    except (InvalidTag, ValueError):
        return ERASED
