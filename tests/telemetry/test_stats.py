"""The statistics, on a real PostgreSQL, against figures recomputed in Python from the same events."""

import math
import random
import time
from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest

from shared.events import (
    DevServerReady,
    Event,
    InstallSkipped,
    InstallStarted,
    PreviewFailed,
    PreviewReady,
    PreviewRequested,
    PreviewRestarted,
    ProjectDetected,
    VmAcquired,
)
from shared.memory import MemoryBroker
from tests.deploy.waiting import eventually

from .world import (
    Projecting,
    Story,
    acquired,
    detected,
    dev_ready,
    dev_started,
    failed,
    install_started,
    installed,
    ready,
    requested,
    restarted,
    skipped,
    stopped,
    synced,
)

pytestmark = pytest.mark.live

STEPS = {
    "acquire": "acquiring_vm",
    "sync": "syncing_files",
    "install": "installing",
    "boot": "waiting_server",
    "confirm": "confirming",
}


async def asked(at_work: Projecting, **query: object) -> dict[str, Any]:
    """The answer as the gateway gets it."""
    answer: dict[str, Any] = msgspec.json.decode(await at_work.stats.answer(msgspec.json.encode(query), {}))
    return answer


async def caught_up(at_work: Projecting, broker: MemoryBroker) -> None:
    """Return once everything in the log is projected."""
    await eventually(lambda: at_work.projector.seq == len(broker.records))


# --- a random past, and its figures by plain Python ---------------------------------------------------------------


def attempt(story: Story, preview: str, number: int, dice: random.Random) -> None:
    """One attempt, from its VM to an end that the dice choose."""
    framework = dice.choice(["vite", "nextjs", "express"])
    story.tell(acquired(preview, vm=f"{preview}-{number}", from_pool=dice.random() < 0.7), after_s=dice.random())
    story.tell(detected(preview, number, framework), after_s=dice.random())
    story.tell(synced(preview, number), after_s=dice.random())
    if dice.random() < 0.4:
        story.tell(skipped(preview, number))
    else:
        story.tell(install_started(preview, number))
        if dice.random() < 0.2:
            code = dice.choice(["npm_failed", "install_timeout"])
            story.tell(failed(preview, number, code=code), after_s=dice.random() * 20)
            return
        story.tell(installed(preview, number), after_s=dice.random() * 20)
    story.tell(dev_started(preview, number))
    if dice.random() < 0.1:
        story.tell(stopped(preview), after_s=1)
        return
    story.tell(dev_ready(preview, number), after_s=dice.random() * 5)
    steps = {step: round(dice.random() * 9, 4) for step in STEPS.values()}
    story.tell(ready(preview, number, total_s=round(sum(steps.values()), 4), **steps), after_s=0.25)
    if dice.random() < 0.2:
        story.tell(failed(preview, number, code="dev_server_exited", step="server_ready"), after_s=9)


def random_past(previews: int) -> Story:
    """Previews and restarts of the last hour, the same at every run."""
    dice = random.Random(7)
    story = Story(round(time.time()) - 3_600)
    for index in range(previews):
        preview = f"p{index:03}"
        story.tell(requested(preview, dice.choice(["ann", "bob"])))
        attempt(story, preview, 1, dice)
        if dice.random() < 0.3:
            story.tell(restarted(preview, 2, lost=dice.random() < 0.3), after_s=1)
            attempt(story, preview, 2, dice)
    return story


def percentile(values: list[float], part: float) -> float | None:
    """Linear interpolation between the two nearest, as the standard's percentile_cont."""
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * part
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def seconds(values: list[float]) -> dict[str, float | None]:
    figures = {f"p{part}": percentile(values, part / 100) for part in (50, 95, 99)}
    return {"average": sum(values) / len(values) if values else None, **figures}


def attempts_of(story: Story, owner: str | None) -> list[list[tuple[float, Event]]]:
    """The events of each attempt: cut at requests and restarts, and nothing cleverer."""
    current: dict[str, list[tuple[float, Event]]] = {}
    owners: dict[str, str] = {}
    attempts = []
    for at, event in story.told:
        preview: str = event.preview_id  # type: ignore[attr-defined]
        if isinstance(event, PreviewRequested):
            owners[preview] = event.owner
        if isinstance(event, PreviewRestarted):
            current[preview].append((at, event))
        if isinstance(event, PreviewRequested | PreviewRestarted):
            current[preview] = []
            if owner in (None, owners[preview]):
                attempts.append(current[preview])
        current[preview].append((at, event))
    return attempts


def outcome(events: list[Event]) -> tuple[bool, str | None]:
    """(was ready, code of its failure)"""
    code = next((event.code for event in events if isinstance(event, PreviewFailed)), None)
    ended = code is not None or any(type(event).__name__ == "PreviewStopped" for event in events)
    lost = any(isinstance(event, PreviewRestarted) and event.reason == "vm_lost" for event in events[1:])
    was_ready = any(isinstance(event, PreviewReady) for event in events)
    return was_ready, "vm_lost" if lost and not ended else code


def recomputed(story: Story, owner: str | None) -> dict[str, Any]:
    """The answer, from the events."""
    attempts = [[event for _, event in each] for each in attempts_of(story, owner)]
    outcomes = [outcome(events) for events in attempts]
    success = sum(was_ready for was_ready, _ in outcomes)
    codes = Counter(code for was_ready, code in outcomes if code and not was_ready)
    flat = [event for events in attempts for event in events]
    readies = [event for event in flat if isinstance(event, PreviewReady)]
    frameworks: dict[str, list[float]] = defaultdict(list)
    for events in attempts:
        for found in (event for event in events if isinstance(event, ProjectDetected)):
            frameworks[found.framework] += [e.total_s if isinstance(e, PreviewReady) else -1 for e in events[-2:-1]]
    vms = [event.from_pool for event in flat if isinstance(event, VmAcquired)]
    # A preview that is ready had its VM from the pool: `world.ready` says so, and has the last word.
    vms_warm = sum(
        any(isinstance(e, PreviewReady) or (isinstance(e, VmAcquired) and e.from_pool) for e in events)
        for events in attempts
    )
    installs = sum(isinstance(event, InstallStarted | InstallSkipped) for event in flat)
    return {
        "previews": {
            "count": len(attempts),
            "success": success,
            "failed": sum(codes.values()),
            "success_rate": success / (success + sum(codes.values())),
        },
        "total_s": seconds([event.total_s for event in readies]),
        "confirm": {**seconds([event.steps["confirming"] for event in readies]), "count": len(readies)},
        "booted": sum(isinstance(event, DevServerReady) for event in flat),
        "pool_hit_rate": vms_warm / len(vms),
        "installs": installs,
        "failures": dict(codes),
        "failures_after_ready": dict(Counter(code for was_ready, code in outcomes if code and was_ready)),
    }


def close(figures: object) -> Any:
    """Equal but for the answer's rounding to four decimals."""
    if isinstance(figures, dict):
        return {name: close(value) for name, value in figures.items()}
    return pytest.approx(figures, abs=6e-5) if isinstance(figures, float) else figures
