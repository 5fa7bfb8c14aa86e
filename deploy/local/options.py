"""What `up` was asked to do, and what it came to: plain data, which also travels to a background supervisor."""

import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from deploy.local.errors import LauncherError
from deploy.local.nats_config import NatsOptions
from deploy.local.postgres import PostgresOptions
from deploy.settings import effective

SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
GATEWAY = "gateway"

ServiceStatus = Callable[[str], Awaitable[Mapping[str, Mapping[str, object]]]]
"""Given the URL of NATS, says of each service that answers: {"ready": bool, "seq": int, "lag": int, "replicas": [...]};
the last, where it is known, has the same of each process, with its `pid`."""


def _services() -> dict[str, tuple[str, ...]]:
    return {name: (sys.executable, "-m", f"services.{name}") for name in SERVICES}


def _provision() -> tuple[str, ...]:
    return (sys.executable, "-m", "deploy.provision")


class UpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`port` 0 takes a free one. `services` and `provision` are commands; an empty `provision` leaves that step out.
    `env` is added to the environment that services inherit."""

    host: str = "127.0.0.1"
    port: int = 8080
    replicas: int = 1
    services: dict[str, tuple[str, ...]] = msgspec.field(default_factory=_services)
    provision: tuple[str, ...] = msgspec.field(default_factory=_provision)
    env: dict[str, str] = {}
    nats_url: str | None = None
    """A running NATS to use instead of the embedded one; may name several servers, with commas between."""
    database_url: str | None = None
    nats: NatsOptions = NatsOptions()
    nats_nodes: int | None = None
    """Nodes of the embedded NATS, 1 or 3; None: as many as the home has, at first one."""
    postgres: PostgresOptions = PostgresOptions()
    external_timeout_s: float = 5.0
    provision_timeout_s: float = 60.0
    ready_timeout_s: float = 30.0
    ready_poll_s: float = 0.05
    startup_exits_max: int = 3
    """A service that ends so often before everything is ready has failed to start."""
    service_stop_grace_s: float = 15.0
    """More than a service takes to drain: see `DRAPE_GATEWAY_DRAIN_S` and the loop's own limit."""

    @classmethod
    def from_env(
        cls,
        *,
        host: str | None = None,
        port: int | None = None,
        replicas: int = 1,
        nats_nodes: int | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "UpOptions":
        """The usual options: what is not given comes from DRAPE_GATEWAY_HOST, DRAPE_GATEWAY_PORT, NATS_URL and
        DATABASE_URL, in the environment or its file. Raises LauncherError `bad_option`."""
        environ = effective(environ)
        given = environ.get("DRAPE_GATEWAY_PORT", "8080") if port is None else str(port)
        if not given.isdecimal() or int(given) > 65535:
            raise LauncherError("bad_option", f"{given!r} is not a port.", "Give a number from 0 (free) to 65535.")
        if replicas < 1:
            raise LauncherError("bad_option", f"{replicas} replicas cannot be run.", "Give 1 or more.")
        return cls(
            host=host or environ.get("DRAPE_GATEWAY_HOST") or "127.0.0.1",
            port=int(given),
            replicas=replicas,
            nats_nodes=nats_nodes,
            nats_url=environ.get("NATS_URL") or None,
            database_url=environ.get("DATABASE_URL") or None,
        )


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What runs, as kept in `run/status.json`. The URLs of NATS and PostgreSQL hold their passwords."""

    gateway: str
    nats: str
    postgres: str
    pids: dict[str, int]
    nats_monitors: tuple[str, ...] = ()
    """HTTP addresses, one an embedded node."""
    provider: str = "local"
    """What VMs are made of."""
    supervisor_pid: int
    started_at: float
    """Seconds since the epoch."""
    timings_s: dict[str, float] = {}
    """How long each part of the start took, in seconds."""


class AlreadyRunning(LauncherError):
    """Another supervisor holds this home. `status` is None while that one is still starting."""

    def __init__(self, status: RunStatus | None) -> None:
        where = f"Drape is already running at {status.gateway}." if status else "Drape is already starting."
        super().__init__("already_running", where, "Use it as it is, or end it with `drape down`.")
        self.status = status


def without_passwords(urls: str) -> str:
    """URLs with their users, and stars in place of passwords."""
    return re.sub(r"(//[^:/@,]*):[^@,]*@", r"\1:***@", urls)


def without_credentials(urls: str) -> str:
    """URLs fit for a message: host and port only."""
    shown = []
    for url in urls.split(","):
        parts = urlsplit(url.strip() if "//" in url else f"//{url.strip()}")
        shown.append(parts.netloc.rpartition("@")[2] or "an empty address")
    return ", ".join(shown)
