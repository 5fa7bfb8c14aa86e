"""Released VMs that wait for their owner's next preview: who gets them, who never does, and when they go."""

import msgspec
import pytest

from services.pool import views
from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.react import CleanVm, DestroyVm, react
from services.pool.state import State
from shared.commands import (
    AcquireVm,
    CheckVm,
    Command,
    MaintainPool,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmLost,
    ReleaseVm,
)
from shared.events import Event, VmBooted, VmCreationStarted, VmDestroyed, VmHealthCheckFailed, VmRetired
from tests.builders import (
    KEY,
    OWNER,
    PREVIEW,
    VM,
    claim_queued,
    kept_vms,
    pool_resized,
    vm,
    vm_acquired,
    vm_boot_failed,
    vm_cleaned,
    vm_creation_started,
    vm_lost,
    vm_released,
    warm_vms,
)
from tests.spec import AT, Given, Past, given

CONFIG = PoolConfig()
POOL = definition(CONFIG)
ACQUIRE = AcquireVm(preview_id=PREVIEW, owner=OWNER, key=KEY)
RELEASE = ReleaseVm(preview_id=PREVIEW, keep=KEY, keep_job="install-1")
HELD = [*warm_vms(1), vm_acquired(1)]
LEASE = 3
"""The sequence at which `HELD` and `kept_vms(1)` have their first VM acquired."""
CLEANING = [*HELD, vm_released(1, keep=KEY, keep_job="install-1")]
CLEANED = RecordVmCleaned(vm_id=VM, lease=LEASE)
CLEAN_FAILED = RecordVmCleanFailed(vm_id=VM, lease=LEASE, code="too_large")


def pool(*past: Past, config: PoolConfig = CONFIG) -> Given[State]:
    return given(definition(config), *past)


def retired(reason: str, *numbers: int, detail: str = "") -> list[VmRetired]:
    return [VmRetired(vm_id=vm(number), reason=reason, detail=detail) for number in numbers]  # type: ignore[arg-type]


def quiet_pool(*numbers: int, maximum: int = 9) -> list[Event]:
    """Kept VMs in a pool that keeps nothing warm."""
    return [pool_resized(0, 0, maximum), *kept_vms(*numbers)]


# --- a release ----------------------------------------------------------------------------------------------------


def test_a_vm_that_holds_dependencies_is_emptied_for_its_owner() -> None:
    spec = pool(*HELD).when(RELEASE).then(vm_released(1, keep=KEY, keep_job="install-1"))
    assert react(spec.state, spec.log[-1]) == [
        CleanVm(vm_id=VM, host="127.0.0.1", port=9001, lease=LEASE, keep_job="install-1")
    ]


def test_it_is_not_where_somebody_waits_for_its_place() -> None:
    spec = pool(pool_resized(0, 0, 1), *HELD, claim_queued("other")).when(RELEASE).then(vm_released(1))
    assert react(spec.state, spec.log[-1]) == [DestroyVm(VM)]


def test_it_is_not_where_none_are_to_be_kept() -> None:
    pool(*HELD, config=PoolConfig(kept_max=0)).when(RELEASE).then(vm_released(1))


def test_a_release_that_is_heard_again_does_not_touch_what_came_after_it() -> None:
    """Once the VM is kept, or another preview's, the event has no effect any more."""
    spec = pool(*CLEANING, vm_cleaned(1))
    assert react(spec.state, spec.log[3]) == []
    spec = pool(*CLEANING, vm_cleaned(1), vm_acquired(1, "next", key=KEY))
    assert react(spec.state, spec.log[3]) == []
    spec = pool(*CLEANING, vm_cleaned(1), vm_acquired(1, "next", key=KEY), vm_released(1, "next", keep=KEY))
    assert react(spec.state, spec.log[3]) == react(spec.state, spec.log[-1])


# --- what comes of it ---------------------------------------------------------------------------------------------


def test_what_is_clean_waits_for_its_owner() -> None:
    spec = pool(*CLEANING).when(CLEANED).then(vm_cleaned(1))
    assert (list(spec.state.kept), list(spec.state.ready), list(spec.state.cleaning)) == ([VM], [], [])
    assert react(spec.state, spec.log[-1]) == []


def test_what_could_not_be_emptied_is_destroyed() -> None:
    spec = pool(*CLEANING).when(CLEAN_FAILED).then(*retired("unclean", 1, detail="too_large"))
    assert react(spec.state, spec.log[-1]) == [DestroyVm(VM)]


@pytest.mark.parametrize("report", [CLEANED, CLEAN_FAILED])
@pytest.mark.parametrize(
    "past",
    [
        *([], HELD, [*HELD, vm_released(1)], [*CLEANING, vm_lost(1, None)], [*CLEANING, vm_cleaned(1)]),
        [*CLEANING, vm_cleaned(1), vm_acquired(1, "next", key=KEY)],
        [*CLEANING, vm_cleaned(1), vm_acquired(1, "next", key=KEY), vm_released(1, "next", keep=KEY)],
    ],
)
def test_a_report_counts_once_and_in_its_time(report: Command, past: list[Event]) -> None:
    """The last case: the VM is being emptied again, after another preview, and the report is of the first time."""
    pool(*past).when(report).stays_quiet()


def test_an_emptying_that_nobody_reports_on_is_given_up() -> None:
    spec = pool(pool_resized(0, 0, 5), *CLEANING).when(MaintainPool(at=AT + CONFIG.clean_lost_s)).stays_quiet()
    late = MaintainPool(id="late", at=AT + CONFIG.clean_lost_s + 1)
    spec.when(late).then(*retired("unclean", 1, detail="clean_lost"))


# --- a claim ------------------------------------------------------------------------------------------------------


def test_the_owner_s_next_preview_gets_it_before_a_new_one() -> None:
    """And the event says that the dependencies are there."""
    spec = pool(*kept_vms(1), *warm_vms(2)).when(ACQUIRE).then(vm_acquired(1, key=KEY))
    assert (list(spec.state.kept), list(spec.state.ready), spec.state.holders) == ([], [vm(2)], {PREVIEW: VM})
    assert (spec.state.vms[VM].key, spec.state.vms[VM].lease) == ("", len(spec.log))


def test_it_is_taken_also_while_others_wait() -> None:
    """It could not serve them."""
    pool(claim_queued("other"), *kept_vms(1)).when(ACQUIRE).then(vm_acquired(1, key=KEY))


@pytest.mark.parametrize(
    "stranger",
    [
        msgspec.structs.replace(ACQUIRE, owner="mallory"),
        msgspec.structs.replace(ACQUIRE, key="other"),
        msgspec.structs.replace(ACQUIRE, key=""),
        msgspec.structs.replace(ACQUIRE, key=KEY[:-1]),
    ],
)
def test_nobody_else_ever_gets_it(stranger: AcquireVm) -> None:
    """No other owner, no other dependencies: they wait though nothing else is there, or get a new one."""
    pool(*kept_vms(1)).when(stranger).then(claim_queued(owner=stranger.owner))
    pool(*kept_vms(1), *warm_vms(2)).when(stranger).then(vm_acquired(2, owner=stranger.owner))
    pool(claim_queued("waits", "mallory"), *quiet_pool(1)).when(MaintainPool()).then(vm_creation_started(2))


def test_the_one_used_last_is_taken_first() -> None:
    pool(*kept_vms(1, 2), *kept_vms(3, key="other")).when(ACQUIRE).then(vm_acquired(2, key=KEY))


def test_one_that_another_claim_is_taking_is_passed_over() -> None:
    """For the next one that fits, else for a new one: it will be gone."""
    busy = msgspec.structs.replace(ACQUIRE, busy=frozenset({f"pool.vm.{vm(2)}"}))
    pool(*kept_vms(1, 2), *warm_vms(3)).when(busy).then(vm_acquired(1, key=KEY))
    pool(*kept_vms(2), *warm_vms(3)).when(busy).then(vm_acquired(3))


def test_one_that_is_still_being_emptied_is_not_taken() -> None:
    pool(*warm_vms(1), vm_acquired(1, "before"), vm_released(1, "before", keep=KEY)).when(ACQUIRE).then(claim_queued())


def test_whoever_holds_a_vm_gets_no_kept_one_beside_it() -> None:
    pool(*kept_vms(1), *warm_vms(2), vm_acquired(2)).when(ACQUIRE).stays_quiet()
    pool(claim_queued(), *kept_vms(1)).when(ACQUIRE).stays_quiet()


# --- they stand in nobody's way -----------------------------------------------------------------------------------


def test_a_claim_that_waits_takes_the_place_of_the_coldest() -> None:
    """One for one, and none where there is room, or something goes already."""
    full = [pool_resized(0, 0, 3), *kept_vms(1, 2), *warm_vms(3), vm_acquired(3, "holder")]
    pool(*full, claim_queued()).when(MaintainPool()).then(*retired("needed", 1))
    pool(*full, claim_queued(), vm_released(3, "holder")).when(MaintainPool()).stays_quiet()
    pool(*quiet_pool(1, 2, maximum=3), claim_queued()).when(MaintainPool()).then(vm_creation_started(3))


def test_a_warm_vm_that_is_wanted_does_too() -> None:
    pool(pool_resized(2, 1, 2), *kept_vms(1, 2)).when(MaintainPool()).then(*retired("needed", 1, 2))


def test_those_that_are_being_emptied_make_room_last() -> None:
    past = [*warm_vms(1), vm_acquired(1, "a"), vm_released(1, "a", keep=KEY), *kept_vms(2), pool_resized(1, 1, 2)]
    pool(*past).when(MaintainPool()).then(*retired("needed", 2))
    pool(*past, claim_queued()).when(MaintainPool()).then(*retired("needed", 2, 1))


def test_a_pool_that_is_made_smaller_lets_kept_ones_go() -> None:
    pool(*quiet_pool(1, 2), pool_resized(0, 0, 1)).when(MaintainPool()).then(*retired("needed", 1))


def test_while_boots_fail_no_more_go_than_the_next_try_needs() -> None:
    """And none during the pause."""
    past = [pool_resized(2, 1, 3), *kept_vms(1, 2), vm_creation_started(3), vm_boot_failed(3)]
    gone: list[Event] = [*past, VmDestroyed(vm_id=vm(3)), vm_creation_started(4), vm_boot_failed(4)]
    pool(*gone).when(MaintainPool()).stays_quiet()
    after = [*gone, VmDestroyed(vm_id=vm(4)), pool_resized(2, 1, 2)]
    pool(*after).when(MaintainPool(at=AT + 60)).then(*retired("needed", 1))


def test_no_more_are_kept_than_may_be_and_none_for_too_long() -> None:
    pool(*quiet_pool(1, 2, 3)).when(MaintainPool()).then(*retired("surplus", 1))
    late = MaintainPool(at=AT + CONFIG.kept_age_max_s + 1)
    pool(*quiet_pool(1, 2)).when(late).then(*retired("aged", 1, 2))
    pool(*quiet_pool(1, 2)).when(MaintainPool(at=AT + CONFIG.kept_age_max_s)).stays_quiet()
    pool(*quiet_pool(1, 2, 3)).when(late).then(*retired("surplus", 1), *retired("aged", 2, 3))


# --- they are looked after ----------------------------------------------------------------------------------------


def test_one_that_does_not_answer_is_retired() -> None:
    failed = [VmHealthCheckFailed(vm_id=VM, failures=n + 1, detail="no answer") for n in range(2)]
    checks = [CheckVm(vm_id=VM, healthy=False, detail="no answer", id=f"check-{n}") for n in range(2)]
    pool(*kept_vms(1)).when(*checks).then(failed[1], *retired("unhealthy", 1))


@pytest.mark.parametrize("past", [kept_vms(1), CLEANING])
def test_one_that_is_gone_is_lost_to_nobody(past: list[Event]) -> None:
    lost = RecordVmLost(vm_id=VM, detail="silent")
    spec = pool(*past).when(lost).then(vm_lost(1, None))
    assert (spec.state.kept, spec.state.cleaning, spec.state.holders) == ({}, {}, {})


def test_they_are_counted() -> None:
    past = [*kept_vms(1), *warm_vms(2, 3), vm_acquired(2, "a"), vm_released(2, "a", keep=KEY)]
    summary = views.summary(pool(*past).state)
    assert (summary.kept, summary.available, summary.in_use, summary.going, summary.total) == (2, 1, 0, 0, 3)


def test_a_boot_is_not_mistaken_for_one() -> None:
    """Events of an earlier version, without the fields that tell of keeping, fold as before."""
    past: list[Event] = [VmCreationStarted(vm_id=VM, provider="local", number=1), vm_acquired(1), vm_released(1)]
    assert pool(*past, VmBooted(vm_id=VM, host="h", port=1, boot_s=0.1)).state.kept == {}
