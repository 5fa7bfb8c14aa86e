"""Takes uploads in: what an archive holds is stored as bundles and a manifest.

Nothing of an upload counts until its version is recorded: one that breaks off leaves the project as it was.
"""

import asyncio
import tempfile
from collections import defaultdict
from typing import IO, Any

import msgspec
from aiohttp import web
from msgspec.structs import replace

from services.gateway.adapters.archive import (
    Listed,
    Patch,
    Upload,
    batches,
    check_archive,
    check_collisions,
    check_totals,
    parse_hashes,
    too_large,
)
from services.gateway.adapters.upload_places import Place, UploadPlaces
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
NAMED_MAX = 20
"""Paths that an error names, of however many."""

_manifest = msgspec.json.Decoder(Manifest)
Contents = dict[str, tuple[bytes, int]]
"""{path: (content, mode)}."""


class Uploads:
    """Stores versions of projects' files."""

    def __init__(self, objects: Objects, config: GatewayConfig) -> None:
        self._objects = objects
        self._config = config
        self._places = UploadPlaces(config)

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
        async with self._places.place(project.owner) as place:
            return await self._receive(request, project, place, patch=patch)

    async def _receive(self, request: web.Request, project: Project, place: Place, *, patch: bool) -> RecordFiles:
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as body:
            await self._spool(request, body, place)
            upload = await asyncio.to_thread(check_archive, body, self._config, patch)
            return await self._store(body, upload, project)

    async def listing(self, project: Project) -> dict[str, Entry]:
        """The files of the project's present version."""
        return await self._current(project)

    async def missing(self, body: bytes, project: Project) -> dict[str, Any]:
        """Of a folder's {path: sha256}: the hashes whose content the present version lacks, each once. `unchanged`:
        paths and contents are the present version's."""
        hashes = await asyncio.to_thread(parse_hashes, body, self._config)
        files = await self._current(project)
        known = {entry.sha256 for entry in files.values()}
        return {
            "version": project.files_version,
            "missing": sorted(set(hashes.values()) - known),
            "unchanged": hashes == {path: entry.sha256 for path, entry in files.items()},
        }

    async def _spool(self, request: web.Request, body: IO[bytes], place: Place) -> None:
        try:
            async with asyncio.timeout(self._config.upload_limit_s):
                await self._read(request, body, place)
        except TimeoutError as error:
            raise Refused(
                "upload_too_slow",
                f"The upload was not whole after {self._config.upload_limit_s:g} s.",
                "Send it over a faster connection, or in parts: PATCH takes changes.",
                status=408,
            ) from error

    async def _read(self, request: web.Request, body: IO[bytes], place: Place) -> None:
        limit = self._config.upload_bytes_max
        if request.content_length is not None and request.content_length > limit:
            raise too_large(limit)
        size = 0
        async for chunk in request.content.iter_chunked(READ_BYTES):
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            place.grow(len(chunk))
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
        if upload.listed is not None:
            kept = await self._keep(project, before, upload.listed, upload)
            files.update(kept)
            changed += sum(before.get(path) != entry for path, entry in kept.items())
        each_batch = batches(body, upload, self._config)
        while (batch := await asyncio.to_thread(next, each_batch, None)) is not None:
            fresh = {
                path: item for path, item in _as_listed(batch, upload).items() if not _same(before.get(path), item)
            }
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

    async def _keep(
        self, project: Project, before: dict[str, Entry], listed: dict[str, Listed], upload: Upload
    ) -> dict[str, Entry]:
        """What is listed and not sent, from the present version: where it is, or from where it was under another name."""
        sources = {entry.sha256: (path, entry) for path, entry in before.items()}
        kept: dict[str, Entry] = {}
        moved: list[tuple[Listed, str, Entry]] = []
        unknown: list[str] = []
        for path, file in listed.items():
            if path in upload.sizes:
                continue
            here = before.get(path)
            if here is not None and here.sha256 == file.sha256:
                kept[path] = replace(here, mode=file.mode)
            elif file.sha256 in sources:
                moved.append((replace(file, path=path), *sources[file.sha256]))
            else:
                unknown.append(path)
        if unknown:
            raise _content_missing(unknown)
        check_totals(len(listed), sum(source.size for _, _, source in moved), self._config)
        return {**kept, **await self._move(project, moved)}

    async def _move(self, project: Project, moved: list[tuple[Listed, str, Entry]]) -> dict[str, Entry]:
        """Contents are found in a bundle by their path: under another one they are bundled anew, here, not sent again."""
        by_bundle: dict[str, list[tuple[Listed, str]]] = defaultdict(list)
        for file, path, entry in moved:
            by_bundle[entry.bundle].append((file, path))
        entries: dict[str, Entry] = {}
        for bundle, wanted in by_bundle.items():
            try:
                data = await self._objects.get(bundle)
            except NotFound:
                raise _content_missing([file.path for file, _ in wanted]) from None  # another version came meanwhile
            contents = await asyncio.to_thread(unpack, data, [path for _, path in wanted])
            fresh: Contents = {file.path: (contents[path], file.mode) for file, path in wanted}
            entries.update(await self._store_bundle(project, fresh))
        return entries

    async def _store_bundle(self, project: Project, fresh: Contents) -> dict[str, Entry]:
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
        check_collisions(files)
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


def _same(entry: Entry | None, item: tuple[bytes, int]) -> bool:
    content, mode = item
    return entry is not None and entry.size == len(content) and entry.mode == mode and entry.sha256 == sha256(content)


def _as_listed(batch: Contents, upload: Upload) -> Contents:
    """What was sent, with the modes of the list. Raises `Invalid` where a content is not the one that was listed."""
    if upload.listed is None:
        return batch
    for path, (content, _) in batch.items():
        if sha256(content) != upload.listed[path].sha256:
            raise Invalid(
                "content_mismatch",
                f"The content of {path!r} is not the one that was listed.",
                "It may have changed while it was read: send the folder again.",
            )
    return {path: (content, upload.listed[path].mode) for path, (content, _) in batch.items()}


def _content_missing(paths: list[str]) -> Refused:
    named = ", ".join(repr(path) for path in sorted(paths)[:NAMED_MAX])
    more = f" and {len(paths) - NAMED_MAX} more" if len(paths) > NAMED_MAX else ""
    return Refused(
        "content_missing",
        f"The present version has not the content of {named}{more}.",
        "Ask POST /api/projects/{id}/files/missing what to send, or send the whole folder.",
    )
