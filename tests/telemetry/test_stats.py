"""The statistics, on a real PostgreSQL, against figures recomputed in Python from the same story."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from shared.errors import Invalid
from shared.memory import MemoryBroker
from tests.deploy.waiting import eventually

from .world import (
    Projecting,
    Story,
    acquired,
    created,
    detected,
    dev_ready,
    dev_started,
    failed,
    install_started,
    installed,
    projecting,
    ready,
    requested,
    restarted,
    skipped,
    stopped,
    synced,
    up_to_ready,
)

pytestmark = pytest.mark.live

STEP_NAMES = {
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


@dataclass
class Lived:
    """What happened in one attempt, noted while its events are told."""

    owner: str
    framework: str
    from_pool: bool
    provider: str
    steps: dict[str, float] = field(default_factory=dict)
    skipped: bool = False
    total_s: float | None = None
    code: str | None = None


class Past:
    """Previews and restarts of the last hours, the same at every run."""

    def __init__(self, previews: int) -> None:
        self.dice = random.Random(7)
        self.story = Story(round(time.time()) - 7_200)
        self.attempts: list[Lived] = []
        for number in range(previews):
            preview, owner = f"p{number:03}", self.dice.choice(["ann", "bob"])
            self.story.tell(requested(preview, owner))
            self._attempt(preview, 1, owner)
            if self.dice.random() < 0.3:
                self.story.tell(restarted(preview, 2), after_s=1)
                self._attempt(preview, 2, owner)

    def _step(self, name: str, lived: Lived, longest_s: float) -> float:
        lived.steps[name] = round(self.dice.uniform(0.1, longest_s), 3)
        return lived.steps[name]

    def _attempt(self, preview: str, number: int, owner: str) -> None:
        dice, story = self.dice, self.story
        framework, warm = dice.choice(["vite", "nextjs", "express"]), dice.random() < 0.7
        lived = Lived(owner, framework, warm, dice.choice(["local", "docker"]))
        self.attempts.append(lived)
        vm = acquired(preview, vm=f"{preview}-{number}", from_pool=lived.from_pool)
        story.tell(created(vm.vm_id, lived.provider))
        story.tell(detected(preview, number, lived.framework)).tell(vm, after_s=self._step("acquire", lived, 2))
        story.tell(synced(preview, number), after_s=self._step("sync", lived, 1))
        if dice.random() < 0.4:
            lived.skipped = True
            story.tell(skipped(preview, number))
        else:
            story.tell(install_started(preview, number))
            if dice.random() < 0.25:
                lived.code = dice.choice(["npm_failed", "install_timeout"])
                story.tell(failed(preview, number, code=lived.code), after_s=3)
                return
            story.tell(installed(preview, number), after_s=self._step("install", lived, 20))
        story.tell(dev_started(preview, number))
        if dice.random() < 0.1:
            story.tell(stopped(preview), after_s=1)
            return
        story.tell(dev_ready(preview, number), after_s=self._step("boot", lived, 5))
        confirm_s = self._step("confirm", lived, 0.5)
        lived.total_s = round(sum(lived.steps.values()), 3)
        steps = {STEP_NAMES[name]: value for name, value in lived.steps.items()}
        was = "skipped" if lived.skipped else "completed"
        story.tell(
            ready(preview, number, total_s=lived.total_s, install=was, from_pool=lived.from_pool, steps=steps),
            after_s=confirm_s,
        )
        if dice.random() < 0.2:
            lived.code = "dev_server_exited"
            story.tell(failed(preview, number, code=lived.code, step="server_ready"), after_s=9)


def percentile(values: list[float], part: float) -> float:
    """Linear interpolation between the two nearest, as SQL's percentile_cont is defined."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * part
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def seconds(values: list[float]) -> dict[str, Any]:
    """Count, average and percentiles."""
    if not values:
        return {"count": 0, "average": None, "p50": None, "p95": None, "p99": None}
    parts = {f"p{part}": percentile(values, part / 100) for part in (50, 95, 99)}
    return {"count": len(values), "average": sum(values) / len(values), **parts}


def steps_of(attempts: list[Lived]) -> dict[str, Any]:
    """By step."""
    return {name: seconds([a.steps[name] for a in attempts if name in a.steps]) for name in STEP_NAMES}


def group(attempts: list[Lived]) -> dict[str, Any]:
    """What is answered of attempts that have something in common."""
    totals = seconds([lived.total_s for lived in attempts if lived.total_s is not None])
    success = totals.pop("count")
    failed = sum(lived.code is not None and lived.total_s is None for lived in attempts)
    return {"count": len(attempts), "success": success, "failed": failed, **totals, "steps": steps_of(attempts)}


def grouped(attempts: list[Lived], key: Callable[[Lived], str]) -> dict[str, Any]:
    """By what they have in common."""
    return {name: group([a for a in attempts if key(a) == name]) for name in {key(a) for a in attempts}}


def recomputed(attempts: list[Lived]) -> dict[str, Any]:
    """The answer, but for its times and position."""
    totals = [lived.total_s for lived in attempts if lived.total_s is not None]
    codes = Counter(lived.code for lived in attempts if lived.code and lived.total_s is None)
    return {
        "days": 7,
        "previews": {
            "count": len(attempts),
            "success": len(totals),
            "failed": codes.total(),
            "success_rate": len(totals) / (len(totals) + codes.total()),
        },
        "total_s": seconds(totals),
        "steps": steps_of(attempts),
        "pool_hit_rate": sum(lived.from_pool for lived in attempts) / len(attempts),
        "install_skip_rate": sum(lived.skipped for lived in attempts) / len(attempts),
        "failures": dict(codes),
        "failures_after_ready": {"dev_server_exited": sum(bool(a.code) and a.total_s is not None for a in attempts)},
        "by_framework": grouped(attempts, lambda lived: lived.framework),
        "by_provider": grouped(attempts, lambda lived: lived.provider),
        "by_warmth": grouped(attempts, lambda lived: "warm" if lived.from_pool else "cold"),
        "by_install": grouped(attempts, _install),
        "percentiles": "exact",
        "percentile_error": 0.0,
    }


def _install(lived: Lived) -> str:
    if lived.skipped:
        return "skipped"
    return "completed" if "install" in lived.steps else "started"


def near(figures: Any) -> Any:
    """Equal but for rounding: of the log's times, and of the answer, to four decimals."""
    if isinstance(figures, dict):
        return {name: near(value) for name, value in figures.items()}
    return pytest.approx(figures, abs=2e-4) if isinstance(figures, float) else figures


async def test_the_figures_are_those_of_the_events(database_url: str) -> None:
    """Every figure of the answer, for everybody and for one owner."""
    past = Past(60)
    broker = MemoryBroker()
    past.story.record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        everybody = await asked(at_work, days=7, owner=None)
        ann = await asked(at_work, days=7, owner="ann")
        local = await asked(at_work, framework="vite", provider="local")

    of = {
        "everybody": (everybody, past.attempts),
        "ann": (ann, [lived for lived in past.attempts if lived.owner == "ann"]),
        "local": (local, [a for a in past.attempts if (a.framework, a.provider) == ("vite", "local")]),
    }
    for answer, attempts in of.values():
        assert answer.pop("position") == len(broker.records)
        assert abs(answer.pop("since") - time.time() + 7 * 86_400) < 60
        assert abs(answer.pop("generated_at") - time.time()) < 60
        assert answer == near(recomputed(attempts))


# --- by hand ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_events", [False, True])
async def test_zero_previews_have_no_averages(database_url: str, with_events: bool) -> None:
    """Counts are 0, what would be divided by 0 is null; in an empty log and in one that tells of others."""
    broker = MemoryBroker()
    if with_events:
        up_to_ready(Story(time.time() - 60), "p1").record(broker)
    async with projecting(broker, database_url) as at_work:
        await eventually(lambda: bool(broker.followers))
        await caught_up(at_work, broker)
        answer = await asked(at_work, days=7, owner="nobody")

    nothing = {"count": 0, "average": None, "p50": None, "p95": None, "p99": None}
    assert answer["previews"] == {"count": 0, "success": 0, "failed": 0, "success_rate": None}
    assert answer["total_s"] == nothing
    assert answer["steps"] == dict.fromkeys(STEP_NAMES, nothing)
    assert (answer["pool_hit_rate"], answer["install_skip_rate"]) == (None, None)
    assert (answer["failures"], answer["failures_after_ready"], answer["by_framework"]) == ({}, {}, {})
    assert (answer["by_provider"], answer["by_warmth"], answer["by_install"]) == ({}, {}, {})
    assert answer["position"] == len(broker.records)


async def test_only_the_asked_days_count(database_url: str) -> None:
    """By when the attempt began."""
    broker = MemoryBroker()
    now = time.time()
    up_to_ready(Story(now - 3.5 * 86_400), "old").record(broker)
    up_to_ready(Story(now - 3_600), "new").record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        counts = [(await asked(at_work, days=days))["previews"]["count"] for days in (1, 3, 4, 365)]

    assert counts == [1, 1, 2, 2]


async def test_what_runs_or_was_stopped_is_no_failure(database_url: str) -> None:
    """The rate is of those that came to one end or the other; a lost VM is a failure even if a restart mended it."""
    broker = MemoryBroker()
    story = Story(time.time() - 600)
    story.tell(requested("runs")).tell(requested("stopped"), stopped("stopped"))
    up_to_ready(story.tell(requested("again")).tell(restarted("again", 2)), "ready")
    story.tell(requested("lost"), restarted("lost", 2, lost=True), ready("lost", 2))
    story.record(broker)
    async with projecting(broker, database_url) as at_work:
        await caught_up(at_work, broker)
        answer = await asked(at_work)

    assert answer["previews"] == {"count": 7, "success": 2, "failed": 1, "success_rate": 0.6667}
    assert answer["failures"] == {"vm_lost": 1}


@pytest.mark.parametrize("days", [0, -1, 366, 10**12])
async def test_days_out_of_range_are_refused(database_url: str, days: int) -> None:
    """1 to 365."""
    async with projecting(MemoryBroker(), database_url) as at_work:
        with pytest.raises(Invalid) as caught:
            await asked(at_work, days=days)

    assert caught.value.code == "bad_days"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"days": "7"}', b'{"days": 7, "user": "x"}', b'{"owner": 5}', b"\xff"])
async def test_rubbish_is_refused(database_url: str, body: bytes) -> None:
    """With a code and what to ask instead."""
    async with projecting(MemoryBroker(), database_url) as at_work:
        with pytest.raises(Invalid) as caught:
            await at_work.stats.answer(body, {})

    assert caught.value.code == "bad_query"
