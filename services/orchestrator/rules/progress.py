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


def message(step: str, step_elapsed_s: float) -> str:
    """What to tell a person: the step, and for how long where it has been long."""
    text = MESSAGES.get(step, step.replace("_", " ").capitalize())
    if step in ("server_ready", "failed", "stopped") or step_elapsed_s < 2:
        return text
    return f"{text}, {step_elapsed_s:.0f} s"
