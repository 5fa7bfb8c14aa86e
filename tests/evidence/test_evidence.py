"""What a run calls wrong, each thing once: the pure parts; `make evidence` is the run."""

from collections import Counter
from typing import Any

import msgspec
import pytest

from services.telemetry import errors
from shared.codec import Recorded
from shared.events import AlertCleared, AlertRaised, Event
from tests.builders import PREVIEW, preview_failed, preview_ready, preview_requested, vm_acquired, vm_creation_started
from tests.evidence import counting
from tests.evidence.alarms import HOW, SMALL_BUDGET
from tests.evidence.cases import cases
from tests.evidence.trees import ROOT, trees
from tests.live.collector import Span
from tests.spec import record

TRACE, OTHER = "a" * 32, "b" * 32


def log_of(*events: Event, trace: str = TRACE) -> list[Recorded]:
    log: list[Recorded] = []
    for each in events:
        record(log, each)
    meta = (msgspec.structs.replace(each.meta, traceparent=f"00-{trace}-{'c' * 16}-01") for each in log)
    return [msgspec.structs.replace(each, meta=own) for each, own in zip(log, meta, strict=True)]


def span(number: int, parent: int | None, service: str, name: str = "work") -> Span:
    above = "" if parent is None else str(parent)
    return Span(f"drape-{service}", name, "INTERNAL", TRACE, str(number), above, 0, 1, {}, ())


WHOLE = [span(1, None, "gateway", ROOT), span(2, 1, "orchestrator"), span(3, 2, "pool")]
START = (preview_requested(), vm_acquired(), preview_ready())


def test_a_whole_tree_is_one() -> None:
    [tree] = trees(log_of(*START), {TRACE: WHOLE})

    assert (tree.preview_id, tree.ended, tree.spans, tree.wrong) == (PREVIEW, "PreviewReady", 3, ())


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([], "no span of the trace"),
        ([WHOLE[0], WHOLE[2]], "a parent was not received: drape-pool"),
        ([*WHOLE, span(4, None, "pool")], "root: drape-pool"),
        (WHOLE[:2], "drape-pool has no part in it"),
        ([span(1, None, "gateway"), *WHOLE[1:]], f"its root is not {ROOT}"),
    ],
)
def test_what_is_no_tree_is_told(spans: list[Span], why: str) -> None:
    [tree] = trees(log_of(*START), {TRACE: spans})

    assert any(why in each for each in tree.wrong), tree.wrong


def test_an_end_in_another_trace_and_a_trace_of_two_are_told() -> None:
    begin, end = log_of(preview_requested()), log_of(preview_failed(), trace=OTHER)
    [apart] = trees([*begin, *end], {TRACE: WHOLE})
    two = trees(log_of(preview_requested(), preview_requested("preview-2")), {TRACE: WHOLE})

    assert "its PreviewFailed is in another trace" in apart.wrong
    assert all("another preview has the same trace" in each.wrong for each in two)
    assert all("it has not ended" in each.wrong for each in two)


ALERT = log_of(
    AlertRaised(alert="pool_empty", message="none", since=1.0), AlertCleared(alert="pool_empty", lasted_s=2.0)
)
NOTICES: list[dict[str, Any]] = [
    {"type": f"alert_{kind}", "id": each.meta.id, "alert": "pool_empty"}
    for kind, each in zip(("raised", "cleared"), ALERT, strict=True)
]


def test_an_alert_is_raised_cleared_and_told_exactly_once() -> None:
    again = log_of(*(each.event for each in ALERT if each.event is not None))

    assert counting.wrong_notices(ALERT, NOTICES, ["pool_empty"]) == []
    assert counting.wrong_notices(ALERT, NOTICES[:1], ["pool_empty"]) == [
        "notices: alert_cleared pool_empty came 0 times"
    ]
    assert counting.wrong_notices(ALERT, [*NOTICES, NOTICES[0]], ["pool_empty"]) != []
    assert counting.wrong_notices(ALERT, [*NOTICES, {**NOTICES[0], "id": "x"}], ["pool_empty"]) != []
    assert counting.wrong_notices([*ALERT, *again], NOTICES, ["pool_empty"]) != []
    assert counting.wrong_notices([], [], ["vm_leaks"]) == ["alerts: vm_leaks was raised 0 times and cleared 0 times"]
    assert counting.wrong_notices(ALERT, NOTICES, []) != []


def test_errors_are_those_that_were_made() -> None:
    log = log_of(preview_requested(), preview_failed())
    code = "install_failed" if log[1].event is None else getattr(log[1].event, "code", "")
    _, [error] = errors.fold({}, log)
    group = {"fingerprint": error.fingerprint, "count": 1}

    assert counting.wrong_errors([group], log, Counter([code])) == []
    assert counting.wrong_errors([{**group, "count": 2}], log, Counter([code])) != []
    assert counting.wrong_errors([], log, Counter([code])) != []
    assert counting.wrong_errors([group], log, Counter()) != []


def test_costs_are_what_the_log_says() -> None:
    log: list[Recorded] = []
    for at, event in ((0.0, vm_creation_started()), (1.0, vm_acquired()), (11.0, preview_failed())):
        record(log, event, at=at)
    row = {"key": PREVIEW, "running_s": 10.0, "amount": 10.0}

    assert counting.wrong_costs([row], log, 1.0) == [f"costs: {PREVIEW} 10.0 s for 10.0, the log says 0.0 s"]
    assert counting.wrong_costs([], log, 1.0) == []


def test_figures_are_what_was_seen() -> None:
    stats = {"previews": {"count": 3, "success": 2, "failed": 1}, "failures": {"syntax_error": 1}}

    assert counting.wrong_stats(stats, 3, 2, Counter(["syntax_error"])) == []
    assert counting.wrong_stats(stats, 4, 2, Counter(["syntax_error"])) != []
    assert counting.wrong_stats(stats, 3, 2, Counter(["oom"])) != []


def test_a_run_has_what_the_alerts_need() -> None:
    """Failures early and in different ways; slow installs with enough before them, and enough after."""
    run = cases(50, 10, 3)
    codes = [each.code for each in run if each.code]
    installs = [each.name for each in run if each.name in ("node", "slow install")]

    assert (len(run), len(codes)) == (50, 10)
    assert len(set(codes)) >= 8
    assert installs.count("slow install") == 3
    assert len(installs) - 20 >= 5
    assert "slow install" not in installs[:-20]
    assert SMALL_BUDGET > 0
    assert len(HOW) == 8
