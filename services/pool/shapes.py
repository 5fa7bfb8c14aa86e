"""What the VMs of a pool are, and how many: a row of the configuration's table. Pure."""

import msgspec


class PoolShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several pools. `disk_mb` 0, `region` and `image` empty: what the provider is configured with. A size that is
    left open stays as the log has it; at first 1 warm, at least 0, at most 5."""

    memory_mb: int
    """Memory of each VM; a preview gets the smallest that has what its framework needs."""
    cpu_cores: float = 2.0
    """Processor share of a VM."""
    pids_max: int = 512
    """Processes and threads in a VM."""
    disk_mb: int = 0
    """Room for the project and what it installs."""
    region: str = ""
    """Where its VMs are, as the provider calls it."""
    image: str = ""
    """What they are made of, as the provider calls it."""
    target: int | None = None
    """VMs kept warm."""
    minimum: int | None = None
    """VMs that stay warm while aged ones are replaced."""
    maximum: int | None = None
    """VMs in all: warm, booting, in use, going away."""
