"""What a VM is on a Docker engine: how a container is asked for, and how one is read. Pure.

Names and labels: `drape-<home>-<vm>`; `drape.home`, `drape.vm`, `drape.created` (this side's clock, so that an engine's
that is wrong does no harm), and the spec's own labels behind `drape.label.`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from services.pool.adapters.docker_config import DockerConfig
from services.pool.adapters.docker_engine import ARCHITECTURES, Container, Image, Info
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec, VmState
from shared.agent.protocol import PROTOCOLS, TUNNEL_PROTOCOL
from shared.agent.versions import common
from shared.reach import Reach

AGENT_PORT = 4711
EXPOSED = f"{AGENT_PORT}/tcp"
UID = 1000
HOME, VM, CREATED, OWN = "drape.home", "drape.vm", "drape.created", "drape.label."
AGENT_LABEL = "drape.agent.version"
PROTOCOLS_LABEL = "drape.agent.protocols"
GVISOR = "runsc"
STARTING = ("created", "restarting")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided for each engine, beside the spec."""

    home: str
    network: str
    runtime: str
    published: bool = False
    publish_ip: str = ""
    quota: bool = False


def home_key(configured: str, drape_home: str) -> str:
    """Which VMs are ours. Short enough for names of networks."""
    return configured or (hashlib.sha256(drape_home.encode()).hexdigest()[:10] if drape_home else "default")


def name_of(home: str, vm_id: str) -> str:
    return f"drape-{home}-{vm_id}"


def labels_of(home: str, vm_id: str | None = None) -> dict[str, str]:
    """What is searched for; without an id, all of this home."""
    return {HOME: home} if vm_id is None else {HOME: home, VM: vm_id}


def confined(config: DockerConfig, place: Place) -> dict[str, Any]:
    """What keeps anything that runs for a project in its place, as an engine's `HostConfig`."""
    return {
        "NetworkMode": place.network,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={config.tmp_mb}m,mode=1777"},
        "IpcMode": "private",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
        **({"Runtime": place.runtime} if place.runtime else {}),
    }


def limits(cpu_cores: float, memory_mb: int, pids_max: int) -> dict[str, Any]:
    """No swap beyond the memory."""
    return {
        "Memory": memory_mb << 20,
        "MemorySwap": memory_mb << 20,
        "NanoCpus": round(cpu_cores * 1e9),
        "PidsLimit": pids_max,
    }


def body_of(spec: VmSpec, config: DockerConfig, place: Place, image: str, now: float) -> dict[str, Any]:
    """What `containers/create` takes. The token is not in it: it comes through standard input."""
    host = {**confined(config, place), **limits(spec.cpu_cores, spec.memory_mb, spec.pids_max)}
    disk_mb = spec.disk_mb or config.disk_mb
    if config.disk == "volume" or place.quota:
        options = {"size": f"{disk_mb}M"} if place.quota else {}
        driver = {"Name": "local", "Options": options}
        host["Mounts"] = [{"Type": "volume", "Target": "/vm", "VolumeOptions": {"DriverConfig": driver}}]
    else:
        host["Tmpfs"]["/vm"] = f"rw,exec,nosuid,nodev,size={disk_mb}m,mode=0700,uid={UID},gid={UID}"
    if place.published:
        host["PortBindings"] = {EXPOSED: [{"HostIp": place.publish_ip, "HostPort": ""}]}
    return {
        "Image": image,
        "Cmd": ["--vm-id", spec.vm_id, "--orphan-timeout-s", f"{spec.orphan_timeout_s:g}"],
        "Hostname": "vm",
        "User": f"{UID}:{UID}",
        "AttachStdin": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "ExposedPorts": {EXPOSED: {}},
        "Labels": {
            **{f"{OWN}{name}": value for name, value in spec.labels.items()},
            **labels_of(place.home, spec.vm_id),
            CREATED: f"{now:.3f}",
        },
        "HostConfig": host,
    }


def check_image(name: str, image: Image, info: Info, url: str) -> None:
    """Raises ProviderError `image_unusable`, saying what to build where."""
    wanted = ARCHITECTURES.get(info.architecture, info.architecture)
    labels = image.config.labels or {}
    agent = labels.get(AGENT_LABEL, "")
    why = ""
    if image.architecture != wanted:
        why = f"is for {image.architecture}, and the Docker engine {url} is {wanted}"
    elif not agent:
        why = f"has no agent of Drape in it (no label {AGENT_LABEL})"
    elif common(_protocols(labels), (TUNNEL_PROTOCOL, PROTOCOLS[1])) is None:
        why = f"has an agent of version {agent}, which shares no version of the wire with this Drape"
    if why:
        raise ProviderError("image_unusable", f"the image {name} {why}; run deploy/workspace/build for that engine")


def _protocols(labels: Mapping[str, str]) -> tuple[int, int]:
    """The versions of the wire that the image's agent speaks, oldest and newest; (0, 0) where it does not say."""
    oldest, _, newest = labels.get(PROTOCOLS_LABEL, "").partition("-")
    return (int(oldest), int(newest)) if oldest.isdecimal() and newest.isdecimal() else (0, 0)


def state_of(row: Container, *, booting: bool) -> VmState:
    """`booting`: somebody may still be at work on a container that has not begun."""
    if row.state == "running" or (row.state in STARTING and booting):
        return "running"
    return "suspended" if row.state == "paused" else "stopped"


def created_at(row: Container) -> float:
    """By this side's clock where the label can be read."""
    try:
        return float((row.labels or {})[CREATED])
    except (KeyError, ValueError):
        return row.created


def address_of(row: Container, network: str, host: str, *, published: bool) -> VmAddress | None:
    """Where the agent is reached; None while it has no address."""
    if published:
        ports = [each.public_port for each in row.ports or () if each.private_port == AGENT_PORT and each.public_port]
        return VmAddress(host, ports[0], Reach(tunnel=True)) if ports else None
    networks = (row.network_settings.networks if row.network_settings else None) or {}
    found = networks.get(network)
    return VmAddress(found.address, AGENT_PORT, Reach(tunnel=True)) if found and found.address else None


def listing_of(row: Container, address: VmAddress | None, *, booting: bool) -> VmListing:
    state = state_of(row, booting=booting)
    labels = row.labels or {}
    return VmListing(
        vm_id=labels[VM],
        state=state,
        created_at=created_at(row),
        address=None if state == "stopped" or row.state in STARTING else address,
        labels={name.removeprefix(OWN): value for name, value in labels.items() if name.startswith(OWN)},
    )
