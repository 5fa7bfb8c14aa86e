"""The statistics of a running platform are what its log says; its projections are made anew while it serves."""

import asyncio

from tests.deploy.waiting import eventually
from tests.live.client import SERVER, Client, node_project
from tests.live.platform import Platform

BROKEN = "process.exit(3);"


async def test_every_figure_can_be_recounted_from_the_log(platform: Platform, client: Client) -> None:
    """Of whatever the platform has lived through so far, one preview that gets ready and one that fails among it; before
    and after its projections are made anew, while another preview gets ready."""
    begun = await asyncio.gather(*(client.project(node_project(script)) for script in (SERVER, BROKEN, SERVER)))
    good, broken = [await client.request_preview(project) for project in begun[:2]]
    assert (await client.ended(good))["status"] == "ready"
    assert (await client.ended(broken))["status"] == "failed"
    last_seq = (await platform.events())[-1].seq

    async def projected() -> bool:
        return bool((await client.call("GET", "/metrics/stats")).json["position"] >= last_seq)

    await eventually(projected, timeout_s=60)
    recounted = await platform.drape("stats", "--recount", "--days", "365", "--json")
    assert (recounted.code, recounted.last["differences"]) == (0, 0), recounted.out
    assert recounted.last["attempts"] >= 2
    before = (await client.call("GET", "/metrics/stats?days=365")).json
    (provider,) = before["by_provider"]
    only = (await client.call("GET", f"/metrics/stats?days=365&provider={provider}&framework=node")).json
    assert only["previews"]["count"] <= before["by_provider"][provider]["count"] <= before["previews"]["count"]

    meanwhile = await client.request_preview(begun[2])
    rebuilt = await platform.drape("projections", "rebuild", "--json")
    assert rebuilt.code == 0, rebuilt.out
    assert "previews" in {line["name"] for line in rebuilt.lines if line["type"] == "rebuilt"}
    assert (await client.ended(meanwhile))["status"] == "ready"
    listed = await platform.drape("projections", "ls", "--json")
    [stands] = [line for line in listed.lines if line.get("name") == "previews"]
    assert stands["serving"]["log_id"].endswith("#2")
    recounted = await platform.drape("stats", "--recount", "--days", "365", "--json")
    assert (recounted.code, recounted.last["differences"]) == (0, 0), recounted.out

    text = await platform.drape("stats", "--days", "365")
    assert "request to ready" in text.out
    unknown = await platform.drape("projections", "rebuild", "nothing", "--json")
    assert (unknown.code, unknown.last["code"]) == (1, "unknown_projection")
    assert (await client.call("GET", "/metrics/stats?framework=%00")).problem() == (400, "bad_filter")
    for preview in (good, meanwhile):
        await client.stop(preview)
