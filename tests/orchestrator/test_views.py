"""What others read of the orchestrator."""

import pytest

from services.orchestrator import views
from services.orchestrator.app import definition
from services.orchestrator.config import OrchestratorConfig
from shared.commands import FailPreview, PreviewReply, Reply, RequestPreview, StopPreview
from shared.errors import NotFound
from shared.events import ProjectDeleted
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    dev_server_ready,
    preview_restarted,
    project_created,
    project_detected,
    story,
    vm_acquired,
)
from tests.spec import AT, Past, given

ORCHESTRATOR = definition(OrchestratorConfig())
REQUEST = RequestPreview(project_id=PROJECT, owner=OWNER)


def test_who_requests_gets_the_live_preview() -> None:
    """Created by this command, or by an earlier one."""
    state = given(ORCHESTRATOR, *story("booting")).state
    mine, other = (views.answer(state, RequestPreview(id=i, project_id=PROJECT, owner=OWNER)) for i in ("given", "x"))
    assert mine == PreviewReply(preview_id=PREVIEW, status="booting", created=True)
    assert other == PreviewReply(preview_id=PREVIEW, status="booting", created=False)


def test_commands_about_a_preview_are_answered_with_its_status() -> None:
    state = given(ORCHESTRATOR, *story("ready")).state
    assert views.answer(state, StopPreview(preview_id=PREVIEW)) == PreviewReply(preview_id=PREVIEW, status="ready")


def test_a_preview_that_is_forgotten_is_answered_plainly() -> None:
    fail = FailPreview(preview_id="gone", attempt=1, code="c", message="m")
    assert views.answer(given(ORCHESTRATOR).state, fail) == Reply()


def test_progress_tells_step_time_and_attempt() -> None:
    """Elapsed counts from the attempt's start, the step's own time from its start."""
    past: list[Past] = [*story("ready"), (AT + 10, preview_restarted(2)), (AT + 12, project_detected(2))]
    state = given(ORCHESTRATOR, *past, (AT + 14, vm_acquired(2))).state
    told = views.progress_of(state.previews[PREVIEW], AT + 17.5, {"listening": True})
    assert (told.step, told.elapsed, told.timestamp) == ("syncing_files", 7.5, AT + 17.5)
    assert told.details == {"attempt": 2, "step_elapsed_s": 3.5, "listening": True}
    assert told.message == "Bringing in the files, 4 s"


def test_a_clock_behind_the_log_does_no_harm() -> None:
    """Replicas' clocks differ: never less than nothing."""
    state = given(ORCHESTRATOR, *story("booting")).state
    told = views.progress_of(state.previews[PREVIEW], AT - 5, {})
    assert (told.elapsed, told.percent) == (0.0, 85.0)


def test_progress_never_goes_back_in_an_attempt() -> None:
    """Through all its steps, though each step's end, and other previews of the framework, change what is expected."""
    events = story("ready")
    seen: list[float] = []
    for length in range(3, len(events) + 1):
        at = AT + 3 * length
        past: list[Past] = [(AT + 3 * max(index, 2), event) for index, event in enumerate(events[:length])]
        state = given(ORCHESTRATOR, *past).state
        preview = state.previews[PREVIEW]
        seen += [views.progress_of(preview, at + passed_s, {}).percent for passed_s in (-3, -2, -1, -0.001)]
    assert seen == sorted(seen)
    assert seen[-1] == 100.0


def test_what_another_preview_teaches_does_not_turn_this_one_back() -> None:
    """A slow dev server of the same framework became ready meanwhile: this one's bar stays where it was."""
    spec = given(ORCHESTRATOR, *story("booting"))
    before = views.progress_of(spec.state.previews[PREVIEW], AT + 5, {}).percent
    spec.state.history_s["vite"] = {"waiting_server": 100.0}
    assert views.progress_of(spec.state.previews[PREVIEW], AT + 5, {}).percent >= before


def test_history_sets_the_pace_of_the_next_preview() -> None:
    """A framework whose dev server took 20 s last time is not nearly there after 2."""
    past: list[Past] = [*story("booting"), (AT + 20, dev_server_ready()), preview_restarted(2), project_detected(2)]
    slow = given(ORCHESTRATOR, *past).state.previews[PREVIEW]
    assert slow.expected_s["waiting_server"] == 20.0


def test_a_wish_for_a_project_that_is_deleted_before_the_answer_is_refused() -> None:
    with pytest.raises(NotFound, match=PROJECT):
        views.answer(given(ORCHESTRATOR, project_created(), ProjectDeleted(project_id=PROJECT)).state, REQUEST)
