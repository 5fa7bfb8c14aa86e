"""Previews over HTTP: opened early, shown with their project's errors, failed with evidence and choices."""

from contextlib import aclosing

import msgspec
import pytest

from shared.commands import RequestPreview, RestartPreview
from shared.events import AppChoice, Event, PreviewWarningRaised
from shared.output import LogLine
from shared.ports import Progress
from tests.builders import (
    OWNER,
    dev_server_ready,
    dev_server_started,
    files_synced,
    hmr_probed,
    install_completed,
    install_started,
    preview_failed,
    preview_prepared,
    preview_ready,
    preview_restarted,
    project_detected,
    story,
    vm_acquired,
)
from tests.gateway.api_stage import PREVIEW, PROJECT, TOKEN, ApiStage, api_stage
from tests.gateway.proxy_stage import free_port_refusing
from tests.spec import AT

BROKEN = msgspec.structs.replace(dev_server_ready(), with_errors=True, detail="/main.js answered 500")
SHOWN_BROKEN = msgspec.structs.replace(preview_ready(), with_errors=True)
OF_PROJECT = story("requested")[:2]


def line(text: str, offset: int, *, step: str = "install", attempt: int = 1, stream: str = "stdout") -> LogLine:
    return LogLine(at=AT, step=step, stream=stream, text=text, attempt=attempt, offset=offset)


async def visit(stage: ApiStage) -> tuple[int, str]:
    """The preview's address, as a browser asks for it."""
    headers = {"Host": f"{PREVIEW}.preview.localhost", "Accept": "text/html"}
    async with stage.session.get(stage.url, headers=headers) as response:
        return response.status, await response.text()


# --- opening early ------------------------------------------------------------------------------------------------


async def test_a_project_is_prepared_and_then_opened() -> None:
    """One preview: prepared it waits, and whoever asks for it gets it."""
    async with api_stage(*OF_PROJECT) as stage:
        begun = await stage.call("POST", f"/api/projects/{PROJECT}/prepare")
        assert (begun.status, begun.json["preview_id"], begun.json["wanted"]) == (202, PREVIEW, False)
        await stage.record(project_detected(), vm_acquired(), files_synced(), install_started(), install_completed())
        await stage.record(preview_prepared())
        view = await stage.view()
        assert (view["status"], view["message"]) == ("prepared", "Prepared; waiting to be opened")
        assert (await visit(stage))[0] == 503
        opened = await stage.call("POST", "/api/previews", json={"project_id": PROJECT})
        assert (opened.status, opened.json["preview_id"], opened.json["wanted"]) == (200, PREVIEW, True)
        prepare, request = stage.commands
        assert isinstance(prepare, RequestPreview)
        assert isinstance(request, RequestPreview)
        assert (prepare.prepare, request.prepare, request.owner) == (True, False, OWNER)


async def test_an_app_is_passed_on() -> None:
    """By preparation, request and restart; nothing said means nothing changed."""
    async with api_stage(*OF_PROJECT) as stage:
        await stage.call("POST", f"/api/projects/{PROJECT}/prepare", json={"app": "apps/a"})
        await stage.call("POST", "/api/previews", json={"project_id": PROJECT, "app": "apps/b"})
        restarted = await stage.call("POST", f"/api/previews/{PREVIEW}/restart", json={"app": "apps/c"})
        assert (restarted.status, restarted.json["app"], restarted.json["attempt"]) == (202, "apps/c", 2)
        await stage.call("POST", f"/api/previews/{PREVIEW}/restart")
        apps = [each.app for each in stage.commands if isinstance(each, RequestPreview | RestartPreview)]
        assert apps == ["apps/a", "apps/b", "apps/c", ""]
        assert (await stage.view())["app"] == "apps/c"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (f"/api/projects/{PROJECT}/prepare", {"ap": "x"}, "bad_body"),
        (f"/api/projects/{PROJECT}/prepare", [], "bad_body"),
        (f"/api/previews/{PREVIEW}/restart", {"app": 7}, "bad_body"),
        (f"/api/previews/{PREVIEW}/restart", {"app": "x" * 1025}, "bad_app"),
        ("/api/projects/other/prepare", {}, "project_not_found"),
    ],
)
async def test_a_wrong_wish_is_refused(path: str, body: object, code: str) -> None:
    """A misspelt member must not be taken for silence."""
    async with api_stage(*story("ready")) as stage:
        assert (await stage.call("POST", path, json=body)).json["code"] == code
        assert stage.commands == []


# --- errors in the project ----------------------------------------------------------------------------------------


async def test_a_broken_project_is_let_through_and_mended() -> None:
    """Its dev server's own error page is what is shown: the gateway does not stand before it."""
    nobody = msgspec.structs.replace(BROKEN, port=free_port_refusing())
    async with api_stage(*story("booting"), nobody, SHOWN_BROKEN) as stage:
        view = await stage.view()
        assert (view["status"], view["message"]) == ("ready_with_errors", "/main.js answered 500")
        assert view["url"]
        status, page = await visit(stage)
        assert (status, "dev_server_unreachable" in page) == (502, True)  # it was dialled: nothing listens there
        await stage.record(dev_server_ready())
        assert (await stage.view())["status"] == "ready"


async def test_the_socket_for_edits_is_told() -> None:
    async with api_stage(*story("ready"), hmr_probed()) as stage:
        assert (await stage.view())["hmr"] == {"state": "open", "path": "/", "detail": ""}


@pytest.mark.parametrize("code", ["nextjs_version", "lockfile_mismatch"])
async def test_warnings_of_any_code_are_warnings(code: str) -> None:
    """In the one shape, and as the same kind of server-sent event."""
    async with api_stage(*story("ready")) as stage:
        warning = PreviewWarningRaised(preview_id=PREVIEW, attempt=1, code=code, message="Look.", recommendation="Do.")
        async with aclosing(stage.sse(f"/api/previews/{PREVIEW}/events")) as events:
            assert (await anext(events))[0] == "state"
            await stage.record(warning)
            assert (await anext(events))[0] == "preview"
            kind, message = await anext(events)
        assert (kind, message["type"], message["message"], message["recommendation"]) == (
            "warning",
            code,
            "Look.",
            "Do.",
        )
        assert [each["type"] for each in (await stage.view())["warnings"]] == [code]


# --- failures -----------------------------------------------------------------------------------------------------


async def test_a_failure_shows_the_lines_that_the_cause_is_in() -> None:
    """Of its attempt's last install, however far up they are, without colours; the tail is the end."""
    retry = msgspec.structs.replace(install_started(), job_id="install-1-retry")
    failed = msgspec.structs.replace(preview_failed(), evidence=(1,))
    async with api_stage(*story("installing"), retry, failed) as stage:
        await stage.say(line("npm error of the first try", 1))
        await stage.say(
            line("begin", 0, step="install_retry"), line("\x1b[31mnpm error\x1b[0m ERESOLVE", 1, step="install_retry")
        )
        for number in range(300):
            await stage.say(line(f"line {number}", number + 2, step="install_retry"))
        view = await stage.view()
        assert view["error"]["evidence"] == ["npm error ERESOLVE"]
        assert (len(view["log_tail"]), view["log_tail"][-1]) == (40, "line 299")
        page = (await visit(stage))[1]
        assert page.index("What shows it") < page.index("npm error ERESOLVE") < page.index("line 299")


async def test_a_long_log_of_an_earlier_attempt_is_not_this_ones_end() -> None:
    """Nothing of it is shown as the new attempt's."""
    failed = preview_failed(attempt=2)
    async with api_stage(*story("installing"), preview_restarted(2), install_started(2), failed) as stage:
        for number in range(200):
            await stage.say(line(f"old {number}", number))
        await stage.say(line("new", 0, attempt=2))
        view = await stage.view()
        assert (view["log_tail"], view["error"]["evidence"]) == (["new"], [])


async def test_the_choices_are_told() -> None:
    choices = (AppChoice(path="apps/docs", framework="astro", name="docs"),)
    failed = msgspec.structs.replace(preview_failed(code="app_choice_needed"), choices=choices)
    async with api_stage(*story("requested"), failed) as stage:
        assert (await stage.view())["error"]["choices"] == [{"path": "apps/docs", "framework": "astro", "name": "docs"}]


# --- progress -----------------------------------------------------------------------------------------------------


def tick(percent: float, **details: str | float) -> Progress:
    return Progress(
        preview_id=PREVIEW,
        step="waiting_server",
        percent=percent,
        message="Compiling the first page, 9 s",
        timestamp=AT,
        elapsed=9.0,
        eta_s=12.5,
        details={"attempt": 1, **details},
    )


async def test_the_same_numbers_everywhere() -> None:
    """WebSocket, server-sent events and the view: percent, time left, phase, silence, and the newest line printed."""
    async with api_stage(*story("booting")) as stage:
        path = f"/ws?project={PROJECT}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            stage.session.ws_connect(stage.url + path, headers=headers) as socket,
            aclosing(stage.sse(f"/api/previews/{PREVIEW}/events")) as events,
        ):
            assert (await socket.receive_json())["type"] == "state"
            assert (await anext(events))[0] == "state"
            await stage.say(line("\x1b[32mcompiling\x1b[0m /", 0, step="dev_server"), line("", 1, step="dev_server"))
            await stage.tick(tick(91.0, phase="compiling", quiet_s=3.0))
            by_socket, by_events = await socket.receive_json(), (await anext(events))[1]
        view = await stage.view()
        assert by_socket == by_events
        assert (by_socket["percent"], by_socket["eta_s"]) == (view["percent"], view["eta_s"]) == (91.0, 12.5)
        assert by_socket["details"] == {
            "attempt": 1,
            "phase": "compiling",
            "quiet_s": 3.0,
            "last_line": "compiling /",
        }
        assert (view["phase"], view["quiet_s"], view["last_line"]) == ("compiling", 3.0, "compiling /")


async def test_nothing_of_the_last_attempt_is_the_newest_line() -> None:
    async with api_stage(*story("booting")) as stage:
        await stage.say(line("old", 0, step="dev_server"))
        await stage.record(preview_restarted(2, in_place=True), project_detected(2), files_synced(2))
        await stage.record(dev_server_started(2))
        await stage.tick(msgspec.structs.replace(tick(90.0), details={"attempt": 2}))
        assert (await stage.view())["last_line"] == ""


async def test_an_edit_leaves_what_is_shown() -> None:
    """A later tick of a preview that is ready changes nothing."""
    past: list[Event] = story("ready")
    async with api_stage(*past) as stage:
        await stage.tick(tick(91.0))
        assert (await stage.view())["percent"] == 100.0
