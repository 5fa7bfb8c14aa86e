"""The provider's list against the log: what differs, and that putting it right twice at once does no harm."""

from collections.abc import Awaitable, Callable

import msgspec
import pytest

from services.pool.adapters.simulated import SimulatedProvider
from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.ports import VmListing, VmSpec, VmState
from services.pool.reaping import Inventory, Reaper
from services.pool.reconciling import Differences, answering, compare, was_destroyed
from services.pool.state import State
from services.pool.suspending import Suspender
from shared.commands import Command, RecordReconciliation, RecordVmLost
from shared.errors import Unavailable
from shared.events import Event, PoolReconciled, VmDestroyed
from shared.ports import Cause
from tests.builders import (
    kept_vms,
    vm,
    vm_acquired,
    vm_boot_failed,
    vm_creation_started,
    vm_lost,
    vm_released,
    vm_resumed,
    vm_suspended,
    warm_vms,
)
from tests.spec import AT, Given, given

POOL = definition(PoolConfig())
GRACE_S = 30.0
NOW = AT + 100.0
STRANGER = "vm-900000"


def listing(vm_id: str, state: VmState = "running", created_at: float = AT) -> VmListing:
    return VmListing(vm_id=vm_id, state=state, created_at=created_at, address=None)


def differences(state: State, *listed: VmListing, expected: frozenset[str] | None = None) -> Differences:
    had = answering(state) if expected is None else expected
    return compare(listed, state, expected=had, at=NOW, grace_s=GRACE_S)


def state_of(*past: Event) -> State:
    return given(POOL, *past).state


# --- the comparison -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "seen"),
    [
        ([], []),
        (warm_vms(1), [listing(vm(1))]),
        ([*warm_vms(1), vm_acquired(1)], [listing(vm(1))]),
        ([*warm_vms(1), vm_acquired(1), vm_suspended()], [listing(vm(1), "suspended")]),
        (kept_vms(1), [listing(vm(1))]),
        ([vm_creation_started(1)], []),
        ([vm_creation_started(1)], [listing(vm(1), "stopped")]),
    ],
)
def test_where_both_agree_nothing_is_to_be_done(past: list[Event], seen: list[VmListing]) -> None:
    assert differences(state_of(*past), *seen) == Differences()


def test_a_vm_that_the_log_does_not_know_is_an_orphan_after_the_grace_time() -> None:
    seen = [listing(STRANGER, created_at=NOW - GRACE_S - 1), listing("vm-900001", created_at=NOW - GRACE_S + 1)]

    assert differences(state_of(), *seen) == Differences(orphans=(STRANGER,), young=("vm-900001",))


def test_a_vm_that_the_log_has_as_destroyed_is_an_orphan() -> None:
    state = state_of(*warm_vms(1), vm_lost(1, None), VmDestroyed(vm_id=vm(1)))

    assert differences(state, listing(vm(1))) == Differences(orphans=(vm(1),))
    assert was_destroyed(state, vm(1))
    assert not was_destroyed(state, vm(2))
    assert not was_destroyed(state, "somebody-1")


@pytest.mark.parametrize(
    "past", [warm_vms(1), [*warm_vms(1), vm_acquired(1)], kept_vms(1), [*warm_vms(1), vm_acquired(1), vm_suspended()]]
)
@pytest.mark.parametrize("seen", [[], [listing(vm(1), "stopped")]])
def test_a_vm_that_should_answer_and_is_not_there_is_lost(past: list[Event], seen: list[VmListing]) -> None:
    assert differences(state_of(*past), *seen) == Differences(lost=(vm(1),))


def test_a_vm_that_booted_after_the_list_was_asked_for_is_not_missed_in_it() -> None:
    assert differences(state_of(*warm_vms(1)), expected=frozenset()) == Differences()


@pytest.mark.parametrize("past", [[vm_creation_started(1), vm_boot_failed(1)], [*warm_vms(1), vm_lost(1, None)]])
@pytest.mark.parametrize("seen", [[], [listing(vm(1))], [listing(vm(1), "stopped")]])
def test_what_is_to_go_is_destroyed_until_the_log_says_so(past: list[Event], seen: list[VmListing]) -> None:
    assert differences(state_of(*past), *seen) == Differences(undestroyed=(vm(1),))


@pytest.mark.parametrize(
    ("past", "seen"), [([vm_suspended()], "running"), ([vm_suspended(), vm_resumed()], "suspended")]
)
def test_one_that_runs_where_it_should_stand_still_is_unsettled(past: list[Event], seen: VmState) -> None:
    state = state_of(*warm_vms(1), vm_acquired(1), *past)

    assert differences(state, listing(vm(1), seen)) == Differences(unsettled=(vm(1),))


# --- the reaper ---------------------------------------------------------------------------------------------------


class World:
    """A simulated provider, the pool's log, and reapers of two replicas on them; commands are decided as the pool does."""

    def __init__(self, *past: Event) -> None:
        self.spec: Given[State] = given(POOL, *past)
        self.now = AT
        self.provider = SimulatedProvider(boot_s=0.0, clock=lambda: self.now)
        self.sent: list[Command] = []
        self.catch_up: Callable[[], Awaitable[None]] = self._nothing
        self.one, self.two = self._reaper(), self._reaper()

    async def _nothing(self) -> None:
        """The state is the whole log's at any time."""

    async def _caught_up(self) -> None:
        await self.catch_up()

    def _reaper(self) -> Reaper:
        suspender = Suspender(self.provider, self._send, lambda: self.spec.state, self._nothing)
        return Reaper(
            self.provider,
            suspender,
            self._send,
            lambda: self.spec.state,
            self._caught_up,
            grace_s=GRACE_S,
            clock=lambda: self.now,
        )

    async def _send(self, command: Command, _cause: Cause) -> bytes:
        self.sent.append(command)
        self.spec.when(command)
        return b"{}"

    async def boot(self, *vm_ids: str) -> None:
        for vm_id in vm_ids:
            await self.provider.create(VmSpec(vm_id=vm_id, token="t"))
        self.now = NOW

    async def run(self, reaper: Reaper | None = None, name: str = "tick") -> None:
        await (reaper or self.one).run(Cause(causation_id=name))

    async def inventory(self) -> Inventory:
        return msgspec.json.decode(await self.one.inventory(b"", {}), type=Inventory)


def destroyed(world: World) -> list[str]:
    return [each.event.vm_id for each in world.spec.log if isinstance(each.event, VmDestroyed)]


async def test_orphans_are_reaped_lost_ones_declared_and_the_rest_left_alone() -> None:
    world = World(*warm_vms(1, 2), vm_acquired(1))
    await world.boot(vm(2), STRANGER)
    seen = await world.inventory()
    assert (seen.orphans, seen.lost, seen.last_run) == ((STRANGER,), (vm(1),), None)
    assert STRANGER in world.provider.vms, "to look changes nothing"

    await world.run()

    assert list(world.provider.vms) == [vm(2)]
    assert [command.vm_id for command in world.sent if isinstance(command, RecordVmLost)] == [vm(1)]
    after = await world.inventory()
    assert dict(after.counters) == {"orphan_reaped": 1, "lost": 1}
    assert after.last_run is not None
    assert (after.last_run.orphans, after.last_run.lost, after.last_run.error) == (1, 1, "")


async def test_two_reapers_at_once_do_each_thing_once() -> None:
    """Both see the same; the log has one end of each VM, and nothing of a VM that lives is touched."""
    world = World(*warm_vms(1, 2, 3), vm_acquired(1), vm_acquired(3, "other"), vm_released(3, "other"))
    await world.boot(vm(2), vm(3), STRANGER)

    await world.run(world.one, "first")
    await world.run(world.two, "second")

    types = [each.type for each in world.spec.log[-4:]]
    assert types.count("VmLost") == 1
    assert destroyed(world).count(vm(3)) == 1
    assert list(world.provider.vms) == [vm(2)]


async def test_nothing_is_lost_while_the_list_fails() -> None:
    world = World(*warm_vms(1))
    await world.boot()
    world.provider.list_faults.extend(["provider_unavailable"] * 2)
    assert (await world.inventory()).error != ""

    await world.run()

    seen = await world.inventory()
    assert world.sent == []
    assert seen.last_run is not None
    assert seen.last_run.error
    assert dict(seen.counters) == {"list_failed": 1}


async def test_what_is_missing_in_one_list_and_there_in_the_next_is_not_lost() -> None:
    """A list that lacks some for a moment."""
    world = World(*warm_vms(1, 2))
    await world.boot(vm(2))

    async def appear() -> None:
        if vm(1) not in world.provider.vms:
            await world.boot(vm(1))

    world.catch_up = appear
    await world.run()

    assert world.sent == []


async def test_a_replica_that_was_away_takes_no_vm_for_an_orphan() -> None:
    """It catches up after the list came: what it had not heard of is in its state by then."""
    world = World()
    await world.boot(vm(1))

    async def hear() -> None:
        world.spec = given(POOL, *warm_vms(1))

    world.catch_up = hear
    await world.run()

    assert list(world.provider.vms) == [vm(1)]


async def test_a_log_out_of_reach_reaps_nothing() -> None:
    world = World()
    await world.boot(STRANGER)

    async def away() -> None:
        raise Unavailable("log_unavailable", "The event log is out of reach.")

    world.catch_up = away
    await world.run()

    assert list(world.provider.vms) == [STRANGER]


async def test_a_destroy_that_does_nothing_is_tried_until_the_vm_is_gone() -> None:
    """The provider answered, the log says destroyed, and the VM is there: each run tries again, and says so."""
    world = World(*warm_vms(1), vm_lost(1, None))
    await world.boot(vm(1))
    world.provider.ignored_destroys = 3

    for name in ("a", "b", "c"):
        await world.run(name=name)
        assert vm(1) in world.provider.vms
    await world.run(name="d")
    await world.run(name="e")

    assert vm(1) not in world.provider.vms
    assert destroyed(world) == [vm(1)]
    assert (await world.inventory()).counters["destroy_retried"] == 3


async def test_one_that_can_not_be_destroyed_keeps_no_other_from_its_turn() -> None:
    """What failed is counted, told, and tried by the next run."""
    world = World(*warm_vms(1), vm_lost(1, None))
    await world.boot(vm(1), STRANGER)
    world.provider.destroy_faults.append("destroy_failed")

    await world.run(name="a")

    seen = await world.inventory()
    assert destroyed(world) == [vm(1)], "the second one's turn came"
    assert (seen.counters["failed"], seen.orphans) == (1, (STRANGER,))
    assert seen.last_run is not None
    assert "destroy failed" in seen.last_run.error
    await world.run(name="b")
    assert world.provider.vms == {}


async def test_a_vm_whose_report_is_refused_for_now_is_reported_by_the_next_run() -> None:
    world = World(*warm_vms(1))
    await world.boot()
    real, world.one._send = world.one._send, _refuse
    await world.run(name="a")
    world.one._send = real
    await world.run(name="b")

    assert [type(each.event).__name__ for each in world.spec.log[-1:]] == ["VmLost"]


async def _refuse(_command: Command, _cause: Cause) -> bytes:
    raise Unavailable("log_unavailable", "The event log is out of reach.")


# --- leaks, as the log tells them ---------------------------------------------------------------------------------


def leaks(world: World) -> list[tuple[int, int]]:
    """(orphans, stuck) of each `PoolReconciled`."""
    events = [each.event for each in world.spec.log]
    return [(each.orphans, each.stuck) for each in events if isinstance(each, PoolReconciled)]


async def test_an_orphan_is_said_once_and_one_that_stays_is_stuck_until_it_is_gone() -> None:
    """However many runs find it: the log tells what is news."""
    world = World()
    await world.boot(STRANGER, "vm-900001")
    world.provider.ignored_destroys = 6

    for number in range(6):
        await world.run(name=f"tick-{number}")

    assert world.provider.vms == {}
    assert leaks(world) == [(2, 0), (0, 2), (0, 0)]
    named = [each.event.vms for each in world.spec.log if isinstance(each.event, PoolReconciled)]
    assert named == [(STRANGER, "vm-900001"), (STRANGER, "vm-900001"), ()]


async def test_a_vm_on_its_way_out_is_no_leak() -> None:
    """Its own effect is at it, and the first try of a run is no failure."""
    world = World(*warm_vms(1), vm_lost(1, None))
    await world.boot(vm(1))

    await world.run(name="a")
    await world.run(name="b")

    assert leaks(world) == []


async def test_two_replicas_that_see_the_same_orphan_are_one_event_a_tick() -> None:
    """The command's id follows from the tick's, and there is no news where nothing changed."""
    world = World()
    report = RecordReconciliation(id="01jd0000000000000000000tic", orphans=1, stuck=0, vms=(STRANGER,))

    world.spec.when(report).then(PoolReconciled(orphans=1, stuck=0, vms=(STRANGER,)))
    world.spec.when(report).stays_quiet()
    world.spec.when(RecordReconciliation(orphans=0, stuck=0)).stays_quiet()


async def test_a_leak_that_can_not_be_told_stops_nothing() -> None:
    """What was to be destroyed is, and the run says what was not said."""
    world = World()
    await world.boot(STRANGER)
    world.one._send = _refuse

    await world.run()

    seen = await world.inventory()
    assert world.provider.vms == {}
    assert seen.last_run is not None
    assert seen.last_run.error == "The event log is out of reach."


@pytest.mark.parametrize(
    "report",
    [
        RecordReconciliation(orphans=-1, stuck=0),
        RecordReconciliation(orphans=0, stuck=-1),
        RecordReconciliation(orphans=1, stuck=0, vms=(STRANGER, vm(1))),
    ],
)
async def test_counts_that_can_not_be_are_refused(report: RecordReconciliation) -> None:
    World().spec.when(report).refuses("bad_count")
