"""Stores uploads: what an archive holds becomes bundles and a manifest.

Nothing of an upload counts until its version is recorded: one that breaks off leaves the project as it was.
"""

import asyncio
import tempfile
from typing import IO

import msgspec
from aiohttp import web

from services.gateway.adapters.archives import (
    Listed,
    Patch,
    Upload,
    batches,
    check_archive,
    check_totals,
    too_large,
)
from services.gateway.config import GatewayConfig
from services.gateway.state import Project
from shared.commands import RecordFiles
from shared.errors import Invalid, NotFound, Refused
from shared.ports import Objects
from shared.project_files import Entry, Manifest, bundle_name, clean_path, manifest_name, pack, sha256, unpack
from shared.ulids import new_id

TAR_TYPES = ("application/x-tar", "application/tar", "application/gzip", "application/x-gzip", "application/tar+gzip")
SPOOL_BYTES = 8 * 1024 * 1024
READ_BYTES = 256 * 1024
MISSING_SHOWN_MAX = 20

_manifest = msgspec.json.Decoder(Manifest)


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
        members = batches(body, upload, self._config)
        while (batch := await asyncio.to_thread(next, members, None)) is not None:
            fresh = {path: item for path, item in batch.items() if not _same(before.get(path), item)}
            files.update({path: before[path] for path in batch if path not in fresh})
            files.update(await self._store_bundle(project, fresh))
            changed += len(fresh)
        if upload.listing is not None:
            files, moved = await self._complete(project, before, files, upload.listing.files)
            changed += moved
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
        check_totals(len(files), manifest.size_bytes, self._config)
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

    async def _complete(
        self, project: Project, before: dict[str, Entry], sent: dict[str, Entry], listed: dict[str, Listed]
    ) -> tuple[dict[str, Entry], int]:
        """The listed files: those that were sent, and those whose content the present version holds, wherever. Gives
        also how many of these are not where they were. Raises `Refused("content_missing")`, `Invalid("bad_listing")`."""
        wrong = [path for path, entry in sent.items() if path not in listed or listed[path].sha256 != entry.sha256]
        if wrong:
            raise Invalid("bad_listing", f"{wrong[0]!r} was sent, but is not listed with that content.")
        by_hash = {entry.sha256: (path, entry) for path, entry in before.items()}
        missing = [p for p, each in listed.items() if p not in sent and each.sha256 not in by_hash]
        if missing:
            shown = ", ".join(missing[:MISSING_SHOWN_MAX])
            raise Refused("content_missing", f"{len(missing)} files are not stored here: {shown}.", "Send them too.")
        files, moved = dict(sent), dict[str, tuple[bytes, int]]()
        for path, each in listed.items():
            mode = 0o755 if each.mode & 0o111 else 0o644
            known = before.get(path)
            if path in files:
                continue
            if known is not None and known.sha256 == each.sha256 and known.mode == mode:
                files[path] = known
            else:
                moved[path] = (await self._content(*by_hash[each.sha256]), mode)
        files.update(await self._store_bundle(project, moved))
        return files, len(moved)

    async def _content(self, path: str, entry: Entry) -> bytes:
        contents = await asyncio.to_thread(unpack, await self._objects.get(entry.bundle), [path])
        return contents[path]

    async def listing(self, project: Project) -> dict[str, Entry]:
        """The files of the project's present version."""
        try:
            return await self._current(project)
        except NotFound:
            return {}  # replaced in this moment; a client that begins from nothing is right too

    async def _current(self, project: Project) -> dict[str, Entry]:
        if not project.manifest:
            return {}
        return _manifest.decode(await self._objects.get(project.manifest)).files


def _same(entry: Entry | None, item: tuple[bytes, int]) -> bool:
    content, mode = item
    return entry is not None and entry.size == len(content) and entry.mode == mode and entry.sha256 == sha256(content)
