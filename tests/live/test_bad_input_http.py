"""Wrong requests to the gateway: each gets a status and a stable code, and the project stays as it was."""

import asyncio
import gzip
import io
import os
import tarfile
from urllib.parse import urlsplit

import pytest

from tests.live.client import SERVER, TAR, Client, node_project, tar_of
from tests.live.platform import Platform

PAGE: dict[str, str | bytes] = {"index.html": "<title>live</title>"}


async def _put(client: Client, project_id: str, body: bytes) -> tuple[int, str]:
    return (await client.call("PUT", f"/api/projects/{project_id}/files", data=body, headers=TAR)).problem()


async def _version(client: Client, project_id: str) -> int:
    return int((await client.call("GET", f"/api/projects/{project_id}")).json["version"])


def _with_member(info: tarfile.TarInfo) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"x" * info.size))
    return raw.getvalue()


def _link(name: str, target: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return _with_member(info)


def _nul() -> bytes:
    """A member whose name holds NUL, which only an extended header can carry."""
    raw = io.BytesIO()
    info = tarfile.TarInfo("plain.txt")
    info.pax_headers = {"path": "nul\0name.txt"}
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    return raw.getvalue()


def _device(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return _with_member(info)


def _huge() -> bytes:
    """The header of a member of 600 MiB, without its content."""
    info = tarfile.TarInfo("huge.bin")
    info.size = 600 * 1024**2
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (tar_of({"../outside.txt": "x"}), 400, "bad_path"),
        (tar_of({"a/../../b.txt": "x"}), 400, "bad_path"),
        (tar_of({"/etc/passwd": "x"}), 400, "bad_path"),
        (tar_of({"C:\\windows.txt": "x"}), 400, "bad_path"),
        (_nul(), 400, "bad_path"),
        (tar_of({"x" * 1100: "x"}), 400, "bad_path"),
        (tar_of({"a": "file", "a/b": "below it"}), 400, "bad_path"),
        (_link("passwd", "/etc/passwd", tarfile.SYMTYPE), 400, "unsupported_member"),
        (_link("hard", "index.html", tarfile.LNKTYPE), 400, "unsupported_member"),
        (_device("tty"), 400, "unsupported_member"),
        (b"this is no tar at all" * 100, 400, "bad_archive"),
        (tar_of({"index.html": "x" * 5000})[:3000], 400, "bad_archive"),
        (gzip.compress(tar_of(PAGE))[:-20], 400, "bad_archive"),
        (_huge(), 413, "project_too_large"),
        (tar_of({}), 400, "empty_project"),
        (tar_of({".git/HEAD": "x", "node_modules/a/index.js": "x"}), 400, "empty_project"),
    ],
    ids=[
        *("dotdot", "inner_dotdot", "absolute", "drive", "nul", "long_name", "file_and_folder"),
        *("symlink", "hardlink", "device", "no_tar", "cut_tar", "cut_gzip", "too_large", "empty", "only_left_out"),
    ],
)
async def test_an_archive_that_cannot_be_taken_is_refused_and_changes_nothing(
    client: Client, body: bytes, status: int, code: str
) -> None:
    """Status and code by what is wrong; the project stays at its version."""
    project_id = await client.project(PAGE)
    assert await _put(client, project_id, body) == (status, code)
    assert await _version(client, project_id) == 1


async def test_a_body_that_breaks_off_changes_nothing(client: Client) -> None:
    """The connection ends in the middle of an upload: the project stays as it was, the gateway serves on."""
    project_id = await client.project(PAGE)
    parts = urlsplit(client.gateway)
    body = tar_of({"index.html": "y" * 200_000})
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"PUT /api/projects/{project_id}/files HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body[: len(body) // 2])
    await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(10):
        rest = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 200 " not in rest.split(b"\r\n", 1)[0]
    assert await _version(client, project_id) == 1
    assert (await client.call("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "code"),
    [
        ("POST", "/api/projects", b"name=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("POST", "/api/projects", b"{", "application/json", 400, "bad_json"),
        ("POST", "/api/projects", b'{"name": "\xff"}', "application/json", 400, "bad_json"),
        ("POST", "/api/projects", b"[1]", "application/json", 400, "bad_body"),
        ("POST", "/api/projects", b'{"name": 5}', "application/json", 400, "bad_body"),
        ("POST", "/api/projects", b'{"nmae": "x"}', "application/json", 400, "bad_body"),
        ("POST", "/api/projects", b'{"name": "' + b"x" * 70_000 + b'"}', "application/json", 413, "body_too_large"),
        ("POST", "/api/previews", b"{}", "application/json", 400, "bad_body"),
        ("POST", "/api/previews", b'{"project_id": "nope"}', "application/json", 404, "project_not_found"),
        ("GET", "/api/projects/nope", b"", "", 404, "project_not_found"),
        ("POST", "/api/alerts/silences", b'{"alert": "x*y", "for_s": 9}', "application/json", 400, "bad_pattern"),
        ("DELETE", "/api/alerts/silences/nope", b"", "", 404, "silence_not_found"),
        ("DELETE", "/api/projects/nope", b"", "", 404, "project_not_found"),
        ("PUT", "/api/projects/nope/files", b"", "application/x-tar", 404, "project_not_found"),
        ("GET", "/api/previews/nope", b"", "", 404, "preview_not_found"),
        ("DELETE", "/api/previews/nope", b"", "", 404, "preview_not_found"),
        ("POST", "/api/previews/nope/restart", b"", "", 404, "preview_not_found"),
        ("GET", "/api/previews/nope/logs", b"", "", 404, "preview_not_found"),
        ("GET", "/api/previews/nope/events", b"", "", 404, "preview_not_found"),
        ("GET", "/api/nothing", b"", "", 404, "not_found"),
        ("PUT", "/api/projects", b"", "", 405, "method_not_allowed"),
        ("GET", "/metrics/stats?days=many", b"", "", 400, "bad_days"),
        ("GET", "/metrics/stats?days=0", b"", "", 400, "bad_days"),
        ("GET", "/metrics/stats?days=%C2%B2", b"", "", 400, "bad_days"),
        ("GET", "/api/errors/nothing", b"", "", 404, "error_not_found"),
        ("GET", "/api/previews/nope/timing", b"", "", 404, "preview_not_found"),
        ("GET", f"/metrics/stats?framework={'x' * 101}", b"", "", 400, "bad_filter"),
        ("GET", "/api/costs?by=colour", b"", "", 400, "bad_by"),
        ("GET", "/api/resources?hours=0", b"", "", 400, "bad_hours"),
        ("GET", "/ws?since=yesterday", b"", "", 400, "bad_since"),
    ],
)
async def test_a_wrong_request_gets_its_status_and_code(
    client: Client, method: str, path: str, body: bytes, kind: str, status: int, code: str
) -> None:
    """Problem JSON with a stable code, for what the body, the type, the path or the query gets wrong."""
    headers = {"Content-Type": kind} if kind else {}
    answer = await client.call(method, path, data=body or None, headers=headers)
    assert answer.problem() == (status, code)


async def test_files_of_a_wrong_content_type_are_refused(client: Client) -> None:
    """415, whatever the body holds."""
    project_id = await client.project(PAGE)
    answer = await client.call(
        "PUT", f"/api/projects/{project_id}/files", data=tar_of(PAGE), headers={"Content-Type": "application/zip"}
    )
    assert answer.problem() == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("files", "base", "status", "code"),
    [
        ({"a.txt": "a"}, 0, 409, "files_version_conflict"),
        ({"../a.txt": "a"}, 1, 400, "bad_path"),
    ],
)
async def test_a_wrong_patch_is_refused(
    client: Client, files: dict[str, str | bytes], base: int, status: int, code: str
) -> None:
    """From a version that is not the newest, or out of the project."""
    project_id = await client.project(PAGE)
    assert (await client.patch(project_id, base, files)).problem() == (status, code)
    assert (await client.patch(project_id, 1, {}, ("../index.html",))).problem() == (400, "bad_path")
    headless = await client.call("PATCH", f"/api/projects/{project_id}/files", data=tar_of(PAGE), headers=TAR)
    assert headless.problem() == (400, "bad_patch")
    assert await _version(client, project_id) == 1


async def test_binary_files_arrive_bit_for_bit_and_git_and_node_modules_do_not(client: Client) -> None:
    """Every byte value, odd names and an empty file come out of the preview as they went in."""
    noise = os.urandom(300_000) + bytes(range(256))
    files: dict[str, str | bytes] = {
        **PAGE,
        "noise.bin": noise,
        "empty.txt": b"",
        "deep/er/ünïcode name.bin": noise[::-1],
        ".git/config": "secret",
        "node_modules/x/index.js": "left out",
        "sub/node_modules/x/index.js": "left out",
    }
    project_id = await client.project(files)
    assert (await client.call("GET", f"/api/projects/{project_id}")).json["files"] == 4
    view = await client.ended(await client.request_preview(project_id))
    assert view["status"] == "ready", view["error"]
    preview_id = view["preview_id"]
    assert (await client.visit(preview_id, "/noise.bin")).body == noise
    assert (await client.visit(preview_id, "/empty.txt")).body == b""
    assert (await client.visit(preview_id, "/deep/er/%C3%BCn%C3%AFcode%20name.bin")).body == noise[::-1]
    for path in ("/.git/config", "/node_modules/x/index.js", "/sub/node_modules/x/index.js"):
        assert (await client.visit(preview_id, path)).status == 404, path
    await client.stop(preview_id)


async def test_ten_thousand_files_become_a_preview(client: Client) -> None:
    """10,000 files are stored and reach the VM; 20,001 are refused with the limit in words."""
    many: dict[str, str | bytes] = {f"pages/{n // 100}/{n}.html": f"page {n}" for n in range(9_999)}
    view = await client.ready({**PAGE, **many})
    page = await client.visit(view["preview_id"], "/pages/99/9998.html")
    assert page.text.startswith("page 9998")
    await client.stop(view["preview_id"])
    project_id = await client.project(PAGE)
    too_many: dict[str, str | bytes] = {f"{n}.txt": "" for n in range(20_001)}
    answer = await client.call("PUT", f"/api/projects/{project_id}/files", data=tar_of(too_many), headers=TAR)
    assert answer.problem() == (413, "too_many_files")
    assert "20000" in answer.json["detail"]


async def test_the_same_idempotency_key_does_its_work_once(client: Client) -> None:
    """The same key twice, one after the other and at once: one project; another key: another project."""
    key = {"Idempotency-Key": f"key-{os.urandom(8).hex()}"}
    made = await asyncio.gather(
        *(client.call("POST", "/api/projects", json={"name": "once"}, headers=key) for _ in range(5))
    )
    again = await client.call("POST", "/api/projects", json={"name": "once"}, headers=key)
    assert {answer.status for answer in [*made, again]} == {201}
    assert len({answer.json["project_id"] for answer in [*made, again]}) == 1
    other = await client.call("POST", "/api/projects", json={"name": "once"}, headers={"Idempotency-Key": "another"})
    assert other.json["project_id"] != again.json["project_id"]
    long = await client.call("POST", "/api/projects", json={"name": "x"}, headers={"Idempotency-Key": "k" * 201})
    assert long.problem() == (400, "bad_idempotency_key")


async def test_two_previews_of_one_project_at_once_are_one(platform: Platform, client: Client) -> None:
    """Five requests at once: one is told 202, the others 200 with the same preview; one VM, one PreviewRequested."""
    project_id = await client.project(node_project(SERVER))
    answers = await asyncio.gather(
        *(client.call("POST", "/api/previews", json={"project_id": project_id}) for _ in range(5))
    )
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 202]
    (preview_id,) = {answer.json["preview_id"] for answer in answers}
    assert (await client.ended(preview_id))["status"] == "ready"
    kinds = [event.type for event in await platform.events(preview_id)]
    assert kinds.count("PreviewRequested") == kinds.count("VmAcquired") == 1
    await client.stop(preview_id)


async def test_a_project_without_files_has_no_preview(client: Client) -> None:
    """A project that nothing was uploaded to: refused, with what to do."""
    made = await client.call("POST", "/api/projects", json={"name": "bare"})
    answer = await client.call("POST", "/api/previews", json={"project_id": made.json["project_id"]})
    assert answer.problem() == (400, "project_without_files")
    assert answer.json["hint"]
