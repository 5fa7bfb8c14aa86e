"""`drape doctor --provider fly` against the fake API: each finding, what it says to do, and that nothing is left."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.doctor.finding import Finding
from deploy.doctor.fly import fly as doctor
from tests.fly.machines_api import APP, HANGING_IMAGE, IMAGE, TOKEN, FakeFly, Fault


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[FakeFly]:
    async with FakeFly(tmp_path / "vms") as fly:
        yield fly
        assert fly.leftovers() == []


async def look(fly: FakeFly, **changes: str) -> list[Finding]:
    env = {
        "FLY_API_TOKEN": TOKEN,
        "DRAPE_POOL_FLY_APP": APP,
        "DRAPE_POOL_FLY_IMAGE": IMAGE,
        "DRAPE_POOL_FLY_API_URL": fly.url,
        "DRAPE_POOL_FLY_REGIONS": "fra,ams",
        "DRAPE_POOL_FLY_BOOT_TIMEOUT_S": "60",
        "DRAPE_POOL_VM_MEMORY_MB": "512",
        **changes,
    }
    findings = await doctor(env)
    assert TOKEN not in repr(findings)
    return findings


def codes(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.code for finding in findings}


async def test_all_is_well(fly: FakeFly) -> None:
    """A machine lived and went, with a time for each step."""
    findings = await look(fly)
    assert codes(findings) == dict.fromkeys(("token", "app", "region", "image", "machine"), "ok")
    for step in ("made and answering (", "suspended (", "woken (", "answering again (", "destroyed ("):
        assert step in findings[-1].what
    assert len(fly.machines) == 1
    assert fly.schema.violations == []


@pytest.mark.parametrize(
    ("changes", "check", "code", "todo"),
    [
        ({"FLY_API_TOKEN": ""}, "token", "provider_unauthorized", "FLY_API_TOKEN is not set"),
        ({"FLY_API_TOKEN": "fm2_expired-token"}, "token", "provider_unauthorized", "fly tokens create deploy"),
        ({"DRAPE_POOL_FLY_TOKEN_FILE": "/nowhere/token"}, "token", "provider_unauthorized", "TOKEN_FILE"),
        ({"DRAPE_POOL_FLY_APP": ""}, "app", "settings_missing", "fly apps create"),
        ({"DRAPE_POOL_FLY_APP": "none"}, "app", "provider_unauthorized", "is there an app none"),
        ({"DRAPE_POOL_FLY_ORG": "others"}, "app", "app_of_another_org", "DRAPE_POOL_FLY_ORG"),
        ({"DRAPE_POOL_FLY_REGIONS": "fra,atlantis"}, "region", "region_unknown", "ams, fra, iad"),
        ({"DRAPE_POOL_FLY_IMAGE": "vms:latest"}, "image", "image_unpinned", "push-image"),
        ({"DRAPE_POOL_FLY_IMAGE": IMAGE.replace("1", "9")}, "image", "image_missing", "push-image"),
        (
            {"DRAPE_POOL_FLY_IMAGE": HANGING_IMAGE, "DRAPE_POOL_FLY_BOOT_TIMEOUT_S": "0.5"},
            "machine",
            "boot_timeout",
            "DRAPE_POOL_FLY_REACH",
        ),
    ],
)
async def test_what_is_wrong_is_said(fly: FakeFly, changes: dict[str, str], check: str, code: str, todo: str) -> None:
    findings = await look(fly, **changes)
    [found] = [finding for finding in findings if finding.level == "error"]
    assert (found.check, found.code) == (check, code)
    assert todo in found.detail


async def test_no_room_and_a_suspension_that_is_refused(fly: FakeFly) -> None:
    """The machine that was made goes all the same."""
    fly.full = {"fra", "ams"}
    assert codes(await look(fly))["region"] == "region_full"
    fly.full = set()
    fly.faults.append(Fault(method="POST", path="/suspend$", status=400, body='{"error": "suspend is not supported"}'))
    findings = await look(fly)
    assert codes(findings)["machine"] == "suspend_failed"
    assert "Before that it was made and answering" in findings[-1].what


async def test_a_clock_that_is_apart(fly: FakeFly) -> None:
    fly.ahead_s = 3600.0
    assert codes(await look(fly, DRAPE_POOL_FLY_IMAGE=""))["clock"] == "clock_skew"
