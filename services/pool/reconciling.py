"""What the provider lists against what the log says. Pure: `reaping` reads both, and does what is found here."""

from collections.abc import Iterable, Sequence

import msgspec

from services.pool.decide import vm_name
from services.pool.ports import VmListing
from services.pool.state import ANSWERING, State
from shared.ids import VmId


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """What does not agree, each VM under one of these.

    `orphans`: the provider has them, the log has never heard of them or has them as destroyed. `young`: the same, but too
    young to be reaped. `lost`: they should answer, and the provider has none of them, or only what is left of them.
    `undestroyed`: the log has decided on their end. `unsettled`: suspended in one, running in the other.
    """

    orphans: tuple[VmId, ...] = ()
    young: tuple[VmId, ...] = ()
    lost: tuple[VmId, ...] = ()
    undestroyed: tuple[VmId, ...] = ()
    unsettled: tuple[VmId, ...] = ()

    @property
    def total(self) -> int:
        return len((*self.orphans, *self.young, *self.lost, *self.undestroyed, *self.unsettled))


def answering(state: State) -> frozenset[VmId]:
    """The VMs that a list which is asked for now has to have."""
    return frozenset(vm.vm_id for vm in state.vms.values() if vm.status in ANSWERING)


def compare(
    listing: Sequence[VmListing], state: State, *, expected: Iterable[VmId], at: float, grace_s: float
) -> Differences:
    """`state` has to hold what was in the log when the list came, so that a VM which it does not know can't be one whose
    creation it has not heard of yet; `expected` is `answering` from before the list was asked for, so that a VM which
    booted meanwhile is not missed in it. `grace_s`: orphans younger than that are left."""
    listed = {vm.vm_id: vm for vm in listing}
    unknown = [vm for vm in listing if vm.vm_id not in state.vms]
    had = frozenset(expected)
    return Differences(
        orphans=tuple(vm.vm_id for vm in unknown if at - vm.created_at > grace_s),
        young=tuple(vm.vm_id for vm in unknown if at - vm.created_at <= grace_s),
        lost=tuple(
            vm.vm_id
            for vm in state.vms.values()
            if vm.status in ANSWERING and vm.vm_id in had and _is_gone(listed.get(vm.vm_id))
        ),
        undestroyed=tuple(vm.vm_id for vm in state.vms.values() if vm.status == "going"),
        unsettled=tuple(
            vm.vm_id
            for vm in state.vms.values()
            if vm.status in ANSWERING
            and not _is_gone(seen := listed.get(vm.vm_id))
            and seen is not None
            and vm.suspended != (seen.state == "suspended")
        ),
    )


def was_destroyed(state: State, vm_id: VmId) -> bool:
    """Of a VM that the state does not have: the log once had it (VMs are numbered), so that its end was an answer only."""
    number = vm_id.rpartition("-")[2]
    return number.isdecimal() and vm_id == vm_name(int(number)) and int(number) <= state.created


def _is_gone(listing: VmListing | None) -> bool:
    return listing is None or listing.state == "stopped"
