"""The manifest of an entry: what it holds, and a checksum of itself.

Three lines: the sha256 of all that follows, the header, the items (both JSON). Who lists entries reads the header
alone; who restores checks everything, since what it says becomes names and modes in a VM.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from services.pool.adapters.deps_cache import names
from services.pool.adapters.deps_cache.errors import damaged

FORMAT = 1
BYTES_MAX = 256 << 20
HEADER_BYTES_MAX = 1 << 20
MODE_BITS = 0o777  # the set-user-id, set-group-id and sticky bits are never kept
_SHA256 = re.compile(r"[0-9a-f]{64}")


class File(msgspec.Struct, frozen=True, array_like=True, tag="f", gc=False):
    """A file's bytes are `data[offset : offset + size]`. Paths are relative to the project's folder."""

    path: str
    mode: int
    mtime_ns: int
    size: int
    offset: int
    sha256: str


class Folder(msgspec.Struct, frozen=True, array_like=True, tag="d", gc=False):
    """A folder; it comes before what it holds."""

    path: str
    mode: int
    mtime_ns: int


class Link(msgspec.Struct, frozen=True, array_like=True, tag="l", gc=False):
    """A symbolic link; `target` is relative and stays in the project's folder."""

    path: str
    target: str


Item: TypeAlias = File | Folder | Link


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose install this is, and how large. `items` counts files, folders and links."""

    format: int
    owner: str
    key: str
    trees: tuple[str, ...]
    items: int
    files: int
    bytes: int
    """Contents of all files."""
    data_bytes: int
    """The size of `data`: contents and padding."""


class Manifest(msgspec.Struct, frozen=True):
    """A manifest that is whole and consistent in itself."""

    header: Header
    files: Sequence[File]
    folders: Sequence[Folder]
    links: Sequence[Link]


def encode(header: Header, items: Sequence[Item]) -> bytes:
    """The manifest as it is stored."""
    body = msgspec.json.encode(header) + b"\n" + msgspec.json.encode(items) + b"\n"
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_header(raw: bytes) -> Header:
    """The header out of a manifest or its beginning, checked by shape only. Raises CacheError entry_damaged."""
    try:
        header = msgspec.json.decode(raw.split(b"\n", 2)[1], type=Header)
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(f"its manifest cannot be read ({error})") from error
    if header.format != FORMAT:
        raise damaged(f"its format is {header.format}, and {FORMAT} was expected")
    return header


def decode(raw: bytes) -> Manifest:
    """A stored manifest. Raises CacheError entry_damaged for whatever `encode` does not make."""
    checksum, _, body = raw.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        raise damaged("its manifest was changed or cut")
    header = decode_header(raw)
    try:
        items = msgspec.json.decode(body.split(b"\n", 1)[1], type=list[Item])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(f"its manifest cannot be read ({error})") from error
    manifest = Manifest(
        header=header,
        files=[item for item in items if isinstance(item, File)],
        folders=[item for item in items if isinstance(item, Folder)],
        links=[item for item in items if isinstance(item, Link)],
    )
    _check_header(manifest, len(items))
    _check_paths(header.trees, items)
    for item in items:
        _check_item(item, header)
    return manifest


def _check_header(manifest: Manifest, items: int) -> None:
    header = manifest.header
    if (problem := names.tree_problem(header.trees)) is not None:
        raise damaged(problem)
    counts = (items, len(manifest.files), sum(file.size for file in manifest.files))
    if counts != (header.items, header.files, header.bytes):
        raise damaged("its manifest's counts do not fit its items")


def _check_paths(trees: tuple[str, ...], items: Sequence[Item]) -> None:
    """Every path is a tree, or stands in a folder that was named before it; none is named twice."""
    seen: set[str] = set()
    folders: set[str] = set()
    for item in items:
        is_root = item.path in trees and isinstance(item, Folder)
        if item.path in seen or not (is_root or names.parent_of(item.path) in folders):
            raise damaged(f"{item.path!r} stands where it cannot")
        if not names.is_path(item.path):
            raise damaged(f"{item.path!r} is not a path")
        seen.add(item.path)
        if isinstance(item, Folder):
            folders.add(item.path)
    if not folders.issuperset(trees):
        raise damaged("a tree is missing in its manifest")


def _check_item(item: Item, header: Header) -> None:
    if isinstance(item, Link):
        if names.link_leaves(item.path, item.target):
            raise damaged(f"the link {item.path!r} leaves the project")
        return
    if not 0 <= item.mode <= MODE_BITS:
        raise damaged(f"the mode of {item.path!r} is {item.mode:o}")
    if isinstance(item, File):
        fits = item.size >= 0 and item.offset >= 0 and item.offset + item.size <= header.data_bytes
        if not fits or not _SHA256.fullmatch(item.sha256):
            raise damaged(f"{item.path!r} is not in its data")


def read_bounded(fd: int, bytes_max: int) -> bytes:
    """All of a file from its beginning, at most `bytes_max`."""
    chunks, at = [], 0
    while at < bytes_max and (chunk := os.pread(fd, min(1 << 20, bytes_max - at), at)):
        chunks.append(chunk)
        at += len(chunk)
    return b"".join(chunks)
