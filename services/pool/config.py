"""Every knob of the pool, with its unit and the reason for its default. Set by `DRAPE_POOL_<NAME>`."""

from typing import Literal

import msgspec

from services.pool.shapes import PoolShape


class PoolConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Read once, in `app.py`."""

    provider: Literal["local", "docker", "fly", "simulated"] = "local"
    """What VMs are made of."""
    target: int | None = None
    """VMs kept warm. Unset: what the log says, 3 at first."""
    minimum: int | None = None
    """VMs that stay warm while aged ones are replaced. Unset: what the log says, 1 at first."""
    maximum: int | None = None
    """VMs in all: warm, booting, in use, going away. Unset: what the log says, 5 at first."""
    pools: dict[str, PoolShape] = {}
    """Several pools, by name: as JSON `{"small": {"memory_mb": 1024, "maximum": 5}, "large": {"memory_mb": 4096}}`, with
    `cpu_cores`, `pids_max`, `disk_mb`, `region`, `image`, `target`, `minimum`. Empty: one, `default`, of the other settings."""
    boot_timeout_s: float = 30.0
    """A boot that takes longer has failed. Local VMs boot in under a second, Fly machines in a few."""
    boot_lost_s: float = 120.0
    """A boot that nobody reports on for so long is taken as failed: several times the time-out, for redeliveries."""
    boot_backoff_s: float = 1.0
    """Pause after a failed boot; it doubles with each further failure."""
    boot_backoff_max_s: float = 60.0
    """Longest pause between boots while they keep failing."""
    warm_age_max_s: float = 6 * 3600.0
    """A warm VM older than this is replaced: long-lived processes gather dust."""
    maintain_period_s: float = 5.0
    """Tick that catches what no event reported."""
    health_period_s: float = 60.0
    """Tick of the health checks; an agent that hears nothing for three of them ends itself."""
    health_timeout_s: float = 5.0
    """An agent that has not answered by then has failed its check."""
    health_failures_max: int = 2
    """So many failed checks in a row end a VM."""
    health_concurrency_max: int = 20
    """Health checks under way at once."""
    reconcile_period_s: float = 30.0
    """Tick that compares the provider's list with the log."""
    orphan_grace_s: float = 30.0
    """A VM that the log does not know is reaped after this age: its creation may not have been folded yet."""
    orphan_timeout_s: float = 180.0
    """An agent without any contact for so long ends its VM."""
    destroy_attempts_max: int = 3
    """Tries before the failure goes back to the log's consumer, which tries again later."""
    claims_max: int = 500
    """Claims that wait for a VM; the next one is refused."""
    vm_cpu_cores: float = 2.0
    """Processor share of a VM; dev servers compile on more than one core."""
    vm_memory_mb: int = 2048
    """Memory of a VM; the largest dev server measured took 700 MB."""
    vm_pids_max: int = 512
    """Processes and threads in a VM; stops fork bombs."""
    kept_max: int = 2
    """Released VMs that wait, emptied, for their owner's next preview with the same dependencies; 0: none do."""
    kept_age_max_s: float = 1800.0
    """A kept VM that nobody came back for is destroyed after this time."""
    kept_mb_max: int = 1024
    """Dependencies in a kept VM; one that holds more is destroyed."""
    clean_timeout_s: float = 30.0
    """Emptying a VM; a gigabyte of small files took a few seconds."""
    warm_suspended: bool = False
    """Warm VMs stand still until they are claimed: on Fly they then cost storage only, and a claim waits for the thaw."""
    thaw_limit_s: float = 15.0
    """A VM with a network of its own may be silent for so long after it was woken: a Fly machine takes a second or two."""
    clean_lost_s: float = 120.0
    """A VM that is being emptied and that nobody reports on for so long is destroyed."""
    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    """Local provider: isolation by bubblewrap where it works, demanded, or off."""
    node_dir: str = ""
    """Folder of the Node installation that VMs see (holding bin/node); empty: the one on PATH."""
    cache: bool = True
    """Local provider: whether installed dependencies are kept for the owner's next VMs."""
    cache_mb_max: int = 8192
    """All that is kept; what was used longest ago goes first."""
    cache_entry_mb_max: int = 1024
    """One install; a larger one is not kept."""
    cache_entries_max: int = 200
    """Installs that are kept."""
    cache_age_max_s: float = 14 * 86400.0
    """An install older than this is made anew."""
    cache_verified_share: float = 0.1
    """So much of an install's contents is compared at each restore, another part each time; 1.0: all of it."""
    cache_spares_max: int = 3
    """Installs that are written once more ahead of their next use, beside what is kept: a restore then only moves them."""
    cache_prepare_after_s: float = 3.0
    """That is done so long after a preview has got its dependencies: its dev server starts first."""
    simulated_boot_s: float = 0.05
    """Simulated provider: how long a boot takes."""
