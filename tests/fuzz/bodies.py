"""Bodies and headers of NATS requests, for every command and query of all services: a coded answer, and all go on."""

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import Any

import msgspec

from shared.causes import AFTER_SEQ, CAUSATION, CORRELATION, REPEATED, TRACEPARENT
from shared.commands import COMMAND_TYPES
from shared.errors import DrapeError
from shared.events import PoolResized, PreviewReady
from shared.ids import is_text
from tests.fuzz import rubbish
from tests.fuzz.trial import Leaks, Outcome, Trial
from tests.journeys.stage import staged

HEADERS = (CORRELATION, CAUSATION, TRACEPARENT, REPEATED)
SEQUENCES = ("0", "1", "-1", "x", "²", "٣", "9" * 30, "1.5", "")
WARM = 300
"""Inputs before the first look at what is held: everything is loaded by then."""
READY_S = 120.0


async def fuzz(inputs: int, seed: int, first: int = 0) -> Outcome:
    """All services, with simulated machines."""
    warm, trial = Trial("bodies", seed + 1, min(WARM, inputs)), Trial("bodies", seed, inputs, first)
    logging.getLogger("drape").setLevel(logging.CRITICAL)
    try:
        async with staged(warm=False) as stage:
            project_id = await stage.project()
            known = await stage.request(project_id)
            subjects = {name: handlers for name, handlers in stage.broker.endpoints.items() if handlers}
            samples = [known, project_id, "ann", *(f"vm-{number:06d}" for number in range(1, 4))]
            await _all(warm, subjects, samples)
            leaks = Leaks()
            await _all(trial, subjects, samples)
            with trial.one(-1, "what the services are like afterwards"):
                await _check(stage)
            outcome = leaks.outcome(trial)
    finally:
        logging.getLogger("drape").setLevel(logging.NOTSET)
    return msgspec.structs.replace(outcome, findings=(*warm.findings, *outcome.findings))


async def _all(trial: Trial, subjects: Mapping[str, Any], samples: list[str]) -> None:
    names = sorted(subjects)
    for number, rng in trial.each():
        subject = rng.choice(names)
        body, headers = body_for(rng, subject, samples), headers_for(rng)
        handler, _ = subjects[subject][-1]
        async with trial.within(number, f"{subject} {headers!r} {body!r}"):
            try:
                answer = await handler(body, headers)
            except DrapeError as error:
                assert error.status < 500 or error.status == 503, f"{error.code}: {error.message}"
                assert msgspec.json.encode(error.problem())
            else:
                msgspec.json.decode(answer)
        await asyncio.sleep(0)


def body_for(rng: random.Random, subject: str, samples: list[str]) -> bytes:
    """A body for this endpoint: nearly what it wants, or anything."""
    wanted = {f"cmd.{kind.service}.{kind.verb}": kind for kind in COMMAND_TYPES}.get(subject)
    right: dict[str, Any] = {}
    for field in msgspec.structs.fields(wanted) if wanted is not None else ():
        if field.required or rng.random() < 0.3:
            right[field.encode_name] = _sample(rng, field.type, samples)
    return rubbish.encoded(rng, right if rng.random() < 0.5 else rubbish.near(rng, right))


def _sample(rng: random.Random, kind: Any, samples: list[str]) -> Any:
    if kind is int:
        return rng.choice((0, 1, 2, 3, -1, 10**6))
    if kind is float:
        return rng.choice((0.0, 1.5, -1.0, 1e12))
    if kind is bool:
        return rng.random() < 0.5
    if kind is str:
        return rng.choice(samples) if rng.random() < 0.7 else rubbish.text(rng)
    return rubbish.value(rng) if rng.random() < 0.5 else rng.choice(([], {}, None, "a"))


def headers_for(rng: random.Random) -> dict[str, str]:
    """Some of the headers, with anything in them."""
    headers = {name: rubbish.text(rng) for name in HEADERS if rng.random() < 0.2}
    if rng.random() < 0.2:
        headers[AFTER_SEQ] = rng.choice(SEQUENCES[:5])
    return headers


async def _check(stage: Any) -> None:
    """Nobody has died, what was stored can be read and be a subject, and a preview still becomes ready."""
    for name, replica in stage.replicas.items():
        assert replica.alive, f"{name} has died"
        assert not replica.runtime.crashed.done(), f"{name} has crashed: {replica.runtime.crashed}"
    for recorded in stage.broker.records:
        assert is_text(recorded.key), recorded
        assert all(part and not set(part) & set(" *>\r\n\t\0") for part in recorded.key.split(".")), recorded.key
        assert recorded.key.count(".") == 2, recorded.key
    # A pool of none is a wish that is granted, too: it gets its VMs back.
    stage.broker.record(PoolResized(target=3, minimum=1, maximum=5))
    project_id = await stage.project(owner="afterwards")
    preview_id = await stage.request(project_id, owner="afterwards")
    await stage.until(PreviewReady, preview_id, within_s=READY_S)
