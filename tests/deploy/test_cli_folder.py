"""A folder shown again and while it is edited: the same project, and only what has changed is sent."""

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from deploy.cli.api import Api
from deploy.cli.folder import hash_files, read_folder
from deploy.cli.output import Output
from deploy.cli.projects import (
    FOLDERS_MAX,
    Stored,
    find_project,
    project_of_folder,
    remember,
    remembered,
    send_folder,
)
from deploy.cli.watch import Watched, send_changes
from deploy.local.paths import Home
from shared.errors import Invalid, NotFound
from shared.events import ProjectFilesChanged
from tests.gateway.api_stage import TOKEN, ApiStage, api_stage, tar_of


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiStage]:
    monkeypatch.setenv("DRAPE_API_TOKEN", TOKEN)
    async with api_stage() as running:
        yield running


@pytest.fixture
def api(stage: ApiStage) -> Api:
    return Api(stage.url, stage.session)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "shop", {"index.html": "<h1>shop</h1>", "src/main.js": "main()", "src/logo.svg": "<svg/>"})


def write(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def versions(stage: ApiStage) -> list[tuple[int, int, int]]:
    """(version, changed, deleted) of each version that was stored."""
    events = (each.event for each in stage.broker.records)
    return [(e.files_version, e.changed, e.deleted) for e in events if isinstance(e, ProjectFilesChanged)]


# --- which project ------------------------------------------------------------------------------------------------


async def test_a_folder_stays_its_project(api: Api, home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whatever path it is named; under another name, or once its project is deleted, it is another one."""
    project_id = await project_of_folder(api, home, folder, "shop")
    assert await project_of_folder(api, home, folder, "shop") == project_id
    monkeypatch.chdir(folder)
    assert await project_of_folder(api, home, Path(), "shop") == project_id
    assert await project_of_folder(api, home, folder, "other") != project_id
    await api.call("DELETE", f"/api/projects/{project_id}")
    assert await project_of_folder(api, home, folder, "shop") != project_id


def test_what_is_remembered_is_bounded(home: Home, tmp_path: Path) -> None:
    """The one that was shown least recently goes first."""
    for number in range(FOLDERS_MAX + 1):
        remember(home, tmp_path / f"{number}", "x", f"id-{number}")
        if number == 1:
            remember(home, tmp_path / "0", "x", "id-0")
    assert remembered(home, tmp_path / "0", "x") == "id-0"
    assert remembered(home, tmp_path / "1", "x") == ""


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}'])
def test_a_broken_memory_is_no_memory(home: Home, tmp_path: Path, content: str) -> None:
    """Nothing fails for it, and it is written anew."""
    remember(home, tmp_path, "x", "id")
    (home.root / "cli" / "folders.json").write_text(content)
    assert remembered(home, tmp_path, "x") == ""
    remember(home, tmp_path, "x", "id")
    assert remembered(home, tmp_path, "x") == "id"


async def test_a_project_is_found_by_id_folder_or_name(api: Api, home: Home, folder: Path) -> None:
    """The folder's own project goes before another of that name."""
    project_id = await project_of_folder(api, home, folder, "shop")
    for text in (project_id, str(folder), "shop"):
        assert (await find_project(api, home, text))["project_id"] == project_id
    twin = await api.call("POST", "/api/projects", json={"name": "shop"})
    assert (await find_project(api, home, str(folder)))["project_id"] == project_id
    with pytest.raises(Invalid) as ambiguous:
        await find_project(api, home, "shop")
    assert (ambiguous.value.code, twin["project_id"] in ambiguous.value.message) == ("ambiguous_project", True)
    with pytest.raises(NotFound):
        await find_project(api, home, "nothing")


# --- sending ------------------------------------------------------------------------------------------------------


async def sent(stage: ApiStage, api: Api, folder: Path) -> tuple[str, Stored]:
    project_id = await stage.project()
    return project_id, await send_folder(api, project_id, read_folder(folder))


async def test_a_folder_sent_again_sends_what_has_changed(stage: ApiStage, api: Api, folder: Path) -> None:
    """Nothing, where nothing has: no version either. A renamed file takes its content along."""
    project_id, first = await sent(stage, api, folder)
    assert await send_folder(api, project_id, read_folder(folder)) == first
    write(folder, {"src/main.js": "main(2)"})
    (folder / "src" / "logo.svg").rename(folder / "brand.svg")
    second = await send_folder(api, project_id, read_folder(folder))
    assert (second.version, versions(stage)) == (2, [(1, 3, 0), (2, 2, 1)])


async def test_a_version_that_came_between_does_no_harm(stage: ApiStage, api: Api, folder: Path) -> None:
    """The folder is the next version all the same."""
    project_id, _ = await sent(stage, api, folder)
    other = tar_of({"other.txt": "x"})
    await stage.call("PUT", f"/api/projects/{project_id}/files", data=other)
    assert (await send_folder(api, project_id, read_folder(folder))).version == 3
    assert stage.runtime.state.projects[project_id].files == 3


# --- while it is edited -------------------------------------------------------------------------------------------


async def watched(stage: ApiStage, api: Api, folder: Path) -> tuple[str, Watched]:
    files = read_folder(folder)
    project_id = await stage.project()
    return project_id, Watched(folder, files, await send_folder(api, project_id, files))


async def test_a_burst_of_changes_is_one_version(
    stage: ApiStage, api: Api, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Edited, added, renamed and deleted at once; what editors leave beside it is not among it."""
    project_id, seen = await watched(stage, api, folder)
    write(folder, {"src/main.js": "main(2)", "new.js": "new()", ".main.js.swp": "", "main.js~": "main()"})
    (folder / "src" / "logo.svg").rename(folder / "brand.svg")
    (folder / "index.html").unlink()
    await send_changes(Output(as_json=True), api, project_id, seen)
    assert versions(stage)[1:] == [(2, 3, 2)]
    assert '"changed":["brand.svg","new.js","src/main.js"]' in capsys.readouterr().out


async def test_a_file_that_was_only_touched_is_not_sent(stage: ApiStage, api: Api, folder: Path) -> None:
    """Nor one that was saved with the same content, or came back after it had gone."""
    project_id, seen = await watched(stage, api, folder)
    os.utime(folder / "index.html", (1, 1))
    write(folder, {"src/main.js": "main()"})
    await send_changes(Output(as_json=True), api, project_id, seen)
    assert len(versions(stage)) == 1


async def test_a_file_that_became_executable_is_sent(stage: ApiStage, api: Api, folder: Path) -> None:
    project_id, seen = await watched(stage, api, folder)
    (folder / "src" / "main.js").chmod(0o755)
    await send_changes(Output(as_json=True), api, project_id, seen)
    assert versions(stage)[1:] == [(2, 1, 0)]


async def test_edits_go_on_after_somebody_elses(stage: ApiStage, api: Api, folder: Path) -> None:
    """The folder wins, whole; the next edit is a small one again."""
    project_id, seen = await watched(stage, api, folder)
    await stage.call("PUT", f"/api/projects/{project_id}/files", data=tar_of({"other.txt": "x"}))
    for text in ("main(2)", "main(3)"):
        write(folder, {"src/main.js": text})
        await send_changes(Output(as_json=True), api, project_id, seen)
    assert versions(stage)[2:] == [(3, 3, 1), (4, 1, 0)]


async def test_rules_that_change_are_obeyed(stage: ApiStage, api: Api, folder: Path) -> None:
    """What a new rule ignores is taken away."""
    project_id, seen = await watched(stage, api, folder)
    write(folder, {"src/.gitignore": "*.svg\n"})
    await send_changes(Output(as_json=True), api, project_id, seen)
    assert versions(stage)[1:] == [(2, 1, 1)]


def test_a_file_that_goes_while_it_is_read_is_left_out(folder: Path) -> None:
    """An editor's temporary file is there when the folder is listed, and gone when it is hashed."""
    files = read_folder(folder)
    (folder / "index.html").unlink()
    assert set(hash_files(files)) == {"src/main.js", "src/logo.svg"}


def test_a_link_to_nothing_is_no_file(folder: Path) -> None:
    """Emacs locks a file by one."""
    (folder / "lock").symlink_to("someone@somewhere.1234")
    assert "lock" not in read_folder(folder)
