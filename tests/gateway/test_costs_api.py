"""`/api/costs` and `/api/resources`: what is asked of telemetry, for whom, and what is refused before."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from services.gateway.adapters.describe import openapi
from services.telemetry.adapters.cost_reader import DAYS_MAX, Costs, CostsQuery
from services.telemetry.adapters.resource_reader import HOURS_MAX, Resources, ResourcesQuery
from shared.errors import Unavailable
from tests.builders import OWNER
from tests.gateway.api_stage import ApiStage, api_stage


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[ApiStage]:
    """The gateway, and nobody else."""
    async with api_stage() as opened:
        yield opened


class Telemetry:
    """What was asked of it; it answers that it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def costs(self, body: bytes, _headers: Mapping[str, str]) -> bytes:
        self.asked.append(("costs", msgspec.json.decode(body, type=CostsQuery)))
        return b'{"rows":[]}'

    async def resources(self, body: bytes, _headers: Mapping[str, str]) -> bytes:
        self.asked.append(("resources", msgspec.json.decode(body, type=ResourcesQuery)))
        return b'{"snapshots":[]}'

    async def away(self, _body: bytes, _headers: Mapping[str, str]) -> bytes:
        raise Unavailable("costs_unavailable", "PostgreSQL does not answer.", retry_after_s=2)


async def test_an_operator_asks_for_everybodys() -> None:
    """Figures, errors and costs of the whole platform, and the pools' own."""
    asked: list[object] = []

    async def take(body: bytes, _headers: Mapping[str, str]) -> bytes:
        asked.append(msgspec.json.decode(body)["owner"])
        return b'{"groups":[],"next":null}'

    async with api_stage(operators=OWNER) as stage:
        await stage.bus.commands.serve("telemetry", {}, dict.fromkeys(("stats", "errors", "costs"), take))
        for path in ("/metrics/stats", "/api/errors", "/api/costs"):
            assert (await stage.call("GET", path)).status == 200
            await stage.call("GET", path, token="token-of-bob-456789")

    assert asked == [None, "bob"] * 3


async def test_an_owner_asks_for_its_own(stage: ApiStage) -> None:
    """What the token says, not what the query says; the defaults are a week by day, and a day of snapshots."""
    telemetry = Telemetry()
    await stage.bus.commands.serve("telemetry", {}, {"costs": telemetry.costs, "resources": telemetry.resources})
    answers = [
        await stage.call("GET", path)
        for path in (
            "/api/costs",
            "/api/costs?by=preview&days=30&owner=bob",
            "/api/resources",
            "/api/resources?hours=3",
        )
    ]

    assert [answer.status for answer in answers] == [200] * 4
    assert answers[0].json == {"rows": []}
    assert telemetry.asked == [
        ("costs", CostsQuery(by="day", days=7, owner=OWNER)),
        ("costs", CostsQuery(by="preview", days=30, owner=OWNER)),
        ("resources", ResourcesQuery(hours=24)),
        ("resources", ResourcesQuery(hours=3)),
    ]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/costs?by=colour", "bad_by"),
        ("/api/costs?by=", "bad_by"),
        ("/api/costs?days=0", "bad_days"),
        (f"/api/costs?days={DAYS_MAX + 1}", "bad_days"),
        ("/api/costs?days=many", "bad_days"),
        ("/api/costs?days=%C2%B2", "bad_days"),
        ("/api/costs?days=" + "9" * 5_000, "bad_days"),
        ("/api/resources?hours=0", "bad_hours"),
        (f"/api/resources?hours={HOURS_MAX + 1}", "bad_hours"),
        ("/api/resources?hours=-1", "bad_hours"),
        ("/api/resources?hours=1.5", "bad_hours"),
    ],
)
async def test_a_wrong_question_is_refused_here(stage: ApiStage, path: str, code: str) -> None:
    assert (await stage.call("GET", path)).problem() == (400, code)


@pytest.mark.parametrize("path", ["/api/costs", "/api/resources"])
async def test_nobody_known_is_told_nothing(stage: ApiStage, path: str) -> None:
    assert (await stage.call("GET", path, token="wrong-token-0123456789")).problem() == (401, "token_required")


async def test_an_outage_is_told_as_one(stage: ApiStage) -> None:
    await stage.bus.commands.serve("telemetry", {}, {"costs": Telemetry().away})

    assert (await stage.call("GET", "/api/costs")).problem() == (503, "costs_unavailable")


@pytest.mark.parametrize(("path", "kind"), [("/api/costs", Costs), ("/api/resources", Resources)])
def test_the_description_names_what_is_answered(path: str, kind: type[msgspec.Struct]) -> None:
    """Every field of the answer, and no other."""
    schema = openapi()["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]

    assert set(schema["properties"]) == set(kind.__struct_fields__)
    for name, part in schema["properties"].items():
        _compare(msgspec.json.schema(kind), name, part)


def _compare(whole: dict[str, Any], name: str, part: dict[str, Any]) -> None:
    """Below a list: the items' own fields, by what the types say."""
    definitions = whole["$defs"]
    field = definitions[whole["$ref"].rsplit("/", 1)[-1]]["properties"][name]
    if part["type"] == "array":
        of = definitions[field["items"]["$ref"].rsplit("/", 1)[-1]]
        assert set(part["items"]["properties"]) == set(of["properties"])
