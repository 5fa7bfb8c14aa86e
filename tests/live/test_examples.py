"""The example projects, from folder to a correct answer through the gateway, by the CLI."""

import pytest

from tests.live.client import Client
from tests.live.platform import EXAMPLES, Platform

RESULT_KEYS = {"type", "preview_id", "url", "total_s", "from_pool", "install", "steps", "status", "private"}
BEGINNING = ["PreviewRequested", "ProjectDetected"]
ENDING = ["FilesSynced", "DevServerStarted", "DevServerReady", "PreviewReady"]


@pytest.mark.parametrize(
    ("name", "title", "install"),
    [
        ("static", "Drape example: Static", "skipped"),
        ("express", "Drape example: Express", "completed"),
        ("vite-react", "Drape example: Vite and React", "completed"),
        ("nextjs", "Drape example: Next.js", "completed"),
    ],
)
async def test_an_example_becomes_a_correct_page_through_the_gateway(
    platform: Platform, client: Client, name: str, title: str, install: str
) -> None:
    """The CLI ends with `preview_ready` in exactly its shape; the page is right; the API and the log tell the same."""
    ran = await platform.drape("preview", EXAMPLES / name, "--json")
    assert ran.code == 0, ran.out + ran.err
    result = ran.last
    assert result["type"] == "preview_ready"
    assert set(result) == RESULT_KEYS
    assert result["install"] == install
    preview_id = result["preview_id"]

    page = await client.visit(preview_id)
    assert page.status == 200
    assert f"<title>{title}</title>" in page.text
    port = client.gateway.rsplit(":", 1)[1]
    assert result["url"] == f"http://{preview_id}.preview.localhost:{port}/"

    view = await client.preview(preview_id)
    assert view["status"] == "ready"
    assert {key: view[key] for key in RESULT_KEYS - {"type"}} == {key: result[key] for key in RESULT_KEYS - {"type"}}
    assert sum(result["steps"].values()) == pytest.approx(result["total_s"], abs=0.5)
    await _check_log(platform, preview_id, install)
    await client.stop(preview_id)
    assert (await client.visit(preview_id)).status == 410


async def _check_log(platform: Platform, preview_id: str, install: str) -> None:
    """Every step once and in order; detection and the VM come in either order, the HMR socket is probed beside."""
    told = [event.type for event in await platform.events(preview_id) if event.type not in ("ClaimQueued", "HmrProbed")]
    assert told[0] == BEGINNING[0]
    assert sorted(told[1:3]) == sorted([BEGINNING[1], "VmAcquired"])
    steps = ["InstallSkipped"] if install == "skipped" else ["InstallStarted", "InstallCompleted"]
    expected = [ENDING[0], *steps, *ENDING[1:]]
    assert told[3:] == expected
