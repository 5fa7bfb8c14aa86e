"""The bar moves, never back, and is full only when the preview is ready."""

import itertools
import math

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from services.orchestrator.rules.progress import MESSAGES, SPANS, STEPS, eta_s, message, percent

EXPECTED = st.dictionaries(st.sampled_from(STEPS), st.floats(0, 1e4))
ELAPSED = st.floats(-10, 1e6)
TEN_MINUTES_S = 600


@given_any(st.sampled_from(STEPS), ELAPSED, ELAPSED, EXPECTED)
def test_time_never_turns_it_back(step: str, one_s: float, other_s: float, expected: dict[str, float]) -> None:
    """Whatever was expected: later is never less, and a step stays within its part of the bar."""
    early, late = (percent(step, elapsed_s, expected) for elapsed_s in sorted((one_s, other_s)))
    assert SPANS[step].start <= early <= late <= SPANS[step].end < 100


@pytest.mark.parametrize("expected", [{}, dict.fromkeys(STEPS, 0.0), dict.fromkeys(STEPS, 0.05), {"installing": 90.0}])
@pytest.mark.parametrize("step", STEPS)
def test_never_stuck_at_95(step: str, expected: dict[str, float]) -> None:
    """In every second of ten minutes of every step something is seen to move, and the step's end is not reached."""
    seen = [percent(step, float(second), expected) for second in range(TEN_MINUTES_S + 1)]
    assert all(earlier < later for earlier, later in itertools.pairwise(seen))
    assert seen[-1] < SPANS[step].end


@given_any(
    st.sampled_from(STEPS), st.floats(0, TEN_MINUTES_S), st.dictionaries(st.sampled_from(STEPS), st.floats(0, 300))
)
def test_any_second_is_seen_to_pass(step: str, elapsed_s: float, expected: dict[str, float]) -> None:
    assert percent(step, elapsed_s, expected) < percent(step, elapsed_s + 1, expected)


def test_the_steps_follow_one_another_without_a_gap() -> None:
    """From 0 to 99, in their order; the wait for the dev server is 85 to 95, as front ends know it."""
    parts = [SPANS[step] for step in STEPS]
    assert [part.start for part in parts] == [0.0, *(part.end for part in parts[:-1])]
    assert (SPANS["waiting_server"].start, SPANS["waiting_server"].end, parts[-1].end) == (85.0, 95.0, 99.0)


@given_any(EXPECTED, EXPECTED, ELAPSED)
def test_what_is_learnt_between_two_steps_does_not_turn_it_back(
    before: dict[str, float], after: dict[str, float], elapsed_s: float
) -> None:
    """A step's end teaches how long it takes; the next one begins no lower than the last one got."""
    for step, following in itertools.pairwise(STEPS):
        assert percent(step, elapsed_s, before) <= percent(following, 0.0, after)


def test_a_step_that_takes_as_long_as_ever_gets_well_into_its_part() -> None:
    """History sets the pace: the same second says more where the step is quick."""
    assert percent("installing", 2, {"installing": 2}) > percent("installing", 2, {"installing": 60}) + 10


def test_only_ready_is_full() -> None:
    assert percent("server_ready", 0, {}) == 100.0
    assert [percent(step, 1e9, {}) < 100 for step in (*STEPS, "failed", "stopped", "a_newer_step", "")] == [True] * 9


def test_an_unknown_step_is_shown() -> None:
    """A newer service's: a place on the bar, and words made of its name."""
    assert percent("warming_cache", 3, {}) == 85.0
    assert message("warming_cache", 0) == "Warming cache"


@pytest.mark.parametrize("step", STEPS)
def test_a_long_wait_is_told_with_its_seconds(step: str) -> None:
    assert message(step, 1.9) == MESSAGES[step]
    assert message(step, 35.2) == f"{MESSAGES[step]}, 35 s"


@pytest.mark.parametrize("step", ["server_ready", "failed", "stopped"])
def test_an_end_does_not_count_seconds(step: str) -> None:
    assert message(step, 1000) == MESSAGES[step]


# --- how long it will take ----------------------------------------------------------------------------------------


def test_eta_is_what_the_rest_took_before() -> None:
    expected = {"installing": 10.0, "waiting_server": 4.0, "confirming": 1.0}
    assert eta_s("installing", 3.0, expected) == 12.0
    assert eta_s("installing", math.inf, expected) == 5.0
    assert eta_s("server_ready", 0.0, expected) == 0.0


def test_a_step_that_takes_much_longer_has_no_eta() -> None:
    """No figure is better than a wrong one; a step of a newer service has none either."""
    expected = {"installing": 10.0}
    assert eta_s("installing", 19.9, expected) is not None
    assert eta_s("installing", 20.1, expected) is None
    assert eta_s("warming_up", 0.0, expected) is None


@given_any(st.sampled_from(STEPS), st.floats(0, 1e4), st.dictionaries(st.sampled_from(STEPS), st.floats(0, 300)))
def test_eta_is_never_negative(step: str, elapsed_s: float, expected: dict[str, float]) -> None:
    eta = eta_s(step, elapsed_s, expected)
    assert eta is None or eta >= 0


def test_slow_and_dead_look_different() -> None:
    """A page that compiles says so; one that is silent says for how long."""
    assert message("waiting_server", 12.0, phase="compiling", quiet_s=1.0) == "Compiling the first page, 12 s"
    assert message("waiting_server", 40.0, phase="starting", quiet_s=31.0).endswith("; no output for 31 s")
