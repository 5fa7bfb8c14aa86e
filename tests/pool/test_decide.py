"""Every command of the pool: the right events, a no where it belongs, silence when it is repeated."""

import msgspec
import pytest

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.decide import CLAIM_TIMEOUT_MAX_S
from services.pool.sizing import POOL_SIZE_MAX
from services.pool.state import State
from shared.commands import (
    AcquireVm,
    CheckVm,
    ClaimReply,
    Command,
    MaintainPool,
    RecordReconciliation,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmCleanFailed,
    RecordVmDestroyed,
    RecordVmFrozen,
    RecordVmLost,
    ReleaseVm,
    ResizePool,
    ResumeVm,
    SuspendVm,
    commands_of,
)
from shared.events import (
    ClaimExpired,
    ClaimWithdrawn,
    Event,
    VmDestroyed,
    VmHealthCheckFailed,
    VmHealthCheckRecovered,
    VmRetired,
)
from tests.builders import (
    OWNER,
    PREVIEW,
    VM,
    claim_queued,
    pool_resized,
    vm,
    vm_acquired,
    vm_boot_failed,
    vm_booted,
    vm_creation_started,
    vm_lost,
    vm_released,
    warm_vms,
)
from tests.spec import AT, Given, Past, given

CONFIG = PoolConfig()
HOUR_S = 3600.0


def pool(*past: Past, config: PoolConfig = CONFIG) -> Given[State]:
    return given(definition(config), *past)


def other(command: Command) -> Command:
    """The same wish under another id: somebody else's."""
    return msgspec.structs.replace(command, id="another-command")


# --- AcquireVm ----------------------------------------------------------------------------------------------------

ACQUIRE = AcquireVm(preview_id=PREVIEW, owner=OWNER)


def test_a_warm_vm_is_handed_out_at_once() -> None:
    """The oldest warm VM goes to the claim, with its agent's address, and the answer names it."""
    spec = pool(*warm_vms(1, 2)).when(ACQUIRE).then(vm_acquired(1))
    assert spec.answer() == ClaimReply(vm_id=VM, position=0)


def test_without_a_warm_vm_the_claim_waits() -> None:
    """It queues until its own deadline, and the answer gives its place."""
    spec = pool(vm_creation_started(1)).when(ACQUIRE).then(claim_queued(deadline=AT + 60))
    assert spec.answer() == ClaimReply(vm_id=None, position=1)


def test_nobody_overtakes_a_claim_that_waits() -> None:
    """A warm VM that came while another claim waits is that claim's."""
    spec = pool(claim_queued("earlier"), *warm_vms(1)).when(ACQUIRE).then(claim_queued())
    assert spec.answer() == ClaimReply(vm_id=None, position=2)


@pytest.mark.parametrize("past", [[*warm_vms(1), vm_acquired(1)], [claim_queued()], [*warm_vms(1, 2), vm_acquired(1)]])
def test_a_preview_that_holds_or_waits_claims_nothing_more(past: list[Event]) -> None:
    """Whoever asks again, under the same id or another, the preview has one VM or one place."""
    pool(*past).when(other(ACQUIRE)).stays_quiet()


@pytest.mark.parametrize("past", [warm_vms(1, 2), []])
def test_acquire_twice_does_its_work_once(past: list[Event]) -> None:
    """The same id again: no second VM, no second place."""
    pool(*past).when(ACQUIRE, ACQUIRE).stays_quiet()


def test_a_vm_that_is_being_written_to_is_passed_over() -> None:
    """Concurrent claims take different VMs; where there is only the one, it is tried all the same."""
    busy = msgspec.structs.replace(ACQUIRE, busy=frozenset({f"pool.vm.{VM}"}))
    pool(*warm_vms(1, 2)).when(busy).then(vm_acquired(2))
    pool(*warm_vms(1)).when(busy).then(vm_acquired(1))


def test_a_resident_gives_its_vm_up() -> None:
    """At once, before any warm one, and whoever waits: the VM can serve nobody else. The next claim finds it gone."""
    ask = msgspec.structs.replace(ACQUIRE, resident="resident-1")
    taken = msgspec.structs.replace(vm_acquired(1), resident="resident-1")
    past = [*warm_vms(1, 2), vm_acquired(1, "resident-1"), claim_queued("earlier")]
    spec = pool(*past).when(ask).then(taken)
    assert (spec.state.holders[PREVIEW], "resident-1" in spec.state.holders) == (vm(1), False)
    spec.when(ReleaseVm(preview_id="resident-1", id="late")).stays_quiet()
    past = [*warm_vms(1, 2), vm_acquired(1, "resident-1"), taken]
    again = msgspec.structs.replace(ask, preview_id="preview-2", id="again")
    pool(*past).when(again).then(vm_acquired(2, "preview-2"))


def test_nobody_is_given_another_owners_vm() -> None:
    ask = msgspec.structs.replace(ACQUIRE, resident="resident-1")
    pool(*warm_vms(1, 2), vm_acquired(1, "resident-1", "bob")).when(ask).then(vm_acquired(2))


def test_a_going_vm_is_not_handed_out() -> None:
    """What has run for one preview is destroyed, never given on."""
    pool(*warm_vms(1), vm_acquired(1, "other"), vm_released(1, "other")).when(ACQUIRE).then(claim_queued())


@pytest.mark.parametrize("preview_id", ["", "a.b", "a b", "a>", "*", "A", "x" * 65, "é"])
def test_acquire_refuses_ids_that_are_no_subject_token(preview_id: str) -> None:
    """An id becomes part of a subject: dots, blanks and wildcards never get there."""
    pool(*warm_vms(1)).when(AcquireVm(preview_id=preview_id, owner=OWNER)).refuses("bad_id")


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, CLAIM_TIMEOUT_MAX_S + 1, float("inf"), float("nan")])
def test_acquire_refuses_waits_without_a_sensible_end(timeout_s: float) -> None:
    """Every wait has a limit."""
    pool().when(AcquireVm(preview_id=PREVIEW, owner=OWNER, timeout_s=timeout_s)).refuses("bad_timeout")


# --- ReleaseVm ----------------------------------------------------------------------------------------------------

RELEASE = ReleaseVm(preview_id=PREVIEW)


def test_release_gives_the_vm_back() -> None:
    pool(*warm_vms(1), vm_acquired(1)).when(RELEASE).then(vm_released(1))


def test_release_withdraws_a_claim() -> None:
    pool(claim_queued()).when(RELEASE).then(ClaimWithdrawn(preview_id=PREVIEW, reason="ended"))


@pytest.mark.parametrize("past", [[*warm_vms(1), vm_acquired(1)], [claim_queued()], []])
def test_release_twice_does_its_work_once(past: list[Event]) -> None:
    """The same id, and another one: nothing is left to release."""
    pool(*past).when(RELEASE, RELEASE).stays_quiet().when(other(RELEASE)).stays_quiet()


def test_release_leaves_other_previews_alone() -> None:
    pool(*warm_vms(1), vm_acquired(1, "other"), claim_queued("third")).when(RELEASE).stays_quiet()


def test_a_restart_that_is_redelivered_leaves_its_claim_waiting() -> None:
    """A restart releases, then acquires anew, in one reaction that lasts until there is a VM. Delivered again under the
    same ids (its replica died), the preview must still have its place: it is waiting for it."""
    again = AcquireVm(preview_id=PREVIEW, owner=OWNER, id="restart-acquire")
    spec = pool(*warm_vms(1), vm_acquired(1)).when(RELEASE, again).then(claim_queued())
    spec.when(RELEASE, again)
    assert list(spec.state.claims) == [PREVIEW]


# --- MaintainPool -------------------------------------------------------------------------------------------------

MAINTAIN = MaintainPool()


def test_an_empty_pool_is_filled_to_its_target() -> None:
    """Three by default, numbered from 1, and all in one command."""
    pool().when(MAINTAIN).then(*map(vm_creation_started, (1, 2, 3)))


def test_maintain_twice_creates_nothing_more() -> None:
    """Under the same id and under another: what boots is counted."""
    pool().when(MAINTAIN, MAINTAIN).stays_quiet().when(other(MAINTAIN)).stays_quiet()


def test_claims_raise_what_is_wanted() -> None:
    """Each waiting claim needs a VM beyond the target."""
    past = [*map(vm_creation_started, (1, 2, 3)), claim_queued()]
    pool(*past).when(MAINTAIN).then(vm_creation_started(4))


def test_the_maximum_counts_every_vm_that_is_not_gone() -> None:
    """Booting, warm, held and going ones alike."""
    past = [pool_resized(2, 0, 4), vm_creation_started(1), *warm_vms(2, 3, 4), vm_acquired(2), vm_acquired(3, "other")]
    pool(*past, vm_released(2), claim_queued("third"), claim_queued("fourth")).when(MAINTAIN).then(
        vm_acquired(4, "third", from_pool=False)
    )


def test_a_destroyed_vm_makes_room_and_its_number_is_not_used_again() -> None:
    past = [pool_resized(1, 0, 1), *warm_vms(1), VmRetired(vm_id=VM, reason="aged"), VmDestroyed(vm_id=VM)]
    pool(*past).when(MAINTAIN).then(vm_creation_started(2))


def test_claims_are_served_in_their_order() -> None:
    """First come, first served, and each is told how long it waited."""
    past: list[Past] = [(AT, claim_queued("first")), (AT + 1, claim_queued("second")), *warm_vms(1)]
    spec = pool(pool_resized(0, 0, 1), *past).when(MaintainPool(at=AT + 5))
    spec.then(vm_acquired(1, "first", from_pool=False, waited_s=5.0))


def test_a_claim_past_its_deadline_expires_and_gets_nothing() -> None:
    """The next claim gets the VM that is there."""
    past = [pool_resized(0, 0, 2), claim_queued("late", deadline=AT + 1), claim_queued("next"), *warm_vms(1)]
    pool(*past).when(MaintainPool(at=AT + 2)).then(
        ClaimExpired(preview_id="late", waited_s=2.0), vm_acquired(1, "next", from_pool=False, waited_s=2.0)
    )


def test_a_claim_expires_once() -> None:
    past = [pool_resized(0, 0, 1), claim_queued(deadline=AT + 1)]
    late = MaintainPool(at=AT + 1)
    pool(*past).when(late).then(ClaimExpired(preview_id=PREVIEW, waited_s=1.0)).when(late).stays_quiet()


def test_a_double_goes_back() -> None:
    """Where two replicas each gave the preview a VM, it keeps the first."""
    past = [pool_resized(0, 0, 3), *warm_vms(1, 2), vm_acquired(1), vm_acquired(2)]
    pool(*past).when(MAINTAIN).then(vm_released(2, reason="double")).when(other(MAINTAIN)).stays_quiet()


def test_a_boot_without_any_word_has_failed() -> None:
    """Nothing boots for ever: the VM counts as failed and will be destroyed."""
    past = [pool_resized(0, 0, 1), vm_creation_started(1)]
    quiet, late = MaintainPool(at=AT + CONFIG.boot_lost_s), MaintainPool(at=AT + CONFIG.boot_lost_s + 1)
    spec = pool(*past).when(quiet).stays_quiet().when(late)
    assert [(type(each).__name__, getattr(each, "code", "")) for each in _events(spec)] == [
        ("VmBootFailed", "boot_lost")
    ]


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 1.0), (2, 2.0), (3, 4.0), (12, 60.0)])
def test_failing_boots_pause_longer_each_time(failures: int, pause_s: float) -> None:
    """After the pause one VM, not three, finds out whether boots still fail."""
    past: list[Event] = [pool_resized(3, 0, 20)]
    for number in range(1, failures + 1):
        past += [vm_creation_started(number), vm_boot_failed(number), VmDestroyed(vm_id=vm(number))]
    spec = pool(*past).when(MaintainPool(at=AT + pause_s - 0.01)).stays_quiet()
    spec.when(other(MaintainPool(at=AT + pause_s))).then(vm_creation_started(failures + 1))


def test_one_good_boot_ends_the_pause() -> None:
    past = [vm_creation_started(1), vm_boot_failed(1), VmDestroyed(vm_id=VM), *warm_vms(2)]
    pool(*past).when(MAINTAIN).then(vm_creation_started(3), vm_creation_started(4))


def test_surplus_is_retired_oldest_first() -> None:
    past = [pool_resized(1, 0, 5), *warm_vms(1, 2, 3)]
    pool(*past).when(MAINTAIN).then(*(VmRetired(vm_id=vm(number), reason="surplus") for number in (1, 2)))


def test_nothing_is_retired_while_a_claim_waits() -> None:
    """The claim takes the VM; what is left beyond the target goes after it."""
    past = [pool_resized(0, 0, 5), *warm_vms(1), claim_queued()]
    pool(*past).when(MAINTAIN).then(vm_acquired(1, from_pool=False))


def test_aged_vms_are_replaced_while_the_minimum_stays_warm() -> None:
    """Two of three go and the successors of all three boot; the third stays until they are warm."""
    at = AT + CONFIG.warm_age_max_s + 1
    spec = pool(pool_resized(3, 1, 8), *warm_vms(1, 2, 3)).when(MaintainPool(at=at))
    events = _events(spec)
    assert [each for each in events if isinstance(each, VmRetired)] == [
        VmRetired(vm_id=vm(1), reason="aged"),
        VmRetired(vm_id=vm(2), reason="aged"),
    ]
    assert [each for each in events if not isinstance(each, VmRetired)] == list(map(vm_creation_started, (4, 5, 6)))


def test_aged_vms_are_replaced_where_minimum_and_target_are_equal() -> None:
    """The knob promises that no warm VM outlives `warm_age_max_s` for long, whatever the sizes are."""
    at = AT + CONFIG.warm_age_max_s + 1
    spec = pool(pool_resized(1, 1, 5), *warm_vms(1)).when(MaintainPool(at=at))
    assert _events(spec), "a VM that is too old is neither retired nor replaced"


def test_held_vms_do_not_age() -> None:
    past = [pool_resized(0, 0, 1), *warm_vms(1), vm_acquired(1)]
    pool(*past).when(MaintainPool(at=AT + 1000 * HOUR_S)).stays_quiet()


def test_a_large_pool_is_filled() -> None:
    """A pool may have up to 10,000 VMs: one maintenance must not trip over the runtime's limit of events a command."""
    pool(pool_resized(100, 0, 200)).when(MAINTAIN).then(*map(vm_creation_started, range(1, 101)))


def test_a_hundred_claims_may_expire_at_once() -> None:
    """The pool had no room, and all gave up in the same second."""
    names = [f"preview-{i}" for i in range(100)]
    past = [pool_resized(0, 0, 1), *(claim_queued(name, deadline=AT + 1) for name in names)]
    spec = pool(*past).when(MaintainPool(at=AT + 2))
    spec.then(*(ClaimExpired(preview_id=name, waited_s=2.0) for name in names))


# --- CheckVm ------------------------------------------------------------------------------------------------------


def sick(command_id: str = "check-1", number: int = 1) -> CheckVm:
    return CheckVm(vm_id=vm(number), healthy=False, detail="no answer", id=command_id)


def failed_check(failures: int) -> VmHealthCheckFailed:
    return VmHealthCheckFailed(vm_id=VM, failures=failures, detail="no answer")


def test_one_failed_check_is_a_warning() -> None:
    pool(*warm_vms(1)).when(sick()).then(failed_check(1))


def test_two_failed_checks_end_a_warm_vm() -> None:
    spec = pool(*warm_vms(1)).when(sick(), sick("check-2"))
    spec.then(failed_check(2), VmRetired(vm_id=VM, reason="unhealthy"))


def test_two_failed_checks_lose_a_held_vm_to_its_preview() -> None:
    """The event names the preview, so that the orchestrator can begin anew."""
    spec = pool(*warm_vms(1), vm_acquired(1)).when(sick(), sick("check-2"))
    spec.then(failed_check(2), vm_lost(1, PREVIEW, "no answer"))


def test_a_check_counts_once() -> None:
    """The same report delivered twice is one failure."""
    pool(*warm_vms(1)).when(sick(), sick()).stays_quiet()


def test_an_old_report_does_not_end_a_vm() -> None:
    """A report that is delivered again after the VM recovered and failed once more is still the old one."""
    healthy = CheckVm(vm_id=VM, healthy=True, id="check-2")
    spec = pool(*warm_vms(1)).when(sick("check-1"), healthy, sick("check-3")).then(failed_check(1))
    spec.when(sick("check-1")).stays_quiet()


def test_health_is_noted_once_after_failures_and_never_without() -> None:
    healthy = CheckVm(vm_id=VM, healthy=True)
    spec = pool(*warm_vms(1)).when(healthy).stays_quiet()
    spec.when(sick(), healthy).then(VmHealthCheckRecovered(vm_id=VM)).when(healthy).stays_quiet()


@pytest.mark.parametrize("past", [[], [vm_creation_started(1)], [*warm_vms(1), vm_acquired(1), vm_released(1)]])
def test_a_vm_that_is_not_in_use_is_not_checked(past: list[Event]) -> None:
    """Unknown, booting or going: nothing to say."""
    pool(*past).when(sick()).stays_quiet()


def test_a_detail_is_cut() -> None:
    """An agent's words are bounded before they reach the log."""
    spec = pool(*warm_vms(1)).when(CheckVm(vm_id=VM, healthy=False, detail="x" * 10_000))
    assert [len(getattr(each, "detail", "")) for each in _events(spec)] == [500]


# --- ResizePool ---------------------------------------------------------------------------------------------------


def test_resize() -> None:
    pool().when(ResizePool(target=4, minimum=2, maximum=9)).then(pool_resized(4, 2, 9))


def test_resize_to_the_same_size_is_quiet() -> None:
    resize = ResizePool(target=4, minimum=2, maximum=9)
    pool().when(ResizePool(target=3, minimum=1, maximum=5)).stays_quiet()
    pool().when(resize, resize).stays_quiet().when(other(resize)).stays_quiet()


@pytest.mark.parametrize(
    ("minimum", "target", "maximum"),
    [(-1, 0, 1), (2, 1, 3), (0, 4, 3), (0, 0, 0), (0, 1, POOL_SIZE_MAX + 1), (5, 4, 3)],
)
def test_resize_refuses_sizes_that_make_no_sense(minimum: int, target: int, maximum: int) -> None:
    pool().when(ResizePool(target=target, minimum=minimum, maximum=maximum)).refuses("bad_pool_size")


# --- reports of the provider --------------------------------------------------------------------------------------

BOOTED = RecordVmBooted(vm_id=VM, host="127.0.0.1", port=9001, boot_s=0.5)
BOOT_FAILED = RecordVmBootFailed(vm_id=VM, code="boot_timeout", message="It never answered.")
LOST = RecordVmLost(vm_id=VM, detail="silent")
DESTROYED = RecordVmDestroyed(vm_id=VM)


def test_a_boot_is_recorded() -> None:
    pool(vm_creation_started(1)).when(BOOTED).then(vm_booted(1))


def test_a_failed_boot_is_recorded() -> None:
    pool(vm_creation_started(1)).when(BOOT_FAILED).then(vm_boot_failed(1))


@pytest.mark.parametrize(("past", "preview"), [([], None), ([vm_acquired(1)], PREVIEW)])
def test_a_lost_vm_is_recorded_with_whoever_held_it(past: list[Event], preview: str | None) -> None:
    pool(*warm_vms(1), *past).when(LOST).then(vm_lost(1, preview))


@pytest.mark.parametrize(
    "past", [[vm_creation_started(1)], warm_vms(1), [*warm_vms(1), vm_acquired(1), vm_released(1)]]
)
def test_a_destroyed_vm_is_recorded(past: list[Event]) -> None:
    pool(*past).when(DESTROYED).then(VmDestroyed(vm_id=VM))


@pytest.mark.parametrize("report", [BOOTED, BOOT_FAILED, LOST, DESTROYED])
def test_reports_are_recorded_once(report: Command) -> None:
    """Delivered again, under the same id or another, they change nothing."""
    past = warm_vms(1) if report is LOST else [vm_creation_started(1)]
    pool(*past).when(report, report).stays_quiet().when(other(report)).stays_quiet()


@pytest.mark.parametrize("report", [BOOTED, BOOT_FAILED, LOST, DESTROYED])
def test_reports_of_an_unknown_vm_are_quiet(report: Command) -> None:
    """The VM is gone from the log already: the reaper's business, not an error."""
    pool().when(report).stays_quiet()


@pytest.mark.parametrize("report", [BOOTED, BOOT_FAILED])
def test_a_late_report_does_not_revive_a_vm(report: Command) -> None:
    """A boot that was given up, or a VM that is held, keeps its state."""
    pool(vm_creation_started(1), vm_boot_failed(1)).when(report).stays_quiet()
    pool(*warm_vms(1), vm_acquired(1)).when(report).stays_quiet()


def test_every_command_has_its_tests() -> None:
    """A new command of the pool must appear here."""
    covered = {AcquireVm, ReleaseVm, CheckVm, MaintainPool, ResizePool}
    covered |= {RecordVmBooted, RecordVmBootFailed, RecordVmLost, RecordVmDestroyed}
    covered |= {RecordVmCleaned, RecordVmCleanFailed}  # in test_keeping.py
    covered |= {SuspendVm, ResumeVm, RecordVmFrozen}  # test_suspending.py
    covered |= {RecordReconciliation}  # test_reconciling.py
    assert covered == set(commands_of("pool"))


def _events(spec: Given[State]) -> list[Event]:
    assert isinstance(spec.outcome, list), spec.outcome
    return spec.outcome
