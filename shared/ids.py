"""Ids: what they look like and how one is derived from another. Pure: fresh ids come from `shared.ulids`.

Every id is a lower-case ULID (26 characters of Crockford's base 32): sortable, a valid DNS label and a valid NATS token.
"""

import hashlib
import hmac

_ID_CHARS = 26
_TIME_CHARS = 10
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

OwnerId = str
ProjectId = str
PreviewId = str
VmId = str
CommandId = str
EventId = str


def derive(parent: str, *names: str | int) -> str:
    """An id that the same parent and names always give, so that a retried command makes the same ids.

    It keeps the parent's time part, so that derived ids sort beside what they came from.
    """
    text = "/".join((parent, *map(str, names)))
    return _id(parent, hashlib.blake2b(text.encode(), digest_size=10).digest())


def derive_keyed(key: bytes, parent: str, *names: str | int) -> str:
    """As `derive`, but only who has the key can tell the id: 80 of its bits are an HMAC's."""
    text = "/".join((parent, *map(str, names)))
    return _id(parent, hmac.digest(key, text.encode(), "sha256")[:10])


def is_token(text: str) -> bool:
    """True when `text` may stand as one token of a NATS subject in our scheme: 1 to 64 of [a-z0-9-]."""
    return 0 < len(text) <= 64 and all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in text)


def is_text(text: str) -> bool:
    """False for half a surrogate pair, which is how a header's bytes arrive that are no UTF-8: it can't be encoded."""
    return not any("\ud800" <= each <= "\udfff" for each in text)


def _id(parent: str, tail: bytes) -> str:
    """An id with the parent's time part and these 80 bits."""
    value = int.from_bytes(tail, "big")
    head = parent[:_TIME_CHARS] if _is_ulid(parent) else "0" * _TIME_CHARS
    return head + "".join(_ALPHABET[(value >> shift) & 31] for shift in range(75, -1, -5))


def _is_ulid(text: str) -> bool:
    return len(text) == _ID_CHARS and all(c in _ALPHABET for c in text)
