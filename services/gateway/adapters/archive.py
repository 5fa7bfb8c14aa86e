"""Reads an uploaded archive: a tar, gzipped or not, is checked name by name before anything of it counts. Blocking.

The first member may say what the upload is: a patch (`.drape-patch.json`), or a whole folder of which only some
contents are sent (`.drape-manifest.json`).
"""

import gzip
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast

import msgspec

from services.gateway.config import GatewayConfig
from shared.errors import UNREADABLE, Invalid, Refused
from shared.project_files import clean_path, is_left_out

PATCH_MEMBER = ".drape-patch.json"
MANIFEST_MEMBER = ".drape-manifest.json"
MODE_MAX = 0o177777
"""A type and twelve permission bits, as `st_mode` has them."""
PATCH_BYTES_MAX = 4 * 1024 * 1024
MANIFEST_BYTES_MAX = 8 * 1024 * 1024
"""A list of 20,000 files takes 3 MiB where their paths are of usual length."""
HEADER_BYTES_MAX = MANIFEST_BYTES_MAX + 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
_BROKEN = (tarfile.TarError, EOFError, OSError, UnicodeError, ValueError, OverflowError, zlib.error)
"""What reading a broken archive raises."""
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Patch(msgspec.Struct, frozen=True):
    """The first member of a PATCH: what it changes from, and what goes."""

    base_version: int
    delete: tuple[str, ...] = ()


class Listed(msgspec.Struct, frozen=True):
    """A file of a folder, by its content."""

    path: str
    sha256: str
    mode: int = 0o644


class Upload(msgspec.Struct, frozen=True):
    """A checked archive on disk: sizes by path in the archive's order, and its header where it has one. `listed`: the
    whole folder by path, of which the archive holds what is not known yet."""

    sizes: dict[str, int]
    patch: Patch | None
    listed: dict[str, Listed] | None = None


_patch = msgspec.json.Decoder(Patch)
_list = msgspec.json.Decoder(list[Listed])
_hashes = msgspec.json.Decoder(dict[str, str])


def check_archive(body: IO[bytes], config: GatewayConfig, patch: bool) -> Upload:
    """Read the archive through once: every name, type and size, before anything is stored."""
    header: Patch | None = None
    listed: dict[str, Listed] | None = None
    sizes: dict[str, int] = {}
    total, first = 0, True
    for member in _members(body, HEADER_BYTES_MAX):
        if first and patch:
            header = _patch_header(member)
        elif first and member.info.name == MANIFEST_MEMBER:
            listed = _list_header(member, config)
        elif member.info.name in (MANIFEST_MEMBER, PATCH_MEMBER):
            raise Invalid(
                "bad_archive",
                f"{member.info.name} is not the first member, or not of this kind of upload: it would be stored as a file.",
                "Send it first: a listing with PUT, a patch with PATCH.",
            )
        else:
            path = _checked_path(member)
            if path:
                total += member.info.size
                sizes[path] = member.info.size
                check_totals(len(sizes), total, config)
        first = False
    check_collisions(sizes)
    if patch and header is None:
        raise _no_patch()
    if listed is not None:
        _check_listed(sizes, listed)
    return Upload(sizes, header, listed)


def _checked_path(member: "_Member") -> str:
    """The member's path in its normal form; empty for what is not to be stored."""
    if member.info.isdir():
        return ""
    path = clean_path(member.info.name)
    if is_left_out(path):
        return ""
    if not member.info.isfile():
        kind = "symbolic link" if member.info.issym() else "hard link" if member.info.islnk() else "special file"
        raise Invalid(
            "unsupported_member",
            f"{path!r} is a {kind}; only regular files can be uploaded.",
            "Replace it by the file that it stands for, or leave it out.",
        )
    return path


def parse_hashes(body: bytes, config: GatewayConfig) -> dict[str, str]:
    """{path: sha256} of a folder, checked. Raises `Invalid` (`bad_manifest`, `bad_path`) and `Refused`."""
    try:
        hashes = _hashes.decode(body)
    except UNREADABLE as error:
        raise Invalid("bad_manifest", f"The body is not a JSON object of {{path: sha256}}: {error}.") from error
    return {path: each.sha256 for path, each in _checked(map(_pair, hashes.items()), config).items()}


def _pair(item: tuple[str, str]) -> Listed:
    return Listed(path=item[0], sha256=item[1])


def _list_header(member: "_Member", config: GatewayConfig) -> dict[str, Listed]:
    if not member.info.isfile() or member.info.size > MANIFEST_BYTES_MAX:
        raise Invalid("bad_manifest", f"{MANIFEST_MEMBER} is no file, or larger than {MANIFEST_BYTES_MAX} bytes.")
    try:
        return _checked(_list.decode(member.read()), config)
    except UNREADABLE as error:
        raise Invalid("bad_manifest", f"{MANIFEST_MEMBER} is wrong: {error}.") from error


def _checked(files: Iterable[Listed], config: GatewayConfig) -> dict[str, Listed]:
    """The files by their paths' normal form, without what is never part of an upload."""
    found: dict[str, Listed] = {}
    for file in files:
        path = clean_path(file.path)
        if is_left_out(path):
            continue
        if path in found:
            raise Invalid("bad_manifest", f"{path!r} is listed twice.")
        if not 0 <= file.mode <= MODE_MAX:
            raise Invalid("bad_manifest", f"The mode of {path!r} is {file.mode}, which is none that a file has.")
        if not _SHA256.match(file.sha256):
            raise Invalid("bad_manifest", f"The hash of {path!r} is no SHA-256 in lower-case hexadecimal.")
        found[path] = Listed(path, file.sha256, permissions(file.mode))
        check_totals(len(found), 0, config)
    check_collisions(found)
    return found


def _check_listed(sizes: dict[str, int], listed: dict[str, Listed]) -> None:
    for path in sizes:
        if path not in listed:
            raise Invalid("bad_manifest", f"{path!r} is sent, but {MANIFEST_MEMBER} does not list it.")


def permissions(mode: int) -> int:
    """What is kept of a file's mode: whether it can be executed."""
    return 0o755 if mode & 0o111 else 0o644


class _Member(msgspec.Struct):
    info: Any
    tar: Any

    def read(self) -> bytes:
        try:
            content = self.tar.extractfile(self.info)
            return content.read() if content is not None else b""
        except _BROKEN as error:
            raise _not_whole(error) from error


class _Plain:
    """The archive without its compression. One read of more than `read_max` bytes is refused: tarfile takes the size of
    a header from the header itself, and would unpack a bomb into memory before anybody has seen a name."""

    def __init__(self, body: IO[bytes], read_max: int) -> None:
        body.seek(0)
        packed = body.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        body.seek(0)
        self._file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=body, mode="rb")) if packed else body
        self._read_max = read_max

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._read_max:
            raise tarfile.ReadError("a header is too large")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _members(body: IO[bytes], read_max: int) -> Iterator[_Member]:
    plain = _Plain(body, read_max)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], plain), mode="r:") as tar:
            for info in tar:
                if info.size < 0:
                    raise tarfile.ReadError("a member has a negative size")
                yield _Member(info, tar)
            _check_end(plain, tar.offset)
    except _BROKEN as error:
        raise _not_whole(error) from error


def _not_whole(error: Exception) -> Invalid:
    return Invalid("bad_archive", f"The body is not a whole tar archive: {error}.", "Was the upload cut off?")


def _check_end(plain: _Plain, offset: int) -> None:
    """tarfile stops at the first header that it can't read; a whole archive ends with a block of zeros."""
    plain.seek(offset)
    if plain.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it does not end as an archive does")


def _patch_header(member: _Member) -> Patch:
    if member.info.name != PATCH_MEMBER or not member.info.isfile() or member.info.size > PATCH_BYTES_MAX:
        raise _no_patch()
    try:
        return _patch.decode(member.read())
    except UNREADABLE as error:
        raise Invalid("bad_patch", f"{PATCH_MEMBER} is wrong: {error}.") from error


def _no_patch() -> Invalid:
    return Invalid("bad_patch", f"A PATCH begins with a member {PATCH_MEMBER}.", "Use PUT to send a whole folder.")


def batches(body: IO[bytes], upload: Upload, config: GatewayConfig) -> Iterator[dict[str, tuple[bytes, int]]]:
    """The files again, {path: (content, mode)}, in groups of about `bundle_bytes` of the config."""
    batch: dict[str, tuple[bytes, int]] = {}
    size = 0
    for member in _members(body, max(config.upload_bytes_max, HEADER_BYTES_MAX)):
        if not member.info.isfile() or member.info.name in (PATCH_MEMBER, MANIFEST_MEMBER):
            continue
        path = clean_path(member.info.name)
        if path not in upload.sizes:
            continue
        content = member.read()
        batch[path] = (content, permissions(member.info.mode))
        size += len(content)
        if size >= config.bundle_bytes:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def check_totals(files: int, size_bytes: int, config: GatewayConfig) -> None:
    """Raises `Refused` (413) beyond the limits of a project."""
    if files > config.files_max:
        raise Refused(
            "too_many_files",
            f"The project has more than {config.files_max} files.",
            "Leave out what the dev server does not need; node_modules and .git do not count.",
            status=413,
        )
    if size_bytes > config.upload_bytes_max:
        raise too_large(config.upload_bytes_max)


def check_collisions(paths: Collection[str]) -> None:
    """A path can't be a file and a folder at once."""
    for path in paths:
        for parent in PurePosixPath(path).parents:
            if str(parent) in paths:
                raise Invalid("bad_path", f"{str(parent)!r} is a file and a folder at once.", "Rename one of them.")


def too_large(limit_bytes: int) -> Refused:
    """The refusal that names the limit."""
    return Refused(
        "project_too_large",
        f"The project is larger than {limit_bytes / 1024**2:.0f} MiB.",
        "Leave out what the dev server does not need; node_modules and .git do not count.",
        status=413,
    )
