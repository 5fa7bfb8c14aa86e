"""What front ends get to see; the field names are the API's."""

import msgspec
import pytest

from services.gateway import views
from services.gateway.app import definition
from services.gateway.config import GatewayConfig
from services.gateway.state import State
from shared.commands import DeleteProject, ProjectReply, RecordFiles, Reply
from shared.events import AppChoice, Event, PreviewRequested, ProjectDeleted, ProjectResidentsChanged
from shared.jetstream import topology
from shared.output import LogBatch, LogLine
from shared.ports import Progress
from tests.builders import (
    OWNER,
    PREVIEW,
    PROJECT,
    STEPS,
    URL,
    dev_server_ready,
    dev_server_started,
    files_changed,
    files_synced,
    hmr_probed,
    install_completed,
    install_started,
    preview_failed,
    preview_prepared,
    preview_ready,
    preview_requested,
    preview_restarted,
    preview_stopped,
    preview_wanted,
    project_created,
    project_detected,
    story,
    vm_acquired,
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
        eta_s=12.0,
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
        "eta_s": 0.0,
        "phase": "",
        "quiet_s": None,
        "last_line": "",
        "url": URL,
        "detail": "",
        "app": "",
        "wanted": True,
        "private": False,
        "files_version": 1,
        "framework": "vite",
        "version": "7.0.0",
        "package_manager": "npm",
        "warnings": [views.warning_view(warning_raised())],
        "error": None,
        "log_tail": [],
        "hmr": None,
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
    view = views.preview_view(state, state.previews[PREVIEW], tick(), AT + 1000, [line])
    assert view["error"] == {
        "code": "install_failed",
        "message": "No.",
        "hint": "Look.",
        "step": "installing",
        "evidence": [],
        "choices": [],
    }
    assert (view["log_tail"], view["elapsed_s"], view["percent"], view["url"]) == (["npm error"], 7.0, 10.0, None)
    assert view["message"] == "No."


def test_a_running_preview_shows_its_newest_tick() -> None:
    view = shown(*story("installing"), progress=tick())
    assert (view["percent"], view["message"], view["elapsed_s"]) == (42.0, "Installing dependencies, 5 s", 5.0)
    assert (view["eta_s"], view["phase"], view["quiet_s"]) == (12.0, "", None)


def test_the_inside_of_a_step_is_shown() -> None:
    """Its phase, for how long nothing was printed, and what was printed last: slow and dead look different."""
    told = msgspec.structs.replace(
        tick("waiting_server", 90.0),
        eta_s=None,
        details={"attempt": 1, "phase": "compiling", "quiet_s": 25.0, "last_line": "compiling /"},
    )
    view = shown(*story("booting"), progress=told)
    assert (view["phase"], view["quiet_s"], view["last_line"], view["eta_s"]) == (
        "compiling",
        25.0,
        "compiling /",
        None,
    )


# --- errors in the project ----------------------------------------------------------------------------------------

BROKEN = msgspec.structs.replace(dev_server_ready(), with_errors=True, detail="/main.js answered 500")
SHOWN_BROKEN = msgspec.structs.replace(preview_ready(), with_errors=True)


def test_a_project_that_shows_an_error() -> None:
    """There is something to see, at its address; the line says what it is."""
    past = [*story("booting"), BROKEN, SHOWN_BROKEN]
    view = shown(*past)
    assert (view["status"], view["step"], view["url"]) == ("ready_with_errors", "server_ready", URL)
    assert (view["percent"], view["message"], view["error"]) == (100.0, "/main.js answered 500", None)
    assert views.ready_progress(state_after(*past).previews[PREVIEW], AT).message == "/main.js answered 500"
    assert shown(*past, dev_server_ready())["message"] == "Ready"


def test_evidence_is_read_from_the_log() -> None:
    """The lines of the attempt and of its last install, by their offsets; not those of another step or attempt."""

    def line(step: str, offset: int, attempt: int = 1) -> LogLine:
        return LogLine(at=AT, step=step, stream="stderr", text=f"{step} {offset}", attempt=attempt, offset=offset)

    log = [line(step, offset) for step in ("install", "install_retry", "dev_server") for offset in range(4)]
    log.append(line("install_retry", 1, attempt=2))
    retry = msgspec.structs.replace(install_started(), job_id="install-1-retry")
    failed = msgspec.structs.replace(preview_failed(), evidence=(1, 3))

    def found(*past: Past) -> list[str]:
        preview = state_after(*past).previews[PREVIEW]
        return [each.text for each in views.evidence_lines(preview, log)]

    assert found(*story("installing"), failed) == ["install 1", "install 3"]
    assert found(*story("installing"), retry, failed) == ["install_retry 1", "install_retry 3"]
    crashed = msgspec.structs.replace(failed, step="waiting_server")
    assert found(*story("booting"), crashed) == ["dev_server 1", "dev_server 3"]
    assert found(*story("ready")) == []


def test_apps_to_choose_from() -> None:
    choices = (AppChoice(path="apps/a", framework="vite", name="a"), AppChoice(path="b", framework="astro", name="b"))
    failed = msgspec.structs.replace(preview_failed(code="app_choice_needed"), choices=choices)
    assert shown(*story("requested"), failed)["error"]["choices"] == [
        {"path": "apps/a", "framework": "vite", "name": "a"},
        {"path": "b", "framework": "astro", "name": "b"},
    ]


def test_the_socket_for_edits() -> None:
    assert shown(*story("ready"), hmr_probed())["hmr"] == {"state": "open", "path": "/", "detail": ""}


# --- opening early ------------------------------------------------------------------------------------------------


def test_a_prepared_preview() -> None:
    """The bar stands where the preparation ended, its time too; nothing is said of what was left to do."""
    prepare = msgspec.structs.replace(preview_requested(), prepare=True)
    past: list[Past] = [project_created(), files_changed(), prepare, project_detected(), vm_acquired()]
    past += [files_synced(), install_started(), install_completed(), (AT + 6, preview_prepared())]
    view = shown(*past, progress=tick(), now=AT + 100)
    assert (view["status"], view["step"], view["wanted"], view["elapsed_s"]) == ("prepared", "prepared", False, 6.0)
    assert (view["percent"], view["message"]) == (85.0, "Prepared; waiting to be opened")
    wanted = shown(*past, (AT + 100, preview_wanted()), dev_server_started(), now=AT + 101)
    assert (wanted["wanted"], wanted["elapsed_s"], wanted["percent"]) == (True, 1.0, 85.0)


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
        "residents": 0,
    }


def test_a_templates_residents() -> None:
    """They are told with the template, and with nothing else; a failure only where something is missing."""
    asked = msgspec.structs.replace(preview_requested(), resident=True)
    way = [asked if isinstance(event, PreviewRequested) else event for event in story("ready")]
    wanted = ProjectResidentsChanged(project_id=PROJECT, count=1)
    state = state_after(*way, wanted)
    project = state.projects[PROJECT]
    counted = {"project_id": PROJECT, "count": 1, "ready": 1, "starting": 0, "error": None}
    assert views.residents_view(state, project) == counted
    assert views.owned_previews(state, OWNER) == []
    state = state_after(*way[:-1], wanted)
    assert views.residents_view(state, project) == {**counted, "ready": 0, "starting": 1}
    state = state_after(*way[:-1], wanted, preview_failed())
    told = views.residents_view(state, project)
    assert (told["ready"], told["starting"], told["error"]["code"]) == (0, 0, "install_failed")


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
        "eta_s": 12.0,
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
    assert views.log_view(line) == {
        "at": AT,
        "step": "install",
        "stream": "stdout",
        "text": "added 3",
        "attempt": 2,
        "offset": 9,
    }


# --- what is no longer kept ---------------------------------------------------------------------------------------


def oldest(step: str = "install", offset: int = 0, attempt: int = 1, seq: int = 10) -> LogBatch:
    line = LogLine(at=AT, step=step, stream="stdout", text="x", attempt=attempt, offset=offset)
    return LogBatch(preview_id=PREVIEW, seq=seq, lines=(line,))


@pytest.mark.parametrize(
    ("batch", "after", "lines"),
    [
        (oldest(), 0, "whole"),
        (None, 0, "whole"),
        (oldest(offset=70), 0, 70),
        (oldest("dev_server"), 0, None),  # the install has run, and nothing of it is there
        (oldest(), 10, "whole"),
        (oldest(), 25, "whole"),
        (oldest(), 9, None),  # what the reader has read last is gone, and perhaps more after it
        (oldest("install", 70), 12, "whole"),
    ],
)
def test_what_was_cut_is_named(batch: LogBatch | None, after: int, lines: int | str | None) -> None:
    """Where lines are missing that the reader asks for, with their number where it is known, and the limit."""
    cut = views.cut_view(state_after(*story("ready")).previews[PREVIEW], batch, after)
    assert (cut["lines"] if cut is not None else "whole") == lines
    assert cut is None or views.LOG_LIMITS in cut["reason"]


def test_the_limits_are_the_logs_own() -> None:
    """The words follow the stream's settings."""
    (logs,) = (each for each in topology._streams(1) if each.name == topology.LOGS)
    assert logs.max_age is not None
    assert logs.max_bytes is not None
    hours, mebibytes = logs.max_age / 3600, logs.max_bytes / 1024**2
    assert (
        f"{hours:.0f} hours, {logs.max_msgs_per_subject} batches of a preview, {mebibytes:.0f} MiB" in views.LOG_LIMITS
    )


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


@pytest.mark.parametrize("since", [files_changed(2), ProjectDeleted(project_id=PROJECT)])
def test_who_stored_a_version_is_told_of_that_one(since: Event) -> None:
    """Whatever has become of the project before the answer."""
    state = given(GATEWAY, project_created(), files_changed(1), since).state
    record = RecordFiles(
        project_id=PROJECT, owner=OWNER, base_version=0, manifest="m", files=1, size_bytes=1, changed=1, deleted=0
    )
    assert views.answer(state, record) == ProjectReply(project_id=PROJECT, files_version=1)
