"""A project whose name, folder, variables, command and errors are known: after `drape project delete` no byte of them is
left anywhere below DRAPE_HOME, nor in what NATS and PostgreSQL answer."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec

from shared.jetstream.connection import connect
from tests.deploy.waiting import eventually
from tests.live.client import SERVER
from tests.live.platform import Json, Platform

WORD = "nightingale7f3a"
GONE_WITHIN_S = 90.0
CHUNK_BYTES = 1 << 20
BROKEN = f"throw new Error('{WORD} is broken')"


def write(folder: Path, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    package = {"name": f"of-{WORD}", "private": True, "scripts": {"dev": f"node {WORD}.mjs"}}
    (folder / "package.json").write_bytes(msgspec.json.encode(package))
    (folder / f"{WORD}.mjs").write_text(script)


def holders(root: Path) -> list[str]:
    """Files below here that hold the word, or have it in their path."""
    return [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if WORD in str(path).lower() or holds(path, WORD.encode())
    ]


def holds(path: Path, word: bytes) -> bool:
    """Whether the file holds the word, which is in lower case, in whatever case."""
    try:
        return path.is_file() and any(word in chunk for chunk in _chunks(path, len(word)))
    except OSError:
        return False  # it went while we looked: a socket, a VM's file


def _chunks(path: Path, overlap: int) -> Iterator[bytes]:
    """The file in lower case, each piece with the end of the one before."""
    with path.open("rb") as file:
        end = b""
        while data := file.read(CHUNK_BYTES):
            yield (end + data).lower()
            end = data[-overlap:]


async def messages(platform: Platform) -> list[str]:
    """Streams of which some message holds the word, whatever the disk's compression hides."""
    client = await connect(platform.status.nats, "drape-live-dump")
    try:
        js = client.jetstream(timeout=10)
        found = []
        for stream in await js.streams_info():
            name, last = stream.config.name or "", stream.state.last_seq
            subscription = (
                await js.subscribe(">", stream=name, ordered_consumer=True) if stream.state.messages else None
            )
            while subscription is not None:
                message = await subscription.next_msg(timeout=10)
                if WORD.encode() in (message.data + str(message.headers).encode()).lower():
                    found.append(name)
                if message.metadata.num_pending == 0 or message.metadata.sequence.stream >= last:
                    await subscription.unsubscribe()
                    subscription = None
        return found
    finally:
        await client.close()


async def rows(platform: Platform) -> str:
    """All that PostgreSQL has of us, as text."""
    connection = await asyncpg.connect(platform.status.postgres)
    try:
        tables = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'drape'")
        dumps = [
            await connection.fetchval(f'SELECT string_agg(t::text, chr(10)) FROM drape."{table["table_name"]}" t')
            for table in tables
        ]
    finally:
        await connection.close()
    return "\n".join(filter(None, dumps)).lower()


async def test_nothing_is_left_of_a_deleted_project(platform: Platform, tmp_path: Path) -> None:
    folder = tmp_path / f"shop-of-{WORD}"
    write(folder, BROKEN)
    failed = await platform.drape("preview", folder, "--json")
    assert (failed.code, failed.last["type"]) == (1, "preview_failed"), failed
    write(folder, f"console.log('{WORD} speaks', process.env.{WORD.upper()}_KEY)\n{SERVER}")
    ready = await platform.drape("preview", folder, "--json")
    assert ready.last["type"] == "preview_ready", ready
    told = await platform.drape("env", "set", folder, f"{WORD.upper()}_KEY=value-{WORD}", "--json")
    assert told.code == 0, told
    await platform.event("PreviewReady", ready.last["preview_id"], after=await last_seq(platform))

    shown = await platform.drape("events", "--json")
    assert WORD in shown.out.lower()
    assert "OBJ_drape_files" in await messages(platform)
    assert WORD not in await rows(platform)
    sealed = [name for name in await messages(platform) if name == "DRAPE_EVENTS"]
    assert sealed == [], "the log itself never holds it"

    deleted = await platform.drape("project", "delete", folder, "--json")
    assert (deleted.code, deleted.last["type"], deleted.last["erased"]) == (0, "project_deleted", True), deleted
    assert deleted.last["previews"] >= 1
    assert deleted.last["objects"] >= 3
    assert deleted.last["output_batches"] >= 1

    async def is_gone() -> bool:
        return not await asyncio.to_thread(holders, platform.home.root)

    await eventually(is_gone, GONE_WITHIN_S)
    assert await messages(platform) == []
    assert WORD not in await rows(platform)
    after = await platform.drape("events", "--json")
    assert WORD not in after.out.lower()
    assert names_of(after.lines, deleted.last["project_id"]) == ["erased"]
    checked = await platform.drape("doctor", "--replay-check", "--json")
    assert [
        line for line in checked.lines if line.get("check", "").startswith("replay") and line["level"] != "ok"
    ] == []
    again = await platform.drape("project", "delete", deleted.last["project_id"], "--json")
    assert (again.code, again.last) == (0, deleted.last)


async def last_seq(platform: Platform) -> int:
    """The sequence of the newest `ProjectEnvChanged`: what comes after it knows the variables."""
    return max(each.seq for each in await platform.events() if each.type == "ProjectEnvChanged")


def names_of(lines: list[Json], project_id: str) -> list[str]:
    """The names that `drape events` shows of this project."""
    created = [line["data"] for line in lines if line["type"] == "ProjectCreated"]
    return [data["name"] for data in created if data["project_id"] == project_id]
