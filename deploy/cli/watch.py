"""`drape preview --watch`: what is saved in the folder goes to its project, as one change a burst."""

import asyncio
from pathlib import Path

import msgspec
import watchfiles

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, hash_files, pack_changes, read_folder
from deploy.cli.output import Output
from deploy.cli.projects import Stored, send_folder
from shared.errors import DrapeError

DEBOUNCE_MS = 50
STEP_MS = 10
SETTLE_S = 0.1
"""Some editors replace a file by taking it away first: what is missing gets so long to come back."""


class Difference(msgspec.Struct, frozen=True):
    """What is to be sent: changed files, and paths that are gone. `hashes`: those of the whole folder."""

    changed: dict[str, LocalFile]
    deleted: list[str]
    hashes: dict[str, str]


class Watched:
    """A folder and what the gateway holds of it."""

    def __init__(self, root: Path, files: dict[str, LocalFile], stored: Stored) -> None:
        self.root = root
        self.files = files
        self.stored = stored

    def difference(self, now: dict[str, LocalFile]) -> Difference:
        """What is different by content or mode; a file that was only touched is not. Blocking."""
        before, known = self.files, self.stored.hashes
        touched = {name: file for name, file in now.items() if before.get(name) != file or name not in known}
        fresh = hash_files(touched)
        changed = {
            name: now[name]
            for name, digest in fresh.items()
            if known.get(name) != digest or before[name].mode != now[name].mode
        }
        kept = {name: digest for name, digest in known.items() if name in now and name not in touched}
        hashes = {**kept, **fresh}
        return Difference(changed, [name for name in known if name not in hashes], hashes)


async def watch(output: Output, api: Api, project_id: str, watched: Watched) -> None:
    """Send what changes, as it changes, until Ctrl-C."""
    output.say("Watching for changes; Ctrl-C ends it.")
    async for _ in watchfiles.awatch(watched.root, debounce=DEBOUNCE_MS, step=STEP_MS, recursive=True):
        try:
            await send_changes(output, api, project_id, watched)
        except DrapeError as error:
            output.say(f"Not sent: {error.message} {error.hint}".rstrip())


async def send_changes(output: Output, api: Api, project_id: str, watched: Watched) -> None:
    """What is different in the folder now, as one PATCH; the whole list where another client was faster."""
    now = await asyncio.to_thread(read_folder, watched.root)
    if any(name not in now for name in watched.stored.hashes):
        await asyncio.sleep(SETTLE_S)
        now = await asyncio.to_thread(read_folder, watched.root)
    found = await asyncio.to_thread(watched.difference, now)
    if not found.changed and not found.deleted:
        watched.files = now
        return
    path = f"/api/projects/{project_id}/files"
    try:
        body = await asyncio.to_thread(pack_changes, found.changed, watched.stored.version, found.deleted)
        version = int((await api.upload("PATCH", path, body))["version"])
        watched.stored = Stored(version=version, hashes=found.hashes)
    except DrapeError as error:
        if error.code != "files_version_conflict":
            raise
        watched.stored = await send_folder(api, project_id, now)
    watched.files = now
    changed, deleted = sorted(found.changed), sorted(found.deleted)
    output.result(
        {"type": "files_changed", "version": watched.stored.version, "changed": changed, "deleted": deleted},
        f"Sent version {watched.stored.version}: {len(changed)} changed, {len(deleted)} deleted",
    )
