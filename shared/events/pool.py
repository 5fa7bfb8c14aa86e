"""The events that the pool service writes."""

from typing import ClassVar, Literal

from shared.events.base import Event
from shared.ids import OwnerId, PreviewId, VmId
from shared.reach import Reach


class VmEvent(Event, frozen=True, kw_only=True):
    """Of one VM, from the wish to create it to its end."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "vm"
    vm_id: VmId

    @property
    def aggregate_id(self) -> str:
        return self.vm_id


class VmCreationStarted(VmEvent, frozen=True, kw_only=True):
    """The provider will be asked for a VM. It counts against the pool's maximum from here on. `memory_mb`, `region`,
    `image`: what it is to be; 0 and empty: what the provider is configured with."""

    provider: str
    number: int
    pool: str = "default"
    memory_mb: int = 0
    region: str = ""
    image: str = ""


class VmBooted(VmEvent, frozen=True, kw_only=True):
    """The VM's agent answered; the VM is warm. `host` and `port` are the agent's address, `reach` how it is dialled."""

    host: str
    port: int
    boot_s: float
    reach: Reach = Reach()


class VmBootFailed(VmEvent, frozen=True, kw_only=True):
    """The provider could not create the VM, or its agent never answered."""

    code: str
    message: str


class VmAcquired(VmEvent, frozen=True, kw_only=True):
    """The VM belongs to one preview now. `from_pool`: it was warm when the claim came; `waited_s`: since the claim;
    `key`: the fingerprint of the dependencies that an earlier preview of this owner has left in it; empty: it is new.

    `resident`: the preview of the same owner's template that gave it up, with its dev server running. `memory_mb`: what
    the VM has, which is less than was asked for where no pool has as much; 0: unknown.
    """

    preview_id: PreviewId
    owner: OwnerId
    from_pool: bool
    waited_s: float
    host: str
    port: int
    resident: PreviewId = ""
    key: str = ""
    reach: Reach = Reach()
    memory_mb: int = 0


class VmReleased(VmEvent, frozen=True, kw_only=True):
    """The preview no longer needs the VM. What has run for an owner is never given to another: it will be destroyed, or
    (`keep`, the fingerprint of its dependencies) emptied for the same owner. `keep_job`: the install that gave them."""

    preview_id: PreviewId
    reason: str
    keep: str = ""
    keep_job: str = ""


class VmRetired(VmEvent, frozen=True, kw_only=True):
    """A VM that nobody holds is taken out of the pool, to be destroyed. `unclean`: it could not be emptied, `detail` says
    why; `needed`: it was kept for its owner, and its place is wanted."""

    reason: Literal["surplus", "aged", "unhealthy", "lost", "drained", "unclean", "needed"]
    detail: str = ""


class VmCleaned(VmEvent, frozen=True, kw_only=True):
    """A released VM was emptied for the same owner: of what ran there, only the dependencies of `key` are left."""

    owner: OwnerId
    key: str = ""


class VmSuspended(VmEvent, frozen=True, kw_only=True):
    """The VM is to stand still from here on: it uses memory but no processor."""

    preview_id: PreviewId = ""


class VmFrozen(VmEvent, frozen=True, kw_only=True):
    """The provider has frozen the VM. `memory_mb`: what it holds meanwhile."""

    preview_id: PreviewId
    memory_mb: int


class VmResumed(VmEvent, frozen=True, kw_only=True):
    """The VM is to run again, from here on."""

    preview_id: PreviewId = ""


class VmHealthCheckFailed(VmEvent, frozen=True, kw_only=True):
    """The agent did not answer its health check; `failures` in a row, this one included."""

    failures: int
    detail: str


class VmHealthCheckRecovered(VmEvent, frozen=True, kw_only=True):
    """The agent answers again after one or more failed checks."""


class VmLost(VmEvent, frozen=True, kw_only=True):
    """The VM is gone without our doing: its agent is silent, or the provider no longer has it."""

    preview_id: PreviewId | None
    detail: str


class VmDestroyed(VmEvent, frozen=True, kw_only=True):
    """The provider agrees that the VM is gone."""


class ClaimEvent(Event, frozen=True, kw_only=True):
    """Of one preview's claim on a VM while the pool is empty."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "claim"
    preview_id: PreviewId

    @property
    def aggregate_id(self) -> str:
        return self.preview_id


class ClaimQueued(ClaimEvent, frozen=True, kw_only=True):
    """No VM was free: the claim waits in order until `deadline`. It needs at least `memory_mb`, in this region and of this
    image (0 and empty: any). `pool`: where it waited at first; it may be served by any that fits."""

    owner: OwnerId
    deadline: float
    memory_mb: int = 0
    region: str = ""
    image: str = ""
    pool: str = "default"


class ClaimExpired(ClaimEvent, frozen=True, kw_only=True):
    """No VM came free before the deadline."""

    waited_s: float


class ClaimWithdrawn(ClaimEvent, frozen=True, kw_only=True):
    """The preview ended before it got a VM."""

    reason: str


class PoolEvent(Event, frozen=True, kw_only=True):
    """Of the pool's own settings."""

    service: ClassVar[str] = "pool"
    aggregate: ClassVar[str] = "pool"
    pool: str = "default"

    @property
    def aggregate_id(self) -> str:
        return self.pool


class PoolResized(PoolEvent, frozen=True, kw_only=True):
    """The pool keeps `target` VMs warm; never fewer than `minimum` in all, never more than `maximum`. A `maximum` of 0: the
    pool is no more, and what it has goes as soon as nobody holds it. `memory_mb`, `region`, `image`: of its VMs; 0 and
    empty: what the provider is configured with."""

    target: int
    minimum: int
    maximum: int
    memory_mb: int = 0
    region: str = ""
    image: str = ""


class PoolReconciled(PoolEvent, frozen=True, kw_only=True):
    """Something leaks: the comparison of the provider's list with the log found `orphans` VMs that the log does not know, or
    has as destroyed, and had them destroyed; `stuck` VMs should be gone by an earlier try and are still there. `vms` names
    some of both. Of all pools, for nobody knows whose an orphan was; written when there are orphans or `stuck` changes."""

    orphans: int
    stuck: int
    vms: tuple[VmId, ...] = ()
