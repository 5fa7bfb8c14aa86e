"""Warm VMs that stand still until they are claimed: decisions and reactions."""

import pytest

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.react import SettleVm, react
from shared.commands import MaintainPool, SuspendVm
from shared.effects import Send
from shared.events import Event, VmSuspended
from tests.builders import PREVIEW, VM, vm_acquired, vm_released, vm_resumed, warm_vms
from tests.spec import given

FULL = warm_vms(1, 2, 3)
STILL = [VmSuspended(vm_id=f"vm-00000{number}") for number in (1, 2, 3)]
COLD = definition(PoolConfig(warm_suspended=True))


def maintained(*past: Event, suspended: bool = True) -> list[Event]:
    pool = COLD if suspended else definition(PoolConfig())
    found = given(pool, *past).when(MaintainPool()).outcome
    assert isinstance(found, list)
    return found


def test_warm_vms_are_suspended_once_each() -> None:
    assert maintained(*FULL) == STILL
    assert maintained(*FULL, STILL[1]) == [STILL[0], STILL[2]]
    assert maintained(*FULL, *STILL) == []


def test_without_the_setting_warm_vms_run() -> None:
    assert maintained(*FULL, suspended=False) == []


def test_what_is_held_is_not_suspended() -> None:
    events = maintained(*FULL, *STILL, vm_acquired(1))
    assert not [event for event in events if isinstance(event, VmSuspended)]


@pytest.mark.parametrize(
    ("past", "woken"),
    [
        ([STILL[0]], True),
        ([], False),
        ([STILL[0], vm_resumed(1)], False),
        ([STILL[0], vm_acquired(1), vm_released()], None),
    ],
)
def test_a_claim_wakes_the_vm_that_it_gets_where_that_stands_still(past: list[Event], woken: bool | None) -> None:
    """A VM that has been given back is destroyed as it is."""
    spec = given(COLD, *FULL, *past, *([] if woken is None else [vm_acquired(1)]))
    effects = list(react(spec.state, spec.log[-1]))
    assert (SettleVm(VM) in effects) == bool(woken)
    if woken is not None:
        assert Send(MaintainPool()) in effects


def test_a_held_vm_may_be_suspended_anew_after_it_was_woken() -> None:
    given(COLD, *FULL, *STILL, vm_acquired(1)).when(SuspendVm(preview_id=PREVIEW)).then(
        VmSuspended(vm_id=VM, preview_id=PREVIEW)
    )
