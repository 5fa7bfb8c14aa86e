"""What the VMs of a pool are, and how many: a row of the configuration's table. Pure."""

import msgspec


class PoolShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several pools. `disk_mb` 0, `region` and `image` empty: what the provider is configured with. A size that is
    left open stays as the log has it; at first 1 warm, at least 0, at most 5."""

    memory_mb: int
    cpu_cores: float = 2.0
    pids_max: int = 512
    disk_mb: int = 0
    region: str = ""
    image: str = ""
    target: int | None = None
    minimum: int | None = None
    maximum: int | None = None
