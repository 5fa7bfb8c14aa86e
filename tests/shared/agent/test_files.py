"""File syncs in a real agent: whole and changes, repaired when broken off, and never outside the project's folder."""

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
from yarl import URL

from shared.agent.client import AgentError, AgentUnreachable
from shared.agent.protocol import FileEntry, FileSync

from .world import TOKEN, RunningAgent, contents_of, entry_of, running_agent, sync_of


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tar_of(sync: FileSync | bytes, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A body made by Python's own tar writer."""
    buffer = io.BytesIO()
    data = sync if isinstance(sync, bytes) else msgspec.json.encode(sync)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in ((regular(".drape-sync.json", len(data)), data), *members):
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def regular(path: str, size: int) -> tarfile.TarInfo:
    """The header of a regular file."""
    info = tarfile.TarInfo(path)
    info.size = size
    return info


async def put_raw(agent: RunningAgent, body: bytes) -> tuple[int, str]:
    """Sends a body as it is. Gives the status and the code."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{agent.url}/files", data=body, headers=headers) as answer,
    ):
        return answer.status, (await answer.json(content_type=None)).get("code", "")


async def refused(agent: RunningAgent, sync: FileSync, files: dict[str, bytes]) -> AgentError:
    """The error of a sync that must fail."""
    with pytest.raises(AgentError) as caught:
        await agent.client.sync_files(sync, contents_of(files))
    return caught.value


async def test_a_whole_folder_arrives_as_it_was(agent: RunningAgent) -> None:
    """Names of all kinds, binary and empty contents, and the executable bit."""
    files = {"a.txt": b"a", "d/é ü.bin": bytes(range(256)), "empty": b"", "d/" + "n" * 120 + "/" + "m" * 200: b"long"}
    sync = sync_of(1, files)
    run = {"run.sh": FileEntry(sha256=entry_of(b"#!").sha256, size=2, mode=0o4711)}
    whole = msgspec.structs.replace(sync, files={**sync.files, **run})
    result = await agent.client.sync_files(whole, contents_of({**files, "run.sh": b"#!"}))

    assert (result.version, result.written, result.unchanged, result.stale) == (1, 5, 0, False)
    assert tree(agent.app) == {**files, "run.sh": b"#!"}
    assert (agent.app / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (agent.app / "a.txt").stat().st_mode & 0o7777 == 0o644
    assert (await agent.client.health()).files_version == 1


async def test_what_is_right_already_is_left_alone(agent: RunningAgent) -> None:
    """A file with the right content needs no member and keeps its time; only its mode is put right."""
    await agent.put(1, {"same": b"same", "other": b"1"})
    before = (agent.app / "same").stat()
    sync = sync_of(2, {"same": b"same", "other": b"2"})
    entries = {**sync.files, "same": entry_of(b"same", 0o755)}
    result = await agent.client.sync_files(msgspec.structs.replace(sync, files=entries), contents_of({"other": b"2"}))

    after = (agent.app / "same").stat()
    assert (result.written, result.unchanged) == (1, 1)
    assert (after.st_mtime_ns, after.st_ino, after.st_mode & 0o777) == (before.st_mtime_ns, before.st_ino, 0o755)


async def test_a_whole_replacement_removes_the_rest_but_what_is_kept(agent: RunningAgent) -> None:
    """Dependencies, .git and the folders to keep stay, at any depth; all else not listed goes, links included."""
    await agent.put(1, {"old/deep/file": b"x", "stay": b"x"})
    for kept in ("node_modules/p/i.js", "pkg/node_modules/q.js", ".git/HEAD", ".next/cache/a", "pkg/.vite/b"):
        (agent.app / kept).parent.mkdir(parents=True, exist_ok=True)
        (agent.app / kept).write_bytes(b"kept")
    (agent.app / "made").mkdir()
    (agent.app / "made" / "by-project").write_bytes(b"x")
    (agent.app / "link").symlink_to(agent.root / "home")
    (agent.root / "home" / "mine").write_bytes(b"mine")

    result = await agent.put(2, {"stay": b"x"}, keep=(".next", "pkg/.vite"))

    expected = {"node_modules/p/i.js", "pkg/node_modules/q.js", ".git/HEAD", ".next/cache/a", "pkg/.vite/b", "stay"}
    assert set(tree(agent.app)) == expected
    assert not (agent.app / "old").exists()
    assert not (agent.app / "link").is_symlink()
    assert (agent.root / "home" / "mine").read_bytes() == b"mine"
    assert result.deleted == 3


async def test_changes_touch_only_what_they_name(agent: RunningAgent) -> None:
    """Written, deleted, the rest as it was; emptied folders go; a file may become a folder and a folder a file."""
    await agent.put(1, {"a": b"1", "b": b"1", "gone/deep/x": b"1", "file": b"1", "folder/in": b"1"})
    (agent.app / "unlisted").write_bytes(b"u")
    changed = {"a": b"2", "file/now/folder": b"2", "folder": b"2"}
    result = await agent.put(2, changed, 1, delete=("gone/deep/x", "file", "folder/in", "never-was"))

    assert tree(agent.app) == {**changed, "b": b"1", "unlisted": b"u"}
    assert not (agent.app / "gone").exists()
    assert (result.written, result.deleted) == (3, 3)


async def test_an_edit_goes_into_the_file_that_is_there(agent: RunningAgent) -> None:
    """Who watches it by its inode sees each edit; longer, shorter, empty, and with another mode."""
    await agent.put(1, {"server.js": b"first"})
    before = (agent.app / "server.js").stat().st_ino
    for version, content in ((2, b"the second, which is longer"), (3, b"3"), (4, b""), (5, b"x" * 700_000)):
        assert (await agent.put(version, {"server.js": content}, version - 1)).written == 1
        assert (agent.app / "server.js").read_bytes() == content
    sync = sync_of(6, {})
    run = {"server.js": FileEntry(sha256=entry_of(b"#!").sha256, size=2, mode=0o755)}
    await agent.client.sync_files(
        msgspec.structs.replace(sync, base_version=5, files=run), contents_of({"server.js": b"#!"})
    )
    after = (agent.app / "server.js").stat()
    assert (after.st_ino, after.st_mode & 0o777) == (before, 0o755)
    assert [path.name for path in agent.app.iterdir()] == ["server.js"]


async def test_no_edit_goes_through_another_name_of_a_file(agent: RunningAgent) -> None:
    """A hard link, a symlink, a pipe, a large file: those are replaced; what else has that name stays as it was."""
    outside = agent.root / "home"
    for name in ("hard", "soft"):
        (outside / name).write_bytes(b"mine")
    (agent.app / "hard").hardlink_to(outside / "hard")
    (agent.app / "soft").symlink_to(outside / "soft")
    os.mkfifo(agent.app / "pipe")
    (agent.app / "read-only").write_bytes(b"1")
    (agent.app / "read-only").chmod(0o444)
    files = dict.fromkeys(("hard", "soft", "pipe", "read-only"), b"edited")
    await agent.put(1, files)
    assert tree(agent.app) == files
    assert [(outside / name).read_bytes() for name in ("hard", "soft")] == [b"mine", b"mine"]
    large = b"y" * 5_000_000
    await agent.put(2, {"hard": large}, 1)
    assert (agent.app / "hard").read_bytes() == large


async def test_another_project_takes_the_folder_over(agent: RunningAgent) -> None:
    """Versions count within a project: its changes start from another's files, and what those left beside them stays.
    Said again, nothing is done; from a version that is not there, or without saying whose it is, it is refused."""
    await agent.put(5, {"same": b"1", "other": b"1", "gone": b"1"}, project="template")
    (agent.app / "made").write_bytes(b"by its dev server")
    wrong = sync_of(1, {"other": b"2"}, 4, project="shop", base_project="template")
    assert (await refused(agent, wrong, {"other": b"2"})).code == "files_version_conflict"
    unsaid = sync_of(1, {"other": b"2"}, 5, project="shop")
    assert (await refused(agent, unsaid, {"other": b"2"})).code == "files_version_conflict"

    take_over = {"project": "shop", "base_project": "template", "delete": ("gone",)}
    result = await agent.put(1, {"other": b"2"}, 5, **take_over)
    assert (result.version, result.written, result.deleted) == (1, 1, 1)
    assert tree(agent.app) == {"same": b"1", "other": b"2", "made": b"by its dev server"}
    assert (await agent.put(1, {"other": b"2"}, 5, **take_over)).stale
    assert (await agent.put(2, {"other": b"3"}, 1, project="shop")).written == 1
    assert not (await agent.put(1, {"whole": b"1"}, project="third")).stale
    assert tree(agent.app) == {"whole": b"1"}


async def test_a_take_over_that_broke_off_is_done_again(agent: RunningAgent) -> None:
    await agent.put(5, {"a": b"1"}, project="template")
    sync = sync_of(1, {"a": b"2", "b": b"2"}, 5, project="shop", base_project="template")
    assert (await refused(agent, sync, {"a": b"2"})).code == "content_missing"
    assert (await agent.client.sync_files(sync, contents_of({"a": b"2", "b": b"2"}))).version == 1
    assert tree(agent.app) == {"a": b"2", "b": b"2"}


async def test_old_versions_are_stale_and_wrong_bases_a_conflict(agent: RunningAgent) -> None:
    """A late sync does nothing; changes from another version are refused with the version that is there."""
    await agent.put(5, {"a": b"5"})
    assert (await agent.put(5, {"a": b"x"})).stale
    assert (await agent.put(4, {"a": b"x"}, 3)).stale
    error = await refused(agent, sync_of(7, {"a": b"7"}, 6), {"a": b"7"})

    assert (error.status, error.code, error.body.current) == (409, "files_version_conflict", 5)
    assert tree(agent.app) == {"a": b"5"}


async def broken(files: dict[str, bytes], after: int) -> AsyncIterator[tuple[str, bytes | AsyncIterator[bytes]]]:
    """Contents of which the sender dies after some files."""
    for number, (path, data) in enumerate(files.items()):
        if number == after:
            raise ConnectionAbortedError("the sender died")
        yield path, data


@pytest.mark.parametrize("base", [None, 1])
async def test_a_sync_that_breaks_off_is_repaired_by_the_next(agent: RunningAgent, base: int | None) -> None:
    """The version stays, other changes on top are refused, the same sync again completes; nothing temporary is left."""
    await agent.put(1, {"a": b"1"})
    files = {f"f{number}": os.urandom(200_000) for number in range(8)}
    with pytest.raises(ConnectionAbortedError):
        await agent.client.sync_files(sync_of(2, files, base), broken(files, 4))
    assert (await agent.client.health()).files_version == 1

    error = await refused(agent, sync_of(3, {"b": b"3"}, 1), {"b": b"3"})
    assert error.code == "files_version_conflict"
    result = await agent.put(2, files, base)

    assert result.unchanged + result.written == 8
    assert tree(agent.app) == {**files, **({"a": b"1"} if base else {})}
    assert (await agent.client.health()).files_version == 2


async def test_the_version_survives_a_restart(tmp_path: Path) -> None:
    """An agent that comes back knows what is on disk, and what was begun."""
    async with running_agent(tmp_path / "vm") as agent:
        await agent.put(3, {"a": b"3"})
    async with running_agent(tmp_path / "vm") as agent:
        assert (await agent.client.health()).files_version == 3
        assert (await agent.put(4, {"b": b"4"}, 3)).written == 1


async def test_missing_contents_are_named(agent: RunningAgent) -> None:
    """The sender learns exactly which files to send."""
    await agent.put(1, {"a": b"a"})
    error = await refused(agent, sync_of(2, {"a": b"a", "b": b"b", "c": b"c"}), {"b": b"b"})

    assert (error.status, error.code, error.body.paths) == (409, "content_missing", ("c",))
    assert (await agent.client.health()).files_version == 1


BAD_PATHS = ["/etc/x", "../x", "a/../x", "a//b", "", ".", "a/", "a\0b", "n" * 256, "d/" * 600 + "x", "./a"]


async def test_bad_paths_are_refused_wherever_they_stand(agent: RunningAgent) -> None:
    """In what to write, delete, keep and read: nothing absolute, no "..", no NUL, no empty parts, no excess."""
    entry = entry_of(b"x")
    for path in BAD_PATHS:
        for sync in (
            FileSync(version=1, files={path: entry}),
            FileSync(version=1, base_version=0, delete=(path,)),
            FileSync(version=1, keep=(path,)),
        ):
            assert await put_raw(agent, tar_of(sync)) == (400, "path_invalid"), path
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        for path in ("%2e%2e/state/files.json", "a%00b", "%2Fetc%2Fpasswd"):
            async with session.get(URL(f"{agent.url}/files/{path}", encoded=True)) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "path_invalid")
    assert tree(agent.app) == {}


def _special(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    info.type = kind
    info.linkname = "../../outside"
    return info


async def test_a_hostile_stream_is_refused(agent: RunningAgent) -> None:
    """Links, folders, devices, contents not listed, twice, of another size or hash, and what is no tar at all."""
    sync = FileSync(version=1, files={"x": entry_of(b"x")})
    one = (regular("x", 1), b"x")
    bodies = {
        "symlink": (tar_of(sync, (_special(tarfile.SYMTYPE), b"")), (400, "tar_member_refused")),
        "hard link": (tar_of(sync, (_special(tarfile.LNKTYPE), b"")), (400, "tar_member_refused")),
        "folder": (tar_of(sync, (_special(tarfile.DIRTYPE), b"")), (400, "tar_member_refused")),
        "pipe": (tar_of(sync, (_special(tarfile.FIFOTYPE), b"")), (400, "tar_member_refused")),
        "not listed": (tar_of(sync, (regular("../y", 1), b"x")), (400, "content_unexpected")),
        "too long": (tar_of(sync, (regular("x", 2), b"xx")), (400, "content_unexpected")),
        "other bytes": (tar_of(sync, (regular("x", 1), b"y")), (400, "content_damaged")),
        "cut": (tar_of(sync, one)[:1700], (400, "tar_truncated")),
        "twice": (tar_of(sync, one, one), (400, "content_unexpected")),
        "empty": (b"", (400, "tar_truncated")),
        "no tar": (b"x" * 5000, (400, "tar_invalid")),
        "no header": (tar_of(sync, one)[1024:], (400, "sync_header_missing")),
        "no JSON": (tar_of(b"{"), (400, "request_invalid")),
        "no version": (tar_of(b'{"version":0}'), (400, "sync_invalid")),
        "contradiction": (
            tar_of(FileSync(version=1, files={"x": entry_of(b""), "x/y": entry_of(b"")})),
            (400, "sync_contradicts_itself"),
        ),
        "no hash": (tar_of(FileSync(version=1, files={"x": FileEntry(sha256="../x", size=0)})), (400, "sync_invalid")),
    }
    for name, (body, expected) in bodies.items():
        assert (name, await put_raw(agent, body)) == (name, expected)
    assert [path for path in agent.app.rglob("*") if path.name != "x"] == []
    assert (await agent.client.health()).files_version == 0
    assert sorted(path.name for path in agent.root.iterdir()) == ["app", "home", "state"]


async def test_changes_do_not_go_through_symlinks_on_disk(agent: RunningAgent) -> None:
    """A project may make links to anywhere; nothing is written, deleted or read through them."""
    outside = agent.root / "home"
    (outside / "f").write_bytes(b"outside")
    await agent.put(1, {"a": b"a"})
    (agent.app / "link").symlink_to(outside)
    (agent.app / "file-link").symlink_to(outside / "f")

    write = await refused(agent, sync_of(2, {"link/f": b"hit"}, 1), {"link/f": b"hit"})
    delete = await refused(agent, FileSync(version=2, base_version=1, delete=("link/f",)), {})
    reads = []
    for path in ("link/f", "file-link"):
        with pytest.raises(AgentError) as caught:
            await agent.client.read_file(path)
        reads.append(caught.value.code)

    assert {write.code, delete.code, *reads} == {"path_through_symlink"}
    assert tree(outside) == {"f": b"outside"}


async def test_a_whole_replacement_puts_folders_in_place_of_links(agent: RunningAgent) -> None:
    """A link where a listed file or its folder belongs is itself replaced; what it points to stays as it was."""
    outside = agent.root / "home"
    (outside / "f").write_bytes(b"outside")
    (agent.app / "link").symlink_to(outside)
    (agent.app / "file").symlink_to(outside / "f")
    (agent.app / "was-folder" / "deep").mkdir(parents=True)
    files = {"link/f": b"in", "file": b"in", "was-folder": b"in"}

    await agent.put(1, files)

    assert tree(agent.app) == files
    assert not (agent.app / "link").is_symlink()
    assert tree(outside) == {"f": b"outside"}


async def test_limits_are_named(tmp_path: Path) -> None:
    """Too many files and too many bytes are refused before anything is written."""
    async with running_agent(tmp_path / "vm", "--files-max", "3", "--bytes-max", "1000") as agent:
        many = await refused(agent, sync_of(1, {f"f{number}": b"" for number in range(4)}), {})
        large = await refused(agent, sync_of(1, {"a": b"x" * 600, "b": b"x" * 600}), {})

        assert (many.status, many.code) == (413, "too_many_files")
        assert (large.status, large.code) == (413, "too_many_bytes")
        assert tree(agent.app) == {}


async def test_files_can_be_read_back(agent: RunningAgent) -> None:
    """Whole and exact; unknown ones are 404, large ones 413, folders and pipes are refused without waiting."""
    await agent.put(1, {"d/é #1?.txt": b"\0\xff", "big": b"x" * (1024 * 1024 + 1)})
    os.mkfifo(agent.app / "pipe")
    assert await agent.client.read_file("d/é #1?.txt") == b"\0\xff"
    codes = []
    for path in ("absent", "d/absent/x", "big", "d", "pipe"):
        with pytest.raises(AgentError) as caught:
            await agent.client.read_file(path)
        codes.append((caught.value.status, caught.value.code))

    assert codes == [
        (404, "file_unknown"),
        (404, "file_unknown"),
        (413, "file_too_large"),
        (409, "path_conflict"),
        (409, "path_conflict"),
    ]


async def test_ten_thousand_small_files_arrive(agent: RunningAgent) -> None:
    """In one sync; the event loop answers others meanwhile."""
    files = {f"d{number // 100}/f{number}": str(number).encode() for number in range(10_000)}
    syncing = asyncio.ensure_future(agent.put(1, files))
    answers = 0
    while not syncing.done():
        async with asyncio.timeout(5):
            await agent.client.health()
        answers += 1

    assert (await syncing).written == 10_000
    assert answers > 3
    assert sum(1 for path in agent.app.rglob("*") if path.is_file()) == 10_000


async def test_a_stream_larger_than_memory_should_hold_is_not_held(agent: RunningAgent) -> None:
    """100 MB in one file, made as it is sent: the agent's memory does not grow with it."""
    part, count = b"0123456789abcdef" * 4096, 1600
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(part)
    entry = FileEntry(sha256=digest.hexdigest(), size=len(part) * count)
    before = psutil.Process(agent.pid).memory_info().rss

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield part

    async def contents() -> AsyncIterator[tuple[str, bytes | AsyncIterator[bytes]]]:
        yield "big", parts()

    await agent.client.sync_files(FileSync(version=1, files={"big": entry}), contents())

    assert (agent.app / "big").stat().st_size == entry.size
    assert psutil.Process(agent.pid).memory_info().rss - before < 40_000_000


async def test_a_sender_that_lies_about_a_size_is_told_on_its_own_side(agent: RunningAgent) -> None:
    """The client refuses to send what the header does not say."""
    sync = sync_of(1, {"a": b"four"})
    with pytest.raises(AgentError) as size:
        await agent.client.sync_files(sync, contents_of({"a": b"five!"}))
    with pytest.raises(AgentError) as unlisted:
        await agent.client.sync_files(sync, contents_of({"b": b"four"}))

    assert (size.value.code, unlisted.value.code) == ("content_damaged", "content_unexpected")
    assert tree(agent.app) == {}


async def test_a_sync_to_nobody_is_unreachable(agent: RunningAgent) -> None:
    """Silence is told apart from refusal."""
    agent.process.kill()
    await agent.process.wait()
    with pytest.raises(AgentUnreachable):
        await agent.put(1, {"a": b"a"})
