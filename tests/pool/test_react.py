"""What the pool does about each event and timer, as data."""

import pytest

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.react import (
    REACTS_TO,
    CheckHealth,
    CreateVm,
    DestroyVm,
    Effect,
    ForgetProject,
    Reconcile,
    on_timer,
    react,
)
from shared.commands import MaintainPool
from shared.effects import Send
from shared.events import (
    EVENT_TYPES,
    Event,
    ProjectDeleted,
    VmDestroyed,
    VmHealthCheckFailed,
    VmHealthCheckRecovered,
    VmRetired,
)
from shared.ports import TimerFired
from shared.reach import Reach
from tests.builders import (
    PROJECT,
    VM,
    claim_queued,
    pool_resized,
    preview_requested,
    project_created,
    vm_acquired,
    vm_boot_failed,
    vm_booted,
    vm_creation_started,
    vm_lost,
    vm_released,
    warm_vms,
)
from tests.spec import given

POOL = definition(PoolConfig())
RETIRED = VmRetired(vm_id=VM, reason="surplus")


def effects(*past: Event) -> list[Effect]:
    """What follows from the last of these events."""
    spec = given(POOL, *past)
    return list(react(spec.state, spec.log[-1]))


def test_a_wished_vm_is_created() -> None:
    assert effects(vm_creation_started(1)) == [CreateVm(VM)]


@pytest.mark.parametrize("after", [[vm_booted(1)], [vm_boot_failed(1)], [vm_boot_failed(1), VmDestroyed(vm_id=VM)]])
def test_a_creation_that_comes_again_creates_nothing(after: list[Event]) -> None:
    """The event was delivered again after its VM had booted, failed or gone."""
    spec = given(POOL, vm_creation_started(1), *after)
    assert react(spec.state, spec.log[0]) == []


@pytest.mark.parametrize("ending", [vm_lost(1), vm_released(1), RETIRED])
def test_what_is_over_is_destroyed(ending: Event) -> None:
    assert effects(*warm_vms(1), vm_acquired(1), ending) == [DestroyVm(VM)]


def test_a_failed_boot_is_destroyed() -> None:
    assert effects(vm_creation_started(1), vm_boot_failed(1)) == [DestroyVm(VM)]


def test_what_is_gone_is_not_destroyed_again() -> None:
    spec = given(POOL, *warm_vms(1), RETIRED, VmDestroyed(vm_id=VM))
    assert react(spec.state, spec.log[2]) == []


@pytest.mark.parametrize("event", [vm_acquired(1), VmDestroyed(vm_id=VM), claim_queued(), pool_resized(4, 1, 9)])
def test_whatever_changes_supply_or_demand_has_the_pool_looked_after(event: Event) -> None:
    """At once, not at the next tick."""
    assert effects(vm_creation_started(1), event) == [Send(MaintainPool())]


def test_a_boot_has_the_pool_looked_after_where_somebody_waits_or_it_is_one_too_many() -> None:
    """A boot that only fills the pool changes nothing that is owed."""
    assert effects(claim_queued(), *warm_vms(1)) == [Send(MaintainPool())]
    assert effects(pool_resized(1, 0, 5), *warm_vms(1, 2)) == [Send(MaintainPool())]
    assert effects(*warm_vms(1)) == []


@pytest.mark.parametrize(
    "event",
    [
        VmHealthCheckFailed(vm_id=VM, failures=1, detail=""),
        VmHealthCheckRecovered(vm_id=VM),
        project_created(),
        preview_requested(),
    ],
)
def test_nothing_follows_from_the_rest(event: Event) -> None:
    assert effects(*warm_vms(1), event) == []


def test_every_event_that_has_effects_is_subscribed() -> None:
    """An event type outside REACTS_TO never arrives: it must have no effect."""
    past = [*warm_vms(1), vm_acquired(1)]
    for event in (vm_creation_started(2), vm_boot_failed(1), vm_lost(1), vm_released(1), RETIRED, claim_queued()):
        assert effects(*past, event)
        assert type(event) in REACTS_TO
    assert set(REACTS_TO) <= set(EVENT_TYPES.values())


def fired(name: str) -> TimerFired:
    return TimerFired(name=name, id="tick", key="k")


def test_ticks() -> None:
    """Maintenance, health of what is in use, and the comparison with the provider."""
    state = given(POOL, *warm_vms(1, 2), vm_acquired(1), vm_creation_started(3)).state
    health = CheckHealth(((VM, "127.0.0.1", 9001, Reach()), ("vm-000002", "127.0.0.1", 9002, Reach())))
    assert on_timer(state, fired("maintain")) == [Send(MaintainPool())]
    assert on_timer(state, fired("health")) == [health]
    assert on_timer(state, fired("reconcile")) == [Reconcile()]


def test_no_vm_in_use_needs_no_health_check() -> None:
    assert on_timer(given(POOL, vm_creation_started(1)).state, fired("health")) == []


def test_every_tick_is_heard_and_an_unknown_timer_is_not() -> None:
    """What the definition schedules, `on_timer` knows; a timer of another version does no harm."""
    state = given(POOL, *warm_vms(1)).state
    assert all(on_timer(state, fired(name)) for name in POOL.ticks)
    assert on_timer(state, fired("polish")) == []


def test_what_is_a_projects_alone_goes_with_it() -> None:
    spec = given(POOL, ProjectDeleted(project_id=PROJECT))
    assert react(spec.state, spec.log[-1]) == [ForgetProject(PROJECT)]
