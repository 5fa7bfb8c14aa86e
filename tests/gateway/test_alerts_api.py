"""Alerts over HTTP: shown to operators, silenced by them, and nobody else's business. Telemetry is another process: its
side of the commands is decided by its own rules here."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from services.gateway.adapters.access import access_from
from shared.commands import Command, EndSilence, SilenceAlert, SilenceReply
from shared.errors import Invalid, NotFound
from tests.gateway.api_stage import ApiStage, api_stage

SHOWN = {"alerts": [{"alert": "pool_empty"}], "recent": [], "silences": [], "channels": ["webhook"]}
BOB = "token-of-bob-456789"


@asynccontextmanager
async def stage_with_telemetry(**knobs: Any) -> AsyncIterator[tuple[ApiStage, list[Command]]]:
    """The gateway, and who answers for telemetry; the commands that came to it."""
    sent: list[Command] = []

    async def silence(body: bytes, _headers: Mapping[str, str]) -> bytes:
        command = msgspec.json.decode(body, type=SilenceAlert)
        sent.append(command)
        if command.pattern == "Bad":
            raise Invalid("bad_pattern", "No such pattern.")
        return msgspec.json.encode(SilenceReply(silence_id=command.id))

    async def end(body: bytes, _headers: Mapping[str, str]) -> bytes:
        command = msgspec.json.decode(body, type=EndSilence)
        sent.append(command)
        if command.silence_id == "unknown":
            raise NotFound("silence_not_found", "There is none.")
        return msgspec.json.encode(SilenceReply(silence_id=command.silence_id))

    async def alerts(_body: bytes, _headers: Mapping[str, str]) -> bytes:
        return msgspec.json.encode(SHOWN)

    async with api_stage(**knobs) as stage:
        commands = {SilenceAlert.verb: silence, EndSilence.verb: end}
        subscription = await stage.bus.commands.serve("telemetry", commands, {"alerts": alerts})
        try:
            yield stage, sent
        finally:
            await subscription.stop()


async def test_an_operator_sees_and_silences() -> None:
    """The command says who it was, and counts from now."""
    async with stage_with_telemetry(operators="alice, carol") as (stage, sent):
        seen = await stage.call("GET", "/api/alerts")
        assert (seen.status, seen.json) == (200, SHOWN)

        wish = {"alert": "pool_*", "for_s": 600, "reason": "moving"}
        made = await stage.call("POST", "/api/alerts/silences", json=wish)
        assert made.status == 201, made.text
        (command,) = sent
        assert isinstance(command, SilenceAlert)
        assert (command.pattern, command.reason, command.by) == ("pool_*", "moving", "alice")
        assert command.until == made.json["until"]
        assert made.json["silence_id"] == command.id

        ended = await stage.call("DELETE", f"/api/alerts/silences/{command.id}")
        assert (ended.status, ended.text) == (204, "")
        last = sent[-1]
        assert isinstance(last, EndSilence)
        assert (last.silence_id, last.by) == (command.id, "alice")


async def test_a_users_token_is_refused_and_no_token_too() -> None:
    """Every route of them."""
    wish = {"alert": "*", "for_s": 600}
    async with stage_with_telemetry(operators="alice") as (stage, sent):
        for method, path, body in (
            ("GET", "/api/alerts", None),
            ("POST", "/api/alerts/silences", wish),
            ("DELETE", "/api/alerts/silences/x", None),
        ):
            for token, problem in ((BOB, (403, "operators_only")), ("nobody's", (401, "token_required"))):
                answer = await stage.call(method, path, json=body, token=token)
                assert answer.problem() == problem
        assert sent == []


async def test_where_nobody_is_an_operator_nobody_sees_them() -> None:
    async with stage_with_telemetry() as (stage, _):
        assert (await stage.call("GET", "/api/alerts")).problem() == (403, "operators_only")


def test_without_tokens_whoever_is_at_this_machine_is_the_operator() -> None:
    access = access_from("", "127.0.0.1", "localhost")

    assert access.operator_of(None) == "local"  # type: ignore[arg-type]  # nothing of the request is looked at


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"alert": "Bad", "for_s": 600}, (400, "bad_pattern")),
        ({"alert": "*"}, (400, "bad_body")),
        ({"alert": "*", "for_s": "long"}, (400, "bad_body")),
        ({"alert": "*", "for_s": 600, "by": "somebody else"}, (400, "bad_body")),
    ],
)
async def test_what_telemetry_refuses_is_told(body: object, problem: tuple[int, str]) -> None:
    async with stage_with_telemetry(operators="alice") as (stage, _):
        assert (await stage.call("POST", "/api/alerts/silences", json=body)).problem() == problem
        unknown = await stage.call("DELETE", "/api/alerts/silences/unknown")
        assert unknown.problem() == (404, "silence_not_found")


async def test_without_telemetry_it_is_said_that_it_is_away() -> None:
    async with api_stage(operators="alice") as stage:
        assert (await stage.call("GET", "/api/alerts")).problem()[0] == 503
