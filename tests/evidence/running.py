"""One run: a platform of its own, a collector and a receiver of notices; previews, causes of alerts, the runbook; then what
was received and answered is held against the log."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from shared.codec import Recorded
from tests.chaos.pacing import until
from tests.evidence import counting
from tests.evidence.alarms import CONFIG, ENV, HOW, PER_S, SMALL_BUDGET, Alarms
from tests.evidence.cases import cases
from tests.evidence.commands import run_runbook
from tests.evidence.previews import Previews
from tests.evidence.story import Story
from tests.evidence.trees import Tree, trees
from tests.live.client import Client
from tests.live.collector import Collector, collecting
from tests.live.platform import Platform
from tests.telemetry.receivers import Receiver, receiver

FAIL_SHARE = 5
SLOW_INSTALLS = 3
ALERTS_FROM = 50
"""Fewer previews do not make the causes of all alerts."""
SETTLED_WITHIN_S = 180.0

Json = dict[str, Any]
Tell = Callable[[str], None]


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a run. `wrong`: what is not as it must be; `notices`: what the receiver got, in order; `untried`: alerts whose
    causes were not made."""

    previews: int
    ready: int
    failed: dict[str, int]
    took_s: float
    events: list[Recorded]
    spans: int
    trees: list[Tree]
    services: dict[str, int]
    stats: Json
    errors: list[Json]
    costs: Json
    recount: str
    notices: list[Json]
    commands: int
    alerts: bool
    wrong: list[str]


class World(NamedTuple):
    """All that a run looks at. `config`: the settings' file; `problems`: what is wrong with its end."""

    platform: Platform
    client: Client
    story: Story
    collector: Collector
    receiver: Receiver
    config: Path
    problems: list[str]


async def gather(count: int, folder: Path, tell: Tell, *, alerts: bool, commands: bool) -> Outcome:
    """The run. What is for people lies in `folder` afterwards: the services' logs, and the runbook's commands."""
    began = time.monotonic()
    async with _world(folder) as world:
        previews = Previews(world.client)
        wrong: list[str] = []
        tell(f"{count} previews")
        await previews.all(cases(count, count // FAIL_SHARE, SLOW_INSTALLS if alerts else 0))
        made = Counter(previews.made)
        if alerts:
            tell("alerts")
            alarms = Alarms(world.platform, world.story, previews, world.config)
            await alarms.all()
            wrong += alarms.problems
        tell("counting")
        outcome = await _counted(world, previews, made, wrong, alerts=alerts)
        if commands:
            tell("the runbook's commands")
            with tempfile.TemporaryDirectory(prefix="drape-evidence-") as work:
                outcome.commands, bad = await run_runbook(world.platform, world.client, folder, Path(work))
            outcome.wrong += bad
        outcome.took_s = time.monotonic() - began
    outcome.wrong += world.problems
    return outcome


@contextlib.asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    home, config = folder / "home", folder / "drape.toml"
    problems: list[str] = []
    config.write_text(CONFIG.format(budget=SMALL_BUDGET))
    async with collecting() as (collector, endpoint), receiver() as received, aiohttp.ClientSession() as session:
        otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "DRAPE_OTLP_TRACES_PER_S": "0"}
        platform = Platform(home, {**ENV, **otlp, "DRAPE_TELEMETRY_NOTIFY_WEBHOOK_URL": received.url})
        try:
            await asyncio.to_thread(platform.up, "--config", str(config))
            async with platform.bus() as bus:
                story = Story(bus)
                await story.begin()
                try:
                    yield World(
                        platform, Client(platform.gateway, session), story, collector, received, config, problems
                    )
                finally:
                    await story.end()
        finally:
            shutil.copytree(platform.home.logs, folder / "logs", dirs_exist_ok=True)
            try:
                await asyncio.to_thread(platform.down)
            except AssertionError as error:  # processes that are left, or what NATS has denied
                problems.append(f"the end: {error}")
            shutil.rmtree(home, ignore_errors=True)


async def _counted(world: World, previews: Previews, made: Counter[str], wrong: list[str], *, alerts: bool) -> Outcome:
    client, story = world.client, world.story
    found: list[Tree] = []

    async def whole() -> bool:
        nonlocal found
        found = trees(story.events, world.collector.traces())
        return len(found) == previews.asked and not any(each.wrong for each in found)

    async def projected() -> bool:
        answers = [await client.call("GET", path) for path in ("/metrics/stats?days=1", "/api/costs?by=preview&days=1")]
        return all(each.status == 200 and each.json["position"] >= last for each in answers)

    async def all_told() -> bool:
        return not alerts or not counting.wrong_notices(story.events, _notices(world.receiver), HOW)

    await until(whole, SETTLED_WITHIN_S)
    await until(all_told, SETTLED_WITHIN_S if alerts else 0)
    events = list(story.events)
    last = events[-1].seq
    await until(projected, SETTLED_WITHIN_S)
    stats, spent = [
        (await client.call("GET", path)).json for path in ("/metrics/stats?days=1", "/api/costs?by=preview&days=1")
    ]
    groups = (await client.call("GET", "/api/errors?days=1&limit=200")).json["errors"]
    recount = await world.platform.drape("stats", "--recount", "--days", "1")
    events = list(story.events)
    wrong += [f"trees: {each.preview_id}: {why}" for each in found for why in each.wrong]
    if len(found) != previews.asked:
        wrong.append(f"trees: {previews.asked} previews were asked for, the log has {len(found)}")
    wrong += previews.problems + counting.wrong_errors(groups, events, made)
    wrong += counting.wrong_costs(spent["rows"], events, PER_S)
    wrong += counting.wrong_stats(stats, previews.asked, previews.ready_ones, made)
    if recount.code:
        wrong.append(f"drape stats --recount: {recount.out}{recount.err}")
    if alerts:
        wrong += counting.wrong_notices(events, _notices(world.receiver), HOW)
    return Outcome(
        previews=previews.asked,
        ready=previews.ready_ones,
        failed=dict(made),
        took_s=0.0,
        events=events,
        spans=len(world.collector.spans),
        trees=found,
        services=dict(Counter(each.service for each in world.collector.spans.values())),
        stats=stats,
        errors=groups,
        costs=spent,
        recount=recount.out.strip(),
        notices=_notices(world.receiver),
        commands=0,
        alerts=alerts,
        wrong=wrong,
    )


def _notices(received: Receiver) -> list[Json]:
    return [msgspec.json.decode(body) for _, body in received.got]
