"""Fly's machines as the API writes them, and what a VM is among them. Pure: no call is made here."""

import base64
import math
from datetime import datetime
from typing import Any, Literal

import msgspec

from services.pool.adapters.fly_config import FlyConfig
from services.pool.ports import ProviderError, VmAddress, VmListing, VmSpec, VmState
from shared.reach import Reach

HOME, VM, ATTEMPT, LABEL = "drape_home", "drape_vm", "drape_attempt", "drape_label_"
"""Keys of a machine's metadata: whose it is, which VM, which try to make it, and the spec's labels."""
FORCE_INSTANCE = "fly-force-instance-id"
TOKEN_FILE = "/etc/drape/token"  # noqa: S105 (its path)
CPUS = (1, 2, 4, 6, 8, 10, 12, 14, 16)
MEMORY_STEP_MB = 256
MEMORY_PER_CPU_MB = {"shared": (256, 2048), "performance": (2048, 8192)}
"""Least and most memory that Fly gives with one processor of a kind."""
SUSPENDABLE_MB_MAX = 2048
VOLUME_NAME_MAX = 30

Phase = Literal["rising", "up", "falling_asleep", "asleep", "changing", "down", "going", "gone"]
PHASES: dict[str, Phase] = {
    **dict.fromkeys(("creating", "created", "starting"), "rising"),
    "started": "up",
    "suspending": "falling_asleep",
    "suspended": "asleep",
    **dict.fromkeys(("restarting", "updating", "replacing"), "changing"),
    **dict.fromkeys(("stopping", "stopped", "failed", "launch_failed"), "down"),
    "destroying": "going",
    **dict.fromkeys(("destroyed", "replaced", "migrated"), "gone"),
}
SHOWN: dict[Phase, VmState] = {
    **dict.fromkeys(("rising", "up", "changing"), "running"),
    **dict.fromkeys(("falling_asleep", "asleep"), "suspended"),
    **dict.fromkeys(("down", "going"), "stopped"),
}


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's size. Fly gives whole processors, and memory in steps of 256 MB."""

    cpu_kind: str = "shared"
    cpus: int = 1
    memory_mb: int = 256


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    volume: str = ""
    path: str = ""


class MachineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Of what the API tells, what is read here."""

    metadata: dict[str, str] | None = None
    guest: Guest | None = None
    mounts: list[Mount] | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. `config` is missing while its host does not answer; `incomplete_config` then has what is known."""

    id: str
    state: str
    name: str = ""
    region: str = ""
    private_ip: str = ""
    created_at: str = ""
    nonce: str = ""
    host_status: str = ""
    config: MachineConfig | None = None
    incomplete_config: MachineConfig | None = None

    @property
    def metadata(self) -> dict[str, str]:
        config = self.config or self.incomplete_config
        return (config.metadata if config else None) or {}

    @property
    def phase(self) -> Phase:
        """A state that this code has not heard of is one that will pass."""
        return PHASES.get(self.state, "changing")

    @property
    def memory_bytes(self) -> int:
        """What it may hold: Fly does not say what it does hold."""
        config = self.config or self.incomplete_config
        return (config.guest.memory_mb << 20) if config and config.guest else 0

    @property
    def volumes(self) -> list[str]:
        config = self.config or self.incomplete_config
        return [mount.volume for mount in (config.mounts if config else None) or [] if mount.volume]


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A disk. Fly keeps a deleted one for a day (`pending_destroy`)."""

    id: str
    name: str = ""
    state: str = ""
    region: str = ""
    created_at: str = ""
    attached_machine_id: str | None = None

    @property
    def gone(self) -> bool:
        return self.state in ("scheduling_destroy", "pending_destroy", "destroying", "destroyed")


class LeaseData(msgspec.Struct, frozen=True, kw_only=True):
    nonce: str = ""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The published document has the nonce at the top, the API below `data`: either will do."""

    nonce: str = ""
    data: LeaseData | None = None

    @property
    def held(self) -> str:
        return self.nonce or (self.data.nonce if self.data else "")


def size(cpu_cores: float, memory_mb: int, kind: str) -> Guest:
    """The smallest machine with at least that. Raises ProviderError `invalid_spec` where Fly has none so large."""
    least, most = MEMORY_PER_CPU_MB[kind]
    for cpus in CPUS:
        if cpus >= cpu_cores and (cpus <= 8 or kind == "performance") and cpus * most >= memory_mb:
            memory = max(cpus * least, math.ceil(memory_mb / MEMORY_STEP_MB) * MEMORY_STEP_MB)
            return Guest(cpu_kind=kind, cpus=cpus, memory_mb=memory)
    raise ProviderError(
        "invalid_spec",
        f"Fly has no {kind} machine with {cpu_cores:g} processors and {memory_mb} MB; "
        "ask for less, or set DRAPE_POOL_FLY_CPU_KIND=performance",
    )


def creation(spec: VmSpec, config: FlyConfig, *, home: str, attempt: str, region: str, volume: str) -> dict[str, Any]:
    """The body that makes the machine. The agent's token goes as a file that root alone may read: `deploy/fly/start` gives
    it to the agent, on its standard input, and removes it. The app's own secrets stay out (`skip_secrets`), since projects
    could read them."""
    arguments = ["--vm-id", spec.vm_id, "--root", config.root, "--listen", f"[::]:{config.agent_port}"]
    arguments += ["--orphan-timeout-s", f"{spec.orphan_timeout_s:g}"]
    command = config.agent_command.split()
    machine: dict[str, Any] = {
        "image": spec.image or config.image,
        "guest": msgspec.to_builtins(size(spec.cpu_cores, spec.memory_mb, config.cpu_kind)),
        "init": {"exec": [*command, *arguments]} if command else {"cmd": arguments},
        "auto_destroy": True,
        "restart": {"policy": "no"},
        "files": [
            {
                "guest_path": TOKEN_FILE,
                "raw_value": base64.b64encode(f"{spec.token}\n".encode()).decode(),
                "mode": 0o400,
            }
        ],
        "metadata": {
            HOME: home,
            VM: spec.vm_id,
            ATTEMPT: attempt,
            **{f"{LABEL}{key}": value for key, value in spec.labels.items()},
        },
        "services": [_service(config)] if config.reach == "edge" else [],
    }
    if volume:
        machine["mounts"] = [{"volume": volume, "path": config.root}]
    return {
        "name": machine_name(home, spec.vm_id),
        **({"region": region} if region else {}),
        "lease_ttl": config.lease_ttl_s,
        "skip_secrets": True,
        "config": machine,
    }


def _service(config: FlyConfig) -> dict[str, Any]:
    """The agent's port at the app's address. The proxy starts no machine: who is suspended is the pool's to say."""
    return {
        "protocol": "tcp",
        "internal_port": config.agent_port,
        "ports": [{"port": config.edge_port, "handlers": ["tls", "http"] if config.edge_tls else ["http"]}],
        "autostart": False,
        "autostop": "off",
    }


def machine_name(home: str, vm_id: str) -> str:
    """Unique in the app, so that two pools can't both make one VM."""
    return f"drape-{home}-{vm_id}"


def volume_name(home: str, vm_id: str) -> str:
    """Volumes have no metadata: the name says whose it is. Raises ProviderError where it would be too long for Fly."""
    name = f"{volume_prefix(home)}{vm_id.replace('-', '_')}"
    if len(name) > VOLUME_NAME_MAX:
        raise ProviderError("invalid_spec", f"a VM with a disk of its own may have no id as long as {vm_id}")
    return name


def volume_prefix(home: str) -> str:
    return f"drape_{home[:6].replace('-', '_')}_"


def vm_of_volume(home: str, volume: Volume) -> str:
    """The VM that the volume was made for; empty: none of this home."""
    prefix = volume_prefix(home)
    return volume.name.removeprefix(prefix).replace("_", "-") if volume.name.startswith(prefix) else ""


def address(machine: Machine, config: FlyConfig) -> VmAddress | None:
    """Where its agent listens; None while it can't."""
    if machine.phase not in ("up", "falling_asleep", "asleep"):
        return None
    if config.reach == "edge":
        reach = Reach(tunnel=True, tls=config.edge_tls, headers=((FORCE_INSTANCE, machine.id),))
        return VmAddress(config.edge_host or f"{config.app}.fly.dev", config.edge_port, reach)
    return VmAddress(machine.private_ip, config.agent_port, Reach(tunnel=True)) if machine.private_ip else None


def listing(machine: Machine, config: FlyConfig, *, now: float, server_now: float) -> VmListing:
    """A machine as the pool sees it. Its age is told by Fly's own clock, and never below 0, whatever ours says."""
    return VmListing(
        vm_id=machine.metadata[VM],
        state=SHOWN[machine.phase],
        created_at=now - age_s(machine.created_at, server_now or now),
        address=address(machine, config),
        labels={key.removeprefix(LABEL): value for key, value in machine.metadata.items() if key.startswith(LABEL)},
    )


def age_s(created_at: str, server_now: float) -> float:
    """Seconds. What can't be read is taken for new: the pool leaves new ones alone for a while."""
    try:
        return max(0.0, server_now - datetime.fromisoformat(created_at).timestamp())
    except ValueError:
        return 0.0
