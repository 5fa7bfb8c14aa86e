"""Why a preview took as long as it did: its steps beside those of others with its framework, and what made the difference.
Pure.

Steps are compared with those of previews that became ready, this one left out; with those of the same warmth (the VM was
warm, or had to boot) where there are `SAME_WARMTH_MIN` of them; an install with those of previews that installed.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from services.telemetry.errors import Facts
from services.telemetry.rows import STEP_COLUMNS, Status

SAME_WARMTH_MIN = 10
SLOW_RATIO, SLOW_S = 1.5, 0.5
"""A step counts as slow beyond both: so many times the median, and so many seconds more."""
SENTENCES_MAX = 5

_NAMES: Mapping[str, str] = {
    "acquiring_vm": "getting a VM",
    "syncing_files": "writing the files",
    "installing": "the install",
    "waiting_server": "the dev server's start",
    "confirming": "the first answer through the gateway",
}


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as the figures have it. `…_s`: seconds; None: the step has not ended, or was not needed."""

    attempt: int
    status: Status
    requested_at: float
    attempt_at: float
    step_at: float
    ready_at: float | None = None
    ended_at: float | None = None
    framework: str | None = None
    from_pool: bool | None = None
    install: str | None = None
    code: str | None = None
    total_s: float | None = None
    acquire_s: float | None = None
    sync_s: float | None = None
    install_s: float | None = None
    boot_s: float | None = None
    confirm_s: float | None = None


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes: median and 95th percentile in seconds, of so many previews."""

    of: int
    p50: float
    p95: float


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """Previews to compare with. `warm`: whose VM was warm (None: all). `steps`: by name, `total` beside them."""

    warm: bool | None
    previews: int
    skipped: int
    steps: dict[str, Usual]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What was known of an attempt's dependencies before it: how often the owner had installed the very same, and those of
    the project's preview before (empty: none)."""

    installed_before: int = 0
    project_deps: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A step of an attempt. `ratio`: of its seconds to the usual median."""

    name: str
    seconds: float
    state: Literal["done", "running"]
    usual: Usual | None = None
    ratio: float | None = None


class AttemptTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: why it began, whether its VM was warm, how its dependencies came, what its steps took."""

    attempt: int
    status: Status
    began: str
    warm: bool | None
    install: str
    total_s: float
    steps: list[Step]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `total_s`: from the request to ready, to its end, or until now; `usual`: the same of others."""

    preview_id: str
    framework: str
    status: Status
    total_s: float
    usual: Usual | None
    ratio: float | None
    warm: bool | None
    previews: int
    attempts: list[AttemptTiming]
    why: list[str]


def explain(
    preview_id: str,
    attempts: Sequence[Took],
    facts: Mapping[int, Facts],
    baselines: Sequence[Baseline],
    history: History,
    now: float,
) -> Timing:
    """The answer for a preview with at least one attempt. `facts`: by attempt; `history`: of the newest one's
    dependencies; `now`: seconds, UTC, until which what has not ended counts."""
    newest = attempts[-1]
    baseline = _chosen(baselines, newest)
    timings = [_timing(each, facts.get(each.attempt), baseline if each is newest else None, now) for each in attempts]
    until = newest.ready_at or newest.ended_at or now
    total_s = round(max(0.0, until - attempts[0].requested_at), 3)
    usual = baseline.steps.get("total") if baseline is not None else None
    answer = Timing(
        preview_id=preview_id,
        framework=newest.framework or "",
        status=newest.status,
        total_s=total_s,
        usual=usual,
        ratio=_ratio(total_s, usual),
        warm=baseline.warm if baseline is not None else None,
        previews=baseline.previews if baseline is not None else 0,
        attempts=timings,
        why=[],
    )
    why = [*_attempts_before(attempts, facts), *_slow_steps(answer, facts.get(newest.attempt), baseline, history)]
    return msgspec.structs.replace(answer, why=(why or [_nothing(answer)])[:SENTENCES_MAX])


def _chosen(baselines: Sequence[Baseline], newest: Took) -> Baseline | None:
    same = next((each for each in baselines if each.warm is not None and each.warm == newest.from_pool), None)
    if same is not None and same.previews >= SAME_WARMTH_MIN:
        return same
    return next((each for each in baselines if each.warm is None and each.previews), None)


# --- the steps ----------------------------------------------------------------------------------------------------


def _timing(took: Took, facts: Facts | None, baseline: Baseline | None, now: float) -> AttemptTiming:
    steps = []
    for name, column in STEP_COLUMNS.items():
        seconds: float | None = getattr(took, column)
        if seconds is not None:
            steps.append(_step(name, seconds, "done", baseline))
    if took.status == "running":
        done = {step.name for step in steps}
        name = facts.step if facts is not None and facts.step in STEP_COLUMNS else ""
        name = name if name and name not in done else next((each for each in STEP_COLUMNS if each not in done), "")
        if name:
            steps.append(_step(name, round(max(0.0, now - took.step_at), 3), "running", baseline))
    until = took.ready_at or took.ended_at or now
    return AttemptTiming(
        attempt=took.attempt,
        status=took.status,
        began=facts.began if facts is not None else "",
        warm=took.from_pool,
        install=facts.install if facts is not None else took.install or "",
        total_s=took.total_s if took.total_s is not None else round(max(0.0, until - took.attempt_at), 3),
        steps=steps,
    )


def _step(name: str, seconds: float, state: Literal["done", "running"], baseline: Baseline | None) -> Step:
    usual = baseline.steps.get(name) if baseline is not None else None
    return Step(name=name, seconds=seconds, state=state, usual=usual, ratio=_ratio(seconds, usual))


def _ratio(seconds: float, usual: Usual | None) -> float | None:
    return round(seconds / usual.p50, 2) if usual is not None and usual.p50 > 0 else None


# --- the sentences ------------------------------------------------------------------------------------------------


def _attempts_before(attempts: Sequence[Took], facts: Mapping[int, Facts]) -> list[str]:
    """What the attempts before the newest one cost, and why they were in vain."""
    sentences = []
    for took, following in pairwise(attempts):
        lost_s = max(0.0, following.attempt_at - took.attempt_at)
        found = facts.get(following.attempt)
        why = {
            "vm_lost": "its VM was lost",
            "out_of_memory": "its VM's memory ran out",
            "edited": "an edit could not be taken in while it ran",
            "asked": "it was restarted by hand",
        }.get(found.began if found is not None else "", "it ended")
        sentences.append(f"attempt {took.attempt} went before it, {_s(lost_s)}: {why}.")
    return sentences


def _slow_steps(answer: Timing, facts: Facts | None, baseline: Baseline | None, history: History) -> list[str]:
    """The steps that took longer than usual, those that cost most first."""
    slow = [step for step in answer.attempts[-1].steps if _is_slow(step)]
    slow.sort(key=lambda step: (step.usual.p50 if step.usual else 0.0) - step.seconds)
    return [_sentence(step, answer, facts, baseline, history) for step in slow]


def _is_slow(step: Step) -> bool:
    if step.usual is None:
        return False
    return step.seconds >= step.usual.p50 * SLOW_RATIO and step.seconds - step.usual.p50 >= SLOW_S


def _sentence(step: Step, answer: Timing, facts: Facts | None, baseline: Baseline | None, history: History) -> str:
    assert step.usual is not None, "only what there is a usual time of is slow"
    verb = "has taken" if step.state == "running" else "took"
    times = f", {step.ratio:.1f}x the usual" if step.ratio is not None else ", which usually takes no time"
    none = ""
    if step.name == "installing" and baseline is not None and baseline.skipped:
        none = f"; {baseline.skipped} of {baseline.previews} needed none"
    many = "preview" if step.usual.of == 1 else "previews"
    usual = f"p50 {_s(step.usual.p50)} of {step.usual.of} {many}{none}"
    name = _NAMES.get(step.name, step.name)
    return f"{name} {verb} {_s(step.seconds)}{times} for {answer.framework} ({usual}): {_cause(step, facts, history)}."


def _cause(step: Step, facts: Facts | None, history: History) -> str:
    match step.name:
        case "acquiring_vm":
            return _vm_cause(facts)
        case "syncing_files" if facts is not None and facts.install == "restored":
            return "the kept install was written back together with the files"
        case "syncing_files":
            return "the VM had none of the files"
        case "installing":
            return _install_cause(facts, history)
        case "waiting_server" if facts is not None and facts.install == "completed":
            return "the dev server began beside fresh dependencies, with no cache of its own"
        case "waiting_server":
            return "the dev server itself took so long to answer; its output says what it did"
        case _:
            return "the project's page took so long to answer"


def _vm_cause(facts: Facts | None) -> str:
    if facts is None or facts.from_pool is None:
        return "there was no VM yet"
    if not facts.from_pool:
        return f"no VM was warm, and it waited {_s(facts.waited_s)} for one to boot"
    if facts.kept:
        return "the VM that was kept for its owner was there; finding out what the project is took the time"
    return "a warm VM was there; finding out what the project is took the time"


def _install_cause(facts: Facts | None, history: History) -> str:
    if facts is None:
        return "nothing is known of its dependencies"
    if facts.retried:
        return "the lockfile did not fit, so it was installed a second time without it"
    if facts.install not in ("completed", "failed", ""):
        return f"no install ran ({facts.install})"
    if not facts.deps:
        return "what it installs can't be told beforehand, so that no install of it is kept"
    if not facts.keeps:
        return "an install of it is more than its node_modules, so that none is kept"
    if history.installed_before:
        return "the kept install of these dependencies was not there any more"
    if history.project_deps and history.project_deps != facts.deps:
        return "its dependencies have changed since the project's preview before, and nothing was cached"
    return "nothing was cached (no kept install for these dependencies)"


def _nothing(answer: Timing) -> str:
    if not answer.framework:
        return "What the project is was not known yet."
    if answer.usual is None:
        return f"There is no other {answer.framework} preview that became ready to compare it with."
    return f"No step took much longer than usual for {answer.framework} (of {answer.previews} previews)."


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
