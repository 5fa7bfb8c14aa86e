"""The whole service as a process wires it, on real NATS and PostgreSQL."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.telemetry.adapters.postgres import open_pool
from services.telemetry.app import definition, wiring
from services.telemetry.config import TelemetryConfig
from shared.codec import Meta
from shared.definition import digest, replay
from shared.errors import Invalid
from shared.events import aggregate_key
from shared.jetstream.connection import bus_on, connect
from shared.ports import Bus
from shared.service import running
from shared.settings import Common
from tests.deploy.waiting import eventually
from tests.live.choice import choice
from tests.live.servers import log_server

from .world import QUICK, Story, up_to_ready

pytestmark = pytest.mark.live


async def append(bus: Bus, story: Story) -> None:
    """The story's events, by the log's own rules."""
    for number, (at, event) in enumerate(story.told):
        head = await bus.log.head(aggregate_key(event))
        meta = Meta(
            id=f"{event.aggregate_id}-{number}",
            at=at,
            rev=head.rev + 1,
            correlation_id="c",
            causation_id="c",
            actor="test",
        )
        await bus.log.append(event, meta, after=head.seq)


async def test_the_service_projects_and_answers_over_nats(database_url: str, tmp_path: Path) -> None:
    """History read in batches, news followed; `stats`, `status`, `alerts` answered; the state is the log's."""
    config = msgspec.structs.replace(QUICK, batch_events_max=8)
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(log_server(choice().kind, tmp_path))
        client = await connect(nats.url, "drape-telemetry/0")
        bus = bus_on(client, "0")
        stack.push_async_callback(bus.close)
        story = Story()
        for number in range(3):
            up_to_ready(story, f"p{number}")
        await append(bus, story)
        settings = Common(nats_url=nats.url, database_url=database_url)
        runtime = await stack.enter_async_context(running(wiring(config), bus, settings))

        async def query(name: str, **body: object) -> Any:
            return msgspec.json.decode(await bus.commands.query("telemetry", name, msgspec.json.encode(body)))

        async def projected() -> bool:
            return bool((await query("status"))["projection"]["seq"] == await bus.log.last_seq())

        async def errors_projected() -> bool:
            return bool((await query("status"))["projections"]["errors"]["seq"] == await bus.log.last_seq())

        await eventually(projected)
        await append(bus, up_to_ready(Story(), "news"))
        await eventually(projected)

        status = await query("status")
        assert (status["ready"], status["postgres"], status["projection"]["lag"]) == (True, True, 0)
        assert status["projections"]["previews"] == status["projection"]
        assert status["projections"].keys() == {"previews", "errors", "costs", "resources"}
        assert (await query("stats", days=365, owner=None))["position"] == await bus.log.last_seq()
        assert await query("alerts") == {"alerts": [], "recent": [], "silences": [], "channels": []}
        await eventually(errors_projected)
        assert (await query("errors", days=365))["groups"] == []
        assert (await query("timing", preview_id="news"))["total_s"] == 7.5
        assert (await query("costs", by="pool"))["position"] == await bus.log.last_seq()
        assert (await query("resources", hours=1))["snapshots"] == []
        with pytest.raises(Invalid):
            await query("stats", days=0)
        events = [recorded async for recorded in bus.log.read()]
        assert digest(runtime.state) == digest(replay(definition(config), events))


@pytest.mark.parametrize(
    ("url", "code"),
    [("", "settings_missing"), ("mysql://u:geheim@h/d", "bad_database_url"), ("http://[", "bad_database_url")],
)
async def test_a_wrong_database_url_is_refused_at_once(url: str, code: str) -> None:
    """By name, without showing what may hold a password."""
    with pytest.raises(Invalid) as caught:
        await open_pool(url, TelemetryConfig())

    assert caught.value.code == code
    assert "geheim" not in caught.value.message
