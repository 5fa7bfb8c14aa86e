"""`drape up --config`: one file for all that it starts."""

from pathlib import Path

import aiohttp
import pytest

from tests.live.platform import Platform

GOOD = """
[common]
health_port = 9   # taken by none of them: `drape up` serves no health
[pool]
provider = "simulated"
target = 2
minimum = 1
maximum = 4
[gateway]
api_tokens_file = "{tokens}"
[orchestrator]
preview_origin = "http://{{id}}.previews.test:1"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


async def test_up_takes_its_settings_from_a_file(home: Path, tmp_path: Path) -> None:
    """A wrong one starts nothing; a right one reaches the services, its secrets from their own files; and what the
    environment has that nobody reads is said."""
    config, tokens = tmp_path / "drape.toml", tmp_path / "tokens"
    tokens.write_text("token-of-somebody-long-enough:somebody\n")
    tokens.chmod(0o600)
    platform = Platform(home, {"DRAPE_POOL_TARGTE": "7", "DRAPE_POOL_TARGET": "", "DRAPE_POOL_MINIMUM": ""})
    config.write_text("[pool]\ntraget = 2\n")
    refused = await platform.drape("up", "--detach", "--config", config)
    assert (refused.code, "traget" in refused.err, "target" in refused.err) == (1, True, True)
    assert (await platform.drape("status")).code == 1

    config.write_text(GOOD.format(tokens=tokens))
    try:
        started = await platform.drape("up", "--detach", "--port", "0", "--config", config, timeout_s=150)
        assert started.code == 0, started.err
        assert "DRAPE_POOL_TARGTE" in started.out + started.err
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{platform.gateway}/api/projects") as answer:
                assert answer.status == 401
            bearer = {"Authorization": "Bearer token-of-somebody-long-enough"}
            async with session.get(f"{platform.gateway}/health/pool", headers=bearer) as answer:
                pool = (await answer.json())["pool"]
        assert (pool["target"], pool["min"], pool["max"]) == (2, 1, 6)  # the environment's maximum goes before
        logs = "".join(path.read_text("utf-8", "replace") for path in (home / "logs").glob("pool*.log"))
        assert "DRAPE_POOL_TARGTE" in logs
    finally:
        platform.down()
