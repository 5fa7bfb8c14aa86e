"""`backup`, `restore`: all that can't be recomputed, into a folder and back."""

import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import click
from nats.aio.client import Client

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import platform_secret, require_running
from deploy.cli.provision import without_credentials_url
from deploy.local.nats_cluster import start_nodes, stored_nodes
from deploy.local.nats_config import NatsOptions
from deploy.local.paths import Home
from deploy.local.secrets import load_or_make, load_or_make_one
from deploy.local.status import supervisor_lock
from deploy.nats.authorization import users
from deploy.nats.identities import make_identities, seed_file
from deploy.nats.permissions import ARCHIVIST, OPERATOR
from deploy.travel.backups import Kept, Tell, back_up, backups_in, problems, sync_all
from deploy.travel.moments import written
from deploy.travel.restoring import check_empty, check_files, check_secret, put_back
from shared.errors import DrapeError, Invalid, Refused
from shared.jetstream.connection import connect
from shared.jetstream.credentials import seed_from

TELL_EVERY_S = 1.0
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--keep", type=click.IntRange(1, 1000), default=7, show_default=True, help="Remove older ones than so many."
)
@click.option("--verify", is_flag=True, help="Only compare what is in DIR with its checksums.")
@command
async def backup(output: Output, folder: Path, keep: int, verify: bool) -> int:
    """Copy the log, the projects' keys and files into DIR, while all runs. The platform's secret is not in it."""
    folder = folder.absolute()
    if verify:
        return _verify(output, folder)
    secret = platform_secret()
    async with _archivist() as client:
        kept, removed = await back_up(
            client,
            folder,
            drape=version("drape"),
            secret=secret,
            now=time.time(),
            keep=keep,
            tell=_teller(output, "Copied"),
        )
    for piece in kept.manifest.streams:
        told = "as in the backup before" if piece.same else f"{piece.size_bytes:,} bytes"
        output.say(f"{piece.stream:<16} {piece.messages:>8} messages up to {piece.last_seq}: {told}")
    output.result(
        {"type": "backup", "folder": str(kept.folder), "removed": removed, "streams": kept.manifest.streams},
        f"The backup is {kept.folder}. It is of no use without the platform's secret, which is not in it: keep "
        f"{Home.from_env().secrets / 'platform'} (or DRAPE_SECRET) elsewhere.",
    )
    return 0


def _verify(output: Output, folder: Path) -> int:
    code = 0
    for kept in backups_in(folder):
        wrong = problems(kept)
        code = code or bool(wrong)
        output.result(
            {"type": "verified", "folder": str(kept.folder), "at": kept.manifest.at, "problems": wrong},
            f"{kept.folder.name}  {written(kept.manifest.at)}  {'; '.join(wrong) or 'whole'}",
        )
    return code


@click.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--secret", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="That platform's secret."
)
@click.option("--without-secret", is_flag=True, help="Though what is sealed in the log can never be read then.")
@click.option("--nats-nodes", type=click.Choice(["1", "3"]), help="Nodes of NATS in the new home. Default: 1.")
@command
async def restore(
    output: Output, folder: Path, secret: Path | None, without_secret: bool, nats_nodes: str | None
) -> int:
    """Put the newest backup in DIR (or the one that DIR is) into a platform that has nothing yet: a new DRAPE_HOME before
    its first `drape up`, or the NATS at NATS_URL before `drape provision`."""
    kept = backups_in(folder.absolute())[-1]
    check_files(kept)
    elsewhere = os.environ.get("NATS_URL", "")
    if elsewhere:
        if not without_secret:
            check_secret(kept, secret.read_text("ascii").strip() if secret is not None else platform_secret())
        replicas = int(os.environ.get("DRAPE_STREAM_REPLICAS", "1"))
        client = await connect(elsewhere, "drape-restore", identity="" if "@" in elsewhere else ARCHIVIST)
        try:
            await check_empty(client)
            made = await put_back(client, kept, replicas, _teller(output, "Restored"))
        finally:
            await client.close()
    else:
        made = await _restore_here(output, kept, secret, without_secret, int(nats_nodes or 1))
    then = "`drape provision`, then the services" if elsewhere else "`drape up`"
    output.result(
        {"type": "restored", "folder": str(kept.folder), "streams": made},
        f"{', '.join(f'{number} messages of {name}' for name, number in made.items())} are back, as of "
        f"{written(kept.manifest.at)}. Now {then}: previews that were live begin anew, for their VMs are gone.",
    )
    return 0


async def _restore_here(
    output: Output, kept: Kept, secret: Path | None, without_secret: bool, nodes: int
) -> dict[str, int]:
    """Into this DRAPE_HOME, with a NATS that runs only meanwhile. Leaves nothing of a log where it fails."""
    home = Home.from_env()
    home.create()
    async with supervisor_lock(home):
        if stored_nodes(home) is not None:
            raise Refused(
                "not_empty", f"{home.nats} has a log already.", "Set DRAPE_HOME to a folder that is new, or empty."
            )
        platform = home.secrets / "platform"
        has = platform.read_text("ascii").strip() if platform.exists() else ""
        counts = has or (_secret_in(secret) if secret is not None else "")
        if not without_secret:
            check_secret(kept, counts)
        if counts and not has:  # only now: a wrong one would stay, and be in the way of the right one
            load_or_make_one(platform, counts)
        secrets = load_or_make(home)
        try:
            known = users(make_identities(home.nats_seeds), secrets.nats_password)
            options = NatsOptions(sync_always=False)
            servers = await start_nodes(home, secrets.nats_password, options, nodes, known)
            try:
                client = await connect(
                    servers.address, "drape-restore", identity=ARCHIVIST, seed=_seed(home.nats_seeds, ARCHIVIST)
                )
                try:
                    made = await put_back(client, kept, nodes, _teller(output, "Restored"))
                finally:
                    await client.close()
            finally:
                await servers.stop()
            sync_all(home.nats)
        except BaseException:
            shutil.rmtree(home.nats, ignore_errors=True)
            raise
    return made


def _secret_in(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid("secret_unreadable", f"{path} can't be read as a secret.", "It is `secrets/platform`.") from error


@asynccontextmanager
async def _archivist() -> AsyncIterator[Client]:
    """A connection that may copy: on our own server with the key for that, elsewhere as the environment says."""
    url = os.environ.get("NATS_URL", "")
    home, seed = Home.from_env(), None
    if not url:
        running = require_running()
        url = running.nats
        if f"//{OPERATOR}:" in url:
            url, seed = without_credentials_url(url), _seed(home.nats_seeds, ARCHIVIST)
    client = await connect(url, "drape-backup", identity="" if "@" in url else ARCHIVIST, seed=seed)
    try:
        yield client
    finally:
        await client.close()


def _seed(seeds: Path, identity: str) -> str:
    path = seed_file(seeds, identity)
    if not path.exists():
        raise DrapeError(
            "identity_missing",
            f"There is no key {path}: this platform was started before there was one.",
            "`drape down` and `drape up` make it.",
        )
    return seed_from(str(path), "")


def _teller(output: Output, verb: str) -> Tell:
    told = time.monotonic()

    def tell(stream: str, size: int) -> None:
        nonlocal told
        if not output.as_json and time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            print(f"{verb} {size:,} bytes of {stream}", file=sys.stderr)

    return tell


COMMANDS = (backup, restore)
