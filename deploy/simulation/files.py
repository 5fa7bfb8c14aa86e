"""A new version of a project's files in the object store, as an upload leaves it."""

import msgspec

from shared.commands import RecordFiles
from shared.ports import Objects
from shared.project_files import Entry, Manifest, bundle_name, manifest_name, pack, sha256
from shared.ulids import new_id

VITE = {
    "package.json": b'{"scripts": {"dev": "vite"}, "devDependencies": {"vite": "^7.0.0"}}',
    "package-lock.json": b'{"lockfileVersion": 3, "packages": {"node_modules/vite": {"version": "7.1.2"}}}',
    "index.html": b"<h1>vite</h1>",
}
STATIC = {"index.html": b"<h1>static</h1>"}


async def store_version(
    objects: Objects, owner: str, project_id: str, before: Manifest, files: dict[str, bytes]
) -> tuple[Manifest, RecordFiles]:
    """The version after `before`, in which these files are as given, and the command that tells of it."""
    bundle = pack({path: (content, 0o644) for path, content in files.items()})
    bundled = bundle_name(owner, project_id, sha256(bundle))
    await objects.put(bundled, bundle)
    entries = {p: Entry(sha256=sha256(c), mode=0o644, size=len(c), bundle=bundled) for p, c in files.items()}
    manifest = Manifest(files_version=before.files_version + 1, files={**before.files, **entries})
    name = manifest_name(owner, project_id, manifest.files_version, new_id())
    await objects.put(name, msgspec.json.encode(manifest))
    record = RecordFiles(
        project_id=project_id,
        owner=owner,
        base_version=before.files_version,
        manifest=name,
        files=len(manifest.files),
        size_bytes=manifest.size_bytes,
        changed=len(files),
        deleted=0,
    )
    return manifest, record
