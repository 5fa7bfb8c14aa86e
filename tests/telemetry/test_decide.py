"""Alerts: given what happened, when they are evaluated, then what is raised and cleared."""

from collections.abc import Sequence

import msgspec
import pytest

from services.telemetry.app import definition
from services.telemetry.config import TelemetryConfig
from services.telemetry.state import State
from shared.commands import EvaluateAlerts, RecordResources, ResizePool
from shared.definition import digest, replay
from shared.events import (
    AlertCleared,
    AlertRaised,
    ClaimExpired,
    ClaimQueued,
    ClaimWithdrawn,
    Event,
    PoolResized,
    PreviewResumed,
    PreviewSuspended,
    ResourcesMeasured,
    VmBooted,
    VmBootFailed,
    VmCreationStarted,
    VmDestroyed,
    VmLost,
    VmReleased,
    VmRetired,
)
from tests.spec import given

from .world import Story, acquired, failed, ready, requested, restarted, stopped

CONFIG = TelemetryConfig(pool_empty_s=30, boot_failures_min=3, clear_after_s=20)
PARTS = definition(CONFIG)


def after(story: Story) -> State:
    """The state that the story leads to."""
    return replay(PARTS, story.recorded())


def evaluated(story: Story, at: float) -> Sequence[Event]:
    """What the evaluation decides at that time."""
    return PARTS.decide(after(story), EvaluateAlerts(id="c", at=at))


def creating(vm: str) -> VmCreationStarted:
    return VmCreationStarted(vm_id=vm, provider="local", number=1)


def booted(vm: str) -> VmBooted:
    return VmBooted(vm_id=vm, host="h", port=1, boot_s=0.1)


def boot_failed(vm: str) -> VmBootFailed:
    return VmBootFailed(vm_id=vm, code="boot_failed", message="no")


def resized(target: int) -> PoolResized:
    return PoolResized(target=target, minimum=0, maximum=5)


def queued(preview: str) -> ClaimQueued:
    return ClaimQueued(preview_id=preview, owner="ann", deadline=9_999.0)


def warm(vm: str = "v1", at: float = 1_000.0) -> Story:
    """A pool with one warm VM."""
    return Story(at).tell(creating(vm)).tell(booted(vm), after_s=1)


def raised(alert: str, since: float) -> AlertRaised:
    return AlertRaised(alert=alert, message="why", since=since)


def ended(events: Sequence[Event]) -> list[tuple[str, float]]:
    """Of alerts that are cleared, and nothing else: name, and how long each lasted."""
    assert all(isinstance(event, AlertCleared) for event in events), events
    return [(event.alert, event.lasted_s) for event in events if isinstance(event, AlertCleared)]


# --- pool_empty ---------------------------------------------------------------------------------------------------


def test_nothing_heard_of_the_pool_is_no_alert() -> None:
    """A fresh installation does not begin with an alert."""
    assert evaluated(Story(), at=1e9) == []


def test_an_empty_pool_is_raised_after_its_time_and_not_before() -> None:
    """The alert tells since when the pool is empty."""
    story = warm().tell(acquired("p1", vm="v1"), after_s=9)

    assert evaluated(story, at=1_039.9) == []
    (alert,) = evaluated(story, at=1_040)
    assert isinstance(alert, AlertRaised)
    assert (alert.alert, alert.since) == ("pool_empty", 1_010.0)
    assert "30 s" in alert.message


def test_a_booting_vm_is_not_warm() -> None:
    """Time runs from the first that is heard of the pool until a VM has booted."""
    (alert,) = evaluated(Story(1_000).tell(creating("v1")), at=1_030)

    assert isinstance(alert, AlertRaised)
    assert alert.since == 1_000


def test_a_warm_vm_is_no_alert() -> None:
    """However long ago the pool was empty."""
    assert evaluated(warm(), at=9_000) == []


def test_a_pool_that_shall_be_empty_is_no_alert() -> None:
    """Target 0 and nobody waiting: no VM is wanted."""
    story = Story(1_000).tell(resized(0)).tell(creating("v1")).tell(boot_failed("v1"))

    assert evaluated(story, at=9_000) == []


def test_a_claim_that_waits_wants_a_vm_even_at_target_0() -> None:
    """The alert counts who waits."""
    story = Story(1_000).tell(resized(0)).tell(queued("p1"), after_s=5)

    (alert,) = evaluated(story, at=1_035)
    assert isinstance(alert, AlertRaised)
    assert alert.since == 1_005
    assert "1 preview waiting" in alert.message


@pytest.mark.parametrize(
    "ending",
    [
        ClaimExpired(preview_id="p1", waited_s=1.0),
        ClaimWithdrawn(preview_id="p1", reason="ended"),
        acquired("p1", vm="v9"),
    ],
)
def test_a_claim_that_has_ended_wants_nothing(ending: Event) -> None:
    """Served, expired or withdrawn: it waits no longer."""
    story = Story(1_000).tell(resized(0)).tell(queued("p1")).tell(ending, after_s=1)

    assert evaluated(story, at=9_000) == []


@pytest.mark.parametrize(
    "gone",
    [
        acquired("p1", vm="v1"),
        VmReleased(vm_id="v1", preview_id="p1", reason="ended"),
        VmRetired(vm_id="v1", reason="aged"),
        VmLost(vm_id="v1", preview_id=None, detail=""),
        VmDestroyed(vm_id="v1"),
        boot_failed("v1"),
    ],
)
def test_every_way_in_which_a_vm_goes_empties_the_pool(gone: Event) -> None:
    """Whatever takes the last warm VM starts the clock."""
    (alert,) = evaluated(warm().tell(gone, after_s=9), at=1_050)

    assert isinstance(alert, AlertRaised)
    assert alert.since == 1_010


def test_a_boot_reported_after_the_vm_was_given_up_warms_nothing() -> None:
    """A late report does not bring a VM back."""
    story = Story(1_000).tell(creating("v1")).tell(VmDestroyed(vm_id="v1")).tell(booted("v1"), after_s=5)

    assert [event.aggregate_id for event in evaluated(story, at=1_030)] == ["pool_empty"]


def test_an_alert_is_raised_once() -> None:
    """What stands needs no second event, whatever happens meanwhile."""
    story = warm().tell(acquired("p1", vm="v1"), after_s=9).tell(raised("pool_empty", 1_010.0), after_s=30)

    assert evaluated(story, at=1_041) == []
    assert evaluated(story.tell(queued("p2"), after_s=1), at=9_000) == []


def test_an_alert_is_cleared_after_the_condition_has_been_gone_for_a_while() -> None:
    """It lasted from the condition's begin to its end, the waiting for certainty not included."""
    story = warm().tell(acquired("p1", vm="v1"), after_s=9).tell(raised("pool_empty", 1_010.0), after_s=30)
    story.tell(creating("v2"), booted("v2"), after_s=10)

    assert evaluated(story, at=1_069.9) == []
    assert ended(evaluated(story, at=1_070)) == [("pool_empty", 40.0)]


def test_a_condition_that_comes_back_in_time_stays_one_alert() -> None:
    """Flapping neither clears nor raises; the time to clear begins again."""
    story = warm().tell(acquired("p1", vm="v1"), after_s=9).tell(raised("pool_empty", 1_010.0), after_s=30)
    story.tell(creating("v2"), booted("v2"), after_s=10).tell(acquired("p2", vm="v2"), after_s=5)

    assert evaluated(story, at=1_075) == []

    story.tell(creating("v3"), booted("v3"), after_s=25)
    assert evaluated(story, at=1_099) == []
    assert ended(evaluated(story, at=1_100)) == [("pool_empty", 70.0)]


def test_a_cleared_alert_can_be_raised_again() -> None:
    """The next time is a new alert with its own begin."""
    story = warm().tell(raised("pool_empty", 900.0)).tell(AlertCleared(alert="pool_empty", lasted_s=1.0))
    story.tell(acquired("p1", vm="v1"), after_s=99)

    (alert,) = evaluated(story, at=1_130)
    assert isinstance(alert, AlertRaised)
    assert alert.since == 1_100


# --- vm_boots_failing ---------------------------------------------------------------------------------------------


def failures(count: int, story: Story | None = None) -> Story:
    """So many boots failed in a row, one a second; another VM is warm."""
    story = story or warm("v0")
    for number in range(count):
        story.tell(creating(f"b{number}"), boot_failed(f"b{number}"), after_s=1)
    return story


def test_boots_are_failing_from_the_third_in_a_row() -> None:
    """The alert tells since when, and how many."""
    assert evaluated(failures(2), at=1_010) == []
    (alert,) = evaluated(failures(3), at=1_010)

    assert isinstance(alert, AlertRaised)
    assert (alert.alert, alert.since) == ("vm_boots_failing", 1_002.0)
    assert "3 VM boots" in alert.message


def test_a_boot_between_failures_begins_the_count_anew() -> None:
    """Two, a success, two: not three in a row."""
    story = failures(2).tell(creating("v5"), booted("v5"), after_s=1)

    assert evaluated(failures(2, story), at=1_010) == []


def test_failing_boots_are_raised_once_and_cleared_after_a_boot() -> None:
    """The boot that worked ends it, once it has stayed the last word for a while."""
    story = failures(3).tell(raised("vm_boots_failing", 1_002.0), after_s=1)
    assert evaluated(story, at=9_000) == []

    story.tell(creating("v5"), booted("v5"), after_s=5)
    assert evaluated(story, at=1_029) == []
    assert ended(evaluated(story, at=1_030)) == [("vm_boots_failing", 8.0)]


def test_boots_that_fail_again_before_it_is_cleared_stay_one_alert() -> None:
    """Three more in a row within the time: still raised, not again."""
    story = failures(3).tell(raised("vm_boots_failing", 1_002.0), after_s=1)
    story.tell(creating("v5"), booted("v5"), after_s=5)

    assert evaluated(failures(3, story), at=9_000) == []


def test_one_failure_after_the_end_does_not_hold_the_alert_up() -> None:
    """Less than three in a row is not the condition."""
    story = failures(3).tell(raised("vm_boots_failing", 1_002.0), after_s=1)
    story = failures(1, story.tell(creating("v5"), booted("v5"), after_s=5))

    assert [type(event).__name__ for event in evaluated(story, at=1_030)] == ["AlertCleared"]


def test_both_alerts_can_hold_at_once() -> None:
    """A pool that cannot boot is empty, too: each condition is its own alert."""
    story = failures(3, Story(1_000))

    assert [event.aggregate_id for event in evaluated(story, at=1_040)] == ["pool_empty", "vm_boots_failing"]


# --- reactions_parked ---------------------------------------------------------------------------------------------


def looked(story: Story, parked: int | None, at: float = 1_010.0) -> Sequence[Event]:
    """What the evaluation decides when so many reactions are parked."""
    return PARTS.decide(after(story), EvaluateAlerts(id="c", at=at, parked=parked))


def test_one_parked_reaction_is_an_alert() -> None:
    """At once, with what to do; it is raised once, however many follow."""
    (alert,) = looked(warm(), 1)

    assert isinstance(alert, AlertRaised)
    assert (alert.alert, alert.since) == ("reactions_parked", 1_010.0)
    assert alert.message.startswith("1 reaction has failed")
    assert "drape parked replay" in alert.message
    assert looked(warm().tell(alert), 7) == []


def test_the_alert_ends_with_the_last_parked_reaction() -> None:
    """Tried again or dropped: nothing flaps here, so there is nothing to wait for."""
    story = warm().tell(raised("reactions_parked", 1_001.0))

    assert looked(story, 1) == []
    assert ended(looked(story, 0, at=1_002.0)) == [("reactions_parked", 1.0)]


def test_a_count_that_nobody_knows_changes_nothing() -> None:
    """Neither raised nor cleared while the stream of parked reactions does not answer."""
    assert looked(warm(), None) == []
    assert looked(warm().tell(raised("reactions_parked", 1_001.0)), None) == []
    assert looked(warm(), 0) == []


# --- the rest -----------------------------------------------------------------------------------------------------


def test_each_pool_has_alerts_of_its_own() -> None:
    """One that has warm VMs says nothing of another that has none, nor of its boots."""
    large = msgspec.structs.replace(creating("v2"), pool="large")
    story = warm().tell(msgspec.structs.replace(resized(1), pool="large"))
    for number in range(CONFIG.boot_failures_min):
        story.tell(msgspec.structs.replace(large, vm_id=f"l{number}"), boot_failed(f"l{number}"))
    alerts = [event for event in evaluated(story, at=2_000) if isinstance(event, AlertRaised)]
    assert [each.alert for each in alerts] == ["pool_empty-large", "vm_boots_failing-large"]
    assert all("the pool large" in each.message.lower() for each in alerts)


def test_another_services_command_is_a_bug() -> None:
    """Nothing is decided about what telemetry does not own."""
    with pytest.raises(AssertionError, match="ResizePool"):
        PARTS.decide(State(), ResizePool(target=1, minimum=1, maximum=1))


def test_the_state_has_one_fingerprint() -> None:
    """Two replicas that heard the same hold states that encode alike, whatever the sets' order in memory."""
    story = Story()
    for number in range(50):
        story.tell(creating(f"v{number}"), booted(f"v{number}"), queued(f"p{number}"))

    state = after(story)
    other = State(pools=state.pools)
    for number in reversed(range(50)):
        other.warm.add(f"v{number}")
        other.vms[f"v{number}"] = "default"
        other.waiting[f"p{number}"] = "default"

    assert digest(other) == digest(state)


# --- resources ----------------------------------------------------------------------------------------------------


def test_a_snapshot_counts_the_previews_that_live() -> None:
    """A failed one no more, until it is tried again; the pools as they were told, unknown ones too."""
    past: list[Event] = [requested("a"), requested("b"), requested("c"), requested("d"), requested("e"), requested("f")]
    past += [ready("a"), ready("b"), PreviewSuspended(preview_id="b", attempt=1, idle_s=300.0), failed("c")]
    past += [stopped("d"), ready("e"), PreviewSuspended(preview_id="e", attempt=1, idle_s=300.0)]
    past += [PreviewResumed(preview_id="e"), failed("f"), restarted("f", 2)]
    for pools in ((), None):
        measured = ResourcesMeasured(day="2027-01-31", pools=pools, starting=1, ready=2, suspended=1)
        command = RecordResources(day="2027-01-31", pools=pools)
        given(PARTS, *past).when(command).then(measured)


def test_a_snapshot_that_is_asked_for_again_is_taken_once() -> None:
    """The tick may come twice; the newest snapshot is the one that is shown as it is now."""
    command = RecordResources(id="tick-1", at=500.0, day="2027-01-31")
    told = given(PARTS, requested("a")).when(command, command).stays_quiet()

    assert told.state.resources is not None
    assert told.state.resources.at == 500.0
    assert told.state.resources.measured.starting == 1
