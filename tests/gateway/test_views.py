"""What front ends get to see; the field names are the API's."""

import msgspec
import pytest

from services.gateway import views
from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.commands import DeleteProject, Reply
from shared.events import AppChoice, Event
from shared.ports import LogLine, Progress
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    STEPS,
    URL,
    dev_server_ready,
    files_changed,
    hmr_probed,
    preview_failed,
    preview_ready,
    preview_restarted,
    preview_stopped,
    project_created,
    story,
    warning_raised,
)
from tests.spec import AT, Past, given

GATEWAY = definition(GatewayConfig())


def tick(step: str = "installing", percent: float = 42.0, attempt: int = 1) -> Progress:
    return Progress(
        preview_id=PREVIEW,
        step=step,
        percent=percent,
        message="Installing dependencies, 5 s",
        timestamp=AT + 5,
        elapsed=5.0,
        details={"attempt": attempt},
    )


def state_after(*past: Past) -> State:
    return given(GATEWAY, *past).state


def shown(*past: Past, progress: Progress | None = None, now: float = AT + 5) -> views.Json:
    state = state_after(*past)
    return views.preview_view(state, state.previews[PREVIEW], progress, now)


def test_a_ready_preview() -> None:
    """Every field that the API promises, and nothing that only a machine needs."""
    view = shown(*story("ready"), warning_raised())
    assert view == {
        "preview_id": PREVIEW,
        "project_id": PROJECT,
        "project_name": "shop",
        "owner": OWNER,
        "status": "ready",
        "step": "server_ready",
        "percent": 100.0,
        "message": "Ready",
        "elapsed_s": 0.0,
        "url": URL,
        "framework": "vite",
        "version": "7.0.0",
        "package_manager": "npm",
        "warnings": [views.warning_view(warning_raised())],
        "detail": "",
        "hmr": None,
        "eta_s": None,
        "phase": "",
        "quiet_s": None,
        "error": None,
        "log_tail": [],
        "steps": view["steps"],
        "from_pool": True,
        "install": "completed",
        "total_s": 0.0,
        "created_at": AT,
        "attempt": 1,
        "vm_id": "vm-000001",
        "seq": len(story("ready")) + 1,
    }
    assert msgspec.json.decode(msgspec.json.encode(view)) == view


def test_a_failed_preview_says_why() -> None:
    """With the log's tail; its time stands still; the bar does not claim anything."""
    state = state_after(*story("installing"), (AT + 7, preview_failed()))
    line = LogLine(at=AT, step="install", stream="stderr", text="npm error")
    view = views.preview_view(state, state.previews[PREVIEW], tick(), AT + 1000, [line], 10)
    assert view["error"] == {
        "code": "install_failed",
        "message": "No.",
        "hint": "Look.",
        "step": "installing",
        "evidence": [],
        "choices": [],
    }
    assert (view["log_tail"], view["elapsed_s"], view["percent"], view["url"]) == (["npm error"], 7.0, 0.0, None)
    assert view["message"] == "No."


def test_a_running_preview_shows_its_newest_tick() -> None:
    view = shown(*story("installing"), progress=tick())
    assert (view["percent"], view["message"], view["elapsed_s"]) == (42.0, "Installing dependencies, 5 s", 5.0)


@pytest.mark.parametrize("late", [tick("syncing_files"), tick(attempt=0), tick("waiting_server")])
def test_a_tick_of_another_step_or_attempt_says_nothing(late: Progress) -> None:
    """One that comes late must not turn the bar back."""
    assert shown(*story("installing"), progress=late) == shown(*story("installing"))


@pytest.mark.parametrize("until", STEPS[:-1])
def test_only_ready_is_full(until: str) -> None:
    """Whatever a tick says; and there is a number and a line before the first one comes."""
    view = shown(*story(until))
    told = shown(*story(until), progress=tick(view["step"], 100.0))
    assert 0 < view["percent"] <= told["percent"] < 100
    assert view["message"]


def test_the_bar_does_not_go_back_from_status_to_status() -> None:
    seen = [shown(*story(until))["percent"] for until in STEPS]
    assert seen == sorted(seen)


def test_a_stopped_preview() -> None:
    view = shown(*story("ready"), preview_stopped())
    assert (view["status"], view["step"], view["percent"], view["message"]) == ("stopped", "stopped", 0.0, "Stopped")


def test_a_restarted_preview_shows_nothing_of_the_last_attempt() -> None:
    view = shown(*story("ready"), preview_failed(), (AT + 9, preview_restarted(2)), now=AT + 10)
    assert (view["attempt"], view["elapsed_s"], view["error"], view["url"]) == (2, 1.0, None, None)


def test_a_clock_behind_the_log_does_no_harm() -> None:
    assert shown(*story("installing"), now=AT - 5)["elapsed_s"] == 0.0


def lines(step: str, *texts: str) -> list[LogLine]:
    return [LogLine(at=AT, step=step, stream="stdout", text=text, offset=n) for n, text in enumerate(texts)]


def test_evidence_is_the_lines_that_the_failure_names() -> None:
    """Of the job that failed: offsets begin anew in each."""
    log = [*lines("install", "a", "b"), *lines("install_retry", "c", "d"), *lines("dev_server", "e", "f")]
    failed = msgspec.structs.replace(preview_failed(step="waiting_server"), evidence=(1,))
    assert views.evidence_of(failed, log) == ["f"]
    assert views.evidence_of(msgspec.structs.replace(failed, step="installing"), log) == ["d"]
    assert views.evidence_of(failed, lines("install", "a", "b")) == []


def test_a_choice_of_apps_is_shown() -> None:
    choice = AppChoice(path="apps/web", framework="vite", name="web")
    failed = msgspec.structs.replace(preview_failed(code="app_choice_needed"), choices=(choice,))
    error = shown(*story("requested"), failed)["error"]
    assert error["choices"] == [{"path": "apps/web", "framework": "vite", "name": "web"}]


def test_an_error_of_the_project_is_told_in_words() -> None:
    broken = msgspec.structs.replace(dev_server_ready(), with_errors=True, detail="/ answered 500")
    view = shown(*story("booting"), broken, msgspec.structs.replace(preview_ready(), with_errors=True))
    assert (view["status"], view["percent"], view["url"]) == ("ready_with_errors", 100.0, URL)
    assert "/ answered 500" in view["message"]


def test_whether_edits_show_by_themselves_is_told() -> None:
    assert shown(*story("ready"), hmr_probed())["hmr"] == {"state": "open", "path": "/", "detail": ""}


def test_a_project() -> None:
    state = state_after(project_created(), files_changed(2))
    assert views.project_view(state.projects[PROJECT]) == {
        "project_id": PROJECT,
        "name": "shop",
        "owner": OWNER,
        "version": 2,
        "files": 3,
        "bytes": 300,
        "env": [],
    }


def test_messages_have_the_shapes_that_front_ends_know() -> None:
    assert views.progress_message(PREVIEW, tick(), 7) == {
        "type": "preview_progress",
        "preview_id": PREVIEW,
        "step": "installing",
        "percent": 42.0,
        "message": "Installing dependencies, 5 s",
        "timestamp": AT + 5,
        "details": {"attempt": 1},
        "elapsed": 5.0,
        "eta_s": None,
        "seq": 7,
    }
    assert views.warning_view(warning_raised()) == {
        "type": "nextjs_version",
        "version": "16.0.1",
        "message": "Next.js 16.0.1 has known dev server hanging issues.",
        "recommendation": "15.3.0",
        "link": "https://github.com/vercel/next.js/discussions/77102",
    }


def test_the_end_of_the_bar_is_told_by_the_fact() -> None:
    told = views.ready_progress(state_after(*story("ready")).previews[PREVIEW], AT + 5)
    assert (told.step, told.percent, told.details) == ("server_ready", 100.0, {"attempt": 1, "url": URL})


def test_a_line_of_output() -> None:
    line = LogLine(at=AT, step="install", stream="stdout", text="added 3", attempt=2, offset=9)
    assert views.log_view(line) == {"at": AT, "step": "install", "stream": "stdout", "text": "added 3", "attempt": 2}


def test_owners_see_their_own() -> None:
    past: list[Event] = [project_created("a"), project_created("b", owner="bob"), *story("ready")]
    state = state_after(*past)
    assert [each.project_id for each in views.owned_projects(state, OWNER)] == ["a", PROJECT]
    assert [each.project_id for each in views.owned_projects(state, "bob")] == ["b"]
    assert [each.preview_id for each in views.owned_previews(state, OWNER)] == [PREVIEW]
    assert views.owned_previews(state, "bob") == []


def test_a_deletion_is_answered_plainly() -> None:
    assert views.answer(state_after(), DeleteProject(project_id=PROJECT, owner=OWNER)) == Reply()


def test_a_step_of_a_newer_service_is_shown_as_it_is() -> None:
    """While the preview is under way; an end is never turned back by it."""
    under_way = shown(*story("installing"), progress=tick("a_newer_step"))
    assert (under_way["percent"], under_way["step"]) == (42.0, "installing")
    state = state_after(*story("installing"), (AT + 7, preview_failed()))
    assert views.current(tick("a_newer_step"), state.previews[PREVIEW]) is None
