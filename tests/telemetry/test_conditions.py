"""Each alert driven up and down: given what happened and what was measured, when it is looked, then what is raised and
cleared. Evaluations go through the loop's own rules, so that what is raised is in the state when it is cleared."""

from collections.abc import Sequence

import msgspec
import pytest

from services.telemetry.app import definition
from services.telemetry.config import AlertConfig, TelemetryConfig
from services.telemetry.state import State
from services.telemetry.windows import CODES_MAX, KEPT_S, SLICE_S, SLICES_MAX, Outcomes, note_outcome, p95
from shared.commands import EvaluateAlerts, Lag
from shared.definition import digest, replay
from shared.events import (
    AlertCleared,
    AlertRaised,
    Event,
    InstallCompleted,
    PoolReconciled,
)

from .world import Story, detected, failed, ready, recorded

CONFIG = TelemetryConfig(clear_after_s=20)
LIMITS = AlertConfig(budget_day=10.0, budget_month=100.0)
START = 100_000.0


class Told:
    """A story and the alerts that come of it, evaluated whenever it is asked."""

    def __init__(self, limits: AlertConfig = LIMITS) -> None:
        self.parts = definition(CONFIG, limits)
        self.story = Story(START)
        self._looks = 0

    def look(self, after_s: float = 0.0, **measured: object) -> list[Event]:
        """Evaluate so much later; what comes of it is part of the story. None of it may name the pool."""
        self.story.at += after_s
        self._looks += 1
        command = EvaluateAlerts(id=f"look-{self._looks}", at=self.story.at, **measured)  # type: ignore[arg-type]
        events: list[Event] = []
        for _ in range(10):
            known = {(type(each), each.aggregate_id) for each in events}
            decided = self.parts.decide(self.state, command)
            wanted = [each for each in decided if (type(each), each.aggregate_id) not in known]
            if not wanted:
                break
            self.story.tell(wanted[0])
            events.append(wanted[0])
        return events

    @property
    def state(self) -> State:
        """What the story leads to."""
        return replay(self.parts, self.story.recorded())

    def previews(self, ready_: int, failed_: int, code: str = "install_failed") -> "Told":
        for number in range(ready_):
            self.story.tell(ready(f"r{number}"))
        for number in range(failed_):
            self.story.tell(msgspec.structs.replace(failed(f"f{number}"), code=code))
        return self


def raised(events: Sequence[Event]) -> AlertRaised:
    """The one alert that is raised, and nothing else."""
    (event,) = events
    assert isinstance(event, AlertRaised)
    return event


def cleared(events: Sequence[Event]) -> AlertCleared:
    """The one that is cleared."""
    (event,) = events
    assert isinstance(event, AlertCleared)
    return event


# --- error_rate ---------------------------------------------------------------------------------------------------


def test_more_than_a_tenth_of_failures_is_an_alert_and_a_tenth_is_not() -> None:
    """Of those that became ready or failed in the window; with what was measured."""
    assert Told().previews(9, 1).look() == []
    alert = raised(Told().previews(8, 2).look(after_s=5))

    assert (alert.alert, alert.severity, alert.value, alert.threshold) == ("error_rate", "critical", 0.2, 0.1)
    assert alert.since == START
    assert "2 of 10 previews failed in the last 15 minutes" in alert.message


def test_a_few_previews_say_nothing_about_a_rate() -> None:
    """Below the minimum count, even if all fail."""
    assert Told().previews(0, 9).look() == []
    assert raised(Told().previews(0, 10).look()).value == 1.0


def test_the_rate_is_raised_once_and_cleared_once_it_is_well_below() -> None:
    """Between both thresholds nothing changes; below the lower one it has to stay for a while."""
    told = Told().previews(8, 2)
    raised(told.look())
    assert told.look(after_s=5) == []

    assert told.previews(20, 0).look(after_s=60) == [], "2 of 30 is below the upper threshold, not below the lower"
    told.previews(20, 0)
    assert told.look(after_s=1) == [], "2 of 50 is, but not for long enough"
    end = cleared(told.look(after_s=30))
    assert (end.alert, end.severity, end.value) == ("error_rate", "critical", 0.04)
    assert told.look(after_s=30) == []


def test_failures_leave_the_window_with_time() -> None:
    """Nobody asks for previews any more: the last failure holds the alert for as long as the window is."""
    told = Told().previews(0, 12)
    raised(told.look())

    assert told.look(after_s=LIMITS.error_rate_window_s - SLICE_S) == []
    assert cleared(told.look(after_s=CONFIG.clear_after_s + 2 * SLICE_S)).alert == "error_rate"


def test_an_alert_does_not_end_because_there_are_too_few_to_tell() -> None:
    """Nine that all failed are no good news, though nine would not have raised it."""
    told = Told().previews(0, 1)
    told.story.at += 600
    told.previews(0, 9)
    raised(told.look())

    assert told.look(after_s=400) == [], "the first has left the window"


def test_codes_that_are_ignored_do_not_count() -> None:
    """Neither as failures nor as previews."""
    ignoring = msgspec.structs.replace(LIMITS, error_rate_ignores=("syntax_error",))

    assert Told(ignoring).previews(9, 0).previews(0, 5, "syntax_error").look() == []
    assert raised(Told(ignoring).previews(9, 0).previews(0, 5, "out_of_memory").look()).value == 0.3571


def test_a_question_is_no_failure() -> None:
    """Which app is meant: by default that does not count."""
    assert Told().previews(5, 0).previews(0, 9, "app_choice_needed").look() == []


# --- install_slow -------------------------------------------------------------------------------------------------


def installs(told: Told, count: int, took_s: float, framework: str = "vite", every_s: float = 30.0) -> Told:
    """So many installs, one after another."""
    for number in range(count):
        preview = f"{framework}-{len(told.story.told)}-{number}"
        event = InstallCompleted(preview_id=preview, attempt=1, install_s=took_s)
        told.story.tell(msgspec.structs.replace(detected(preview), framework=framework), after_s=every_s).tell(event)
    return told


def test_installs_that_take_longer_than_before_are_an_alert_of_their_framework() -> None:
    """20 that take twice what 60 took before them; other frameworks' installs say nothing about these."""
    told = installs(installs(Told(), 60, 10.0), 80, 40.0, "nextjs")
    assert told.look() == []

    alert = raised(installs(told, 20, 20.0).look())
    assert (alert.alert, alert.value, alert.threshold) == ("install_slow", 2.0, 1.5)
    assert "20 installs of vite took 20.0 s (p95), those before them 10.0 s" in alert.message


@pytest.mark.parametrize(
    ("before", "took_s", "slow_s"),
    [(49, 10.0, 30.0), (60, 10.0, 14.0), (60, 0.5, 4.0)],
    ids=["too little is known", "a little slower", "nobody waits long"],
)
def test_what_says_too_little_is_no_regression(before: int, took_s: float, slow_s: float) -> None:
    assert installs(installs(Told(), before, took_s), 20, slow_s).look() == []


def test_one_that_hangs_is_no_regression() -> None:
    """The 95th percentile of 20 leaves the slowest out."""
    told = installs(installs(installs(Told(), 60, 10.0), 19, 10.0), 1, 500.0)

    assert told.look() == []


def test_what_is_slow_for_long_does_not_become_what_is_usual() -> None:
    """While the alert is raised its baseline is held; it ends when installs are nearly as fast as they were."""
    told = installs(installs(Told(), 60, 10.0), 20, 20.0)
    raised(told.look())

    assert installs(told, 200, 20.0, every_s=5.0).look() == []
    assert installs(told, 20, 13.0).look(after_s=60) == [], "1.3 times as long is not yet near it"
    assert cleared(installs(told, 20, 11.0).look(after_s=60)).alert == "install_slow"
    assert all(each.baseline is None for each in told.state.installs.values())


def test_a_regression_ends_when_nobody_installs_any_more() -> None:
    """What was slow 6 hours ago says nothing of now."""
    told = installs(installs(Told(), 60, 10.0), 20, 20.0)
    raised(told.look())

    assert cleared(told.look(after_s=KEPT_S)).alert == "install_slow"


# --- vm_leaks -----------------------------------------------------------------------------------------------------


def reconciled(orphans: int, stuck: int, *vms: str) -> PoolReconciled:
    return PoolReconciled(orphans=orphans, stuck=stuck, vms=vms)


def test_orphans_that_keep_coming_are_an_alert() -> None:
    """Two in an hour may be left by crashes, three are not; it ends when all but one have left the window."""
    told = Told()
    told.story.tell(reconciled(1, 0, "vm-1")).tell(reconciled(1, 0, "vm-2"), after_s=600)
    assert told.look() == []
    told.story.tell(reconciled(1, 0, "vm-3"), after_s=600)

    alert = raised(told.look())
    assert (alert.alert, alert.value, alert.threshold) == ("vm_leaks", 3.0, 3.0)
    assert "3 VMs were found" in alert.message
    assert told.look(after_s=LIMITS.leaks_window_s - 600) == []
    assert cleared(told.look(after_s=600 + CONFIG.clear_after_s)).alert == "vm_leaks"


def test_orphans_of_long_ago_do_not_add_up() -> None:
    """One each two hours is no leak."""
    told = Told()
    for number in range(6):
        told.story.tell(reconciled(1, 0, f"vm-{number}"), after_s=7_200)
        assert told.look() == []


def test_a_vm_that_can_not_be_destroyed_is_an_alert_after_a_while() -> None:
    """However few: it costs, until it is gone."""
    told = Told()
    told.story.tell(reconciled(1, 0, "vm-7")).tell(reconciled(0, 1, "vm-7"), after_s=30)
    assert told.look(after_s=LIMITS.stuck_s - 1) == []

    alert = raised(told.look(after_s=1))
    assert alert.since == START + 30
    assert "1 can't be destroyed (vm-7)" in alert.message
    told.story.tell(reconciled(0, 0), after_s=30)
    assert told.look(after_s=CONFIG.clear_after_s - 1) == []
    assert cleared(told.look(after_s=1)).lasted_s >= LIMITS.stuck_s


# --- replay_lag ---------------------------------------------------------------------------------------------------


def lag(events: int, age_s: float, name: str = "gateway/1") -> Lag:
    return Lag(name=name, events=events, age_s=age_s)


def test_one_that_stays_far_behind_is_an_alert() -> None:
    """Many events, the first of which has been there for long; a burst that has just come is none."""
    assert Told().look(lags=(lag(5_000, 29.0), lag(900, 600.0, "pool/0"))) == []
    alert = raised(Told().look(lags=(lag(5_000, 40.0), lag(9_000, 31.0, "telemetry projection"))))

    assert (alert.alert, alert.since, alert.value, alert.threshold) == ("replay_lag", START - 40.0, 9_000.0, 1_000.0)
    assert "telemetry projection by 9000 events, gateway/1 by 5000 events" in alert.message


def test_it_ends_once_nobody_has_been_behind_for_a_while() -> None:
    """Neither when it is only nearly there, nor when nobody could be asked."""
    told = Told()
    raised(told.look(lags=(lag(5_000, 40.0),)))

    assert told.look(after_s=5, lags=(lag(500, 60.0),)) == []
    assert told.look(after_s=5, lags=None) == []
    assert told.look(after_s=5, lags=(), lags_small_since=told.story.at) == []
    small_since = told.story.at
    assert cleared(told.look(after_s=20, lags=(lag(3, 0.0),), lags_small_since=small_since)).alert == "replay_lag"


# --- cost_over_budget ---------------------------------------------------------------------------------------------


def test_a_days_cost_over_its_budget_is_an_alert_until_the_next_day() -> None:
    """Whatever is spent of the month."""
    told = Told()
    assert told.look(cost_day=10.0, cost_month=50.0) == []

    alert = raised(told.look(cost_day=10.5, cost_month=50.5))
    assert (alert.alert, alert.value, alert.threshold) == ("cost_over_budget", 10.5, 10.0)
    assert "This day's VMs have cost 10.50 of a budget of 10.00" in alert.message
    assert told.look(after_s=60, cost_day=12.0, cost_month=52.0) == []
    assert cleared(told.look(after_s=60, cost_day=0.1, cost_month=52.1)).alert == "cost_over_budget"


def test_a_months_cost_over_its_budget_outlasts_the_day() -> None:
    told = Told()
    assert raised(told.look(cost_day=1.0, cost_month=101.0)).value == 101.0
    assert told.look(after_s=60, cost_day=0.0, cost_month=101.0) == []
    assert cleared(told.look(after_s=60, cost_day=0.0, cost_month=0.0)).alert == "cost_over_budget"


def test_a_cost_that_nobody_knows_changes_nothing() -> None:
    """While PostgreSQL is away it is neither raised nor cleared."""
    told = Told()
    raised(told.look(cost_day=10.5))

    assert told.look(after_s=60) == []
    assert told.look(after_s=60, cost_month=1.0) == []


def test_without_a_budget_nothing_is_over_it_and_what_was_is_over() -> None:
    """Whoever takes the budget away wants no alert about it."""
    assert Told(AlertConfig()).look(cost_day=1e9, cost_month=1e9) == []
    told = Told()
    raised(told.look(cost_day=11.0))
    told.parts = definition(CONFIG, AlertConfig())

    assert cleared(told.look()).alert == "cost_over_budget"


# --- what is kept -------------------------------------------------------------------------------------------------


def test_what_the_windows_keep_is_bounded() -> None:
    """Slices of the last hours, reasons in each, and a log of any age that comes out of order."""
    outcomes: dict[str, Outcomes] = {}
    for number in range(3 * SLICES_MAX):
        note_outcome(outcomes, number * float(SLICE_S), f"code-{number}")
    for number in range(3 * CODES_MAX):
        note_outcome(outcomes, 3 * SLICES_MAX * float(SLICE_S), f"code-{number}")

    newest = outcomes[str(3 * SLICES_MAX)]
    assert len(outcomes) <= SLICES_MAX
    assert len(newest.failed) == CODES_MAX + 1
    assert newest.failed["other"] == 2 * CODES_MAX
    note_outcome(outcomes, 0.0, None)
    assert len(outcomes) <= SLICES_MAX


def test_the_state_is_what_a_snapshot_of_it_says() -> None:
    """All that the alerts know goes into a snapshot and comes back."""
    told = installs(installs(Told().previews(0, 12), 60, 10.0), 20, 20.0)
    told.story.tell(reconciled(3, 1, "vm-1"))
    told.look(after_s=200, lags=(lag(5_000, 40.0),), cost_day=11.0)
    state = told.state

    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=type(state))
    assert digest(kept) == digest(state)
    assert {"error_rate", "install_slow", "vm_leaks", "replay_lag", "cost_over_budget"} >= set(state.alerts)


def test_p95_is_a_value_that_was_seen() -> None:
    """By the nearest rank."""
    assert p95([float(each) for each in range(1, 21)]) == 19.0
    assert p95([7.0]) == 7.0


def test_alerts_of_earlier_versions_are_read() -> None:
    """Without severity and numbers."""
    old = AlertRaised(alert="pool_empty", message="why", since=1.0)
    parts = definition(CONFIG)
    state = replay(parts, [recorded(old, at=5.0)])

    assert (state.alerts["pool_empty"].severity, state.alerts["pool_empty"].value) == ("warning", None)
