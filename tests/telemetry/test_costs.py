"""How long VMs ran and for whom: the fold alone, from lists of events."""

from collections import defaultdict
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.telemetry.costs import HOUR_MS, POOL, Bucket, Folded, Interval, Spent, fold, spread
from shared.codec import Meta, Recorded
from shared.events import (
    Event,
    VmBooted,
    VmBootFailed,
    VmCleaned,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmResumed,
    VmRetired,
    VmSuspended,
)

from .world import Story, acquired

DAY_S = 86_400.0
NEW_YEAR = 1_798_761_600.0
"""2027-01-01 00:00 UTC: an hour, a day, a month and a year begin."""


def creating(vm: str = "v", pool: str = "default", provider: str = "fly", memory_mb: int = 2048) -> VmCreationStarted:
    return VmCreationStarted(vm_id=vm, provider=provider, number=1, pool=pool, memory_mb=memory_mb, region="ams")


def booted(vm: str = "v") -> VmBooted:
    return VmBooted(vm_id=vm, host="h", port=1, boot_s=0.1)


def released(vm: str = "v", keep: str = "") -> VmReleased:
    return VmReleased(vm_id=vm, preview_id="p", reason="ended", keep=keep)


def life(story: Story, vm: str = "v") -> Story:
    """Made at 0, warm at 10, held from 100 to 400 of which it stood still from 200 to 300, gone at 405 s."""
    story.tell(creating(vm)).tell(booted(vm), after_s=10).tell(acquired("p", vm=vm), after_s=90)
    story.tell(VmSuspended(vm_id=vm, preview_id="p"), after_s=100).tell(
        VmResumed(vm_id=vm, preview_id="p"), after_s=100
    )
    return story.tell(released(vm), after_s=100).tell(VmDestroyed(vm_id=vm), after_s=5)


def all_at_once(records: list[Recorded]) -> Folded:
    return fold({}, records)


def by_owner(folded: Folded) -> dict[tuple[str, str], tuple[float, float]]:
    """(owner, preview) -> seconds it ran, and stood still."""
    found: dict[tuple[str, str], Spent] = defaultdict(Spent)
    for bucket, spent in folded.added.items():
        found[bucket.owner, bucket.preview_id] += spent
    return {key: (spent.running_ms / 1000, spent.suspended_ms / 1000) for key, spent in found.items()}


def total_ms(folded: Folded) -> int:
    return sum(spent.running_ms + spent.suspended_ms for spent in folded.added.values())


# --- for whom -----------------------------------------------------------------------------------------------------


def test_a_life_is_cut_by_who_holds_the_vm() -> None:
    """Booting, waiting warm and going away are the pool's; what its holder let stand still stands apart."""
    folded = all_at_once(life(Story(NEW_YEAR)).recorded())

    assert by_owner(folded) == {(POOL, ""): (105.0, 0.0), ("ann", "p"): (200.0, 100.0)}
    assert (folded.opened, folded.ended) == ({}, {"v"})
    assert {bucket.size.memory_mb for bucket in folded.added} == {2048}
    assert {(bucket.provider, bucket.region, bucket.pool) for bucket in folded.added} == {("fly", "ams", "default")}


def test_a_kept_vm_is_its_owners_until_it_is_let_go() -> None:
    """It waits for that owner alone, so it is no overhead of the pool; and of no preview any more."""
    story = Story(NEW_YEAR).tell(creating(), booted()).tell(acquired("p", vm="v"))
    story.tell(released(keep="key"), after_s=10).tell(VmCleaned(vm_id="v", owner="ann", key="key"), after_s=2)
    story.tell(VmRetired(vm_id="v", reason="aged"), after_s=30).tell(VmDestroyed(vm_id="v"), after_s=1)

    assert by_owner(all_at_once(story.recorded())) == {
        ("ann", "p"): (10.0, 0.0),
        ("ann", ""): (32.0, 0.0),
        (POOL, ""): (1.0, 0.0),
    }


def test_a_vm_that_never_booted_costs_the_pool() -> None:
    story = (
        Story(NEW_YEAR).tell(creating()).tell(VmBootFailed(vm_id="v", code="boot_timeout", message="no"), after_s=30)
    )
    story.tell(VmDestroyed(vm_id="v"), after_s=2)

    assert by_owner(all_at_once(story.recorded())) == {(POOL, ""): (32.0, 0.0)}


def test_a_lost_vm_costs_until_its_provider_agrees() -> None:
    """From the loss on it is nobody's but the pool's."""
    story = Story(NEW_YEAR).tell(creating(), booted(), acquired("p", vm="v"))
    story.tell(VmLost(vm_id="v", preview_id="p", detail="silent"), after_s=60).tell(VmDestroyed(vm_id="v"), after_s=20)

    assert by_owner(all_at_once(story.recorded())) == {("ann", "p"): (60.0, 0.0), (POOL, ""): (20.0, 0.0)}


def test_a_warm_vm_that_stands_still_is_woken_by_its_claim() -> None:
    story = Story(NEW_YEAR).tell(creating(), booted()).tell(VmSuspended(vm_id="v"))
    story.tell(acquired("p", vm="v"), after_s=40).tell(released(), after_s=5)

    assert by_owner(all_at_once(story.recorded())) == {(POOL, ""): (0.0, 40.0), ("ann", "p"): (5.0, 0.0)}


def test_what_is_open_waits_for_its_end() -> None:
    """Nothing is added for it before; its interval says since when."""
    folded = all_at_once(Story(NEW_YEAR).tell(creating()).tell(booted(), after_s=5).recorded())

    assert folded.added == {}
    assert (folded.opened["v"].since_ms, folded.opened["v"].rev) == (NEW_YEAR * 1000, 2)


# --- hours, days, months ------------------------------------------------------------------------------------------


def test_hours_are_cut_at_their_borders() -> None:
    """Over midnight, and the end of a month and a year; what lasts for days has each of their hours once."""
    story = Story(NEW_YEAR - 0.25).tell(creating()).tell(VmDestroyed(vm_id="v"), after_s=3 * DAY_S + 0.5)
    folded = all_at_once(story.recorded())

    hours = {bucket.hour_ms: spent.running_ms for bucket, spent in folded.added.items()}
    assert len(hours) == 1 + 72 + 1
    begin_ms = int(NEW_YEAR * 1000)
    assert hours[begin_ms - HOUR_MS] == 250
    assert hours[begin_ms + 3 * 24 * HOUR_MS] == 250
    assert {hours[begin_ms + number * HOUR_MS] for number in range(72)} == {HOUR_MS}


def test_what_ends_on_the_hour_has_nothing_of_the_next() -> None:
    story = Story(NEW_YEAR).tell(creating()).tell(VmDestroyed(vm_id="v"), after_s=3_600)

    [(bucket, spent)] = all_at_once(story.recorded()).added.items()
    assert (bucket.hour_ms, spent) == (NEW_YEAR * 1000, Spent(HOUR_MS, 0))


# --- what must change nothing -------------------------------------------------------------------------------------


def test_an_event_that_comes_again_changes_nothing() -> None:
    """Two writers got through with one revision: the first counts, as in every fold."""
    records = life(Story(NEW_YEAR)).recorded()
    doubled = [
        each for record in records[:-1] for each in (record, msgspec.structs.replace(record, seq=record.seq + 50))
    ]

    assert fold({}, [*doubled, records[-1]]) == all_at_once(records)


def test_events_of_others_and_of_vms_that_nobody_made_are_passed_over() -> None:
    """A log that begins in the middle makes no life up."""
    story = Story(NEW_YEAR).tell(booted(), acquired("p", vm="v"), VmDestroyed(vm_id="v"))

    assert all_at_once(story.recorded()) == Folded({}, set(), {})


def test_a_clock_that_goes_back_takes_no_time_away() -> None:
    """Replicas' clocks differ; an interval is never negative."""
    story = Story(NEW_YEAR).tell(creating()).tell(acquired("p", vm="v"), after_s=10)
    story.tell(released(), after_s=-5).tell(VmDestroyed(vm_id="v"), after_s=7)

    assert by_owner(all_at_once(story.recorded())) == {(POOL, ""): (12.0, 0.0)}


def test_an_event_of_a_later_version_counts_its_revision() -> None:
    """Nothing is known of it but that it is the VM's next."""
    [made, _] = Story(NEW_YEAR).tell(creating(), booted()).recorded()
    meta = Meta(id="x", at=NEW_YEAR + 1, rev=2, correlation_id="c", causation_id="c", actor="test")
    unknown = Recorded(seq=2, key=made.key, type="VmPolished", meta=meta, event=None)

    assert fold({}, [made, unknown]).opened["v"].rev == 2


# --- any past -----------------------------------------------------------------------------------------------------

VMS = ("a", "b", "c")
WAITS = st.floats(min_value=0, max_value=5 * 3_600, allow_nan=False)


def _event(kind: int, vm: str, who: str) -> Event:
    kinds: tuple[Event, ...] = (
        booted(vm),
        acquired(f"p-{who}", vm=vm, owner=who),
        VmSuspended(vm_id=vm),
        VmResumed(vm_id=vm),
        released(vm),
        released(vm, keep="key"),
        VmCleaned(vm_id=vm, owner=who),
        VmLost(vm_id=vm, preview_id=None, detail="silent"),
    )
    return kinds[kind]


@st.composite
def pasts(draw: st.DrawFn) -> Story:
    """Three VMs that are made at once, whatever happens to them, and their ends."""
    story = Story(NEW_YEAR - draw(WAITS)).tell(*(creating(vm) for vm in VMS))
    for _ in range(draw(st.integers(0, 25))):
        step = _event(draw(st.integers(0, 7)), draw(st.sampled_from(VMS)), draw(st.sampled_from(("ann", "bob"))))
        story.tell(step, after_s=draw(WAITS))
    for vm in VMS:
        story.tell(VmDestroyed(vm_id=vm), after_s=draw(WAITS))
    return story


@given(pasts())
def test_the_hours_add_up_to_the_lives(story: Story) -> None:
    """To the millisecond: nothing is counted twice or left out, however often a VM changes hands."""
    records = story.recorded()
    folded = all_at_once(records)

    born_ms = round(story.told[0][0] * 1000)
    lives_ms = sum(round(each.meta.at * 1000) - born_ms for each in records if isinstance(each.event, VmDestroyed))
    assert total_ms(folded) == lives_ms
    assert all(bucket.hour_ms % HOUR_MS == 0 for bucket in folded.added)
    in_hours: dict[tuple[int, str], int] = defaultdict(int)
    for bucket, spent in folded.added.items():
        in_hours[bucket.hour_ms, bucket.pool] += spent.running_ms + spent.suspended_ms
    assert all(0 < ms <= len(VMS) * HOUR_MS for ms in in_hours.values())


@given(pasts(), st.lists(st.integers(0, 40), max_size=4))
def test_batches_give_what_the_whole_gives(story: Story, cuts: list[int]) -> None:
    """Wherever the log is cut, with what is open carried on as rows: what is added is the same."""
    records = story.recorded()
    open_now: dict[str, Interval] = {}
    added: dict[Bucket, Spent] = {}
    borders = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    for begin, end in pairwise(borders):
        folded = fold(open_now, records[begin:end])
        open_now = {**{vm: row for vm, row in open_now.items() if vm not in folded.ended}, **folded.opened}
        for bucket, spent in folded.added.items():
            added[bucket] = added.get(bucket, Spent()) + spent

    assert (open_now, added) == ({}, all_at_once(records).added)


@pytest.mark.parametrize("suspended", [False, True])
def test_an_open_interval_is_spread_up_to_now(suspended: bool) -> None:
    """As what is read while it lasts."""
    interval = fold({}, Story(NEW_YEAR - 60).tell(creating()).recorded()).opened["v"]
    now_ms = int((NEW_YEAR + 30) * 1000)
    spent = [each for _, each in spread(msgspec.structs.replace(interval, suspended=suspended), now_ms)]

    lengths = [60_000, 30_000]
    assert spent == [Spent(0, each) if suspended else Spent(each, 0) for each in lengths]
