"""Errors and times over HTTP: who is told what, what is asked of telemetry, and what makes no sense."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from services.gateway.adapters.describe import openapi
from shared.errors import NotFound
from tests.builders import OWNER, PREVIEW, PROJECT, preview_requested, project_created
from tests.gateway.api_stage import ApiStage, api_stage

FINGERPRINT = "0123456789abcdef"
GROUP = {"fingerprint": FINGERPRINT, "type": "PreviewFailed", "code": "disk_full", "count": 2}


@asynccontextmanager
async def telemetry() -> AsyncIterator[tuple[ApiStage, list[dict[str, Any]]]]:
    """The gateway with alice's project and preview, and what telemetry is asked. It knows one group."""
    asked: list[dict[str, Any]] = []

    async def errors(body: bytes, _headers: object) -> bytes:
        query = msgspec.json.decode(body)
        asked.append(query)
        sealed = await stage.bus.seals.seal(project_created(), PROJECT)
        group = {**GROUP, "last": {"message": sealed.name}}
        groups = [group] if query.get("fingerprint") in (None, FINGERPRINT) else []
        return msgspec.json.encode({"groups": groups, "occurrences": [{"seq": 7}], "next": 7})

    async def timing(body: bytes, _headers: object) -> bytes:
        asked.append(msgspec.json.decode(body))
        if asked[-1]["preview_id"] != PREVIEW:
            raise NotFound("timing_unknown", "There are no figures.")
        return msgspec.json.encode({"preview_id": PREVIEW, "why": ["the install took 41.0 s"]})

    async with api_stage(project_created(), preview_requested()) as stage:
        subscription = await stage.bus.commands.serve("telemetry", {}, {"errors": errors, "timing": timing})
        try:
            yield stage, asked
        finally:
            await subscription.stop()


async def test_an_owner_asks_for_their_own_errors_and_reads_the_messages() -> None:
    """What is sealed is opened at the door."""
    async with telemetry() as (stage, asked):
        plain = await stage.call("GET", "/api/errors")
        await stage.call("GET", "/api/errors?days=30&code=disk_full&project=shop&limit=10&before=99")

    assert plain.json == {"errors": [{**GROUP, "last": {"message": project_created().name}}], "next": 7}
    nothing = {"code": None, "fingerprint": None, "project": None}
    assert asked == [
        {"owner": OWNER, "days": 7, "limit": 50, "before": None, **nothing},
        {"owner": OWNER, "days": 30, "limit": 10, "before": 99, **nothing, "code": "disk_full", "project": "shop"},
    ]


async def test_one_error_has_its_occurrences() -> None:
    async with telemetry() as (stage, asked):
        found = await stage.call("GET", f"/api/errors/{FINGERPRINT}?limit=5")
        unknown = await stage.call("GET", f"/api/errors/{FINGERPRINT[::-1]}")
        wrong = await stage.call("GET", "/api/errors/ABC")

    assert (found.status, found.json["code"], found.json["occurrences"]) == (200, "disk_full", [{"seq": 7}])
    assert (unknown.problem(), wrong.problem()) == ((404, "error_not_found"),) * 2
    assert [each["occurrences"] for each in asked] == [True, True]
    assert asked[0]["owner"] == OWNER


async def test_a_preview_s_times_are_its_owner_s() -> None:
    async with telemetry() as (stage, asked):
        mine = await stage.call("GET", f"/api/previews/{PREVIEW}/timing?days=7")
        bobs = await stage.call("GET", f"/api/previews/{PREVIEW}/timing", token="token-of-bob-456789")

    assert mine.json["why"] == ["the install took 41.0 s"]
    assert bobs.problem() == (404, "preview_not_found")
    assert asked == [{"preview_id": PREVIEW, "days": 7}]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("days=0", "bad_days"),
        ("days=366", "bad_days"),
        ("days=%C2%B2", "bad_days"),
        ("days=" + "9" * 5_000, "bad_days"),
        ("limit=0", "bad_limit"),
        ("limit=201", "bad_limit"),
        ("limit=-1", "bad_limit"),
        ("before=0", "bad_before"),
        ("before=x", "bad_before"),
        ("before=9223372036854775808", "bad_before"),
        ("code=", "bad_code"),
        ("code=" + "x" * 101, "bad_code"),
        ("code=%00", "bad_code"),
        ("project=" + "x" * 101, "bad_project"),
    ],
)
async def test_what_makes_no_sense_is_refused(query: str, code: str) -> None:
    async with telemetry() as (stage, asked):
        assert (await stage.call("GET", f"/api/errors?{query}")).problem() == (400, code)
        if code in ("bad_days",):
            assert (await stage.call("GET", f"/api/previews/{PREVIEW}/timing?{query}")).problem() == (400, code)
    assert asked == []


def test_the_routes_are_described() -> None:
    paths = openapi()["paths"]
    assert {"/api/errors", "/api/errors/{fingerprint}", "/api/previews/{id}/timing"} <= set(paths)
