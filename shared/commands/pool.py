"""The commands to the pool."""

from typing import ClassVar

from shared.commands.base import Command
from shared.ids import OwnerId, PreviewId, VmId
from shared.reach import Reach


class PoolCommand(Command, frozen=True, kw_only=True):
    service: ClassVar[str] = "pool"


class AcquireVm(PoolCommand, frozen=True, kw_only=True):
    """Give this preview a warm VM, or queue its claim for `timeout_s`.

    `key`: the fingerprint of the dependencies that it needs; a VM that holds them for this owner is better than a new one.
    `resident`: a preview of the same owner's that gives up its VM for this one, if it still holds it. `memory_mb`, `region`,
    `image`: what the VM has to be; 0 and empty: any. The smallest that fits is given, or the largest where none does.

    `busy` is stamped by the runtime: aggregates that it is writing to at this moment. Another VM is better then, or
    claims that come at once would all wait for the same one.
    """

    verb: ClassVar[str] = "acquire"
    preview_id: PreviewId
    owner: OwnerId
    timeout_s: float = 60.0
    resident: PreviewId = ""
    busy: frozenset[str] = frozenset()
    key: str = ""
    memory_mb: int = 0
    region: str = ""
    image: str = ""


class ReleaseVm(PoolCommand, frozen=True, kw_only=True):
    """The preview has ended: release its VM, or withdraw its claim.

    `keep`: the fingerprint of the dependencies that the VM holds whole, so that the owner's next preview may have it;
    `keep_job`: the install job that gave them; empty: they were there before any job ran.
    """

    verb: ClassVar[str] = "release"
    preview_id: PreviewId
    reason: str = "ended"
    keep: str = ""
    keep_job: str = ""


class CheckVm(PoolCommand, frozen=True, kw_only=True):
    """Somebody could not reach this VM: look after it now instead of at the next health check. `anew`: it answers, and has
    booted anew since it was acquired, so that what was in it is gone."""

    verb: ClassVar[str] = "check"
    vm_id: VmId
    healthy: bool
    detail: str = ""
    anew: bool = False


class SuspendVm(PoolCommand, frozen=True, kw_only=True):
    """The preview is idle: freeze its VM, until `ResumeVm`."""

    verb: ClassVar[str] = "suspend"
    preview_id: PreviewId


class ResumeVm(PoolCommand, frozen=True, kw_only=True):
    """The preview is wanted again, or its VM can't be frozen: let it run."""

    verb: ClassVar[str] = "resume"
    preview_id: PreviewId


class RecordVmFrozen(PoolCommand, frozen=True, kw_only=True):
    """The provider has frozen the VM, which holds so much memory."""

    verb: ClassVar[str] = "record-frozen"
    vm_id: VmId
    memory_mb: int


class MaintainPool(PoolCommand, frozen=True, kw_only=True):
    """Expire claims, hand out what is warm, create what is missing, retire what is too much or too old."""

    verb: ClassVar[str] = "maintain"
    coalesced: ClassVar[bool] = True


class ResizePool(PoolCommand, frozen=True, kw_only=True):
    """Set a pool's size; and (`memory_mb` above 0) what its VMs are, by which a new pool begins. `drain`: the pool is to be
    no more."""

    verb: ClassVar[str] = "resize"
    target: int
    minimum: int
    maximum: int
    pool: str = "default"
    memory_mb: int = 0
    region: str = ""
    image: str = ""
    drain: bool = False


class RecordVmBooted(PoolCommand, frozen=True, kw_only=True):
    """The VM's agent answers at this address."""

    verb: ClassVar[str] = "record-booted"
    vm_id: VmId
    host: str
    port: int
    boot_s: float
    reach: Reach = Reach()


class RecordVmBootFailed(PoolCommand, frozen=True, kw_only=True):
    """The VM did not come up."""

    verb: ClassVar[str] = "record-boot-failed"
    vm_id: VmId
    code: str
    message: str


class RecordVmLost(PoolCommand, frozen=True, kw_only=True):
    """The VM is gone, or nobody can reach it."""

    verb: ClassVar[str] = "record-lost"
    vm_id: VmId
    detail: str


class RecordVmDestroyed(PoolCommand, frozen=True, kw_only=True):
    """The provider has the VM no more."""

    verb: ClassVar[str] = "record-destroyed"
    vm_id: VmId


class RecordVmCleaned(PoolCommand, frozen=True, kw_only=True):
    """The VM holds nothing of its last preview but dependencies. `lease`: of the hold that it was emptied after."""

    verb: ClassVar[str] = "record-cleaned"
    vm_id: VmId
    lease: int


class RecordVmCleanFailed(PoolCommand, frozen=True, kw_only=True):
    """The VM could not be emptied, or may not be used again; `code` says why."""

    verb: ClassVar[str] = "record-clean-failed"
    vm_id: VmId
    lease: int
    code: str


class RecordReconciliation(PoolCommand, frozen=True, kw_only=True):
    """What a comparison of the provider's list with the log had to destroy; the fields are `PoolReconciled`'s."""

    verb: ClassVar[str] = "record-reconciliation"
    orphans: int
    stuck: int
    vms: tuple[VmId, ...] = ()
