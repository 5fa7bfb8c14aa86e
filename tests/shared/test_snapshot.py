"""A state as a snapshot and back: what comes out is what a replay gives, and what does not fit is told apart."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.bench import synthetic
from deploy.doctor.replaying import DEFINITIONS
from shared.codec import Recorded, decode, encode, subject_of
from shared.definition import digest, replay
from shared.events import EVENT_TYPES
from shared.fingerprint import fingerprint_of, folded_types, passed_over, rooms_of
from shared.memory import MemoryBroker
from shared.ports import Head
from shared.remembered import Remembered
from shared.runtime import Limits, Runtime
from shared.snapshot import Assembly, Kept, Snapshot, SnapshotUnfit, check, opened, pieces
from shared.snapshots import SnapshotKeeper

EVENTS = 600
SMALL = Limits(heads_max=40, recent_events_max=20)
"""So few that the bounds are reached many times."""


def recorded() -> list[Recorded]:
    """A busy platform's events, as the log holds them."""
    return [
        decode(encode(event, meta), seq=seq, subject=subject_of(event), traceparent=meta.traceparent)
        for seq, (event, meta, _) in enumerate(synthetic.events(EVENTS), start=1)
    ]


LOG = recorded()


def parts_of(kept: Kept[Any]) -> Assembly:
    assembly = Assembly(kept)
    for name, part in pieces(kept):
        assembly.add(name, part)
    return assembly


def snapshot_of(kept: Kept[Any]) -> Snapshot:
    return parts_of(kept).snapshot(service="pool", fingerprint="f", log="made", at=1.0)


@pytest.mark.parametrize("service", sorted(DEFINITIONS))
@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, EVENTS - 1))
async def test_a_state_from_a_snapshot_goes_on_like_one_from_a_replay(service: str, cut: int) -> None:
    """Wherever it is taken: state, remembered revisions and ids, also after the rest of the log. What is folded while the
    snapshot is being written is not in it."""
    definition = DEFINITIONS[service]()
    runtime = Runtime(definition, MemoryBroker().bus(), limits=SMALL)
    for each in LOG[:cut]:
        runtime._fold(each)
    kept = runtime.kept()
    for each in LOG[cut:]:
        runtime._fold(each)
    restored = opened(snapshot_of(kept), type(runtime.state), Head)

    assert digest(restored.state) == digest(replay(definition, LOG[:cut]))
    again = Runtime(definition, MemoryBroker().bus(), limits=SMALL)
    again.adopt(restored)
    for each in LOG[cut:]:
        again._fold(each)
    assert again.state == runtime.state
    assert digest(again.state) == digest(runtime.state)
    assert (again.seq, again._last_id) == (runtime.seq, runtime._last_id)
    assert (again._heads.copy(), again._recent.copy()) == (runtime._heads.copy(), runtime._recent.copy())


@pytest.mark.parametrize("service", sorted(DEFINITIONS))
def test_a_replay_may_leave_out_what_no_fold_names(service: str) -> None:
    """The state is the same; every service leaves something out, and none its own events."""
    definition = DEFINITIONS[service]()
    types = folded_types(definition.evolve)
    without = [each if each.type in types else msgspec.structs.replace(each, event=None) for each in LOG]

    assert digest(replay(definition, without)) == digest(replay(definition, LOG))
    assert any(each.event is None for each in without)
    assert {"gateway": "ProjectCreated", "telemetry": "AlertRaised"}.get(service, "VmAcquired") in types


@pytest.mark.parametrize("service", sorted(DEFINITIONS))
async def test_a_replay_ends_as_following_does(service: str) -> None:
    """From any place to any other: the same state, the same end, and the same revisions of all aggregates that it folds."""
    definition = DEFINITIONS[service]()
    broker = MemoryBroker()
    broker.records.extend(LOG)
    bus = broker.bus()
    types = folded_types(definition.evolve)
    for until in (1, EVENTS // 3, EVENTS - 1, EVENTS):
        replayed, followed = Runtime(definition, bus), Runtime(definition, bus)
        await bus.log.replay(0, until, types, replayed._fold)
        for each in LOG[:until]:
            followed._fold(each)
        assert (replayed.seq, replayed._last_id) == (until, followed._last_id)
        assert replayed.state == followed.state
        assert replayed._recent.copy() == followed._recent.copy()
        passed = passed_over(types)
        folded = {each.key for each in LOG[:until] if each.type not in passed}
        assert {key: replayed._heads.get(key) for key in folded} == {key: followed._heads.get(key) for key in folded}


def test_what_a_service_folds_nothing_of_is_passed_over() -> None:
    """Whole aggregates, never some of one's events; and none of the service's own."""
    for name, make in DEFINITIONS.items():
        types = folded_types(make().evolve)
        passed = passed_over(types)
        aggregates = {(EVENT_TYPES[each].service, EVENT_TYPES[each].aggregate) for each in passed}
        assert passed == {each for each, kind in EVENT_TYPES.items() if (kind.service, kind.aggregate) in aggregates}
        assert not passed & types
        assert name not in {service for service, _ in aggregates}
    assert "PreviewReady" in passed_over(folded_types(DEFINITIONS["pool"]().evolve))
    assert passed_over(None) == frozenset()


def wrong_service(head: Any) -> Any:
    return msgspec.structs.replace(head, service="gateway")


def wrong_code(head: Any) -> Any:
    return msgspec.structs.replace(head, fingerprint="other")


def wrong_log(head: Any) -> Any:
    return msgspec.structs.replace(head, log="made anew")


def ahead(head: Any) -> Any:
    return msgspec.structs.replace(head, seq=EVENTS + 1)


def cut_short(head: Any) -> Any:
    return msgspec.structs.replace(head, pieces=head.pieces[:-1])


@pytest.mark.parametrize("change", [wrong_service, wrong_code, wrong_log, ahead, cut_short])
async def test_what_does_not_fit_is_refused(change: Callable[[Any], Any]) -> None:
    whole = snapshot_of(folded("pool").kept())
    expected = {"service": "pool", "fingerprint": "f", "log": "made", "last_seq": EVENTS}
    check(whole, **expected)  # type: ignore[arg-type]
    with pytest.raises(SnapshotUnfit):
        check(Snapshot(change(whole.head), whole.body), **expected)  # type: ignore[arg-type]


def folded(service: str) -> Runtime[Any]:
    """A replica that has folded everything."""
    runtime = Runtime(DEFINITIONS[service](), MemoryBroker().bus())
    for each in LOG:
        runtime._fold(each)
    return runtime


@given(position=st.integers(0), value=st.integers(1, 255))
@settings(deadline=None, max_examples=50)
async def test_no_changed_byte_goes_unseen(position: int, value: int) -> None:
    whole = snapshot_of(folded("telemetry").kept())
    body = bytearray(whole.body)
    body[position % len(body)] ^= value
    with pytest.raises(SnapshotUnfit, match="damaged"):
        check(Snapshot(whole.head, bytes(body)), service="pool", fingerprint="f", log="made", last_seq=EVENTS)


async def test_bytes_of_another_shape_are_unfit() -> None:
    """Should a fingerprint ever miss a change: a state that can't be read is no crash."""
    kept = folded("pool").kept()
    whole = snapshot_of(kept)
    with pytest.raises(SnapshotUnfit, match="can't be read"):
        opened(whole, type(DEFINITIONS["gateway"]().initial()), Head)


class Inner(msgspec.Struct, frozen=True):
    """A part of a state."""

    name: str


class Before(msgspec.Struct):
    items: dict[str, Inner] = {}


def test_a_fingerprint_follows_shapes_and_folds() -> None:
    """A field more, another type or default, or another fold makes another; the same code has the same one."""
    evolve = DEFINITIONS["pool"]().evolve
    more = msgspec.defstruct("Before", [("items", dict[str, Inner], {}), ("more", int, 0)])
    inner: Any = msgspec.defstruct("Inner", [("name", int)])
    other = msgspec.defstruct("Before", [("items", dict[str, inner], {})])
    found = [fingerprint_of(evolve, kind) for kind in (Before, more, other)]
    found.append(fingerprint_of(DEFINITIONS["telemetry"]().evolve, Before))

    assert len(set(found)) == len(found)
    assert found[0] == fingerprint_of(evolve, Before)


def test_a_fold_is_all_of_its_services_modules() -> None:
    """The orchestrator's shapes are in a room of their own."""
    names = [module.__name__ for module in rooms_of(DEFINITIONS["orchestrator"]().evolve)]

    assert names == ["services.orchestrator.model", "services.orchestrator.state"]


@given(keys=st.lists(st.integers(0, 30).map(str)), most=st.integers(2, 12))
def test_the_newest_are_remembered_within_the_bound(keys: list[str], most: int) -> None:
    remembered = Remembered[int](most)
    for number, key in enumerate(keys, start=1):
        remembered[key] = number
    newest = list(dict.fromkeys(reversed(keys)))
    last = {key: number for number, key in enumerate(keys, start=1)}

    assert len(list(remembered)) <= most
    for key in newest[: most // 2]:
        assert remembered.get(key) == last[key]
    assert all(remembered.get(key) == last[key] for key in remembered)


async def test_a_snapshot_is_written_when_it_is_due_and_not_before() -> None:
    """By whichever replica comes first; a newer one is never replaced by an older one."""
    broker = MemoryBroker()
    slow, quick = (Runtime(DEFINITIONS["pool"](), broker.bus()) for _ in range(2))
    for each in LOG[:100]:
        slow._fold(each)
        quick._fold(each)
    keepers = [SnapshotKeeper(each, events=100, period_s=1.0) for each in (slow, quick)]
    assert await keepers[0].keep_if_due()
    assert not await keepers[1].keep_if_due()
    for each in LOG[100:250]:
        quick._fold(each)
    assert await keepers[1].keep_if_due()
    assert not await keepers[0].keep()
    (stored,) = broker.snapshots.items.values()
    assert stored.head.seq == 250
    assert not await keepers[1].keep_if_due()
