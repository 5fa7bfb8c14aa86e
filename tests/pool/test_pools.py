"""Several pools: which one serves a claim, which makes VMs for it, and what becomes of one that is no more."""

from typing import Any

import msgspec
import pytest

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.shapes import PoolShape
from services.pool.sizing import POOLS_MAX, commands_for, pools_of
from services.pool.state import State
from services.pool.views import summary
from shared.commands import AcquireVm, ClaimReply, MaintainPool, ReleaseVm, ResizePool
from shared.errors import Invalid
from shared.events import (
    ClaimQueued,
    Event,
    PoolResized,
    VmAcquired,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmReleased,
    VmRetired,
)
from tests.builders import KEY, OWNER, PREVIEW, vm, vm_booted, vm_cleaned
from tests.spec import AT, Given, Past, given

CONFIG = PoolConfig()
NO_DEFAULT = PoolResized(target=0, minimum=0, maximum=0)
MAINTAIN = MaintainPool(id="maintain")


def sized(
    pool: str, memory_mb: int, target: int = 0, minimum: int = 0, maximum: int = 5, *, region: str = "", image: str = ""
) -> PoolResized:
    return PoolResized(
        pool=pool,
        target=target,
        minimum=minimum,
        maximum=maximum,
        memory_mb=memory_mb,
        region=region,
        image=image,
    )


SMALL, LARGE = sized("small", 1024), sized("large", 4096)
SIZES = {"small": (1024, "", ""), "large": (4096, "", ""), "ams": (1024, "ams", "node"), "fra": (1024, "fra", "py")}
REGIONS = (NO_DEFAULT, sized("ams", 1024, region="ams", image="node"), sized("fra", 1024, region="fra", image="py"))


def making(number: int, pool: str) -> VmCreationStarted:
    memory_mb, region, image = SIZES[pool]
    return VmCreationStarted(
        vm_id=vm(number), provider="local", number=number, pool=pool, memory_mb=memory_mb, region=region, image=image
    )


def warm(number: int, pool: str) -> list[Event]:
    return [making(number, pool), vm_booted(number)]


def held(number: int, pool: str, preview: str = PREVIEW, *, key: str = "", waited_s: float | None = None) -> VmAcquired:
    return VmAcquired(
        vm_id=vm(number),
        preview_id=preview,
        owner=OWNER,
        from_pool=waited_s is None,
        waited_s=waited_s or 0.0,
        host="127.0.0.1",
        port=9000 + number,
        key=key,
        memory_mb=SIZES[pool][0],
    )


def waits(preview: str, memory_mb: int = 0, pool: str = "small", **need: Any) -> ClaimQueued:
    return ClaimQueued(preview_id=preview, owner=OWNER, deadline=AT + 60, memory_mb=memory_mb, pool=pool, **need)


def ask(memory_mb: int = 0, preview: str = PREVIEW, **need: Any) -> AcquireVm:
    return AcquireVm(preview_id=preview, owner=OWNER, memory_mb=memory_mb, **need)


def pools(*past: Past, config: PoolConfig = CONFIG) -> Given[State]:
    return given(definition(config), NO_DEFAULT, SMALL, LARGE, *past)


# --- which VM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory_mb", "taken"), [(0, 2), (512, 2), (1024, 2), (1025, 1), (4096, 1), (9999, 1)])
def test_the_smallest_that_fits_is_given_else_the_largest(memory_mb: int, taken: int) -> None:
    """And the event says what it has, so that one who wanted more can be warned."""
    pool = "large" if taken == 1 else "small"
    pools(*warm(1, "large"), *warm(2, "small")).when(ask(memory_mb)).then(held(taken, pool))


def test_a_bigger_pool_lends_what_it_has_beyond_its_minimum() -> None:
    """Rather than let a small preview wait; its last ones are for those who need them."""
    keeping = sized("large", 4096, target=2, minimum=1)
    pools(*warm(1, "large")).when(ask(512)).then(held(1, "large"))
    pools(keeping, *warm(1, "large")).when(ask(512)).then(waits(PREVIEW, 512))
    pools(keeping, *warm(1, "large"), *warm(2, "large")).when(ask(512)).then(held(1, "large"))
    pools(keeping, *warm(1, "large")).when(ask(4096)).then(held(1, "large"))


def test_nothing_is_lent_while_somebody_waits_who_needs_it() -> None:
    """Neither at once, nor when what is warm is handed out."""
    past = [waits("needs", 4096, "large"), *warm(1, "large")]
    pools(*past).when(ask(512)).then(waits(PREVIEW, 512))
    first = [waits("small", 512), *past]
    outcome = pools(*first).when(MAINTAIN).outcome
    assert isinstance(outcome, list)
    assert outcome[0] == held(1, "large", "needs", waited_s=0.0)
    assert [(type(each), getattr(each, "pool", "")) for each in outcome[1:]] == [(VmCreationStarted, "small")]


def test_who_needs_it_does_not_wait_behind_those_who_would_borrow() -> None:
    keeping = sized("large", 4096, target=1, minimum=1)
    past = [keeping, waits("small", 512), *warm(1, "large")]
    pools(*past).when(ask(4096)).then(held(1, "large"))
    pools(*past).when(ask(512)).then(waits(PREVIEW, 512))


def test_one_that_others_are_taking_is_passed_over_for_a_bigger_one() -> None:
    busy = frozenset({f"pool.vm.{vm(1)}"})
    pools(*warm(1, "small"), *warm(2, "large")).when(ask(512, busy=busy)).then(held(2, "large"))
    pools(*warm(1, "small")).when(ask(512, busy=busy)).then(held(1, "small"))


def test_a_kept_vm_has_to_be_large_enough() -> None:
    """What ran out of memory in it would do so again."""
    kept = [
        *warm(1, "small"),
        held(1, "small", "before"),
        VmReleased(vm_id=vm(1), preview_id="before", reason="ended", keep=KEY),
        vm_cleaned(1),
    ]
    pools(*kept).when(ask(1024, key=KEY)).then(held(1, "small", key=KEY))
    pools(*kept).when(ask(2048, key=KEY)).then(waits(PREVIEW, 2048, "large"))


def test_a_resident_too() -> None:
    past = [*warm(1, "small"), held(1, "small", "resident"), *warm(2, "large")]
    pools(*past).when(ask(2048, resident="resident")).then(held(2, "large"))
    taken = msgspec.structs.replace(held(1, "small"), resident="resident")
    pools(*past).when(ask(1024, resident="resident")).then(taken)


def test_a_region_is_kept_to() -> None:
    past = [*REGIONS, *warm(1, "ams"), *warm(2, "fra")]
    spec = given(definition(CONFIG), *past)
    spec.when(ask(region="fra")).then(held(2, "fra"))
    assert spec.answer() == ClaimReply(vm_id=vm(2))
    given(definition(CONFIG), *past).when(ask(image="py")).then(held(2, "fra"))
    given(definition(CONFIG), *REGIONS, *warm(1, "ams")).when(ask(region="fra")).then(
        waits(PREVIEW, 0, "fra", region="fra")
    )


@pytest.mark.parametrize(
    ("need", "code", "known"),
    [
        ({"region": "mars"}, "no_such_region", "ams, fra"),
        ({"image": "ruby"}, "no_such_image", "node, py"),
        ({"image": "py", "region": "ams"}, "no_such_image", "node"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(need: dict[str, str], code: str, known: str) -> None:
    spec = given(definition(CONFIG), *REGIONS).when(ask(0, **need)).refuses(code)
    assert isinstance(spec.outcome, Invalid)
    assert spec.outcome.hint.endswith(f": {known}.")


# --- which pool makes it ------------------------------------------------------------------------------------------


def test_each_pool_is_filled_to_its_own_target_and_maximum() -> None:
    past = [sized("small", 1024, target=2, maximum=2), sized("large", 4096, target=1, maximum=1)]
    made = [making(1, "small"), making(2, "small"), making(3, "large")]
    pools(*past).when(MAINTAIN).then(*made)
    pools(*past, *made[:2]).when(MAINTAIN).then(made[2])
    pools(*past, *made, waits("a", 512), waits("b", 4096, "large")).when(MAINTAIN).stays_quiet()


def test_a_claim_has_its_vm_made_by_the_pool_that_it_needs() -> None:
    """Before what is only kept warm, wherever that stands in the table."""
    pools(waits("a", 4096, "large")).when(MAINTAIN).then(making(1, "large"))
    both = [making(1, "large"), making(2, "small")]
    pools(sized("small", 1024, target=1), waits("a", 4096, "large")).when(MAINTAIN).then(*both)


def failing(pool: str, at: float = AT) -> list[Past]:
    return [(at, making(1, pool)), (at, VmBootFailed(vm_id=vm(1), code="region_full", message="Full."))]


def test_boot_failures_stop_one_pool_alone() -> None:
    """What waits for it goes to the next that fits; who can only be served there waits on."""
    failed = failing("small")
    pools(sized("large", 4096, target=1), *failed).when(MAINTAIN).then(making(2, "large"))
    pools(*failed, waits("a", 512)).when(MAINTAIN).then(making(2, "large"))
    there = [*REGIONS, (AT, msgspec.structs.replace(making(1, "ams"))), failed[1]]
    given(definition(CONFIG), *there, waits("a", region="ams")).when(MAINTAIN).stays_quiet()
    given(definition(CONFIG), *there, waits("a")).when(MAINTAIN).then(making(2, "fra"))
    pools(*failed, *warm(2, "large")).when(ask(512)).then(held(2, "large"))


def test_one_claim_finds_out_whether_it_boots_again() -> None:
    """After the pause; the others go on elsewhere until it is known, and come back once it does."""
    later = AT + CONFIG.boot_backoff_s
    past: list[Past] = [*failing("small"), (later, waits("a", 512)), (later, waits("b", 512))]
    asked = msgspec.structs.replace(MAINTAIN, at=later)
    pools(*past).when(asked).then(making(2, "small"), making(3, "large"))
    mended: list[Past] = [(later, making(2, "small")), (later, vm_booted(2))]
    told = summary(pools(*past, *mended).state, CONFIG, later)
    assert [(each.name, each.waiting, each.boot_failures) for each in told.pools] == [
        ("small", 2, 0),
        ("large", 0, 0),
    ]


def test_a_full_pool_hands_on_to_one_alike() -> None:
    full = [REGIONS[0], sized("ams", 1024, maximum=1, region="ams", image="node"), REGIONS[2]]
    past = [*full, *warm(1, "ams"), held(1, "ams", "other"), waits("a")]
    given(definition(CONFIG), *past).when(MAINTAIN).then(making(2, "fra"))


# --- a pool that is no more ---------------------------------------------------------------------------------------


def test_a_pool_that_is_no_more_drains() -> None:
    """What is warm goes, what is held stays until it is given back, and is not kept; nothing new is made."""
    gone = PoolResized(pool="large", target=0, minimum=0, maximum=0)
    past = [*warm(1, "large"), *warm(2, "large"), held(1, "large"), gone]
    pools(*past).when(MAINTAIN).then(VmRetired(vm_id=vm(2), reason="drained"))
    back = ReleaseVm(preview_id=PREVIEW, keep=KEY)
    pools(*past).when(back).then(VmReleased(vm_id=vm(1), preview_id=PREVIEW, reason="ended"))
    pools(*past).when(ask(4096, "other")).then(waits("other", 4096))
    left = [VmRetired(vm_id=vm(2), reason="drained"), *(VmDestroyed(vm_id=vm(number)) for number in (1, 2))]
    assert [each.name for each in summary(pools(*past, *left).state).pools] == ["small"]


def test_kept_ones_of_it_go_too() -> None:
    gone = PoolResized(pool="large", target=0, minimum=0, maximum=0)
    released = VmReleased(vm_id=vm(1), preview_id=PREVIEW, reason="ended", keep=KEY)
    past = [*warm(1, "large"), held(1, "large"), released, vm_cleaned(1), gone]
    pools(*past).when(MAINTAIN).then(VmRetired(vm_id=vm(1), reason="drained"))


def test_a_pool_whose_vms_are_others_by_now_is_made_anew() -> None:
    """Another image: what is warm goes, and its place is taken; what a preview holds stays."""
    past = [*warm(1, "small"), *warm(2, "small"), held(1, "small"), sized("small", 1024, target=1, image="new")]
    outcome = pools(*past).when(MAINTAIN).outcome
    assert isinstance(outcome, list)
    assert [type(each) for each in outcome] == [VmCreationStarted, VmRetired]
    assert outcome[1] == VmRetired(vm_id=vm(2), reason="drained")


def test_one_pool_from_before_there_were_several() -> None:
    """Events that name no pool and no size are the default one's, and its VMs go on."""
    old = [
        VmCreationStarted(vm_id=vm(1), provider="local", number=1),
        VmBooted(vm_id=vm(1), host="h", port=1, boot_s=1),
    ]
    spec = given(definition(CONFIG), *old, PoolResized(target=1, minimum=0, maximum=2, memory_mb=2048))
    spec.when(MAINTAIN).stays_quiet()
    spec.when(ask(1024))
    assert isinstance(spec.outcome, list)
    assert isinstance(spec.outcome[0], VmAcquired)
    assert (spec.outcome[0].vm_id, spec.outcome[0].memory_mb) == (vm(1), 0)


# --- the configuration --------------------------------------------------------------------------------------------


def test_without_a_table_there_is_one_pool_of_the_other_settings() -> None:
    config = PoolConfig(vm_memory_mb=512, vm_cpu_cores=1.0, target=2, maximum=4)
    assert pools_of(config) == {"default": PoolShape(memory_mb=512, cpu_cores=1.0, target=2, maximum=4)}
    (command,) = commands_for(given(definition(config)).state, config)
    assert command == ResizePool(target=2, minimum=1, maximum=4, memory_mb=512)


def test_what_is_left_open_stays_as_the_log_has_it() -> None:
    table = {"small": PoolShape(memory_mb=2048), "new": PoolShape(memory_mb=1, target=7)}
    past = [sized("small", 1024, target=3, minimum=2, maximum=9)]
    commands = tuple(commands_for(pools(*past).state, PoolConfig(pools=table)))
    assert commands == (
        ResizePool(pool="small", target=3, minimum=2, maximum=9, memory_mb=2048),
        ResizePool(pool="new", target=7, minimum=0, maximum=7, memory_mb=1),
        ResizePool(pool="large", target=0, minimum=0, maximum=0, drain=True),
    )
    spec = pools(*past)
    for command in commands:
        spec.when(msgspec.structs.replace(command, id=f"set-{command.pool}"))
        assert spec.outcome
        spec.when(msgspec.structs.replace(command, id=f"again-{command.pool}")).stays_quiet()


def test_a_size_is_changed_at_run_time() -> None:
    """What the VMs are stays; a pool that is not there is named."""
    spec = pools().when(ResizePool(pool="large", target=1, minimum=0, maximum=2))
    spec.then(sized("large", 4096, target=1, maximum=2))
    spec = pools().when(ResizePool(pool="huge", target=1, minimum=0, maximum=2)).refuses("no_such_pool")
    assert isinstance(spec.outcome, Invalid)
    assert "small, large" in spec.outcome.hint


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"a.b": PoolShape(memory_mb=1)}, "'a.b' is no name"),
        ({"a": PoolShape(memory_mb=0)}, "a: memory_mb"),
        ({"a": PoolShape(memory_mb=1, cpu_cores=0)}, "a: cpu_cores"),
        ({"a": PoolShape(memory_mb=1, maximum=0)}, "a: maximum"),
        ({"a": PoolShape(memory_mb=1, target=3, maximum=2)}, "a: 0 <= minimum <= target <= maximum"),
        ({"a": PoolShape(memory_mb=1, target=1, minimum=2)}, "a: 0 <= minimum <= target <= maximum"),
        ({"a": PoolShape(memory_mb=1), "b": PoolShape(memory_mb=1)}, "a and b have the same"),
        ({f"p{n}": PoolShape(memory_mb=n + 1) for n in range(POOLS_MAX + 1)}, "are the most"),
    ],
)
def test_a_table_that_can_not_be_is_refused_by_name(table: dict[str, PoolShape], told: str) -> None:
    with pytest.raises(Invalid, match="DRAPE_POOL_POOLS") as raised:
        pools_of(PoolConfig(pools=table))
    assert (raised.value.code, told in raised.value.message) == ("bad_pools", True)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (PoolConfig(vm_memory_mb=0), "DRAPE_POOL_VM_MEMORY_MB"),
        (PoolConfig(vm_cpu_cores=0), "DRAPE_POOL_VM_CPU_CORES"),
        (PoolConfig(vm_pids_max=0), "DRAPE_POOL_VM_PIDS_MAX"),
    ],
)
def test_a_single_pool_of_nothing_is_refused_by_its_setting(config: PoolConfig, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        pools_of(config)
