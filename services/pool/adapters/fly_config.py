"""Every knob of the Fly provider, with its unit. Set by `DRAPE_POOL_FLY_<NAME>`; the token alone also by `FLY_API_TOKEN`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from services.pool.ports import ProviderError

TOKEN_VARIABLE = "FLY_API_TOKEN"  # noqa: S105 (its name)


class FlyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, when the provider is made."""

    app: str = ""
    """The app whose machines are the VMs. One of its own: what carries another home's metadata, or none, is never touched."""
    org: str = ""
    """Organization in which a missing app is made; empty: the app has to be there."""
    image: str = ""
    """The VM image, pinned: `registry.fly.io/app@sha256:…`, as `deploy/fly/push-image` writes it."""
    regions: str = ""
    """Regions with commas between, the preferred one first; where one is full the next is tried. Empty: Fly chooses."""
    token_file: str = ""
    """File with the API token; it goes before `FLY_API_TOKEN`."""
    api_url: str = "https://api.machines.dev"
    """The Machines API; `http://_api.internal:4280` within Fly's private network."""
    reach: Literal["private", "edge"] = "private"
    """How agents are reached: on the private network (6PN), or through the app's public address."""
    edge_host: str = ""
    """With `edge`: the app's address; empty: `<app>.fly.dev`."""
    edge_port: int = 443
    """With `edge`: its port."""
    edge_tls: bool = True
    """With `edge`: whether it speaks TLS."""
    agent_port: int = 4711
    """Where the agent listens in the machine."""
    agent_command: str = ""
    """What starts the agent, words with blanks between; its arguments are appended. Empty: the image's entry point, as
    `deploy/fly/push-image` makes it."""
    cpu_kind: Literal["shared", "performance"] = "shared"
    """Kind of processor."""
    volumes: bool = False
    """Whether a VM that asks for a disk of its own (`disk_mb`) gets a volume; without, it has its image's file system."""
    root: str = "/vm"
    """The agent's folder in the machine, where a volume is mounted too."""
    request_timeout_s: float = 10.0
    """One call of the API."""
    create_timeout_s: float = 25.0
    """The call that makes a machine: a host that has not had the image yet pulls it first."""
    boot_timeout_s: float = 28.0
    """From the request to an agent that answers. Never longer than `DRAPE_POOL_BOOT_TIMEOUT_S`: raise both for large images."""
    settle_timeout_s: float = 30.0
    """Until a machine has left a passing state (`suspending`, `stopping`, `destroying`…); then it is `vm_stuck`."""
    ignored_s: float = 5.0
    """A machine that shows no sign of it so long after its destruction was answered has ignored it."""
    wait_s: float = 10.0
    """One long poll for a state; Fly allows 60."""
    tries_max: int = 4
    """Tries of a call that failed for a passing reason."""
    backoff_s: float = 0.25
    """Pause before the second try; it doubles with each further one, give or take a half."""
    backoff_max_s: float = 5.0
    """Longest pause, also where `Retry-After` asks for more: then the call is given up as rate limited."""
    lease_ttl_s: int = 60
    """How long Fly holds a machine for a verb whose pool died in the middle of it."""
    lease_timeout_s: float = 10.0
    """Waiting for another pool's lease; then the VM is busy."""
    poll_s: float = 0.25
    """Between two looks at an agent that does not answer yet, or at a lease that is held."""
    body_bytes_max: int = 16 << 20
    """An answer longer than this is not read."""


def token_of(config: FlyConfig, env: Mapping[str, str]) -> str:
    """The API token. Raises ProviderError `provider_unauthorized` where there is none."""
    if config.token_file:
        try:
            return Path(config.token_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ProviderError(
                "provider_unauthorized",
                f"the file of DRAPE_POOL_FLY_TOKEN_FILE can't be read: {error}; write the token into it, and nothing else",
            ) from None
    return env.get(TOKEN_VARIABLE, "").strip()


def home_of(secret: str) -> str:
    """What tells this installation's machines from others' in the same app: the same for all its pools, and no way back to
    the platform's secret."""
    return hashlib.sha256(f"drape-fly-home:{secret}".encode()).hexdigest()[:12]
