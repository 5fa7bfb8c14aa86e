"""How far a preview is, from how long each step took before for this framework. Pure.

Percent never goes back within an attempt, never stands still while a step runs, and is 100 only when ready. Each step
has its own part of the bar, whatever it is expected to take: parts that moved with what is learnt would turn the bar
back.
"""

import math
from collections.abc import Mapping

import msgspec

WAITING_FROM = 85.0
STEPS = ("acquiring_vm", "syncing_files", "installing", "waiting_server", "confirming")
"""In order. `server_ready`, `failed` and `stopped` are ends."""

DEFAULT_S: Mapping[str, float] = {
    "acquiring_vm": 0.5,
    "syncing_files": 0.3,
    "installing": 6.0,
    "waiting_server": 3.0,
    "confirming": 0.2,
}
"""Expectations until the log knows better, in seconds: medians of the measured frameworks."""

MESSAGES: Mapping[str, str] = {
    "acquiring_vm": "Getting a machine",
    "syncing_files": "Bringing in the files",
    "installing": "Installing dependencies",
    "prepared": "Prepared; waiting to be opened",
    "waiting_server": "Waiting for the dev server",
    "confirming": "Checking the preview through the gateway",
    "server_ready": "Ready",
    "failed": "Failed",
    "stopped": "Stopped",
}


class Span(msgspec.Struct, frozen=True):
    """The part of the bar that a step has."""

    start: float
    end: float


SPANS: Mapping[str, Span] = {
    "acquiring_vm": Span(0.0, 5.0),
    "syncing_files": Span(5.0, 10.0),
    "installing": Span(10.0, WAITING_FROM),
    "waiting_server": Span(WAITING_FROM, 95.0),
    "confirming": Span(95.0, 99.0),
}
STEADY_SHARE = 0.3
STEADY_S = 900.0
"""This share of a part is filled evenly over so long: the smallest part still gains 0.001 in every second of it."""


def percent(step: str, step_elapsed_s: float, expected_s: Mapping[str, float]) -> float:
    """0..100. Within a step it nears the step's end but does not reach it: a third at 0.7 of the expected time.

    An unknown step (a newer service's) stands at the start of the wait: shown, never 100.
    """
    if step == "server_ready":
        return 100.0
    part = SPANS.get(step)
    if part is None:
        return WAITING_FROM
    expected = max(0.05, expected_s.get(step, DEFAULT_S[step]))
    elapsed_s = max(0.0, step_elapsed_s)
    ratio = elapsed_s / expected
    pace = 1 - 1 / (1 + ratio + 0.3 * math.log1p(ratio))
    # What only nears its end stands still, to a person, long before the step's limit: a share grows evenly instead.
    done = (1 - STEADY_SHARE) * pace + STEADY_SHARE * min(1.0, elapsed_s / STEADY_S)
    return round(part.start + (part.end - part.start) * done, 3)


def eta_s(step: str, step_elapsed_s: float, expected_s: Mapping[str, float]) -> float | None:
    """Seconds until ready, from what the rest took before; None where that says nothing any more.

    A step that takes much longer than ever is not "about to end": no figure is better than a wrong one.
    """
    if step == "server_ready":
        return 0.0
    if step not in STEPS:
        return None
    expected = {each: expected_s.get(each, DEFAULT_S[each]) for each in STEPS}
    later = sum(expected[each] for each in STEPS[STEPS.index(step) + 1 :])
    if step_elapsed_s == math.inf:
        return round(later, 1)
    if step_elapsed_s > OVERDUE_RATIO * max(expected[step], OVERDUE_S_MIN):
        return None
    return round(max(0.0, expected[step] - step_elapsed_s) + later, 1)


OVERDUE_RATIO = 2.0
OVERDUE_S_MIN = 2.0
"""A step is overdue at twice its expected time; short ones get the benefit of the doubt."""
QUIET_S = 5.0
"""From here on a person is told that nothing was printed for a while: slow and dead should not look the same."""
PHASES: Mapping[str, str] = {
    "starting": "Starting the dev server",
    "compiling": "Compiling the first page",
    "erroring": "The dev server answers with an error; waiting whether it recovers",
}


def message(step: str, step_elapsed_s: float, *, phase: str = "", quiet_s: float = 0.0) -> str:
    """What to tell a person: the step or its phase, for how long where it has been long, and since when in silence."""
    text = PHASES.get(phase) or MESSAGES.get(step, step.replace("_", " ").capitalize())
    if step in ("server_ready", "failed", "stopped", "prepared") or step_elapsed_s < 2:
        return text
    quiet = f"; no output for {quiet_s:.0f} s" if quiet_s >= QUIET_S else ""
    return f"{text}, {step_elapsed_s:.0f} s{quiet}"
