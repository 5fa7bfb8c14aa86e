"""Every knob of the Docker provider, with its unit and the reason for its default. Set by `DRAPE_POOL_DOCKER_<NAME>`."""

from typing import Literal

import msgspec


class DockerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in the pool's `app.py`."""

    hosts: str = ""
    """Engines, with commas between: `unix:///path`, `tcp://host:port`, `ssh://user@host` (needs the package `asyncssh`).
    Empty: `DOCKER_HOST`, else `unix:///var/run/docker.sock`."""
    tls_dir: str = ""
    """A folder with ca.pem, cert.pem and key.pem for `tcp://` engines; empty: no TLS."""
    home: str = ""
    """Which VMs on the engines are this pool's: the same for its replicas, another for another deployment. Empty: derived
    from `DRAPE_HOME`."""
    image: str = "drape-workspace:latest"
    """What `deploy/workspace/build` makes. It has to be on each engine."""
    runtime: Literal["auto", "runc", "runsc"] = "auto"
    """`auto`: gVisor (`runsc`) on engines that have it, else their default."""
    disk: Literal["auto", "tmpfs", "quota", "volume"] = "auto"
    """Where a project lies. `quota`: a volume with a limit, where the engine's storage can (XFS with project quotas); `tmpfs`:
    in memory, within the VM's memory; `volume`: on disk without any limit; `auto`: `quota`, else `tmpfs`."""
    disk_mb: int = 1024
    """A project with its dependencies; Next.js with its cache took 700 MB."""
    tmp_mb: int = 256
    """/tmp, in memory."""
    reach: Literal["auto", "bridge", "published"] = "auto"
    """How agents are reached: at the container's own address (engine on this machine), or at a port of the engine's host.
    `auto`: by the engine's URL. An engine in a machine of its own (Docker Desktop) needs `published`."""
    address: str = ""
    """Where the ports of an engine on this machine are published and reached, for a pool that is in a container itself: a
    name or address of this machine that other containers reach, `host.docker.internal`. Empty: 127.0.0.1."""
    isolation: Literal["require", "warn", "none"] = "require"
    """Before the first VM, a throw-away VM tries to reach another one, the host and the metadata service. Where it can: no VMs,
    a warning, or it is not tried."""
    allow: str = ""
    """Private addresses (`10.0.0.5/32`, with commas) that VMs may reach, such as a registry of one's own."""
    probe_host: str = "registry.npmjs.org:443"
    """What a throw-away VM has to reach, for installs; without it there is a warning. Empty: not tried."""
    subnet: str = ""
    """Addresses of the VMs' network (`10.231.0.0/16`); empty: the engine chooses."""
    request_timeout_s: float = 30.0
    """One request to an engine; a busy one takes seconds to start or remove a container."""
    destroy_timeout_s: float = 30.0
    """Until a container that was removed is gone."""
    prepare_timeout_s: float = 60.0
    """Setting up the network and trying it."""
