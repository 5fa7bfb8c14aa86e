"""What others may read of the pool. Pure."""

from collections import Counter

import msgspec

from services.pool.state import State
from shared.commands import AcquireVm, ClaimReply, Command, Reply
from shared.gauges import Gauge

POOL = "default"
VM_STATES = ("booting", "ready", "in_use", "cleaning", "kept", "going")


class PoolSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`GET /health/pool`. Counts of VMs; `suspended`: of those in use; `kept`: emptied, or being emptied, for their owner's
    next preview; `waiting`: claims in the queue."""

    available: int
    in_use: int
    suspended: int
    booting: int
    kept: int
    going: int
    waiting: int
    total: int
    target: int
    min: int
    max: int
    boot_failures: int


def summary(state: State) -> PoolSummary:
    """The pool in numbers."""
    count = Counter(vm.status for vm in state.vms.values())
    return PoolSummary(
        available=count["ready"],
        in_use=count["acquired"],
        suspended=sum(vm.suspended for vm in state.vms.values() if vm.status == "acquired"),
        booting=count["booting"],
        kept=count["cleaning"] + count["kept"],
        going=count["going"],
        waiting=len(state.claims),
        total=len(state.vms),
        target=state.target,
        min=state.minimum,
        max=state.maximum,
        boot_failures=state.boot_failures,
    )


def gauges(state: State) -> list[Gauge]:
    """What whoever scales machines for VMs looks at. A state without VMs is 0, so that no series comes and goes."""
    count = Counter("in_use" if vm.status == "acquired" else vm.status for vm in state.vms.values())
    waiting = Gauge(
        name="drape_pool_claims_waiting",
        help="Claims that wait for a VM.",
        value=len(state.claims),
        labels={"pool": POOL},
    )
    states = sorted({*VM_STATES, *count})
    help_text = "VMs by state; ready ones are warm."
    return [
        waiting,
        *(
            Gauge(name="drape_pool_vms", help=help_text, value=count[each], labels={"pool": POOL, "state": each})
            for each in states
        ),
    ]


def answer(state: State, command: Command) -> Reply:
    """What a granted command answers."""
    if isinstance(command, AcquireVm):
        vm_id = state.holders.get(command.preview_id)
        waiting = list(state.claims)
        position = waiting.index(command.preview_id) + 1 if command.preview_id in state.claims else 0
        return ClaimReply(vm_id=vm_id, position=position)
    return Reply()
