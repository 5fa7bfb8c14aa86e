"""What the pool needs from whatever starts its VMs: one Protocol of six verbs, and the records that cross it.

A provider (`local`, `docker`, `fly`, the fake) implements `Provider`; `tests/pool/provider_contract.py` holds what each
of them must do. This room names shapes only: no I/O, no technology, no policy. When a VM is wanted, and how many, is
decided by the pool; a provider only says yes, or why not.
"""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from shared.reach import Reach

VmState: TypeAlias = Literal["running", "suspended", "stopped"]


class VmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a VM is to be.

    `token` is the bearer token of the VM's agent. It reaches the agent through its standard input (or the provider's
    secret store), never through argv or the environment, and `repr` leaves it out. `disk_mb` 0, `image` and `region`
    empty: what the provider is configured with; a provider without such a thing ignores it.
    """

    vm_id: str
    token: str
    cpu_cores: float = 2
    memory_mb: int = 2048
    pids_max: int = 512
    orphan_timeout_s: float = 180
    disk_mb: int = 0
    image: str = ""
    region: str = ""
    labels: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"VmSpec(vm_id={self.vm_id!r}, labels={self.labels!r})"


class VmAddress(msgspec.Struct, frozen=True):
    """Where the VM's agent listens, as seen from this process and its peers."""

    host: str
    port: int
    reach: Reach = Reach()


class VmListing(msgspec.Struct, frozen=True, kw_only=True):
    """One VM as the provider sees it. `created_at` is in seconds since the epoch.

    `stopped` is a VM that has ended (or never began) but still holds something: the pool should destroy it.
    `address` is None while the agent does not listen.
    """

    vm_id: str
    state: VmState
    created_at: float
    address: VmAddress | None
    labels: dict[str, str] = {}


class ProviderError(Exception):
    """A provider refused or failed. `code` is stable; `message` says what happened, why, and what to do.

    `retryable`: the same call may work later. Codes that every provider uses: `invalid_vm_id`, `invalid_spec`,
    `vm_not_found`, `vm_stopped`, `boot_timeout`, `boot_failed`, `suspend_failed`, `resume_failed`, `destroy_failed`,
    `provider_unavailable` (nobody answers, or with rubbish), `provider_closed`; and the pool's own of a VM
    whose agent speaks no version of the wire that it does: `agent_version_unsupported`. Those of a provider behind an API too:
    `provider_unauthorized`, `provider_rate_limited`, `provider_too_old`, `image_missing`, `image_unusable` (another
    architecture, no agent in it), `region_full`, `vm_stuck` (in a state that it does not leave).
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable


class Provider(Protocol):
    """Six verbs. Each raises `ProviderError`, and nothing else that is expected."""

    name: str

    async def create(self, spec: VmSpec) -> VmAddress:
        """Boot a VM; returns when its agent listens. On any failure, or when cancelled, nothing is left behind."""

    async def suspend(self, vm_id: str) -> int:
        """Stop every process of the VM where it stands. Idempotent. Gives the bytes of memory that it holds; 0: unknown."""

    async def resume(self, vm_id: str) -> None:
        """Let a suspended VM go on. Idempotent; the address stays the same."""

    async def destroy(self, vm_id: str) -> None:
        """End the VM and remove all that it held; returns when it is gone. Idempotent: an unknown id is no error."""

    async def list(self) -> Sequence[VmListing]:
        """Every VM of this home, also those that an earlier process made, and what is left of broken ones."""

    async def close(self) -> None:
        """Release what the provider itself holds (threads, sessions). The VMs live on."""
