"""What others read of the pool."""

import msgspec

from services.pool import views
from services.pool.app import definition
from services.pool.config import PoolConfig
from shared.commands import AcquireVm, ClaimReply, MaintainPool, Reply
from tests.builders import (
    VM,
    claim_queued,
    pool_resized,
    vm_acquired,
    vm_boot_failed,
    vm_creation_started,
    vm_released,
    warm_vms,
)
from tests.spec import given

POOL = definition(PoolConfig())


def test_the_summary_counts_every_vm_once() -> None:
    """And its names on the wire are those that `/health/pool` promises."""
    past = [
        pool_resized(2, 1, 9),
        *warm_vms(1, 2, 3, 4),
        vm_acquired(1, "first"),
        vm_acquired(2, "second"),
        vm_released(2, "second"),
        vm_creation_started(5),
        vm_creation_started(6),
        vm_boot_failed(6),
        claim_queued("third"),
    ]
    told = msgspec.to_builtins(views.summary(given(POOL, *past).state))
    (only,) = told.pop("pools")
    shared = [name for name in told if name != "suspended"]
    assert [only[name] for name in shared] == [told[name] for name in shared]
    assert (only["name"], only["memoryMb"], only["region"], only["image"]) == ("default", 0, "", "")
    assert told == {
        "available": 2,
        "inUse": 1,
        "suspended": 0,
        "booting": 1,
        "kept": 0,
        "going": 2,
        "waiting": 1,
        "total": 6,
        "target": 2,
        "min": 1,
        "max": 9,
        "bootFailures": 1,
    }


def test_a_fresh_pool_has_its_default_size() -> None:
    summary = views.summary(given(POOL).state)
    assert (summary.target, summary.min, summary.max, summary.total) == (3, 1, 5, 0)


def test_acquire_is_answered_with_the_vm_or_the_place() -> None:
    state = given(POOL, *warm_vms(1), vm_acquired(1, "a"), claim_queued("b"), claim_queued("c")).state
    places = [views.answer(state, AcquireVm(preview_id=name, owner="o")) for name in "abcd"]
    assert places == [
        ClaimReply(vm_id=VM),
        ClaimReply(vm_id=None, position=1),
        ClaimReply(vm_id=None, position=2),
        ClaimReply(vm_id=None, position=0),
    ]


def test_other_commands_are_answered_plainly() -> None:
    assert views.answer(given(POOL).state, MaintainPool()) == Reply()
