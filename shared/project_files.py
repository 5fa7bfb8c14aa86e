"""A project's files as they are stored: a manifest per version, and bundles (gzipped tars) that hold the contents.

Both ends use it: the gateway writes versions, the orchestrator reads them. Pure but for (de)compression.
"""

import gzip
import hashlib
import io
import posixpath
import tarfile
from collections.abc import Iterable, Mapping

import msgspec

from shared.errors import Invalid
from shared.ids import OwnerId, ProjectId

NAME_BYTES_MAX = 255
"""Of one file or folder: file systems take no more."""
PATH_BYTES_MAX = 1024
LEFT_OUT = frozenset({".git", "node_modules", ".hg", ".svn", ".DS_Store"})
"""Never part of an upload, wherever in the tree: history and what an install makes."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a version. `bundle` names the object that holds its content; `mode`: permission bits."""

    sha256: str
    mode: int
    size: int
    bundle: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a project's files, by path relative to the project."""

    files_version: int
    files: dict[str, Entry]

    @property
    def size_bytes(self) -> int:
        """The files' sizes added up."""
        return sum(entry.size for entry in self.files.values())


def manifest_name(owner: OwnerId, project_id: ProjectId, files_version: int, salt: str) -> str:
    """Where a version's manifest is stored. `salt` keeps two writers of one version apart; the log says who won."""
    return f"{owner}/{project_id}/manifest/{files_version}-{salt}"


def bundle_name(owner: OwnerId, project_id: ProjectId, digest: str) -> str:
    """Where a bundle is stored."""
    return f"{owner}/{project_id}/bundle/{digest}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def clean_path(path: str) -> str:
    """The path in its one normal form. Raises `Invalid` for what could leave the project, or cannot be a file name."""
    problem = _path_problem(path)
    if problem:
        raise Invalid("bad_path", f"The file name {path[:200]!r} {problem}.", "Rename the file, or leave it out.")
    return posixpath.normpath(path)


def _path_problem(path: str) -> str:
    if posixpath.normpath(path) == ".":
        return "is empty"
    if "\0" in path:
        return "contains NUL"
    if path.startswith("/") or "\\" in path or (len(path) > 1 and path[1] == ":"):
        return "is absolute or uses backslashes"
    if ".." in path.split("/"):
        return "contains '..'"
    if len(path.encode("utf-8", "surrogateescape")) > PATH_BYTES_MAX:
        return f"is longer than {PATH_BYTES_MAX} bytes"
    if any(len(part.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX for part in path.split("/")):
        return f"has a part that is longer than {NAME_BYTES_MAX} bytes"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    return ""


def is_left_out(path: str) -> bool:
    """True for `.git`, `node_modules` and their like, and what lies in them."""
    return not LEFT_OUT.isdisjoint(path.split("/"))


def pack(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """A bundle of {path: (content, mode)}: the same files always give the same bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files):
            content, mode = files[path]
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, 0
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), compresslevel=3, mtime=0)


def unpack(bundle: bytes, wanted: Iterable[str]) -> dict[str, bytes]:
    """The contents of the wanted paths in a bundle of ours."""
    names = set(wanted)
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:gz") as tar:
        for member in tar:
            if member.name in names and member.isfile():
                content = tar.extractfile(member)
                if content is not None:
                    found[member.name] = content.read()
    return found
