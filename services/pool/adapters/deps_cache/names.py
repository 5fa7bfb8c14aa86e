"""Names that come from outside: owners, keys, trees, paths, link targets. Pure; nothing here touches a disk."""

import hashlib
import json
from collections.abc import Iterable
from itertools import pairwise

from services.pool.adapters.deps_cache.errors import CacheError

WORD_CHARS_MAX = 512
COMPONENT_BYTES_MAX = 255
PATH_BYTES_MAX = 4000
NO_NAMES = frozenset({b"", b".", b".."})


def folder_name(owner: str, key: str) -> str:
    """Where an entry stands. The manifest repeats owner and key, so a name alone never decides whose it is."""
    for what, word in (("owner", owner), ("key", key)):
        if not word or len(word) > WORD_CHARS_MAX or not _is_utf8(word):
            raise CacheError("request_invalid", f"{what} has to be 1 to {WORD_CHARS_MAX} characters")
    return hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()


def is_path(path: str) -> bool:
    """Whether `path` is relative, of plain names, and can be stored."""
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        return False
    parts = raw.split(b"/")
    return (
        b"\0" not in raw
        and len(raw) <= PATH_BYTES_MAX
        and NO_NAMES.isdisjoint(parts)
        and max(map(len, parts)) <= COMPONENT_BYTES_MAX
    )


def tree_problem(trees: Iterable[str]) -> str | None:
    """What is wrong with a set of trees: no tree, a name that is no path, or one inside another."""
    names = sorted(trees, key=lambda name: name.split("/"))
    if not names:
        return "no tree is named"
    for name in names:
        if not is_path(name):
            return f"{name!r} is not a path below the project's folder"
    for outer, inner in pairwise(names):
        if inner == outer or inner.startswith(f"{outer}/"):
            return f"{inner!r} is inside {outer!r}"
    return None


def link_leaves(path: str, target: str) -> bool:
    """Whether a link at `path` (below the project's folder) may lead out of the project's folder.

    Only targets of the form ../../name/name are kept, which is what package managers write. The folders above a link
    are real ones, so each leading '..' is exactly one step up; a '..' after a name may follow another link first.
    """
    if not target or target.startswith("/") or "\0" in target or not _is_utf8(target):
        return True
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    return ups > path.count("/") or ".." in parts[ups:]


def parent_of(path: str) -> str:
    """The folder that holds `path`; "" for one at the top."""
    return path.rpartition("/")[0]


def base_of(path: str) -> str:
    """The last name of `path`."""
    return path.rpartition("/")[2]


def ancestors(path: str) -> list[str]:
    """The folders above a path, from the top: "a/b/c" gives "a", "a/b"."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True
