"""What the CLI says of progress, warnings, failures and variables."""

import io
import sys

import msgspec
import pytest
from msgspec.structs import replace

from deploy.cli.api import Api
from deploy.cli.env import parse_pairs
from deploy.cli.following import conclude, describe, left, warning_text
from deploy.cli.output import Output
from shared.errors import Invalid
from tests.builders import preview_failed, story
from tests.gateway.api_stage import TOKEN, api_stage
from tests.gateway.test_previews_api import BROKEN, SHOWN_BROKEN, line


@pytest.mark.parametrize(
    ("eta_s", "said"),
    [(None, ""), (0.0, ""), (0.4, ""), (12.3, "about 12 s left"), (89, "about 89 s left"), (150, "about 2 min left")],
)
def test_the_time_left(eta_s: float | None, said: str) -> None:
    assert left(eta_s) == said


def test_slow_and_dead_look_different() -> None:
    """While it compiles, what it prints is shown; when it prints nothing, for how long."""
    assert describe("Compiling", "compiling", 1.0, "compiled /") == "Compiling\n  | compiled /"
    assert describe("Starting", "starting", 25.2, "hello") == "Starting; no output for 25 s"
    told = "Starting the dev server, 30 s; no output for 25 s"
    assert describe(told, "starting", 25.2, None) == told
    assert describe("Installing", None, None, None) == "Installing"


def test_warnings() -> None:
    warning = {"message": "Odd.", "recommendation": "15.3.0", "link": "https://example.org"}
    assert warning_text(warning) == "Odd. Recommended: 15.3.0. https://example.org"
    assert warning_text({"message": "Odd.", "recommendation": "", "link": ""}) == "Odd."


async def test_a_failure_is_told_with_its_evidence_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end of the log, the cause in it marked; one that is further up stands before it."""
    monkeypatch.setenv("DRAPE_API_TOKEN", TOKEN)
    failed = preview_failed()
    async with api_stage(*story("installing"), replace(failed, evidence=(0, 49))) as stage:
        await stage.say(*(line(f"line {number}", number) for number in range(50)))
        api = Api(stage.url, stage.session)
        assert not await conclude(Output(as_json=False), api, await stage.view(), stage.url)
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == ["  > line 0", "  ..."]
    assert told[2] == "  | line 10"
    assert told[-3:] == ["  > line 49", "drape: No.", "       Look."]


async def test_a_project_that_shows_an_error_is_something_to_see(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`preview_ready` with a status of its own and what is wrong."""
    monkeypatch.setenv("DRAPE_API_TOKEN", TOKEN)
    async with api_stage(*story("booting"), BROKEN, SHOWN_BROKEN) as stage:
        api = Api(stage.url, stage.session)
        assert await conclude(Output(as_json=True), api, await stage.view(), stage.url)
        assert await conclude(Output(as_json=False), api, await stage.view(), stage.url)
    told = capsys.readouterr().out
    result = msgspec.json.decode(told.splitlines()[0])
    shown = {key: result[key] for key in ("type", "status", "detail")}
    assert shown == {"type": "preview_ready", "status": "ready_with_errors", "detail": "/main.js answered 500"}
    assert "shows an error in the project" in told


def test_variables_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """KEY=VALUE; a bare KEY from standard input, line by line, or from the environment."""
    assert parse_pairs(("A=1", "B=x=y", "C=")) == {"A": "1", "B": "x=y", "C": ""}
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\r\n"))
    assert parse_pairs(("A", "B=2", "C")) == {"A": "first", "B": "2", "C": "second"}
    monkeypatch.setenv("A", "from here")
    assert parse_pairs(("A",), from_env=True) == {"A": "from here"}


def test_a_variable_without_a_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.delenv("NOWHERE_SET", raising=False)
    for from_env in (False, True):
        with pytest.raises(Invalid, match="NOWHERE_SET"):
            parse_pairs(("NOWHERE_SET",), from_env=from_env)
