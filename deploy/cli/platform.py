"""What a command needs of the platform: is it running, where, and what do its services say."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats
import nats.errors

from deploy.local.detach import up_detached
from deploy.local.errors import LauncherError
from deploy.local.options import SERVICES, RunStatus, UpOptions
from deploy.local.paths import Home
from deploy.local.status import read_status
from shared.errors import DrapeError, Unavailable
from shared.jetstream.connection import bus_on, connect
from shared.jetstream.credentials import seed_from_environment
from shared.jetstream.servers import servers_of
from shared.ports import Bus

STATUS_TIMEOUT_S = 1.0
QUIET_S = 0.2
"""After so long without one more answer all replicas have spoken that will."""
REPLICAS_MAX = 1_000
STATUS_FUNCTION = "deploy.cli.platform:service_status"

TOLD = ("ready", "seq", "lag", "postgres", "projections")
"""What is passed on of what a replica says of itself; the last two are telemetry's."""

_clients: dict[str, Any] = {}


async def service_status(nats_url: str) -> Mapping[str, Mapping[str, object]]:
    """{"ready", "seq", "lag", "replicas"} of each service that answers; of telemetry also "postgres" (whether it answers)
    and "projections", {name: {"seq", "lag"}}. Raises `OSError` or a NATS error when NATS does not."""

    async def quiet(_: Exception) -> None:
        return None  # what stands in the way is raised; the default would print it with its traceback

    client = _clients.get(nats_url)
    if client is None or client.is_closed:
        client = await nats.connect(
            servers_of(nats_url),
            name="drape-launcher",
            nkeys_seed_str=None if "@" in nats_url else seed_from_environment() or None,
            connect_timeout=2,
            max_reconnect_attempts=2,
            error_cb=quiet,
        )
        _clients[nats_url] = client
    found: dict[str, dict[str, Any]] = {}
    for status in await each_replica(client):
        name, own = status["service"], {key: status[key] for key in TOLD if key in status}
        # A service is as well as the best of its replicas: one that hangs leaves the others to answer.
        best = found.setdefault(name, {**own, "replicas": []})
        if (own["ready"], own["seq"]) > (best["ready"], best["seq"]):
            best.update(own)
        best["replicas"].append({"instance": status["instance"], "pid": status["pid"], **own})
    return found


async def each_replica(client: Any) -> list[dict[str, Any]]:
    """What every process says of itself: those that are there answer within milliseconds, one that hangs does not."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    told: list[dict[str, Any]] = []
    try:
        for name in SERVICES:
            await client.publish(f"drape.query.{name}.status.each", b"{}", reply=inbox)
        while len(told) < REPLICAS_MAX:
            whole = {each["service"] for each in told} >= set(SERVICES)
            answer = await subscription.next_msg(timeout=QUIET_S if whole else STATUS_TIMEOUT_S)
            if answer.data:  # else: NATS says that nobody listens there
                told.append(msgspec.json.decode(answer.data))
    except nats.errors.TimeoutError:
        return sorted(told, key=lambda each: str(each["instance"]))
    finally:
        await subscription.unsubscribe()
    return told


def launcher_problem(error: LauncherError) -> DrapeError:
    """The launcher's error in the shape that all commands show."""
    return DrapeError(error.code, error.message, error.hint)


def running_or_none() -> RunStatus | None:
    """What runs on this machine, in this `DRAPE_HOME`."""
    return read_status(Home.from_env())


def require_running() -> RunStatus:
    """What runs. Raises `Unavailable` saying how to start it."""
    status = running_or_none()
    if status is None:
        raise Unavailable("not_running", "Drape is not running.", "Start it with `drape up --detach`.")
    return status


def platform_secret() -> str:
    """The secret with which what is sealed in the log can be read here; empty where this user can't read it."""
    try:
        return (Home.from_env().secrets / "platform").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return os.environ.get("DRAPE_SECRET", "")


@asynccontextmanager
async def operator_bus() -> AsyncIterator[Bus]:
    """The log and the services of what runs here, as the operator. Raises `Unavailable`."""
    client = await connect(require_running().nats, "drape-cli")
    try:
        yield bus_on(client, "cli", platform_secret())
    finally:
        await client.close()


async def ensure_running() -> RunStatus:
    """What runs; starts it in the background where nothing does."""
    status = running_or_none()
    if status is not None:
        return status
    try:
        return await up_detached(UpOptions.from_env(), Home.from_env(), STATUS_FUNCTION)
    except LauncherError as error:
        raise launcher_problem(error) from error
