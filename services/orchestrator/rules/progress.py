"""How far a preview is, from how long each step took before for this framework. Pure.

Percent never goes back within an attempt, never stands still while a step runs, and is 100 only when ready.
"""

import math
from collections.abc import Mapping

import msgspec

WAITING_FROM = 85.0
WAITING_TO = 95.0

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


def spans(expected_s: Mapping[str, float]) -> dict[str, Span]:
    """The bar shared out by expected seconds: what precedes the dev server gets 0..85, the wait for it 85..95."""
    early = STEPS[:3]
    weights = {step: max(0.05, expected_s.get(step, DEFAULT_S[step])) for step in early}
    total = sum(weights.values())
    result: dict[str, Span] = {}
    at = 0.0
    for step in early:
        end = at + WAITING_FROM * weights[step] / total
        result[step] = Span(at, end)
        at = end
    result["waiting_server"] = Span(WAITING_FROM, WAITING_TO)
    result["confirming"] = Span(WAITING_TO, 99.0)
    return result


def percent(step: str, step_elapsed_s: float, expected_s: Mapping[str, float]) -> float:
    """0..100. Within a step it nears the step's end but does not reach it: half-way at 0.7 of the expected time.

    An unknown step (a newer service's) stands at the start of the wait: shown, never 100.
    """
    if step == "server_ready":
        return 100.0
    part = spans(expected_s).get(step)
    if part is None:
        return WAITING_FROM
    expected = max(0.05, expected_s.get(step, DEFAULT_S[step]))
    # A logarithmic tail: an exponential would stand still, to a person, after five times the expected time.
    ratio = max(0.0, step_elapsed_s) / expected
    done = 1 - 1 / (1 + ratio + 0.3 * math.log1p(ratio))
    return round(part.start + (part.end - part.start) * done, 3)


def message(step: str, step_elapsed_s: float) -> str:
    """What to tell a person: the step, and for how long where it has been long."""
    text = MESSAGES.get(step, step.replace("_", " ").capitalize())
    if step in ("server_ready", "failed", "stopped") or step_elapsed_s < 2:
        return text
    return f"{text}, {step_elapsed_s:.0f} s"
