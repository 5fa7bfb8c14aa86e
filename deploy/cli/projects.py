"""Which project of the gateway a folder on this machine is: remembered, so that the same folder stays the same project."""

from pathlib import Path
from typing import Any

import msgspec

from deploy.cli.api import Api
from deploy.local.paths import Home
from shared.errors import Invalid, NotFound

REMEMBERED_MAX = 1000

_decoder = msgspec.json.Decoder(dict[str, str])


async def project_of(api: Api, folder: Path, name: str) -> dict[str, Any]:
    """The folder's project, as the API shows it: the one that it had before, where that is still there, else a new one."""
    remembered = _read().get(_key(api, folder))
    if remembered is not None:
        try:
            project: dict[str, Any] = await api.call("GET", f"/api/projects/{remembered}")
        except NotFound:
            pass  # deleted, or the data was: it begins anew
        else:
            return project
    created: dict[str, Any] = await api.call("POST", "/api/projects", json={"name": name})
    _remember(_key(api, folder), created["project_id"])
    return created


async def find_project(api: Api, wanted: str) -> dict[str, Any]:
    """The project that a person means: by id, by folder, or by a name that only one has. Raises `Invalid`, `NotFound`."""
    projects: list[dict[str, Any]] = (await api.call("GET", "/api/projects"))["projects"]
    remembered = _read().get(_key(api, Path(wanted)))
    for project in projects:
        if project["project_id"] in (wanted, remembered):
            return project
    named = [project for project in projects if project["name"] == wanted]
    if len(named) > 1:
        ids = ", ".join(project["project_id"] for project in named[:5])
        raise Invalid("ambiguous_project", f"{len(named)} projects are named {wanted!r}: {ids}.", "Give the id.")
    if not named:
        raise NotFound("project_not_found", f"There is no project {wanted!r}.", "`drape ps` shows what there is.")
    return named[0]


def _key(api: Api, folder: Path) -> str:
    """A folder is another project for another user of the gateway."""
    return f"{api.identity}:{folder.resolve()}"


def _file() -> Path:
    return Home.from_env().root / "cli" / "projects.json"


def _read() -> dict[str, str]:
    try:
        return _decoder.decode(_file().read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}  # a note for convenience: without it the folder becomes a new project


def _remember(key: str, project_id: str) -> None:
    known = {**_read(), key: project_id}
    kept = dict(list(known.items())[-REMEMBERED_MAX:])
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(kept))
    fresh.replace(path)
