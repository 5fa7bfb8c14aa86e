"""`provision`: identities, streams, contexts. Its own step, with its own identity; prints no secret."""

import os
from pathlib import Path

import click

from deploy.cli.main import command
from deploy.cli.output import Output
from deploy.cli.platform import require_running, running_or_none
from deploy.local import records
from deploy.local.options import RunStatus, without_credentials
from deploy.local.paths import Home
from deploy.nats.authorization import authorization, users
from deploy.nats.contexts import contexts_folder, write_contexts
from deploy.nats.identities import make_identities, seed_file
from deploy.nats.permissions import OPERATOR, PROVISION
from deploy.nats.rotation import rotate_files, rotate_running
from deploy.provision import provision as make_streams
from shared.errors import Invalid
from shared.jetstream.credentials import seed_from

SERVER_FILE = "server-auth.conf"


@click.command()
@click.option("--rotate", is_flag=True, help="New keys; the processes that run here are replaced, one after another.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"Only write keys and {SERVER_FILE}, for a server elsewhere.",
)
@click.option("--nats-context", is_flag=True, help="Write contexts for the `nats` command: drape and drape-observer.")
@command
async def provision(output: Output, rotate: bool, out: Path | None, nats_context: bool) -> int:
    """Make keys, streams, consumers and buckets on the NATS of NATS_URL (or the one that runs here). Idempotent."""
    if out is not None:
        return _write_out(output, out.absolute(), rotate, nats_context)
    home = Home.from_env()
    url = os.environ.get("NATS_URL", "")
    if rotate:
        if url:
            raise Invalid(
                "rotate_elsewhere",
                "The keys of the server at NATS_URL are in its own configuration.",
                "`drape provision --rotate --out DIR` writes new ones, to be included there.",
            )
        await rotate_running(home, require_running())
        output.result({"type": "rotated", "seeds": str(home.nats_seeds)}, f"New keys are in {home.nats_seeds}.")
    running = None if url else require_running()
    await make_streams(
        url or _address(running), int(os.environ.get("DRAPE_STREAM_REPLICAS", "1")), seed=_seed(home, url, running)
    )
    if nats_context:
        _contexts(output, home.nats_seeds, without_credentials_url(url) if url else _address(running))
    output.result({"type": "provisioned"}, "Streams, consumers and buckets are there.")
    return 0


def without_credentials_url(urls: str) -> str:
    """The addresses as URLs, without users and passwords."""
    return ",".join(f"nats://{each}" for each in without_credentials(urls).split(", "))


def _address(running: RunStatus | None) -> str:
    """Where what runs here has its NATS. Our own takes keys; another's address says itself who we are."""
    assert running is not None
    return without_credentials_url(running.nats) if f"//{OPERATOR}:" in running.nats else running.nats


def _seed(home: Home, url: str, running: RunStatus | None) -> str | None:
    """The provisioning identity's seed on our own server; on another's, what the environment says."""
    if url or running is None or f"//{OPERATOR}:" not in running.nats:
        return None
    return seed_from(str(seed_file(home.nats_seeds, PROVISION)), "")


def _write_out(output: Output, folder: Path, rotate: bool, nats_context: bool) -> int:
    """Keys that are there stay, unless others are wanted: a second run changes nothing."""
    keys = rotate_files(folder) if rotate else make_identities(folder)
    server = folder / SERVER_FILE
    records.write_private(server, authorization(users(keys)).encode())
    if nats_context:
        running = running_or_none()
        url = os.environ.get("NATS_URL") or (running.nats if running else "nats://127.0.0.1:4222")
        _contexts(output, folder, without_credentials_url(url))
    output.result(
        {"type": "identities", "folder": str(folder), "server": str(server), "identities": sorted(keys)},
        f"Keys of {len(keys)} identities are in {folder}. Include {SERVER_FILE} in the server's configuration, give each "
        f"service its own file as DRAPE_NATS_SEED_FILE, then run `drape provision` with {PROVISION}.nk and NATS_URL.",
    )
    return 0


def _contexts(output: Output, seeds: Path, url: str) -> None:
    for path in write_contexts(contexts_folder(), seeds, url):
        output.result({"type": "context", "file": str(path)}, f"nats --context {path.stem} uses {path}.")


COMMANDS = (provision,)
