"""What VMs use and cost, of a real platform: from the agent in a VM to the command line."""

from typing import Any

import msgspec
import pytest

from shared.events import PoolUsage
from tests.deploy.waiting import eventually
from tests.live.client import Client
from tests.live.platform import Platform

HELLO = {"index.html": b"<title>hello</title>"}


async def test_a_preview_has_its_cost_and_the_pool_its_overhead(platform: Platform, client: Client) -> None:
    """Held time is the preview's and counts while it lives; the API and the command line say the same. An own machine costs 0,
    which is known: no second is without a price."""
    project_id = await client.project(HELLO)
    preview_id = await client.request_preview(project_id)
    assert (await client.ended(preview_id))["status"] == "ready"

    async def row() -> dict[str, Any]:
        rows = (await client.call("GET", "/api/costs?by=preview&days=1")).json["rows"]
        return next((each for each in rows if each["key"] == preview_id), {})

    async def counted() -> bool:
        return bool((await row()).get("running_s"))

    await eventually(counted, timeout_s=60)
    found = await row()
    assert (found["owner"], found["amount"], found["unpriced_s"]) == ("local", 0.0, 0.0)
    pools = (await client.call("GET", "/api/costs?by=pool&days=1")).json
    assert pools["overhead"]["running_s"] > 0
    assert pools["total"]["running_s"] >= found["running_s"]
    await client.stop(preview_id)

    shown = await platform.drape("costs", "--by", "preview", "--json")
    assert (shown.code, shown.last["type"], shown.last["currency"]) == (0, "costs", "USD")
    assert preview_id in shown.out


@pytest.mark.parametrize("command", ["costs", "resources"])
async def test_the_tables_are_for_people(platform: Platform, command: str) -> None:
    """With a head, and a word where there is nothing yet."""
    ran = await platform.drape(command)
    assert (ran.code, ran.out.split()[0]) == (0, {"costs": "DAY", "resources": "UTC"}[command]), ran.err


async def test_the_pool_says_what_its_vms_are(platform: Platform) -> None:
    """The first snapshot is five minutes away; what it will be made of is there."""
    async with platform.bus() as bus:
        [pool] = msgspec.json.decode(await bus.commands.query("pool", "usage"), type=tuple[PoolUsage, ...])

    assert (pool.name, pool.provider) == ("default", "local")
    assert pool.available + pool.in_use + pool.suspended + pool.booting + pool.kept + pool.going > 0
