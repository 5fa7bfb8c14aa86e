"""A folder of backups, each whole or not there: DIR/<when>/<stream>/{backup.json,stream.tar.s2} and a manifest.

The files of a stream are those of `nats stream backup`, so `nats stream restore` takes them too.
"""

import hashlib
import hmac
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nats.aio.client import Client

from shared.errors import DrapeError, Invalid
from shared.jetstream.archive import ARCHIVED, CHUNK_BYTES, Stored, snapshot, stream_state
from shared.jetstream.topology import EVENTS

MANIFEST, PACKED, DESCRIBED = "manifest.json", "stream.tar.s2", "backup.json"
FORMAT = 1
UNFINISHED = ".unfinished-"
SPARE_BYTES = 64 * 1024 * 1024
"""Left free on the disk, whatever a backup takes."""
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
_READ_BYTES = 1024 * 1024

Tell = Callable[[str, int], None]
"""A stream's name, and how many bytes of it were written."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of a backup. `created`: the stream's own time of creation; `same`: taken over from the backup before."""

    stream: str
    sha256: str
    size_bytes: int
    messages: int
    first_seq: int
    last_seq: int
    created: str
    same: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. `at`: when it was begun (seconds, UTC); `secret`: a fingerprint of the platform's secret, which is
    not in the backup; empty: it was not known."""

    type: str = "drape_backup"
    format: int = FORMAT
    drape: str
    at: float
    secret: str
    streams: tuple[Piece, ...]

    def piece(self, stream: str) -> Piece:
        """The stream's part. Raises `KeyError`."""
        return {each.stream: each for each in self.streams}[stream]


class Kept(NamedTuple):
    """A backup that is whole, by its manifest."""

    folder: Path
    manifest: Manifest


def secret_fingerprint(secret: str) -> str:
    """Tells two secrets apart, and gives none away: they are random, and long."""
    return hmac.new(secret.encode(), b"drape/backup", hashlib.sha256).hexdigest()[:16] if secret else ""


def backups_in(folder: Path) -> list[Kept]:
    """All of a folder, oldest first; the folder may be one itself. Raises `Invalid` (`no_backup`)."""
    found = [folder] if (folder / MANIFEST).is_file() else sorted(each.parent for each in folder.glob(f"*/{MANIFEST}"))
    kept = [Kept(each, _manifest(each)) for each in found if not each.name.startswith(UNFINISHED)]
    if not kept:
        raise Invalid("no_backup", f"There is no backup in {folder}.", "`drape backup DIR` makes one.")
    return kept


async def back_up(
    client: Client, folder: Path, *, drape: str, secret: str, now: float, keep: int, tell: Tell
) -> tuple[Kept, int]:
    """One more backup in `folder`, whole or not at all; gives it, and how many old ones were removed beyond `keep`.

    Raises `Invalid` (`nothing_to_back_up`), `DrapeError` (`disk_full`, `backup_not_writable`), `ArchiveError`,
    `Unavailable`.
    """
    try:
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        for left in folder.glob(f"{UNFINISHED}*"):  # of a run that was broken off
            shutil.rmtree(left)
        before = _newest(folder)
        draft = folder / f"{UNFINISHED}{os.getpid()}"
        draft.mkdir(mode=_PRIVATE_FOLDER)
        try:
            pieces = [await _copy(client, stream, draft, before, tell) for stream in ARCHIVED]
            manifest = Manifest(
                drape=drape, at=now, secret=secret_fingerprint(secret), streams=tuple(each for each in pieces if each)
            )
            write(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
            done = folder / f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%S.%fZ}"
            draft.rename(done)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _sync(folder)
        old = backups_in(folder)[:-keep]
        for each in old:
            shutil.rmtree(each.folder)
    except OSError as error:
        raise DrapeError(
            "backup_not_writable",
            f"A backup can't be written to {folder}: {error.strerror or type(error).__name__}.",
            "Give a folder on a disk with room, which you may write.",
        ) from error
    return Kept(done, manifest), len(old)


async def _copy(client: Client, stream: str, draft: Path, before: Kept | None, tell: Tell) -> Piece | None:
    told = await stream_state(client, stream)
    if told is None or (stream == EVENTS and not told["state"]["last_seq"]):
        if stream == EVENTS:
            raise Invalid("nothing_to_back_up", "There is no event yet.", "Run it once there is something to keep.")
        return None
    folder = draft / stream
    folder.mkdir(mode=_PRIVATE_FOLDER)
    same = _unchanged(before, stream, told)
    if before is not None and same is not None:
        for name in (PACKED, DESCRIBED):
            _take_over(before.folder / stream / name, folder / name)
        return same
    if shutil.disk_usage(draft).free < told["state"]["bytes"] + SPARE_BYTES:
        raise DrapeError(
            "disk_full",
            f"{stream} has {told['state']['bytes']:,} bytes; there is less room at {draft.parent}.",
            "Make room, or give a folder on another disk.",
        )
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(folder / PACKED, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:

        def keep_chunk(chunk: bytes) -> None:
            nonlocal size
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            tell(stream, size)

        stored = await snapshot(client, stream, keep_chunk)
        file.flush()
        os.fsync(file.fileno())
    write(folder / DESCRIBED, msgspec.json.format(msgspec.json.encode(stored)))
    return Piece(
        stream=stream,
        sha256=digest.hexdigest(),
        size_bytes=size,
        created=told["created"],
        **{name: stored.state[name] for name in ("messages", "first_seq", "last_seq")},
    )


def _unchanged(before: Kept | None, stream: str, told: dict[str, Any]) -> Piece | None:
    """The part of the backup before, where the stream is as it was then. Messages that are taken out of a stream change
    their number, or its first sequence; one that comes changes the last."""
    if before is None or stream not in {each.stream for each in before.manifest.streams}:
        return None
    piece, state = before.manifest.piece(stream), told["state"]
    now = (told["created"], state["messages"], state["first_seq"], state["last_seq"])
    if now != (piece.created, piece.messages, piece.first_seq, piece.last_seq) or _wrong(before.folder, piece):
        return None
    return msgspec.structs.replace(piece, same=True)


def _take_over(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copyfile(source, target)
        target.chmod(_PRIVATE_FILE)


def problems(kept: Kept) -> list[str]:
    """What is wrong with a backup's files; empty: they are what was written."""
    return [problem for piece in kept.manifest.streams for problem in _wrong(kept.folder, piece)]


def _wrong(folder: Path, piece: Piece) -> list[str]:
    path = folder / piece.stream / PACKED
    try:
        size = path.stat().st_size
        if size != piece.size_bytes:
            return [f"{piece.stream}: {size:,} bytes instead of {piece.size_bytes:,}"]
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_READ_BYTES):
                digest.update(part)
        stored_in(folder, piece.stream)
    except (OSError, msgspec.DecodeError) as error:
        return [f"{piece.stream}: {getattr(error, 'strerror', None) or error}"]
    return [] if digest.hexdigest() == piece.sha256 else [f"{piece.stream}: other contents than were written"]


def stored_in(folder: Path, stream: str) -> Stored:
    """What the server said of the stream. Raises `OSError`, `msgspec.DecodeError`."""
    return msgspec.json.decode((folder / stream / DESCRIBED).read_bytes(), type=Stored)


def chunks_of(folder: Path, stream: str) -> Iterator[bytes]:
    """The packed stream, in pieces that fit into messages. Raises `OSError`."""
    with (folder / stream / PACKED).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write(path: Path, content: bytes) -> None:
    """A new file, for its owner alone, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Return once everything below is on the disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file() or path.is_dir():
            _sync(path)


def _newest(folder: Path) -> Kept | None:
    try:
        return backups_in(folder)[-1]
    except Invalid as error:
        if error.code == "no_backup":
            return None
        raise


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise Invalid("bad_manifest", f"{path} can't be read: {error}.", "Use another backup.") from error
    if manifest.format > FORMAT:
        raise Invalid(
            "newer_backup", f"{path} was written by a newer Drape ({manifest.drape}).", "Upgrade Drape first."
        )
    return manifest
