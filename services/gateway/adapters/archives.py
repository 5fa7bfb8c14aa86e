"""Reads uploaded archives: every name, type and size is checked before anything is stored. Blocking; call in a thread."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Annotated, Any, TypeVar, cast

import msgspec

from services.gateway.config import GatewayConfig
from shared.errors import Invalid, Refused
from shared.project_files import clean_path, is_left_out

PATCH_MEMBER = ".drape-patch.json"
LISTING_MEMBER = ".drape-manifest.json"
PATCH_BYTES_MAX = 4 * 1024 * 1024
HEADER_BYTES_MAX = PATCH_BYTES_MAX + 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Patch(msgspec.Struct, frozen=True):
    """The first member of a PATCH: what it changes from, and what goes."""

    base_version: int
    delete: tuple[str, ...] = ()


class Listed(msgspec.Struct, frozen=True):
    """A file of a listing: its content by hash, and whether it may be executed."""

    sha256: Annotated[str, msgspec.Meta(pattern=SHA256_PATTERN)]
    mode: int = 0o644


class Listing(msgspec.Struct, frozen=True):
    """The first member of a PUT that sends only what is new: the whole folder by the hashes of its files."""

    files: dict[str, Listed]


_patch = msgspec.json.Decoder(Patch)
_listing = msgspec.json.Decoder(Listing)
H = TypeVar("H")


class Upload(msgspec.Struct, frozen=True):
    """A checked archive on disk: paths in the archive's order, and the header where it has one."""

    sizes: dict[str, int]
    patch: Patch | None
    listing: Listing | None = None


def check_archive(body: IO[bytes], config: GatewayConfig, patch: bool) -> Upload:
    """Read the archive through once: every name, type and size, before anything is stored. Blocking."""
    header: Patch | None = None
    listing: Listing | None = None
    sizes: dict[str, int] = {}
    total = 0
    for member in _members(body, HEADER_BYTES_MAX):
        if patch and header is None:
            header = _patch_header(member)
            continue
        if not patch and not sizes and listing is None and member.info.name == LISTING_MEMBER:
            listing = _cleaned(_header(member, "bad_listing", _listing))
            continue
        if member.info.isdir():
            continue
        path = clean_path(member.info.name)
        if is_left_out(path):
            continue
        if not member.info.isfile():
            kind = "symbolic link" if member.info.issym() else "hard link" if member.info.islnk() else "special file"
            raise Invalid(
                "unsupported_member",
                f"{path!r} is a {kind}; only regular files can be uploaded.",
                "Replace it by the file that it stands for, or leave it out.",
            )
        total += member.info.size
        sizes[path] = member.info.size
        check_totals(len(sizes), total, config)
    _check_collisions(sizes)
    if patch and header is None:
        raise Invalid("bad_patch", f"A PATCH begins with a member {PATCH_MEMBER}.", "Use PUT to send a whole folder.")
    return Upload(sizes, header, listing)


class _Member(msgspec.Struct):
    info: Any
    tar: Any

    def read(self) -> bytes:
        content = self.tar.extractfile(self.info)
        return content.read() if content is not None else b""


class _Plain:
    """The archive without its compression. One read of more than `read_max` bytes is refused: tarfile takes the size of
    a header from the header itself, and would unpack a bomb into memory before anybody has seen a name."""

    def __init__(self, body: IO[bytes], read_max: int) -> None:
        body.seek(0)
        packed = body.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        body.seek(0)
        self._file: IO[bytes] = cast(IO[bytes], gzip.GzipFile(fileobj=body)) if packed else body
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
    except (tarfile.TarError, EOFError, OSError, UnicodeError, ValueError, OverflowError, zlib.error) as error:
        raise Invalid(
            "bad_archive", f"The body is not a whole tar archive: {error}.", "Was the upload cut off?"
        ) from error


def _check_end(plain: _Plain, offset: int) -> None:
    """tarfile stops at the first header that it can't read; a whole archive ends with a block of zeros."""
    plain.seek(offset)
    if plain.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it does not end as an archive does")


def _patch_header(member: _Member) -> Patch:
    if member.info.name != PATCH_MEMBER:
        raise Invalid("bad_patch", f"A PATCH begins with a member {PATCH_MEMBER}.", "Use PUT to send a whole folder.")
    return _header(member, "bad_patch", _patch)


def _header(member: _Member, code: str, decoder: msgspec.json.Decoder[H]) -> H:
    if not member.info.isfile() or member.info.size > PATCH_BYTES_MAX:
        raise Invalid(code, f"{member.info.name} is no file of at most {PATCH_BYTES_MAX} bytes.")
    try:
        return decoder.decode(member.read())
    except msgspec.DecodeError as error:
        raise Invalid(code, f"{member.info.name} is wrong: {error}.") from error


def _cleaned(listing: Listing) -> Listing:
    files = {clean_path(path): listed for path, listed in listing.files.items()}
    kept = {path: listed for path, listed in files.items() if not is_left_out(path)}
    _check_collisions(dict.fromkeys(kept, 0))
    return Listing(kept)


def batches(body: IO[bytes], upload: Upload, config: GatewayConfig) -> Iterator[dict[str, tuple[bytes, int]]]:
    """The files again, in groups of about `bundle_bytes` of the config."""
    batch: dict[str, tuple[bytes, int]] = {}
    size = 0
    for member in _members(body, config.upload_bytes_max):
        if not member.info.isfile() or member.info.name in (PATCH_MEMBER, LISTING_MEMBER):
            continue
        path = clean_path(member.info.name)
        if path not in upload.sizes:
            continue
        content = member.read()
        batch[path] = (content, 0o755 if member.info.mode & 0o111 else 0o644)
        size += len(content)
        if size >= config.bundle_bytes:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def check_totals(files: int, size_bytes: int, config: GatewayConfig) -> None:
    if files > config.files_max:
        raise Refused(
            "too_many_files",
            f"The project has more than {config.files_max} files.",
            "Leave out what the dev server does not need; node_modules and .git do not count.",
            status=413,
        )
    if size_bytes > config.upload_bytes_max:
        raise too_large(config.upload_bytes_max)


def _check_collisions(sizes: dict[str, int]) -> None:
    """A path can't be a file and a folder at once."""
    for path in sizes:
        for parent in PurePosixPath(path).parents:
            if str(parent) in sizes:
                raise Invalid("bad_path", f"{str(parent)!r} is a file and a folder at once.", "Rename one of them.")


def too_large(limit_bytes: int) -> Refused:
    """The refusal that names the limit."""
    return Refused(
        "project_too_large",
        f"The project is larger than {limit_bytes / 1024**2:.0f} MiB.",
        "Leave out what the dev server does not need; node_modules and .git do not count.",
        status=413,
    )
