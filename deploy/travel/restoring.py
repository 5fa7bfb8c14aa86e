"""Puts a backup back into a platform that has nothing yet: checks, then streams, then a look at what came of it."""

from typing import Any

import msgspec
from nats.aio.client import Client

from deploy.travel.backups import Kept, Tell, chunks_of, problems, secret_fingerprint, stored_in
from shared.errors import DrapeError, Refused
from shared.jetstream.archive import ARCHIVED, restore, stream_state
from shared.jetstream.connection import bus_on
from shared.jetstream.topology import EVENTS


def check_files(kept: Kept) -> None:
    """Raises `DrapeError` (`backup_damaged`) where a file is not the one that was written."""
    wrong = problems(kept)
    if wrong:
        raise DrapeError("backup_damaged", f"{kept.folder} is damaged: {'; '.join(wrong)}.", "Use another backup.")


def check_secret(kept: Kept, secret: str) -> None:
    """Raises `Refused` (`other_secret`): personal texts, and projects' variables, could never be read again."""
    if kept.manifest.secret and secret_fingerprint(secret) != kept.manifest.secret:
        raise Refused(
            "other_secret",
            "This home has another secret than the platform of the backup: names and messages in the log, and variables of "
            "projects, could not be read.",
            "Give that platform's `secrets/platform` with --secret FILE, for a home that has none yet; or --without-secret.",
        )


async def check_empty(client: Client) -> None:
    """Raises `Refused` (`not_empty`) where a stream of ours is there already."""
    for stream in ARCHIVED:
        told = await stream_state(client, stream)
        if told is not None:
            raise Refused(
                "not_empty",
                f"There is a stream {stream} here already, with {told['state']['messages']} messages.",
                "A backup is restored into a platform that has nothing yet: a new DRAPE_HOME, or a NATS before `drape provision`.",
            )


async def put_back(client: Client, kept: Kept, replicas: int, tell: Tell) -> dict[str, int]:
    """Make the streams; gives each one's messages. Raises `ArchiveError`, `Unavailable`, and `DrapeError`
    (`restore_differs`) where they are not as they were."""
    made: dict[str, int] = {}
    for piece in kept.manifest.streams:
        stored = stored_in(kept.folder, piece.stream)
        config: dict[str, Any] = {**stored.config, "num_replicas": replicas}
        sent = 0

        def counted(chunk: bytes, name: str = piece.stream) -> bytes:
            nonlocal sent
            sent += len(chunk)
            tell(name, sent)
            return chunk

        state = (
            await restore(
                client,
                msgspec.structs.replace(stored, config=config),
                (counted(chunk) for chunk in chunks_of(kept.folder, piece.stream)),
            )
        )["state"]
        # The first sequence of a stream without a message is 0 before, and 1 behind, a restore.
        if (state["messages"], state["last_seq"]) != (piece.messages, piece.last_seq):
            raise DrapeError(
                "restore_differs",
                f"{piece.stream} has {state['messages']} messages up to {state['last_seq']}; the backup says "
                f"{piece.messages} up to {piece.last_seq}.",
                "Use another backup, and keep this one for a look.",
            )
        made[piece.stream] = piece.messages
    await _read_whole(client, kept)
    return made


async def _read_whole(client: Client, kept: Kept) -> None:
    """Every event is there, can be read, and follows on the one before it in its aggregate."""
    log, revisions = bus_on(client, "restore").log, dict[str, int]()
    last = kept.manifest.piece(EVENTS).last_seq
    count = 0
    async for recorded in log.read(0, last):
        count += 1
        # A second event of a revision is what two writers leave behind; a revision that is missing is a loss.
        if recorded.meta.rev > revisions.get(recorded.key, 0) + 1:
            raise DrapeError(
                "restore_differs",
                f"Event {recorded.seq} is revision {recorded.meta.rev} of {recorded.key}, and the one before it is missing.",
                "Use another backup, and keep this one for a look.",
            )
        revisions[recorded.key] = recorded.meta.rev
    if count != last:
        raise DrapeError("restore_differs", f"{count} of {last} events can be read.", "Use another backup.")
