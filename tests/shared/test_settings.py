"""Settings come from the environment, and a wrong one is named."""

import msgspec
import pytest

from services.gateway.config import GatewayConfig
from services.orchestrator.config import OrchestratorConfig
from services.pool.config import PoolConfig
from services.pool.shapes import PoolShape
from shared.errors import Invalid
from shared.settings import Common, common, from_env, places

KINDS: list[type[msgspec.Struct]] = [PoolConfig, OrchestratorConfig, GatewayConfig]


@pytest.mark.parametrize("kind", KINDS)
def test_without_settings_the_defaults_hold(kind: type[msgspec.Struct]) -> None:
    """An empty variable is as good as none."""
    empty = {f"DRAPE_X_{field.name.upper()}": "" for field in msgspec.structs.fields(kind)}
    assert from_env(kind, "DRAPE_X", {}) == from_env(kind, "drape_x", empty) == kind()


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_can_be_set(kind: type[msgspec.Struct]) -> None:
    """Each by the name that its documentation gives it."""
    for place in places(kind, "DRAPE_X"):
        field = place.field
        text = {str: "text", bool: "false"}.get(field.type, "7")
        if field.name in ("provider", "sandbox"):
            text = {"provider": "simulated", "sandbox": "none"}[field.name]
        if field.name == "pools":
            continue  # a table, see below
        config = from_env(kind, "DRAPE_X", {place.variable: text})
        assert str(getattr(config, field.name)).lower() in (text, f"{text}.0")


def test_a_table_is_json() -> None:
    """And what is wrong in it is named by its place."""
    pools = '{"small": {"memory_mb": 1024}, "large": {"memory_mb": 4096, "region": "ams", "maximum": 2}}'
    config = from_env(PoolConfig, "DRAPE_POOL", {"DRAPE_POOL_POOLS": pools})
    large = PoolShape(memory_mb=4096, region="ams", maximum=2)
    assert config.pools == {"small": PoolShape(memory_mb=1024), "large": large}
    for wrong in ('{"small": {"memory_mb": 1, "memory": 2}}', '{"small": {}}', "{", "small", '{"small": 1}'):
        with pytest.raises(Invalid, match="DRAPE_POOL_POOLS"):
            from_env(PoolConfig, "DRAPE_POOL", {"DRAPE_POOL_POOLS": wrong})


def test_numbers_are_numbers() -> None:
    config = from_env(PoolConfig, "DRAPE_POOL", {"DRAPE_POOL_TARGET": "4", "DRAPE_POOL_BOOT_TIMEOUT_S": "2.5"})
    assert (config.target, config.boot_timeout_s, config.maximum) == (4, 2.5, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("DRAPE_POOL_TARGET", "many"), ("DRAPE_POOL_TARGET", "2.5"), ("DRAPE_POOL_PROVIDER", "heroku")],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    """By the variable that a person has to mend."""
    with pytest.raises(Invalid) as refused:
        from_env(PoolConfig, "DRAPE_POOL", {name: value})
    assert (refused.value.code, bool(refused.value.hint)) == ("bad_setting", True)
    assert name in refused.value.message


def test_other_services_settings_are_not_read() -> None:
    env = {"DRAPE_GATEWAY_PORT": "x", "PORT": "x", "DRAPE_POOL": "x", "DRAPE_POOL_NO_SUCH": "x"}
    assert from_env(PoolConfig, "DRAPE_POOL", env) == PoolConfig()


def test_what_all_services_share_has_its_own_names() -> None:
    assert common({}) == Common()
    env = {"NATS_URL": "nats://n:1", "DATABASE_URL": "", "DRAPE_SECRET": "s", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://o"}
    expected = Common(nats_url="nats://n:1", drape_secret="s", otel_exporter_otlp_endpoint="http://o")
    assert common(env) == expected
