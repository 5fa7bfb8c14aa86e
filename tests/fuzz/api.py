"""Requests made from the OpenAPI document that the gateway serves, right ones and wrong ones: never a 5xx but a 503 that is
documented, and every answer is one that the document describes."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.gateway.adapters.describe import openapi
from services.pool import state as pool_state
from services.pool import views
from shared.commands import PreviewReply, StopPreview
from shared.errors import Unavailable
from tests.builders import OWNER, PREVIEW, PROJECT, preview_requested, project_created
from tests.fuzz import tars
from tests.fuzz.telemetry import serve_alerts
from tests.fuzz.trial import INPUT_LIMIT_S, Leaks, Outcome, Trial
from tests.gateway.api_stage import TOKEN, ApiStage, api_stage

CHECKS: list[Any] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
UNLIMITED: dict[str, Any] = dict.fromkeys(
    (f"{who}_{what}_per_s" for who, what in (("token", "reads"), ("token", "writes"), ("address", "reads"), ("address", "writes"), ("token", "starts"))),
    0.0,
)  # fmt: skip
"""The rates' limits, taken away: they would refuse most of what is to be tried."""


def archive_of(number: int) -> bytes:
    """An honest one in half of the cases."""
    rng = random.Random(number)
    honest = tars.plain({"index.html": rng.randbytes(20)}) + b"\0" * 1024
    return tars.packed(rng, honest if rng.random() < 0.5 else tars.hostile(rng))


for _media in ("application/x-tar", "application/gzip"):
    schemathesis.openapi.media_type(_media, st.integers(0, 10**9).map(archive_of))

STREAMS = ("/api/previews/{id}/events",)
"""They do not end by themselves; `sockets` has them."""


@contextmanager
def served() -> Iterator[str]:
    """A gateway with a project and a preview, on a loop and a socket of its own. Gives its address."""
    address: Queue[Any] = Queue()
    ended = threading.Event()

    async def serve() -> None:
        knobs = {**UNLIMITED, "projects_per_owner_max": 100_000, "operators": OWNER}
        async with api_stage(project_created(), preview_requested(), **knobs) as stage:
            await others(stage)
            stop = asyncio.Event()
            address.put((stage.url, asyncio.get_running_loop(), stop))
            await stop.wait()
        ended.set()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="gateway")
    thread.start()
    url, loop, stop = address.get(timeout=INPUT_LIMIT_S)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(INPUT_LIMIT_S)
        assert ended.is_set(), "the gateway did not end"


async def others(stage: ApiStage) -> None:
    """The queries of services that are not here: an empty pool, and telemetry without its database; and stops, which are
    granted."""

    async def summary(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(views.summary(pool_state.initial()))

    async def stats(_body: bytes, _headers: object) -> bytes:
        raise Unavailable("stats_unavailable", "The statistics cannot be read: PostgreSQL does not answer.")

    async def stop(_body: bytes, _headers: object) -> bytes:
        return msgspec.json.encode(PreviewReply(preview_id=PREVIEW, status="stopped", seq=len(stage.broker.records)))

    await stage.bus.commands.serve("orchestrator", {StopPreview.verb: stop}, {})
    await stage.bus.commands.serve("pool", {}, {"summary": summary})
    asked = ("stats", "errors", "timing", "costs", "resources")
    await serve_alerts(stage.bus, dict.fromkeys(asked, stats))


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """Every operation, in turn, half of its requests against the document."""
    return await asyncio.to_thread(_fuzz, inputs, seed + first)


def _fuzz(inputs: int, seed: int) -> Outcome:
    trial = Trial("api", seed, inputs)
    with served() as url, requests.Session() as session:
        document = session.get(f"{url}/openapi.json", timeout=INPUT_LIMIT_S).json()
        assert document == openapi()
        schema: Any = schemathesis.openapi.from_dict(document)
        operations = [each.ok() for each in schema.get_all_operations()]
        operations = [each for each in operations if each.path not in STREAMS]
        operations.sort(key=lambda each: each.method == "delete")  # what is deleted can only be asked for in vain
        share = max(1, inputs // (2 * len(operations)))
        _each(trial, operations, url, session, seed, 1)
        trial.done = 0
        leaks = Leaks()
        _each(trial, operations, url, session, seed, share)
        return leaks.outcome(trial)


def _each(trial: Trial, operations: list[Any], url: str, session: requests.Session, number: int, share: int) -> None:
    for operation in operations:
        # Of an id in the path nothing is wrong by the document; looking for it would take seconds.
        can_be_wrong = bool(operation.query) or any(each.media_type == "application/json" for each in operation.body)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + can_be_wrong]:
            _try(trial, operation.as_strategy(generation_mode=mode), url, session, number, share)


def _try(trial: Trial, strategy: Any, url: str, session: requests.Session, number: int, share: int) -> None:
    @seed(number)
    @settings(
        max_examples=share,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, known=st.booleans())
    def one(case: Any, known: bool) -> None:
        if known and "id" in case.path_parameters:
            case.path_parameters["id"] = PREVIEW if "/previews/" in case.operation.path else PROJECT
        shown = f"{case.method} {case.operation.path} {case.path_parameters} {case.query} {case.headers} {case.body!r}"
        with trial.one(trial.done, shown):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            response = case.call(base_url=url, session=session, headers=headers, timeout=INPUT_LIMIT_S)
            checks = CHECKS if response.status_code == 503 else [not_a_server_error, *CHECKS]
            case.validate_response(response, checks=checks)
        trial.done += 1

    try:
        one()
    except Exception as error:  # nothing can be made of it against the document: a GET without parameters
        if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
            raise
