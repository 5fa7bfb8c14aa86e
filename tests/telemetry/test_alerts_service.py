"""Alerts on a real NATS: raised, told by a timer, and what each replica says of itself."""

import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from services.telemetry.app import wiring
from services.telemetry.config import AlertConfig, NotifyConfig, TelemetryConfig
from shared.commands import SilenceAlert, SilenceReply
from shared.errors import Invalid
from shared.events import ClaimQueued
from shared.jetstream.connection import bus_on, connect
from shared.ports import Cause
from shared.service import running
from shared.settings import Common
from shared.ulids import new_id
from tests.deploy.waiting import eventually
from tests.live.choice import choice
from tests.live.servers import log_server

from .receivers import receiver
from .test_service import append
from .world import QUICK, Story

pytestmark = pytest.mark.live

CONFIG: TelemetryConfig = msgspec.structs.replace(QUICK, alerts_period_s=1.0, pool_empty_s=0.0)


async def test_an_alert_reaches_its_webhook_and_replicas_tell_how_they_are(database_url: str, tmp_path: Path) -> None:
    """Two replicas on one log: one alert, one notice, two answers to the question how far they are."""
    async with AsyncExitStack() as stack:
        hook = await stack.enter_async_context(receiver())
        notify = NotifyConfig(webhook_url=hook.url, retry_s=0.1)
        nats = await stack.enter_async_context(log_server(choice().kind, tmp_path))
        for instance in ("0", "1"):
            client = await connect(nats.url, f"drape-telemetry/{instance}")
            bus = bus_on(client, instance)
            stack.push_async_callback(bus.close)
            settings = Common(nats_url=nats.url, database_url=database_url, drape_instance=instance)
            await stack.enter_async_context(running(wiring(CONFIG, AlertConfig(), notify), bus, settings))

        story = Story(time.time()).tell(ClaimQueued(preview_id="p", owner="ann", deadline=9e9, pool="default"))
        await append(bus, story)
        await eventually(lambda: bool(hook.got), 60)

        async def notified() -> bool:
            return "AlertNotified" in [recorded.type async for recorded in bus.log.read()]

        await eventually(notified, 60)
        told = [msgspec.json.decode(each) for each in await bus.commands.statuses("telemetry", within_s=2.0)]
        assert sorted(each["instance"] for each in told) == ["0", "1"]
        assert await bus.commands.statuses("pool", within_s=0.1) == []

        with pytest.raises(Invalid, match="future"):
            await bus.commands.send(SilenceAlert(id=new_id(), pattern="*", until=1.0), Cause())
        wish = SilenceAlert(id=new_id(), pattern="*", until=time.time() + 3_600, by="ann")
        reply = await bus.commands.send(wish, Cause())
        silence_id = msgspec.json.decode(reply, type=SilenceReply).silence_id
        shown = msgspec.json.decode(await bus.commands.query("telemetry", "alerts"))

    assert [each["silence_id"] for each in shown["silences"]] == [silence_id]
    assert [(each["alert"], each["silenced"]) for each in shown["alerts"]] == [("pool_empty", True)]
    assert [each["channel"] for each in shown["alerts"][0]["notifications"]] == ["webhook"]
    assert [msgspec.json.decode(body)["alert"] for _, body in hook.got] == ["pool_empty"]
