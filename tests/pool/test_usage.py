"""What VMs use: what their agents say, and what the pools tell of it."""

import msgspec

from services.pool import views
from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.usage import VMS_MAX, Usages, VmUsage
from shared.agent.protocol import Usage
from shared.events import PoolUsage, VmSuspended
from tests.builders import (
    VM,
    kept_vms,
    pool_resized,
    vm,
    vm_acquired,
    vm_boot_failed,
    vm_creation_started,
    vm_frozen,
    vm_resumed,
    vm_suspended,
    warm_vms,
)
from tests.spec import given

CONFIG = PoolConfig(vm_memory_mb=2048)
POOL = definition(CONFIG)
MB = 1 << 20


def seen(at: float, cpu_s: float, memory_bytes: int = 100) -> Usage:
    return Usage(at=at, cpu_s=cpu_s, memory_bytes=memory_bytes)


# --- what agents say ----------------------------------------------------------------------------------------------


def test_processors_are_what_was_used_between_two_looks() -> None:
    """At the first look nobody knows."""
    usages = Usages()
    usages.hear(VM, seen(100, 10), at=0)
    assert usages.since(0) == {VM: VmUsage(cpu_cores=None, memory_bytes=100)}
    usages.hear(VM, seen(160, 40, 200), at=60)
    assert usages.since(0) == {VM: VmUsage(cpu_cores=0.5, memory_bytes=200)}


def test_an_answer_that_repeats_itself_changes_nothing() -> None:
    """The agent has not looked since: what was known stays so, and is heard now."""
    usages = Usages()
    for at, said in ((0, seen(100, 10)), (60, seen(160, 40)), (61, seen(160, 40))):
        usages.hear(VM, said, at=at)

    assert usages.since(61) == {VM: VmUsage(cpu_cores=0.5, memory_bytes=100)}


def test_an_agent_that_began_anew_or_has_another_clock_is_not_believed() -> None:
    """Neither less than nothing, nor in no time."""
    for later in (seen(160, 3), seen(90, 40)):
        usages = Usages()
        usages.hear(VM, seen(100, 10), at=0)
        usages.hear(VM, later, at=60)
        assert usages.since(0)[VM].cpu_cores is None


def test_what_was_heard_long_ago_is_forgotten() -> None:
    """And an agent that says nothing is no agent that uses nothing."""
    usages = Usages()
    usages.hear(VM, seen(100, 10), at=0)
    usages.hear("old", None, at=500)

    assert usages.since(1) == {}
    assert usages.since(0) == {}, "it is gone for good"


def test_what_is_remembered_has_a_limit() -> None:
    usages = Usages()
    for number in range(VMS_MAX + 5):
        usages.hear(vm(number), seen(1, 1), at=0)

    remembered = usages.since(0)
    assert (len(remembered), vm(4) in remembered, vm(5) in remembered) == (VMS_MAX, False, True)


# --- what pools tell ----------------------------------------------------------------------------------------------


def usage_of(heard: dict[str, VmUsage], *past: object) -> PoolUsage:
    [only] = views.usage(given(POOL, *past).state, CONFIG, heard)  # type: ignore[arg-type]
    return only


def test_each_vm_is_in_one_state() -> None:
    past = [
        pool_resized(2, 1, 9),
        *warm_vms(1, 2, 3, 4),
        *kept_vms(5),
        vm_acquired(1, "one"),
        vm_acquired(2, "two"),
        vm_suspended(2, "two"),
        VmSuspended(vm_id=vm(3)),
        vm_creation_started(6),
        vm_creation_started(7),
        vm_boot_failed(7),
    ]
    usage = usage_of({}, *past)

    states = {name: getattr(usage, name) for name in ("booting", "available", "in_use", "suspended", "kept", "going")}
    assert states == {"booting": 1, "available": 1, "in_use": 1, "suspended": 2, "kept": 1, "going": 1}
    assert (usage.name, usage.provider, usage.memory_mb) == ("default", "local", 2048)
    assert (usage.measured, usage.cpu_cores, usage.memory_bytes) == (0, None, None), "nobody knows is not nothing"


def test_what_is_used_is_of_those_that_were_measured() -> None:
    """A VM that stands still uses no processor and what it holds; one whose provider does not say is left out."""
    heard = {
        vm(1): VmUsage(cpu_cores=0.5, memory_bytes=10 * MB),
        vm(2): VmUsage(cpu_cores=9.0, memory_bytes=99 * MB),
        vm(3): VmUsage(cpu_cores=None, memory_bytes=5 * MB),
    }
    held = [vm_acquired(2, "two"), vm_suspended(2, "two"), vm_frozen(2, "two", memory_mb=200)]
    usage = usage_of(heard, *warm_vms(1, 2, 3, 4), *held)
    assert (usage.measured, usage.cpu_cores, usage.memory_bytes) == (3, 0.5, 215 * MB)

    unknown = usage_of(heard, *warm_vms(1, 2, 3, 4), *held[:2])
    assert (unknown.measured, unknown.memory_bytes) == (2, 15 * MB)

    awake = usage_of(heard, *warm_vms(1, 2, 3, 4), *held, vm_resumed(2, "two"))
    assert (awake.measured, awake.cpu_cores, awake.memory_bytes) == (3, 9.5, 114 * MB)


def test_an_empty_pool_uses_nothing() -> None:
    usage = usage_of({}, pool_resized())

    assert (usage.measured, usage.cpu_cores, usage.memory_bytes) == (0, 0, 0)


def test_what_a_vm_held_is_forgotten_once_it_is_awake() -> None:
    """By a claim too."""
    past = [*warm_vms(1), vm_acquired(1, "p"), vm_suspended(1, "p"), vm_frozen(1, "p", memory_mb=200)]

    assert given(POOL, *past).state.vms[vm(1)].frozen_mb == 200
    for waking in (vm_resumed(1, "p"), vm_acquired(1, "p")):
        assert given(POOL, *past, waking).state.vms[vm(1)].frozen_mb == 0


def test_the_answer_is_what_a_snapshot_takes() -> None:
    """Over the wire and back."""
    [only] = views.usage(given(POOL, *warm_vms(1)).state, CONFIG, {})

    assert msgspec.json.decode(msgspec.json.encode([only]), type=tuple[PoolUsage, ...]) == (only,)
