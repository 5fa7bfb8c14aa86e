"""Alerts on the whole platform, under its services' own permissions: silenced by hand, shown by the API, and no channel."""

from tests.live.client import Client
from tests.live.platform import Platform


async def test_an_alert_is_silenced_shown_and_unsilenced(platform: Platform, client: Client) -> None:
    """By the command line, seen by the API, ended by the API, and gone for the command line."""
    wish = ("alerts", "silence", "install_*", "--for", "1h", "--reason", "a new registry", "--json")
    silenced = (await platform.drape(*wish)).last
    assert (silenced["type"], silenced["pattern"]) == ("silenced", "install_*")

    async with client.session.get(f"{client.gateway}/api/alerts") as answer:
        assert answer.status == 200
        shown = await answer.json()
    assert [each["reason"] for each in shown["silences"] if each["silence_id"] == silenced["silence_id"]] == [
        "a new registry"
    ]
    path = f"{client.gateway}/api/alerts/silences/{silenced['silence_id']}"
    async with client.session.delete(path) as answer:
        assert answer.status == 204, await answer.text()

    listed = await platform.drape("alerts", "--json")
    assert listed.last["type"] == "alerts"
    assert silenced["silence_id"] not in listed.out


async def test_a_test_without_channels_says_how_to_make_one(platform: Platform) -> None:
    ran = await platform.drape("alerts", "test", "--json")

    assert (ran.code, ran.last["code"]) == (1, "no_channels")
    assert "DRAPE_TELEMETRY_NOTIFY_WEBHOOK_URL" in ran.last["hint"]
