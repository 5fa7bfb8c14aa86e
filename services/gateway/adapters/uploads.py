"""Takes uploads in: a tar, gzipped or not, is checked name by name and stored as bundles and a manifest.

Nothing of an upload counts until its version is recorded: one that breaks off leaves the project as it was.
"""

import asyncio
import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, cast

import msgspec
from aiohttp import web

from services.gateway.config import GatewayConfig
from services.gateway.state import Project
from shared.commands import RecordFiles
from shared.errors import Invalid, Refused
from shared.ports import Objects
from shared.project_files import (
    Entry,
    Manifest,
    bundle_name,
    clean_path,
    is_left_out,
    manifest_name,
    pack,
    sha256,
)
from shared.ulids import new_id

TAR_TYPES = ("application/x-tar", "application/tar", "application/gzip", "application/x-gzip", "application/tar+gzip")
PATCH_MEMBER = ".drape-patch.json"
SPOOL_BYTES = 8 * 1024 * 1024
READ_BYTES = 256 * 1024
PATCH_BYTES_MAX = 4 * 1024 * 1024
HEADER_BYTES_MAX = PATCH_BYTES_MAX + 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"

_manifest = msgspec.json.Decoder(Manifest)


class Patch(msgspec.Struct, frozen=True):
    """The first member of a PATCH: what it changes from, and what goes."""

    base_version: int
    delete: tuple[str, ...] = ()


_patch = msgspec.json.Decoder(Patch)


class Upload(msgspec.Struct, frozen=True):
    """A checked archive on disk: paths in the archive's order, and the patch header where it has one."""

    sizes: dict[str, int]
    patch: Patch | None


class Uploads:
    """Stores versions of projects' files."""

    def __init__(self, objects: Objects, config: GatewayConfig) -> None:
        self._objects = objects
        self._config = config

    async def receive(self, request: web.Request, project: Project, *, patch: bool) -> RecordFiles:
        """Store what the request carries; gives the command that makes it the project's newest version.

        Raises `Invalid` and `Refused` saying what is wrong with it.
        """
        if request.content_type not in TAR_TYPES:
            raise Refused(
                "unsupported_media_type",
                f"The body is {request.content_type!r}; files are sent as a tar, gzipped or not.",
                f"Set Content-Type to one of {', '.join(TAR_TYPES[:3])}.",
                status=415,
            )
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as body:
            await self._spool(request, body)
            upload = await asyncio.to_thread(check_archive, body, self._config, patch)
            return await self._store(body, upload, project)

    async def _spool(self, request: web.Request, body: IO[bytes]) -> None:
        limit = self._config.upload_bytes_max
        if request.content_length is not None and request.content_length > limit:
            raise too_large(limit)
        size = 0
        async for chunk in request.content.iter_chunked(READ_BYTES):
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            body.write(chunk)
        body.seek(0)

    async def _store(self, body: IO[bytes], upload: Upload, project: Project) -> RecordFiles:
        before = await self._current(project)
        if upload.patch is not None and upload.patch.base_version != project.files_version:
            raise Refused(
                "files_version_conflict",
                f"The project is at version {project.files_version}, not {upload.patch.base_version}.",
                "Send the whole folder (PUT), or make the patch from that version.",
            )
        files = dict(before) if upload.patch is not None else {}
        gone = self._delete(files, upload.patch)
        changed = 0
        batches = _batches(body, upload, self._config)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            fresh = {path: item for path, item in batch.items() if not _same(before.get(path), item)}
            files.update({path: before[path] for path in batch if path not in fresh})
            files.update(await self._store_bundle(project, fresh))
            changed += len(fresh)
        deleted = gone if upload.patch is not None else sum(path not in files for path in before)
        return await self._store_manifest(project, files, changed, deleted)

    def _delete(self, files: dict[str, Entry], patch: Patch | None) -> int:
        before = len(files)
        for path in map(clean_path, patch.delete if patch is not None else ()):
            for name in [name for name in files if name == path or name.startswith(f"{path}/")]:
                del files[name]
        return before - len(files)

    async def _store_bundle(self, project: Project, fresh: dict[str, tuple[bytes, int]]) -> dict[str, Entry]:
        if not fresh:
            return {}
        bundle = await asyncio.to_thread(pack, fresh)
        name = bundle_name(project.owner, project.project_id, sha256(bundle))
        await self._objects.put(name, bundle)
        return {
            path: Entry(sha256=sha256(content), mode=mode, size=len(content), bundle=name)
            for path, (content, mode) in fresh.items()
        }

    async def _store_manifest(
        self, project: Project, files: dict[str, Entry], changed: int, deleted: int
    ) -> RecordFiles:
        manifest = Manifest(files_version=project.files_version + 1, files=files)
        _check_totals(len(files), manifest.size_bytes, self._config)
        if not files:
            raise Invalid("empty_project", "The project has no files.", "Upload a folder with at least one file.")
        name = manifest_name(project.owner, project.project_id, manifest.files_version, new_id())
        await self._objects.put(name, msgspec.json.encode(manifest))
        return RecordFiles(
            project_id=project.project_id,
            owner=project.owner,
            base_version=project.files_version,
            manifest=name,
            files=len(files),
            size_bytes=manifest.size_bytes,
            changed=changed,
            deleted=deleted,
        )

    async def _current(self, project: Project) -> dict[str, Entry]:
        if not project.manifest:
            return {}
        return _manifest.decode(await self._objects.get(project.manifest)).files


def check_archive(body: IO[bytes], config: GatewayConfig, patch: bool) -> Upload:
    """Read the archive through once: every name, type and size, before anything is stored. Blocking."""
    header: Patch | None = None
    sizes: dict[str, int] = {}
    total = 0
    for member in _members(body, HEADER_BYTES_MAX):
        if patch and header is None:
            header = _patch_header(member)
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
        _check_totals(len(sizes), total, config)
    _check_collisions(sizes)
    if patch and header is None:
        raise Invalid("bad_patch", f"A PATCH begins with a member {PATCH_MEMBER}.", "Use PUT to send a whole folder.")
    return Upload(sizes, header)


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
    if member.info.name != PATCH_MEMBER or not member.info.isfile() or member.info.size > PATCH_BYTES_MAX:
        raise Invalid("bad_patch", f"A PATCH begins with a member {PATCH_MEMBER}.", "Use PUT to send a whole folder.")
    try:
        return _patch.decode(member.read())
    except msgspec.DecodeError as error:
        raise Invalid("bad_patch", f"{PATCH_MEMBER} is wrong: {error}.") from error


def _batches(body: IO[bytes], upload: Upload, config: GatewayConfig) -> Iterator[dict[str, tuple[bytes, int]]]:
    """The files again, in groups of about `bundle_bytes` of the config."""
    batch: dict[str, tuple[bytes, int]] = {}
    size = 0
    for member in _members(body, config.upload_bytes_max):
        if not member.info.isfile() or member.info.name == PATCH_MEMBER:
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


def _same(entry: Entry | None, item: tuple[bytes, int]) -> bool:
    content, mode = item
    return entry is not None and entry.size == len(content) and entry.mode == mode and entry.sha256 == sha256(content)


def _check_totals(files: int, size_bytes: int, config: GatewayConfig) -> None:
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
