"""Which project a folder is, so that showing it again sends what has changed and nothing else; and projects by name."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deploy.cli.api import Api
from deploy.cli.folder import LocalFile, hash_files, pack_folder, pack_listed
from deploy.local.paths import Home
from shared.errors import DrapeError, Invalid, NotFound, Unavailable

FOLDERS_FILE = "folders.json"
FOLDERS_MAX = 1000
"""Folders that are remembered; the one that was shown least recently goes first."""
RETRIES_MAX = 3

Json = dict[str, Any]
_folders = msgspec.json.Decoder(dict[str, str])


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's files as the gateway holds them: which version, and the hash of each."""

    version: int
    hashes: dict[str, str]


def remembered(home: Home, folder: Path, name: str, identity: str = "") -> str:
    """The id of the project that this folder was shown as; empty where there is none. `identity`: who shows it, a folder
    is another project for another user of the gateway."""
    return _read(home).get(_key(folder, name, identity), "")


def remember(home: Home, folder: Path, name: str, project_id: str, identity: str = "") -> None:
    """Know the project again."""
    known = _read(home)
    key = _key(folder, name, identity)
    known.pop(key, None)
    known[key] = project_id
    _write(home, dict(list(known.items())[-FOLDERS_MAX:]))


def forget(home: Home, project_id: str) -> None:
    """Know no folder of this project any more: it was deleted."""
    known = _read(home)
    left = {key: known_id for key, known_id in known.items() if known_id != project_id}
    if left != known:
        _write(home, left)


def _write(home: Home, newest: Mapping[str, str]) -> None:
    target = home.root / "cli" / FOLDERS_FILE
    draft = target.with_name(f".{FOLDERS_FILE}.{os.getpid()}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(newest))
        draft.replace(target)
    except OSError as error:
        raise Unavailable("home_not_writable", f"{target} can't be written: {error.strerror}.") from error


def _read(home: Home) -> dict[str, str]:
    try:
        return _folders.decode((home.root / "cli" / FOLDERS_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}


def _key(folder: Path, name: str, identity: str) -> str:
    return "\n".join((str(folder.resolve()), name, identity))


async def project_of_folder(api: Api, home: Home, folder: Path, name: str) -> str:
    """The id of the folder's project: the one that it was shown as, else a new one."""
    known = remembered(home, folder, name, api.identity)
    if known:
        try:
            project: Json = await api.call("GET", f"/api/projects/{known}")
        except NotFound:
            known = ""  # deleted, or another owner's
        else:
            return str(project["project_id"])
    made: Json = await api.call("POST", "/api/projects", json={"name": name})
    remember(home, folder, name, made["project_id"], api.identity)
    return str(made["project_id"])


async def find_project(api: Api, home: Home, text: str) -> Json:
    """The project that `text` means: its id, a folder that was shown, or its name.

    Raises `NotFound` (`project_not_found`) and `Invalid` (`ambiguous_project`).
    """
    projects: list[Json] = (await api.call("GET", "/api/projects"))["projects"]
    folder = Path(text)
    names = {text}
    ids = {text}
    if folder.is_dir():
        names.add(folder.resolve().name)
        ids.add(remembered(home, folder, folder.resolve().name, api.identity))
    exact = [each for each in projects if each["project_id"] in ids]
    found = exact or [each for each in projects if each["name"] in names]
    if not found:
        raise NotFound("project_not_found", f"There is no project {text!r}.", "Show its folder first: `drape preview`.")
    if len(found) > 1:
        listed = ", ".join(each["project_id"] for each in found[:10])
        raise Invalid("ambiguous_project", f"{len(found)} projects are called {text!r}: {listed}.", "Give the id.")
    return found[0]


async def send_folder(api: Api, project_id: str, files: Mapping[str, LocalFile]) -> Stored:
    """Make the folder the project's newest version, sending only contents that the gateway lacks."""
    path = f"/api/projects/{project_id}/files"
    hashes = await asyncio.to_thread(hash_files, files)
    for _ in range(RETRIES_MAX):
        said: Json = await api.call("POST", f"{path}/missing", json=hashes)
        if said["unchanged"] and said["version"]:
            return Stored(version=said["version"], hashes=hashes)
        try:
            stored: Json = await api.upload("PUT", path, pack_listed(files, hashes, said["missing"]))
        except DrapeError as error:
            # Somebody else stored a version meanwhile, or a file was saved while it was read.
            if error.code not in ("content_missing", "content_mismatch", "files_version_conflict"):
                raise
            hashes = await asyncio.to_thread(hash_files, files)
        else:
            return Stored(version=stored["version"], hashes=hashes)
    stored = await api.upload("PUT", path, pack_folder(files))
    return Stored(version=stored["version"], hashes=hashes)
