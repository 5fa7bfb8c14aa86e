"""Uploads over HTTP: what a version holds afterwards, and what does not have to be sent for it."""

from typing import Any

import msgspec
import pytest

from shared.project_files import Manifest, sha256, unpack
from tests.gateway.api_stage import Answer, ApiStage, api_stage, tar_of

MANIFEST_MEMBER = ".drape-manifest.json"
PAGE = {"index.html": "<h1>shop</h1>", "src/main.js": "main()", "logo.svg": "<svg/>"}


def listing(files: dict[str, str], modes: dict[str, int] | None = None) -> list[dict[str, Any]]:
    return [
        {"path": path, "sha256": sha256(content.encode()), "mode": (modes or {}).get(path, 0o644)}
        for path, content in files.items()
    ]


def hashes(files: dict[str, str]) -> dict[str, str]:
    return {path: sha256(content.encode()) for path, content in files.items()}


async def put(stage: ApiStage, project_id: str, files: dict[str, str], *, listed: Any = None) -> Answer:
    """The folder as a tar; with a listing, only these contents."""
    head = {MANIFEST_MEMBER: msgspec.json.encode(listed)} if listed is not None else {}
    return await stage.call("PUT", f"/api/projects/{project_id}/files", data=tar_of({**head, **files}))


def stored(stage: ApiStage, project_id: str) -> dict[str, tuple[str, int]]:
    """{path: (content, mode)} of the newest version, read as the orchestrator reads it."""
    name = stage.runtime.state.projects[project_id].manifest
    manifest = msgspec.json.decode(stage.broker.objects[name], type=Manifest)
    found = {}
    for path, entry in manifest.files.items():
        content = unpack(stage.broker.objects[entry.bundle], [path])[path]
        assert (sha256(content), len(content)) == (entry.sha256, entry.size)
        found[path] = (content.decode(), entry.mode)
    return found


def plain(files: dict[str, str], mode: int = 0o644) -> dict[str, tuple[str, int]]:
    return {path: (content, mode) for path, content in files.items()}


async def test_a_project_without_files_lacks_everything() -> None:
    async with api_stage() as stage:
        path = f"/api/projects/{await stage.project()}/files/missing"
        said = (await stage.call("POST", path, json=hashes(PAGE))).json
        assert said == {"version": 0, "missing": sorted(hashes(PAGE).values()), "unchanged": False}


async def test_only_what_is_lacking_is_asked_for() -> None:
    """By content: another name is no reason, and two files of one content are asked for once."""
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/files/missing"
        await put(stage, project_id, PAGE)
        assert (await stage.call("POST", path, json=hashes(PAGE))).json == {
            "version": 1,
            "missing": [],
            "unchanged": True,
        }
        now = {"renamed.html": PAGE["index.html"], "a.js": "new()", "b.js": "new()"}
        said = (await stage.call("POST", path, json=hashes(now))).json
        assert (said["missing"], said["unchanged"]) == ([sha256(b"new()")], False)


async def test_a_listed_folder_needs_only_the_new_contents() -> None:
    """Edited, renamed, copied, deleted, untouched and made executable: the version is the folder."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await put(stage, project_id, PAGE)
        now = {
            "index.html": PAGE["index.html"],
            "src/main.js": "main(2)",
            "img/logo.svg": PAGE["logo.svg"],
            "img/copy.svg": PAGE["logo.svg"],
        }
        listed = listing(now, {"index.html": 0o755})
        answer = await put(stage, project_id, {"src/main.js": now["src/main.js"]}, listed=listed)
        assert answer.json == {
            "version": 2,
            "files": 4,
            "bytes": sum(map(len, now.values())),
            "changed": 4,
            "deleted": 1,
        }
        assert stored(stage, project_id) == {**plain(now), "index.html": (now["index.html"], 0o755)}


async def test_a_listed_folder_may_send_nothing_at_all() -> None:
    """The same files once more are a version without a change."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await put(stage, project_id, PAGE)
        answer = await put(stage, project_id, {}, listed=listing(PAGE))
        assert (answer.json["version"], answer.json["changed"], answer.json["deleted"]) == (2, 0, 0)
        assert stored(stage, project_id) == plain(PAGE)


async def test_the_files_of_a_version_are_listed() -> None:
    """For clients that compare by themselves; nothing yet where nothing was sent."""
    async with api_stage() as stage:
        project_id = await stage.project()
        path = f"/api/projects/{project_id}/files"
        assert (await stage.call("GET", path)).json == {"version": 0, "files": {}}
        await put(stage, project_id, PAGE)
        listed = (await stage.call("GET", path)).json
        assert listed["version"] == 1
        assert listed["files"]["src/main.js"] == {"sha256": sha256(b"main()"), "size": 6, "mode": 0o644}


async def test_a_first_upload_may_be_listed() -> None:
    async with api_stage() as stage:
        project_id = await stage.project()
        answer = await put(stage, project_id, PAGE, listed=listing(PAGE))
        assert (answer.status, answer.json["changed"]) == (200, 3)
        assert stored(stage, project_id) == plain(PAGE)


async def test_content_that_nobody_has_is_named() -> None:
    """409 with the paths; the project stays as it was."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await put(stage, project_id, PAGE)
        answer = await put(stage, project_id, {}, listed=listing({**PAGE, "lost.js": "lost()"}))
        assert answer.problem() == (409, "content_missing")
        assert "'lost.js'" in answer.json["detail"]
        assert stored(stage, project_id) == plain(PAGE)


BAD: dict[str, tuple[Any, dict[str, str], str]] = {
    "no list": ({}, {}, "bad_manifest"),
    "no hash": ([{"path": "a", "sha256": "x"}], {}, "bad_manifest"),
    "upper case": ([{"path": "a", "sha256": "A" * 64}], {}, "bad_manifest"),
    "twice": (listing({"a": "1"}) * 2, {"a": "1"}, "bad_manifest"),
    "twice, in two forms": ([*listing({"a": "1"}), *listing({"./a": "1"})], {"a": "1"}, "bad_manifest"),
    "outside": (listing({"../a": "1"}), {}, "bad_path"),
    "a file and a folder": (listing({"a": "1", "a/b": "2"}), {"a/b": "2"}, "bad_path"),
    "a mode that is none": ([{"path": "a", "sha256": "a" * 64, "mode": -1}], {}, "bad_manifest"),
    "sent, not listed": (listing({"a": "1"}), {"a": "1", "b": "2"}, "bad_manifest"),
    "another content": (listing({"a": "1"}), {"a": "2"}, "content_mismatch"),
    "nothing": ([], {}, "empty_project"),
    "only what is left out": (listing({".git/HEAD": "1"}), {}, "empty_project"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_listing_that_is_wrong_is_refused(name: str) -> None:
    listed, files, code = BAD[name]
    async with api_stage() as stage:
        project_id = await stage.project()
        assert (await put(stage, project_id, files, listed=listed)).problem() == (400, code)
        assert stage.runtime.state.projects[project_id].files_version == 0


@pytest.mark.parametrize("name", [MANIFEST_MEMBER, ".drape-patch.json"])
async def test_a_header_that_does_not_come_first_is_refused(name: str) -> None:
    """Else the listing would be a file of the project, and what it lists would be gone."""
    async with api_stage() as stage:
        project_id = await stage.project()
        assert (await put(stage, project_id, {**PAGE, name: "[]"})).problem() == (400, "bad_archive")
        assert stage.runtime.state.projects[project_id].files_version == 0


async def test_too_many_listed_files_are_refused_with_the_limit() -> None:
    async with api_stage() as stage:
        project_id = await stage.project()
        listed = [{"path": f"{number}", "sha256": "0" * 64} for number in range(20_001)]
        assert (await put(stage, project_id, {}, listed=listed)).problem() == (413, "too_many_files")
        answer = await stage.call(
            "POST", f"/api/projects/{project_id}/files/missing", json={each["path"]: "0" * 64 for each in listed}
        )
        assert answer.problem() == (413, "too_many_files")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([], (400, "bad_manifest")),
        ({"a": 1}, (400, "bad_manifest")),
        ({"a": "x"}, (400, "bad_manifest")),
        ({"/etc/passwd": "0" * 64}, (400, "bad_path")),
        ({"a": "0" * 9_000_000}, (413, "body_too_large")),
    ],
)
async def test_a_question_that_is_wrong_is_refused(body: Any, expected: tuple[int, str]) -> None:
    async with api_stage() as stage:
        path = f"/api/projects/{await stage.project()}/files/missing"
        assert (await stage.call("POST", path, json=body)).problem() == expected


async def test_a_patch_that_makes_a_file_a_folder_is_refused() -> None:
    """No VM could hold both; the version stays as it was."""
    async with api_stage() as stage:
        project_id = await stage.project()
        await put(stage, project_id, {**PAGE, "n": "a file"})
        head = {".drape-patch.json": msgspec.json.encode({"base_version": 1, "delete": []})}
        body = tar_of({**head, "n/x": "in a folder of that name"})
        said = await stage.call("PATCH", f"/api/projects/{project_id}/files", data=body)
        assert (said.status, said.json["code"]) == (400, "bad_path")
        assert stage.runtime.state.projects[project_id].files_version == 1
        head = {".drape-patch.json": msgspec.json.encode({"base_version": 1, "delete": ["n"]})}
        body = tar_of({**head, "n/x": "in its place"})
        assert (await stage.call("PATCH", f"/api/projects/{project_id}/files", data=body)).status == 200
