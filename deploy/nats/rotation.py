"""New keys for a platform that runs here: both count while services are started anew, then the old ones do no more."""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploy.local import records
from deploy.local.errors import LauncherError
from deploy.local.nats import NAME, answers
from deploy.local.options import RunStatus
from deploy.local.paths import Home
from deploy.local.rollout import Request, ask, checked_services
from deploy.local.status import write_status
from deploy.nats.authorization import FILE, authorization, users
from deploy.nats.identities import make_identities, new_seed, public_key, replace_seeds
from deploy.nats.permissions import IDENTITIES, OPERATOR
from shared.ulids import new_id

RELOAD_TIMEOUT_S = 10.0
_POLL_S = 0.1


def rotate_files(seeds: Path) -> dict[str, str]:
    """New seeds where nothing runs. Gives the public keys."""
    fresh = {identity: new_seed() for identity in IDENTITIES}
    seeds.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_seeds(seeds, fresh)
    return {identity: public_key(seed) for identity, seed in fresh.items()}


async def rotate_running(home: Home, status: RunStatus) -> RunStatus:
    """New seeds and a new password for the operator's address; the services are replaced by such that have them.

    A rotation that was broken off is done by the next one. Raises LauncherError `not_embedded`, `rotation_unfinished`.
    """
    servers = [each for each in records.read_all(home) if each.name.split("-")[0] == NAME and each.process()]
    if not servers or f"//{OPERATOR}:" not in status.nats:
        raise LauncherError(
            "not_embedded",
            "The NATS that is used here is not Drape's own: its keys are in its own configuration.",
            "Use `drape provision --out DIR`, include DIR/server-auth.conf there, and reload that server.",
        )
    old = users(make_identities(home.nats_seeds), _password_of(status.nats))
    seeds = {identity: new_seed() for identity in IDENTITIES}
    password = secrets.token_urlsafe(32)
    new = users({identity: public_key(seed) for identity, seed in seeds.items()}, password)
    url = status.nats.replace(f":{_password_of(status.nats)}@", f":{password}@")
    # Both keys count meanwhile; of a name with a password there can be one only.
    by_key = [user for user in old if user.public_key]
    records.write_private(home.nats / FILE, authorization([*by_key, *new]).encode())
    try:
        await _reload(servers, url)
    except LauncherError:
        # Nothing else has changed yet: what runs goes on with the old ones, also a server that reads this late.
        records.write_private(home.nats / FILE, authorization(old).encode())
        for server in servers:
            os.kill(server.pid, signal.SIGHUP)
        raise
    replace_seeds(home.nats_seeds, seeds)
    records.write_private(home.secrets / "nats_password", password.encode())
    told = msgspec.structs.replace(status, nats=url)
    write_status(home, told)
    await _replace(home)
    records.write_private(home.nats / FILE, authorization(new).encode())
    await _reload(servers, url)
    return told


async def _replace(home: Home) -> None:
    """Every process of the services by one that has its new key, one after another."""
    async for line in ask(home, Request(new_id(), checked_services(()))):
        if line["type"] == "error":
            raise LauncherError(
                "rotation_unfinished",
                f"Not every service runs with its new key: {line['detail']}",
                f"Old keys still count: rotate again once they run. {line['hint']}",
            )


async def _reload(servers: Sequence[records.ProcessRecord], url: str) -> None:
    """Has every node read who may connect, and returns once all of them let `url`'s user in."""
    for server in servers:
        os.kill(server.pid, signal.SIGHUP)
    for each in url.split(","):
        await _until_answering(each)


async def _until_answering(url: str) -> None:
    deadline = time.monotonic() + RELOAD_TIMEOUT_S
    while not await answers(url):
        if time.monotonic() >= deadline:
            raise LauncherError(
                "rotation_unfinished",
                "NATS does not accept the new keys.",
                "Its log says why; `drape down` and `drape up` start it with what is on disk.",
            )
        await asyncio.sleep(_POLL_S)


def _password_of(url: str) -> str:
    return url.partition(f"//{OPERATOR}:")[2].partition("@")[0]
