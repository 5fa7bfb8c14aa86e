"""Claims that wait: not without end, and owner by owner."""

import msgspec
from hypothesis import given as given_any
from hypothesis import strategies as st

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.keeping import in_turn
from services.pool.state import Claim, initial
from shared.commands import AcquireVm, MaintainPool
from shared.errors import Unavailable
from shared.events import VmAcquired
from tests.builders import claim_queued, vm_acquired, warm_vms
from tests.spec import given

OWNERS = ("ann", "bob", "eve")


def _claim(number: int, owner: str) -> Claim:
    return Claim(preview_id=f"{owner}-{number}", owner=owner, queued_at=float(number), deadline=1e9)


@given_any(st.lists(st.sampled_from(OWNERS), max_size=40))
def test_everybodys_first_comes_before_anybodys_second(owners: list[str]) -> None:
    """All are served, an owner's own in their order, and nobody waits behind more than one claim of each other owner a turn."""
    claims = [_claim(number, owner) for number, owner in enumerate(owners)]
    turns = in_turn(initial(), claims)
    assert sorted(turns, key=lambda each: each.queued_at) == claims
    for owner in OWNERS:
        mine = [each for each in turns if each.owner == owner]
        assert mine == sorted(mine, key=lambda each: each.queued_at)
        for place, claim in enumerate(mine):
            ahead = turns[: turns.index(claim)]
            assert all(sum(each.owner == other for each in ahead) <= place + 1 for other in OWNERS)


def test_a_flood_of_one_owner_does_not_hold_up_the_next() -> None:
    """Ten claims of one, then one of another: of two VMs each gets one."""
    flood = [msgspec.structs.replace(claim_queued(f"ann-{number}"), owner="ann") for number in range(10)]
    late = msgspec.structs.replace(claim_queued("bob-1"), owner="bob")
    spec = given(definition(PoolConfig()), *flood, late, *warm_vms(1, 2)).when(MaintainPool())
    assert isinstance(spec.outcome, list)
    acquired = [event.preview_id for event in spec.outcome if isinstance(event, VmAcquired)]
    assert acquired == ["ann-0", "bob-1"]


def test_who_holds_fewer_vms_is_next() -> None:
    """However long another has waited: it has had its turns."""
    past = [*warm_vms(1, 2, 3), vm_acquired(1, "ann-a"), vm_acquired(2, "ann-b")]
    held = [msgspec.structs.replace(each, owner="ann") if isinstance(each, VmAcquired) else each for each in past]
    waiting = [msgspec.structs.replace(claim_queued(f"{who}-1"), owner=who) for who in ("ann", "bob")]
    spec = given(definition(PoolConfig()), *held, *waiting).when(MaintainPool())
    assert isinstance(spec.outcome, list)
    assert [event.preview_id for event in spec.outcome if isinstance(event, VmAcquired)] == ["bob-1"]


def test_one_claim_too_many_is_refused() -> None:
    """503 with a time to come back; one that waits already is granted as ever."""
    config = PoolConfig(claims_max=2)
    spec = given(definition(config), claim_queued("a"), claim_queued("b"))
    spec.when(AcquireVm(preview_id="c", owner="ann"))
    assert isinstance(spec.outcome, Unavailable)
    assert (spec.outcome.code, spec.outcome.status, spec.outcome.retry_after_s) == ("claims_full", 503, 5.0)
    spec.when(AcquireVm(preview_id="b", owner="ann", id="again")).stays_quiet()
