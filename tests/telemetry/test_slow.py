"""Why a preview was slow: from attempts, facts and what is usual, to sentences."""

from typing import Any

import pytest
from msgspec.structs import replace

from services.telemetry.errors import Facts
from services.telemetry.slow import SAME_WARMTH_MIN, SENTENCES_MAX, Baseline, History, Timing, Took, Usual, explain

NOW = 2_000.0
FACTS = Facts(
    preview_id="p1",
    attempt=1,
    rev=9,
    at=1_000.0,
    project_id="shop",
    owner="ann",
    framework="vite",
    step="server_ready",
    from_pool=True,
    deps="d1",
    keeps=True,
    install="completed",
)


def took(**changes: Any) -> Took:
    """An attempt that was ready after 7.5 s."""
    given: dict[str, Any] = {
        "attempt": 1,
        "status": "ready",
        "requested_at": 1_000.0,
        "attempt_at": 1_000.0,
        "step_at": 1_007.5,
        "ready_at": 1_007.5,
        "framework": "vite",
        "from_pool": True,
        "install": "completed",
        "total_s": 7.5,
        "acquire_s": 0.5,
        "sync_s": 0.5,
        "install_s": 4.0,
        "boot_s": 2.0,
        "confirm_s": 0.5,
    }
    return Took(**{**given, **changes})


def baseline(warm: bool | None = None, previews: int = 87, skipped: int = 0, **p50: float) -> Baseline:
    medians = {"acquiring_vm": 0.5, "syncing_files": 0.5, "installing": 4.0, "waiting_server": 2.0, "confirming": 0.5}
    medians |= {"total": 7.5, **p50}
    usual = {name: Usual(of=previews, p50=each, p95=2 * each) for name, each in medians.items()}
    return Baseline(warm=warm, previews=previews, skipped=skipped, steps=usual)


def told(*attempts: Took, facts: Facts | None = FACTS, history: History | None = None, baselines: Any = None) -> Timing:
    known = {} if facts is None else {facts.attempt: facts}
    given = [baseline()] if baselines is None else baselines
    return explain("p1", attempts or (took(),), known, given, history or History(), NOW)


def test_a_preview_like_the_others_has_nothing_to_tell() -> None:
    answer = told()

    assert answer.why == ["No step took much longer than usual for vite (of 87 previews)."]
    assert (answer.total_s, answer.ratio, answer.framework, answer.status) == (7.5, 1.0, "vite", "ready")
    (attempt,) = answer.attempts
    assert [(step.name, step.seconds, step.state, step.ratio) for step in attempt.steps] == [
        ("acquiring_vm", 0.5, "done", 1.0),
        ("syncing_files", 0.5, "done", 1.0),
        ("installing", 4.0, "done", 1.0),
        ("waiting_server", 2.0, "done", 1.0),
        ("confirming", 0.5, "done", 1.0),
    ]
    assert attempt.steps[2].usual == Usual(of=87, p50=4.0, p95=8.0)


def test_a_slow_install_is_said_with_figures_and_cause() -> None:
    answer = told(took(install_s=41.0), baselines=[baseline(installing=12.8, skipped=20)])

    (sentence,) = answer.why
    assert sentence == (
        "the install took 41.0 s, 3.2x the usual for vite (p50 12.8 s of 87 previews; 20 of 87 needed none): "
        "nothing was cached (no kept install for these dependencies)."
    )


@pytest.mark.parametrize(
    ("changes", "history", "words"),
    [
        ({"retried": True}, {}, "the lockfile did not fit"),
        ({"deps": ""}, {}, "can't be told beforehand"),
        ({"keeps": False}, {}, "more than its node_modules"),
        ({}, {"installed_before": 3}, "was not there any more"),
        ({}, {"project_deps": "d0"}, "have changed since"),
        ({}, {"project_deps": "d1"}, "nothing was cached (no"),
        ({"install": "restored"}, {}, "no install ran (restored)"),
    ],
)
def test_why_an_install_was_needed(changes: dict[str, Any], history: dict[str, Any], words: str) -> None:
    answer = told(took(install_s=41.0), facts=replace(FACTS, **changes), history=History(**history))
    assert words in answer.why[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from_pool": False, "waited_s": 8.25}, "no VM was warm, and it waited 8.2 s for one to boot"),
        ({}, "a warm VM was there"),
        ({"kept": True}, "kept for its owner"),
        ({"from_pool": None}, "there was no VM yet"),
    ],
)
def test_why_a_vm_took_long(changes: dict[str, Any], words: str) -> None:
    assert words in told(took(acquire_s=9.0), facts=replace(FACTS, **changes)).why[0]


@pytest.mark.parametrize(
    ("step", "changes", "words"),
    [
        ("sync_s", {"install": "restored"}, "written back together with the files"),
        ("sync_s", {}, "none of the files"),
        ("boot_s", {}, "beside fresh dependencies"),
        ("boot_s", {"install": "preserved"}, "its output says what it did"),
        ("confirm_s", {}, "page took so long"),
    ],
)
def test_why_another_step_took_long(step: str, changes: dict[str, Any], words: str) -> None:
    assert words in told(took(**{step: 60.0}), facts=replace(FACTS, **changes)).why[0]


def test_what_cost_most_comes_first() -> None:
    answer = told(took(install_s=14.0, boot_s=30.0, acquire_s=3.0))
    assert [sentence.split(" took")[0] for sentence in answer.why] == [
        "the dev server's start",
        "the install",
        "getting a VM",
    ]


def test_a_little_more_than_next_to_nothing_is_not_slow() -> None:
    """Both the ratio and the seconds count."""
    assert "No step" in told(took(confirm_s=0.09), baselines=[baseline(confirming=0.03)]).why[0]
    assert "No step" in told(took(install_s=5.9)).why[0]


def test_previews_of_the_same_warmth_are_compared_with_where_there_are_enough() -> None:
    few = [baseline(warm=False, previews=SAME_WARMTH_MIN - 1, acquiring_vm=9.0), baseline()]
    enough = [baseline(warm=False, previews=SAME_WARMTH_MIN, acquiring_vm=9.0), baseline()]
    cold = took(from_pool=False, acquire_s=9.0)

    assert (told(cold, baselines=few).warm, told(cold, baselines=enough).warm) == (None, False)
    assert told(cold, baselines=enough).previews == SAME_WARMTH_MIN
    assert "no VM was warm" in told(cold, baselines=few, facts=replace(FACTS, from_pool=False)).why[0]
    assert "No step" in told(cold, baselines=enough).why[0]


def test_nothing_to_compare_with_is_said() -> None:
    assert told(took(install_s=99.0), baselines=[]).why == [
        "There is no other vite preview that became ready to compare it with."
    ]
    unknown = told(took(framework=None, status="running", ready_at=None, total_s=None), baselines=[], facts=None)
    assert unknown.why == ["What the project is was not known yet."]


def test_a_preview_under_way_counts_until_now() -> None:
    """The step that runs is there with its seconds so far."""
    running = took(
        status="running", ready_at=None, total_s=None, install_s=None, boot_s=None, confirm_s=None, step_at=NOW - 30
    )
    answer = told(running, facts=replace(FACTS, step="installing", install=""))
    step = answer.attempts[0].steps[-1]

    assert (step.name, step.state, step.seconds) == ("installing", "running", 30.0)
    assert answer.total_s == NOW - 1_000.0
    assert answer.why[0].startswith("the install has taken 30.0 s, 7.5x the usual for vite")


def test_attempts_before_are_told_of() -> None:
    first = took(status="failed", ready_at=None, ended_at=1_012.0, total_s=None, code="vm_lost")
    second = took(attempt=2, attempt_at=1_012.0, ready_at=1_020.0, step_at=1_020.0)
    facts = {1: FACTS, 2: replace(FACTS, attempt=2, began="vm_lost")}
    answer = explain("p1", [first, second], facts, [baseline()], History(), NOW)

    assert answer.why == ["attempt 1 went before it, 12.0 s: its VM was lost."]
    assert answer.total_s == 20.0
    assert [each.began for each in answer.attempts] == ["requested", "vm_lost"]


def test_there_are_only_so_many_sentences() -> None:
    attempts = [took(attempt=each, attempt_at=1_000.0 + each) for each in range(1, 20)]
    answer = explain("p1", attempts, {}, [baseline()], History(), NOW)
    assert len(answer.why) == SENTENCES_MAX
