"""The pool's state is what the log says, and nothing else; and whatever comes in whatever order, its rules hold."""

from collections import Counter

import msgspec
import pytest
from hypothesis import Phase, find, settings
from hypothesis import given as given_any
from hypothesis import strategies as st

from services.pool.app import definition
from services.pool.config import PoolConfig
from services.pool.state import State, initial
from shared.codec import Recorded, event_id
from shared.commands import (
    AcquireVm,
    CheckVm,
    Command,
    MaintainPool,
    RecordVmBooted,
    RecordVmBootFailed,
    RecordVmCleaned,
    RecordVmDestroyed,
    RecordVmLost,
    ReleaseVm,
)
from shared.definition import digest, replay
from shared.events import (
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    Event,
    VmAcquired,
    VmCreationStarted,
    VmDestroyed,
    aggregate_key,
)
from tests.builders import (
    PREVIEW,
    VM,
    claim_queued,
    files_changed,
    pool_resized,
    preview_requested,
    project_created,
    vm,
    vm_acquired,
    vm_boot_failed,
    vm_booted,
    vm_creation_started,
    vm_lost,
    vm_released,
    warm_vms,
)
from tests.spec import AT, execute, given, record

CONFIG = PoolConfig()
POOL = definition(CONFIG)
EVERYTHING: list[Event] = [
    pool_resized(2, 1, 4),
    *warm_vms(1, 2),
    claim_queued("first"),
    vm_acquired(1, "first"),
    vm_creation_started(3),
    vm_boot_failed(3),
    VmDestroyed(vm_id=vm(3)),
    vm_lost(1, "first"),
    claim_queued("second"),
    ClaimExpired(preview_id="second", waited_s=1.0),
]


def test_replay_gives_the_same_state() -> None:
    """Twice the same events, from fresh states: equal digests, and unequal to what fewer events give."""
    log = given(POOL, *EVERYTHING).log
    assert digest(replay(POOL, log)) == digest(replay(POOL, log))
    assert digest(replay(POOL, log[:-3])) != digest(replay(POOL, log))


def test_a_revision_seen_before_is_ignored() -> None:
    """Two writers got through: the lower sequence won, here as in every replica."""
    log = given(POOL, *warm_vms(1), vm_acquired(1, "winner")).log
    loser = msgspec.structs.replace(log[-1], seq=99, event=vm_acquired(1, "loser"))
    state = replay(POOL, [*log, loser])
    assert (state.holders, state.vms[VM].preview_id) == ({"winner": VM}, "winner")


def test_an_unknown_event_is_skipped_but_its_revision_counts() -> None:
    """A newer service wrote it: this one goes on after it, and does not take its revision for a free one."""
    log = given(POOL, *warm_vms(1), vm_acquired(1)).log
    unknown = msgspec.structs.replace(log[2], type="VmPolished", event=None)
    same_revision = msgspec.structs.replace(log[2], seq=4)
    next_revision = msgspec.structs.replace(log[2], seq=5, meta=msgspec.structs.replace(log[2].meta, rev=4))
    assert replay(POOL, [*log[:2], unknown, same_revision]).holders == {}
    assert replay(POOL, [*log[:2], unknown, next_revision]).holders == {PREVIEW: VM}


def test_events_of_other_services_change_nothing() -> None:
    state = given(POOL, project_created(), files_changed(), preview_requested()).state
    assert digest(state) == digest(initial())


def test_events_of_an_unknown_vm_do_no_harm() -> None:
    """A log that was cut at its start still folds."""
    state = given(POOL, vm_booted(7), vm_lost(7), VmDestroyed(vm_id=vm(7)), vm_released(7)).state
    assert (state.vms, state.holders) == ({}, {})


def test_a_fresh_state_shares_nothing_with_another() -> None:
    """Two replicas in one process must not fold into one another's dictionaries."""
    first = given(POOL, *warm_vms(1), claim_queued()).state
    assert first.vms
    assert (initial().vms, initial().claims, initial().holders) == ({}, {}, {})


def test_the_warm_ones_are_given_away_oldest_first() -> None:
    """Oldest by when it got warm; what boots or is held is not among them."""
    past = [*map(vm_creation_started, (1, 2, 3, 4)), vm_booted(2), vm_booted(1), vm_booted(4), vm_acquired(4)]
    state = given(POOL, *past).state
    assert (list(state.ready), list(state.booting)) == ([vm(2), vm(1)], [vm(3)])


def test_a_destroyed_vm_leaves_memory() -> None:
    """State holds what lives; only that it was released is remembered, among the newest ones."""
    state = given(POOL, *warm_vms(1), vm_acquired(1), vm_released(1), VmDestroyed(vm_id=VM)).state
    assert state == msgspec.structs.replace(initial(), created=1, released_by=state.released_by)
    assert list(state.released_by) == [PREVIEW]


def test_a_preview_with_two_vms_keeps_the_first() -> None:
    """And once that is lost, the other does not become its own: it goes back too."""
    two = [*warm_vms(1, 2), vm_acquired(1), vm_acquired(2)]
    assert given(POOL, *two).state.holders == {PREVIEW: VM}
    assert given(POOL, *two, vm_released(2)).state.holders == {PREVIEW: VM}
    assert given(POOL, *two, vm_lost(1)).state.holders == {}


# --- whatever comes -----------------------------------------------------------------------------------------------

OWNERS, KEYS = st.sampled_from(["alice", "alice", "bob"]), st.sampled_from(["k1", "k1", "k1", "k2", ""])
PREVIEWS, NUMBERS = st.sampled_from([f"preview-{i}" for i in range(5)]), st.integers(1, 9).map(vm)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    *(
        st.builds(AcquireVm, preview_id=PREVIEWS, owner=OWNERS, timeout_s=st.integers(1, longest_s), key=KEYS)
        for longest_s in (10, 30, 60, 120, 240)
    ),
    st.just(MaintainPool()),
    st.builds(ReleaseVm, preview_id=PREVIEWS, keep=KEYS),
    st.builds(CheckVm, vm_id=NUMBERS, healthy=st.booleans()),
    st.builds(RecordVmBootFailed, vm_id=NUMBERS, code=st.just("no"), message=st.just("No.")),
    st.builds(RecordVmLost, vm_id=NUMBERS, detail=st.just("silent")),
    st.builds(RecordVmDestroyed, vm_id=NUMBERS),
)
LAG_MAX = 4
Step = tuple[Command, int, int, int, bool]
STEPS = st.lists(
    st.tuples(COMMANDS, st.integers(0, 20), st.integers(0, LAG_MAX), st.integers(0, 30), st.booleans()),
    min_size=12,
    max_size=30,
)
"""(command, seconds since the last one, events by which its replica lags, which earlier command is sent again, whether
the provider does afterwards what it was asked for)."""


class Pool:
    """A pool of several replicas: each command is decided on a state that may lag, and stored only if it may be."""

    def __init__(self) -> None:
        self.log: list[Recorded] = []
        self.at = AT
        self.sent: list[Command] = []

    @property
    def state(self) -> State:
        return replay(POOL, self.log)

    def run(self, command: Command, lag: int) -> None:
        """First by a replica that lags and loses, or not; then by one that has caught up."""
        command = msgspec.structs.replace(command, id=command.id or f"c{len(self.sent)}", at=self.at)
        self.sent.append(command)
        behind = self.log[: len(self.log) - lag]
        known = {each.meta.id for each in behind}
        for event in POOL.decide(replay(POOL, behind), command)[:1]:
            if event_id(command.id, event) not in known and _revision(behind, event) == _revision(self.log, event):
                record(self.log, event, command.id, self.at)
        execute(POOL, self.log, self.state, command)
        self.check()

    def provide(self) -> None:
        """The pool is looked after, then the provider has made what was to be made, and unmade what was to go."""
        self.run(MaintainPool(), 0)
        for each in list(self.state.vms.values()):
            if each.status == "booting":
                self.run(RecordVmBooted(vm_id=each.vm_id, host="h", port=1, boot_s=0.1), 0)
            elif each.status == "cleaning":
                self.run(RecordVmCleaned(vm_id=each.vm_id, lease=each.lease), 0)
            elif each.status == "going":
                self.run(RecordVmDestroyed(vm_id=each.vm_id), 0)

    def double(self) -> None:
        """Another replica, which had not heard yet, gives a preview that holds a VM a second one: no append forbids it."""
        state = self.state
        for preview, vm_id in zip(list(state.holders)[:1], state.ready, strict=False):
            record(self.log, vm_acquired(int(vm_id[3:]), preview), f"d{len(self.sent)}", self.at)

    def check(self) -> None:
        """What holds after every command."""
        state = self.state
        assert len(state.vms) <= state.pools["default"].maximum
        held = [each.preview_id for each in state.vms.values() if each.status == "acquired"]
        assert set(state.holders) <= set(held)
        assert all(state.vms[vm_id].preview_id == preview for preview, vm_id in state.holders.items())
        indexes = {"ready": state.ready, "booting": state.booting, "cleaning": state.cleaning, "kept": state.kept}
        for status, index in indexes.items():
            assert set(index) == {each.vm_id for each in state.vms.values() if each.status == status}

    def settle(self) -> None:
        """A maintenance: afterwards no preview holds two VMs, and no claim waits beside a warm VM."""
        self.run(MaintainPool(), 0)
        state = self.state
        held = [each.preview_id for each in state.vms.values() if each.status == "acquired"]
        assert len(held) == len(set(held)) == len(state.holders)
        assert not (state.claims and state.ready)


def _revision(log: list[Recorded], event: Event) -> int:
    return sum(each.key == aggregate_key(event) for each in log)


def _run(steps: list[Step], *, lags: bool) -> Pool:
    pool = Pool()
    record(pool.log, pool_resized(2, 1, 3))
    pool.run(MaintainPool(), 0)
    pool.provide()
    for command, pause_s, lag, again, provides in steps:
        pool.at += pause_s
        pool.run(command, min(lag, len(pool.log)) if lags else 0)
        if again < len(pool.sent) and not isinstance(pool.sent[again], ReleaseVm):
            pool.run(pool.sent[again], 0)
        if lags and lag == LAG_MAX:
            pool.double()
        if provides:
            pool.provide()
    return pool


@pytest.mark.parametrize(
    "reached", ["a preview with two VMs", "two claims that wait", "a claim that is served", "a VM that is kept"]
)
def test_the_sequences_get_where_it_matters(reached: str) -> None:
    """Else the properties below would hold of nothing."""

    def there(steps: list[Step]) -> bool:
        pool = _run(steps, lags=reached == "a preview with two VMs")
        match reached:
            case "a preview with two VMs":
                return any(replay(POOL, pool.log[:end]).doubled for end in range(len(pool.log)))
            case "two claims that wait":
                return any(len(replay(POOL, pool.log[:end]).claims) > 1 for end in range(len(pool.log)))
            case "a VM that is kept":
                return any(isinstance(each.event, VmAcquired) and each.event.key for each in pool.log)
            case _:
                return any(isinstance(each.event, VmAcquired) and not each.event.from_pool for each in pool.log)

    exploring = settings(max_examples=100, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    find(STEPS, there, settings=exploring)


@settings(max_examples=40, deadline=None)
@given_any(STEPS)
def test_the_rules_hold_whatever_comes(steps: list[Step]) -> None:
    """Replicas lag, commands come twice: never above the maximum, never a VM for two, but one that
    was emptied for the same owner and key; never two VMs for one."""
    pool = _run(steps, lags=True)
    pool.settle()
    for position, each in enumerate(pool.log):
        if isinstance(each.event, VmAcquired):
            before = replay(POOL, pool.log[:position]).vms[each.event.vm_id]
            fits = (before.owner, before.key) == (each.event.owner, each.event.key) and each.event.key
            assert (before.status, before.owner) == ("ready", None) or (before.status == "kept" and fits)
    assert digest(pool.state) == digest(replay(POOL, pool.log))


@settings(max_examples=40, deadline=None)
@given_any(STEPS)
def test_every_claim_ends(steps: list[Step]) -> None:
    """Assigned, withdrawn or expired: once all deadlines are over and the pool was looked after, nothing waits."""
    pool = _run(steps, lags=True)
    pool.at += 241
    pool.settle()
    assert pool.state.claims == {}
    waiting: set[str] = set()
    for each in pool.log:
        match each.event:
            case ClaimQueued(preview_id=preview):
                waiting.add(preview)
            case ClaimExpired(preview_id=preview) | ClaimWithdrawn(preview_id=preview) | VmAcquired(preview_id=preview):
                waiting.discard(preview)
            case _:
                continue
    assert waiting == set()


@settings(max_examples=40, deadline=None)
@given_any(STEPS)
def test_claims_are_served_in_their_order(steps: list[Step]) -> None:
    """Whoever gets a VM was its owner's first that still waited in time, and no owner who waits holds fewer; or nobody
    waited."""
    pool = _run(steps, lags=False)
    for position, each in enumerate(pool.log):
        if isinstance(each.event, VmAcquired) and not each.event.key:
            before = replay(POOL, pool.log[:position])
            living = [claim for claim in before.claims.values() if claim.deadline > each.meta.at]
            if each.event.from_pool:
                assert living == []
                continue
            holds = Counter(before.vms[vm_id].owner for vm_id in before.holders.values() if vm_id in before.vms)
            owner = each.event.owner
            assert next(claim.preview_id for claim in living if claim.owner == owner) == each.event.preview_id
            assert holds[owner] == min(holds[claim.owner] for claim in living)


@settings(max_examples=40, deadline=None)
@given_any(STEPS)
def test_numbers_count_up(steps: list[Step]) -> None:
    """No VM's name is ever used for a second one."""
    pool = _run(steps, lags=True)
    numbers = [each.event.number for each in pool.log if isinstance(each.event, VmCreationStarted)]
    assert numbers == list(range(1, len(numbers) + 1))
