"""VMs that stand still: decisions, reactions, and the effect that makes the provider do what the state says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from services.pool.adapters.cleaning import SimulatedVmCleaner
from services.pool.adapters.health import SimulatedHealthProbe
from services.pool.adapters.simulated import SimulatedProvider
from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.effects import PoolEffects
from services.pool.ports import VmSpec
from services.pool.react import CheckHealth, DestroyVm, Effect, Reconcile, SettleVm, on_timer, react
from services.pool.state import State
from services.pool.views import summary
from shared.commands import CheckVm, Command, RecordVmFrozen, RecordVmLost, ReleaseVm, ResumeVm, SuspendVm
from shared.events import Event, VmRetired, VmSuspended
from shared.ports import Cause, TimerFired
from shared.reach import Reach
from tests.builders import (
    PREVIEW,
    VM,
    vm_acquired,
    vm_booted,
    vm_creation_started,
    vm_frozen,
    vm_lost,
    vm_released,
    vm_resumed,
    vm_suspended,
    warm_vms,
)
from tests.spec import AT, Given, Past, given

POOL = definition(PoolConfig())
HELD = [*warm_vms(1), vm_acquired(1)]
SUSPEND, RESUME = SuspendVm(preview_id=PREVIEW), ResumeVm(preview_id=PREVIEW)
FROZEN = RecordVmFrozen(vm_id=VM, memory_mb=200)
CAUSE = Cause(causation_id="cause")


def pool(*past: Past) -> Given[State]:
    return given(POOL, *past)


def effects(*past: Event) -> list[Effect]:
    spec = pool(*past)
    return list(react(spec.state, spec.log[-1]))


# --- decisions ----------------------------------------------------------------------------------------------------


def test_a_held_vm_is_suspended_and_resumed_once_each() -> None:
    pool(*HELD).when(SUSPEND).then(vm_suspended()).when(SuspendVm(preview_id=PREVIEW, id="again")).stays_quiet()
    pool(*HELD, vm_suspended()).when(RESUME).then(vm_resumed()).when(ResumeVm(preview_id=PREVIEW, id="x")).stays_quiet()


@pytest.mark.parametrize("command", [SUSPEND, RESUME, FROZEN])
@pytest.mark.parametrize("past", [[], warm_vms(1), [*HELD, vm_released()], [*HELD, vm_lost()]])
def test_a_preview_without_a_vm_suspends_nothing(past: list[Event], command: Command) -> None:
    pool(*past).when(command).stays_quiet()


def test_what_a_frozen_vm_holds_is_noted_while_it_is_suspended() -> None:
    pool(*HELD, vm_suspended()).when(FROZEN).then(vm_frozen(memory_mb=200))
    pool(*HELD, vm_suspended(), vm_resumed()).when(FROZEN).stays_quiet()


def test_a_suspended_vm_is_not_lost_for_its_silence() -> None:
    """Whoever could not reach it; after it was resumed it counts again."""
    silent = CheckVm(vm_id=VM, healthy=False, detail="silent")
    pool(*HELD, vm_suspended()).when(silent).stays_quiet()
    assert pool(*HELD, vm_suspended(), vm_resumed()).when(silent).outcome != []


@pytest.mark.parametrize(
    "woken", [[vm_acquired(1), vm_suspended(), vm_resumed()], [VmSuspended(vm_id=VM), vm_acquired(1)]]
)
def test_a_vm_with_a_network_of_its_own_may_be_silent_while_it_wakes(woken: list[Event]) -> None:
    """Nobody answers at its address meanwhile, and whoever calls it then has heard of the waking, not of its end. Where VMs
    share a network, a frozen one's connections are held."""
    booted = msgspec.structs.replace(vm_booted(1), reach=Reach(tunnel=True))
    config = PoolConfig()
    for at, counted in ((AT + config.thaw_limit_s - 1, False), (AT + config.thaw_limit_s + 1, True)):
        silent = CheckVm(vm_id=VM, healthy=False, detail="silent", at=at)
        assert bool(pool(vm_creation_started(1), booted, *woken).when(silent).outcome) == counted
    silent = CheckVm(vm_id=VM, healthy=False, detail="silent", at=AT + 1)
    assert pool(*warm_vms(1), *woken).when(silent).outcome != []
    assert pool(vm_creation_started(1), booted, vm_acquired(1)).when(silent).outcome != []


def test_a_vm_that_booted_anew_is_lost_to_its_preview_at_once() -> None:
    """It answers, so that no further check would tell. A warm one goes too."""
    anew = CheckVm(vm_id=VM, healthy=False, detail="anew", anew=True)
    pool(*warm_vms(1), vm_acquired(1)).when(anew).then(vm_lost(1, PREVIEW, "anew"))
    pool(*warm_vms(1)).when(anew).then(VmRetired(vm_id=VM, reason="unhealthy"))
    pool(*warm_vms(1), vm_acquired(1), vm_released(1)).when(anew).stays_quiet()


def test_a_suspended_vm_is_released_and_lost_as_any_other() -> None:
    past = [*HELD, vm_suspended()]
    pool(*past).when(ReleaseVm(preview_id=PREVIEW)).then(vm_released())
    pool(*past).when(RecordVmLost(vm_id=VM, detail="silent")).then(vm_lost())


def test_the_summary_says_how_many_of_those_in_use_are_suspended() -> None:
    told = summary(pool(*warm_vms(1, 2), vm_acquired(1), vm_acquired(2, "other"), vm_suspended()).state)
    assert (told.in_use, told.suspended) == (2, 1)


# --- reactions ----------------------------------------------------------------------------------------------------


def test_the_provider_follows_the_decision() -> None:
    assert effects(*HELD, vm_suspended()) == [SettleVm(VM)]
    assert effects(*HELD, vm_suspended(), vm_resumed()) == [SettleVm(VM)]


def test_a_released_one_is_destroyed_as_it_is() -> None:
    assert effects(*HELD, vm_suspended(), vm_released()) == [DestroyVm(VM)]


def test_only_who_is_awake_is_asked_for_its_health() -> None:
    spec = pool(*warm_vms(1, 2), vm_acquired(1), vm_suspended())
    [asked] = on_timer(spec.state, TimerFired(name="health", id="tick", key="1"))
    assert isinstance(asked, CheckHealth)
    assert [vm_id for vm_id, *_ in asked.vms] == ["vm-000002"]


# --- the effect ---------------------------------------------------------------------------------------------------


class Stage:
    """One VM at the simulated provider, the pool's state, and what the effects sent."""

    def __init__(self, *past: Event) -> None:
        self.spec = pool(*HELD, *past)
        self.sent: list[Command] = []
        self.unheard: list[Event] = []
        self.provider = SimulatedProvider(boot_s=0.0)
        self.effects = PoolEffects(
            self.provider,
            SimulatedHealthProbe(),
            SimulatedVmCleaner(),
            self._send,
            lambda: self.spec.state,
            forget=self._forget,
            config=PoolConfig(),
            secret="s",
            catch_up=self._catch_up,
        )

    async def _catch_up(self) -> None:
        """What another replica has decided while this one was at work, where a test says so."""
        if self.unheard:
            self._fold(*self.unheard)

    async def _forget(self, _project_id: str) -> None:
        raise AssertionError("no project was deleted")

    async def _send(self, command: Command, _cause: Cause) -> bytes:
        self.sent.append(command)
        return b"{}"

    async def perform(self, effect: Effect, *, frozen: bool = False) -> str:
        """The VM's state at the provider afterwards."""
        await self.provider.create(VmSpec(vm_id=VM, token="t"))
        if frozen:
            await self.provider.suspend(VM)
        await self.effects.perform(effect, CAUSE)
        return self.provider.vms[VM].state

    def meanwhile(self, verb: str, *events: Event) -> None:
        """These are folded while the provider's verb is under way."""
        real: Callable[[str], Awaitable[Any]] = getattr(self.provider, verb)

        async def slow(vm_id: str) -> Any:
            setattr(self.provider, verb, real)
            self._fold(*events)
            return await real(vm_id)

        setattr(self.provider, verb, slow)

    def _fold(self, *events: Event) -> None:
        self.unheard = []
        self.spec = pool(*[each.event for each in self.spec.log if each.event is not None], *events)


async def test_a_suspended_vm_is_frozen_and_its_memory_told() -> None:
    stage = Stage(vm_suspended())
    assert await stage.perform(SettleVm(VM)) == "suspended"
    [told] = stage.sent
    assert isinstance(told, RecordVmFrozen)
    assert (told.vm_id, told.memory_mb) == (VM, 200)


async def test_a_resumed_vm_goes_on() -> None:
    stage = Stage(vm_suspended(), vm_resumed())
    assert await stage.perform(SettleVm(VM), frozen=True) == "running"
    assert stage.sent == []


@pytest.mark.parametrize("verb", ["suspend", "resume"])
async def test_who_changes_its_mind_meanwhile_gets_what_is_wanted_last(verb: str) -> None:
    asleep = verb == "suspend"
    stage = Stage(vm_suspended()) if asleep else Stage(vm_suspended(), vm_resumed())
    stage.meanwhile(verb, vm_resumed() if asleep else vm_suspended())
    assert await stage.perform(SettleVm(VM)) == ("running" if asleep else "suspended")


async def test_a_replica_that_lags_does_not_leave_a_vm_frozen_that_is_wanted() -> None:
    """It froze the VM after another replica had thawed it for an event that this one had not heard of."""
    stage = Stage(vm_suspended())
    stage.unheard = [vm_resumed()]
    assert await stage.perform(SettleVm(VM)) == "running"


async def test_what_cant_be_frozen_is_to_run() -> None:
    stage = Stage(vm_suspended())
    stage.provider.suspend_faults.append("suspend_failed")
    assert await stage.perform(SettleVm(VM)) == "running"
    [sent] = stage.sent
    assert isinstance(sent, ResumeVm)
    assert sent.preview_id == PREVIEW


@pytest.mark.parametrize(("faults", "lost"), [(2, False), (3, True)])
async def test_what_cant_be_woken_is_tried_again_and_then_lost(faults: int, lost: bool) -> None:
    stage = Stage(vm_suspended(), vm_resumed())
    stage.provider.resume_faults += ["resume_failed"] * faults
    assert await stage.perform(SettleVm(VM), frozen=True) == ("suspended" if lost else "running")
    assert [type(each) for each in stage.sent] == ([RecordVmLost] if lost else [])


async def test_a_vm_that_is_on_its_way_out_is_left_alone() -> None:
    assert await Stage(vm_suspended(), vm_released()).perform(SettleVm(VM)) == "running"


@pytest.mark.parametrize("verb", ["suspend", "resume"])
async def test_what_fails_for_a_vm_that_goes_meanwhile_is_not_reported(verb: str) -> None:
    """Its end is another effect's."""
    stage = Stage(vm_suspended()) if verb == "suspend" else Stage(vm_suspended(), vm_resumed())
    stage.provider.suspend_faults.append("vm_not_found")
    stage.provider.resume_faults.append("vm_not_found")
    stage.meanwhile(verb, vm_released())
    await stage.perform(SettleVm(VM))
    assert stage.sent == []


@pytest.mark.parametrize("frozen", [True, False])
async def test_reconciliation_makes_the_provider_agree(frozen: bool) -> None:
    """A freeze or a thaw that was lost is made up for."""
    stage = Stage() if frozen else Stage(vm_suspended())
    assert await stage.perform(Reconcile(), frozen=frozen) == ("running" if frozen else "suspended")


async def test_freezes_that_come_at_once_agree() -> None:
    """Two replicas, one VM."""
    stage = Stage(vm_suspended())
    await stage.provider.create(VmSpec(vm_id=VM, token="t"))
    await asyncio.gather(*(stage.effects.perform(SettleVm(VM), CAUSE) for _ in range(3)))
    assert stage.provider.vms[VM].state == "suspended"
