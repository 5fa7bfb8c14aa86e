"""compose.yaml: compose itself takes it, it asks for nothing that is not there, and no container has more than it needs."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import ItemsView
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import composing
from deploy.entry import SERVICES
from deploy.local.errors import LauncherError
from deploy.nats.identities import public_key
from deploy.nats.permissions import IDENTITIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose.d"
GRAFANA = ROOT / "deploy" / "grafana"
GRAFANA_LOADS = ("datasources.yaml", "provider.yaml", "alerts/*", "dashboards/*")
STORES = {"collector", "prometheus", "tempo", "loki", "grafana"}
NATS = set(composing.NODES)
HEALTH_PORT = 8081
Json = dict[str, Any]


def compose_command() -> list[str]:
    """Compose: the machine's own, else the one among the development dependencies."""
    try:
        return composing.find_compose()
    except LauncherError:
        ours = Path(sys.executable).with_name("docker-compose")
        if not ours.exists():
            pytest.skip("no docker compose here: neither Docker's plugin nor a build of it for this machine")
        return [str(ours)]


@pytest.fixture(scope="module")
def secrets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets") / "compose"
    composing.make_secrets(folder)
    return folder


def _rendered(folder: Path, *, local: bool = False, **env: str) -> Json:
    """The file as compose reads it, every variable put in."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("DRAPE_", "COMPOSE_", "OTEL_"))}
    argv = composing.command(compose_command(), local, ["--profile", "*", "config", "--format", "json"])
    environ |= composing.environment(env, folder)
    told = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 0, told.stderr
    rendered: Json = json.loads(told.stdout)
    return rendered


@pytest.fixture(scope="module")
def project(secrets_folder: Path) -> Json:
    return _rendered(secrets_folder)


def test_compose_takes_both_files(project: Json, secrets_folder: Path) -> None:
    """The same services with and without the images that are built here; there, what can't be built waits for its profile."""
    local = _rendered(secrets_folder, local=True)

    assert (
        set(project["services"])
        == {*SERVICES, *NATS, *STORES, "postgres", "provision", "proxy"}
        == set(local["services"])
    )
    assert {name for name, each in local["services"].items() if each.get("profiles")} == STORES
    assert not any(each.get("profiles") for each in project["services"].values())
    assert {name for name, each in local["services"].items() if each["image"].startswith("drape-")} == (
        local["services"].keys() - STORES
    )


def test_two_replicas_and_three_nodes(project: Json) -> None:
    """Two of each service; three nodes, known by their names, with a volume each; streams that stand on all three."""
    services = project["services"]

    assert {name: services[name]["deploy"]["replicas"] for name in SERVICES} == dict.fromkeys(SERVICES, 2)
    assert {services[name]["environment"]["NATS_NAME"] for name in NATS} == NATS
    assert {services[name]["volumes"][0]["source"] for name in NATS} == NATS
    assert services["provision"]["environment"]["DRAPE_STREAM_REPLICAS"] == "3"
    for name in (*SERVICES, "provision"):
        assert set(re.findall(r"nats://(\S+?):4222", services[name]["environment"]["NATS_URL"])) == NATS


def test_nobody_can_do_more_than_they_must(project: Json) -> None:
    """A root that is read-only, no capabilities, no way to gain any, limits of processor, memory and processes."""
    for name, each in project["services"].items():
        limits = each["deploy"]["resources"]["limits"]
        assert each["read_only"] is True, name
        assert each["cap_drop"] == ["ALL"], name
        assert each["security_opt"] == ["no-new-privileges:true"], name
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        assert not each.get("privileged"), name
        assert each["restart"] == ("no" if name == "provision" else "unless-stopped"), name
        assert bool(each.get("cap_add")) == (name == "postgres"), name


def test_images_are_pinned(project: Json) -> None:
    """No image floats: each has a version, or is built here."""
    for name, each in project["services"].items():
        assert re.search(r":(v?\d+\.\d+[\w.-]*|dev)$|@sha256:", each["image"]), f"{name}: {each['image']}"


def test_only_the_gateway_is_published(project: Json) -> None:
    """The proxy where it was asked to be; what is for the people who run Drape, on loopback whatever was asked."""
    published = {
        (name, port["host_ip"], port["target"])
        for name, each in _rendered_services(project)
        for port in each.get("ports", [])
    }

    assert published == {
        ("proxy", "127.0.0.1", 8080),
        ("grafana", "127.0.0.1", 3000),
        ("collector", "127.0.0.1", 24224),
    }


def test_published_elsewhere_is_the_proxy_alone(secrets_folder: Path) -> None:
    """With another address only the proxy moves."""
    moved = _rendered(secrets_folder, DRAPE_BIND="0.0.0.0", DRAPE_PORT="80")
    ports = {
        (name, port["host_ip"], port["published"])
        for name, each in _rendered_services(moved)
        for port in each.get("ports", [])
    }

    assert [each for each in ports if each[1] != "127.0.0.1"] == [("proxy", "0.0.0.0", "80")]


def _rendered_services(project: Json) -> ItemsView[str, Json]:
    services: dict[str, Json] = project["services"]
    return services.items()


def _on(project: Json, network: str) -> set[str]:
    return {name for name, each in _rendered_services(project) if network in each["networks"]}


def test_who_meets_whom(project: Json) -> None:
    """NATS meets who has a key, PostgreSQL meets telemetry, the gateways meet the proxy and the orchestrator's look."""
    assert _on(project, "bus") == {*NATS, *SERVICES, "provision"}
    assert _on(project, "data") == {"postgres", "telemetry"}
    assert _on(project, "edge") == {"proxy", "gateway", "orchestrator"}
    assert _on(project, "vms") == {"pool", "orchestrator", "gateway"}
    assert _on(project, "public") == {"proxy", "collector", "grafana"}
    assert _on(project, "signals") == {*STORES, *SERVICES}
    inner = {name for name, each in project["networks"].items() if each.get("internal")}
    assert inner == {"bus", "data", "edge", "signals"}


def test_only_the_pool_has_the_engine(project: Json) -> None:
    """The engine's socket is root on its machine: one service has it, and nothing else of this machine is mounted."""
    bound = {
        (name, volume["target"])
        for name, each in _rendered_services(project)
        for volume in each.get("volumes", [])
        if volume["type"] == "bind"
    }

    assert bound == {("pool", "/var/run/docker.sock")}


SECRETS = {
    "pool": {"platform", "pool_seed"},
    "orchestrator": {"platform", "orchestrator_seed"},
    "gateway": {"platform", "gateway_seed", "api_tokens"},
    "telemetry": {"platform", "telemetry_seed", "database_url"},
    "provision": {"provision_seed"},
    "postgres": {"postgres_password"},
    "grafana": {"grafana_password"},
    **{node: {"nats_users", "nats_routes"} for node in NATS},
}


def test_everybody_has_their_own_secrets(project: Json, secrets_folder: Path) -> None:
    """Each has what it needs, no other's key, and none of them stands in an environment or an argument."""
    given = {
        name: {secret["source"] for secret in each["secrets"]}
        for name, each in _rendered_services(project)
        if each.get("secrets")
    }
    assert given == SECRETS
    assert all(Path(each["file"]).is_file() for each in project["secrets"].values())

    told = json.dumps(project)
    for path in secrets_folder.iterdir():
        assert path.read_text("utf-8").strip() not in told, path.name


def test_paths_of_secrets_lead_to_them(project: Json) -> None:
    """A variable that ends in _FILE names a secret which that container has."""
    for name, each in _rendered_services(project):
        mounted = {
            secret["target"] if secret["target"].startswith("/") else f"/run/secrets/{secret['target']}"
            for secret in each.get("secrets", [])
        }
        named = {value for key, value in each.get("environment", {}).items() if key.endswith("_FILE") and value}
        assert named <= mounted, name


@pytest.mark.skipif(find_spec("shared.health") is None, reason="services do not serve health yet")
def test_settings_exist(project: Json) -> None:
    """Each variable that a service gets is a setting of ours, or a file's twin of one."""
    known = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", (ROOT / "docs" / "settings.md").read_text("utf-8")))
    for name in (*SERVICES, "provision"):
        given = project["services"][name]["environment"]
        assert {key for key in given if key not in known and key.removesuffix("_FILE") not in known} == set(), name


def test_health_is_asked_where_it_is_served(project: Json) -> None:
    """The health checks of the services ask for what makes them ready, at the port that they are given."""
    for name in SERVICES:
        each = project["services"][name]
        assert each["healthcheck"]["test"][-2:] == ["health", "ready"]
        assert each["environment"]["DRAPE_HEALTH_PORT"] == str(HEALTH_PORT)
        assert each["depends_on"]["provision"]["condition"] == "service_completed_successfully"
        assert each["stop_grace_period"] == "30s"


def _yaml(name: str) -> Json:
    loaded: Json = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return loaded


def test_configs_are_all_used_and_there(project: Json) -> None:
    """Each file beside compose.yaml is mounted by somebody, and each that Grafana is to load by Grafana."""
    beside = {*FOLDER.iterdir(), *(path for pattern in GRAFANA_LOADS for path in GRAFANA.glob(pattern))}
    assert {Path(each["file"]) for each in project["configs"].values()} == beside
    used = {each["source"] for _, service in _rendered_services(project) for each in service.get("configs", [])}
    assert used == project["configs"].keys()


def test_collector_is_wired(project: Json) -> None:
    """Pipelines name components that are there, none is left over; each exporter leads to a service; all have bounds."""
    config = _yaml("collector.yaml")
    pipelines = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipeline in pipelines for name in pipeline[kind]} == config[kind].keys()
    assert config["service"]["extensions"] == list(config["extensions"])
    assert all(pipeline["processors"][0] == "memory_limiter" for pipeline in pipelines)
    for exporter in config["exporters"].values():
        assert re.match(r"http://(\w+)", exporter["endpoint"])[1] in STORES  # type: ignore[index]
        assert exporter["sending_queue"]["queue_size"]
        assert exporter["retry_on_failure"]["max_elapsed_time"]
    port = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]
    assert project["services"]["pool"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}"
    forwarded = config["receivers"]["fluentforward"]["endpoint"].rpartition(":")[2]
    assert project["services"]["pool"]["logging"]["options"]["fluentd-address"] == f"tcp://127.0.0.1:{forwarded}"


def test_stores_listen_where_they_are_looked_for() -> None:
    """The collector's and Grafana's addresses are the ports that the stores' own files open."""
    exporters = _yaml("collector.yaml")["exporters"]
    sources = {each["type"]: each["url"] for each in _yaml("../grafana/datasources.yaml")["datasources"]}
    loki, tempo = _yaml("loki.yaml"), _yaml("tempo.yaml")
    otlp = tempo["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rpartition(":")[2]

    assert exporters["otlphttp/tempo"]["endpoint"] == f"http://tempo:{otlp}"
    assert exporters["otlphttp/loki"]["endpoint"] == f"http://loki:{loki['server']['http_listen_port']}/otlp"
    assert sources == {
        "prometheus": "http://prometheus:9090",
        "tempo": f"http://tempo:{tempo['server']['http_listen_port']}",
        "loki": f"http://loki:{loki['server']['http_listen_port']}",
    }


def test_prometheus_asks_every_replica(project: Json) -> None:
    """By name, at the health port; and it takes what the collector sends."""
    (found,) = _yaml("prometheus.yaml")["scrape_configs"][0]["dns_sd_configs"]

    assert set(found["names"]) == set(SERVICES)
    assert found["port"] == HEALTH_PORT
    assert "--web.enable-otlp-receiver" in project["services"]["prometheus"]["command"]


def test_proxy_leads_to_gateways_that_are_ready(project: Json) -> None:
    """It serves what is published, sends to the gateway's port, and asks the health port; HAProxy itself takes the file."""
    text = (FOLDER / "haproxy.cfg").read_text("utf-8")
    gateway = project["services"]["gateway"]["environment"]

    assert f"server-template gateway 16 gateway:{gateway['DRAPE_GATEWAY_PORT']} check" in text
    assert f"http-check connect port {gateway['DRAPE_HEALTH_PORT']}" in text
    assert "uri /ready" in text
    assert re.search(r"^ +bind :8080$", text, re.MULTILINE)
    if shutil.which("haproxy"):
        checked = subprocess.run(
            ["haproxy", "-c", "-f", str(FOLDER / "haproxy.cfg")], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_secrets_are_made_once_and_kept_apart(tmp_path: Path) -> None:
    """A second run changes nothing; the folder is closed to others; each key is its own; NATS knows all of them."""
    folder = tmp_path / "compose"
    composing.make_secrets(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    composing.make_secrets(folder)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    keys = {public_key(seed.decode().strip()) for name, seed in first.items() if name.endswith(".nk")}
    assert len(keys) == len(IDENTITIES)
    assert all(key in first["server-auth.conf"].decode() for key in keys)
    assert first["postgres_password"] in first["database_url"]
    assert all(f"@{node}:6222" in first["routes-auth.conf"].decode() for node in NATS)


def test_up_waits_until_all_is_healthy() -> None:
    """`up` returns when everything is; other commands are compose's own."""
    compose = ["docker", "compose"]

    up = composing.command(compose, True, ["up", "pool"])
    assert up[:2] == compose
    assert up[2:6] == ["--file", str(composing.FILE), "--file", str(composing.LOCAL_FILE)]
    assert up[6:] == ["up", "--detach", "--wait", "--wait-timeout", "300", "--remove-orphans", "pool"]
    assert composing.command(compose, False, ["down", "-v"])[2:] == ["--file", str(composing.FILE), "down", "-v"]


def test_callers_environment_goes_first(tmp_path: Path) -> None:
    """What compose asks for is filled in, unless somebody has said it."""
    socket = tmp_path / "socket"
    socket.touch()

    filled = composing.environment({"DRAPE_DOCKER_SOCKET": str(socket)}, tmp_path)
    assert filled["DRAPE_COMPOSE_SECRETS"] == str(tmp_path)
    assert filled["DRAPE_DOCKER_GID"] == str(socket.stat().st_gid)
    assert composing.environment({"DRAPE_DOCKER_GID": "7"}, tmp_path)["DRAPE_DOCKER_GID"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the engine is in a machine of its own")
def test_pool_gets_the_socket_of_the_engine_that_compose_uses(tmp_path: Path) -> None:
    """A socket that is not at the usual place, as of an engine without root; what is named goes before."""
    elsewhere = {"DOCKER_HOST": "unix:///run/user/7/docker.sock"}
    assert composing.environment(elsewhere, tmp_path)["DRAPE_DOCKER_SOCKET"] == "/run/user/7/docker.sock"
    assert composing.environment({**elsewhere, "DRAPE_DOCKER_SOCKET": "/x"}, tmp_path)["DRAPE_DOCKER_SOCKET"] == "/x"
    assert "DRAPE_DOCKER_SOCKET" not in composing.environment({"DOCKER_HOST": "tcp://far:2376"}, tmp_path)


def test_vms_that_can_not_be_removed_are_told() -> None:
    """An engine that does not answer: an error with a code, not a silence."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "DOCKER_HOST": "tcp://127.0.0.1:1"}
    with pytest.raises(LauncherError, match=r"127\.0\.0\.1:1") as caught:
        composing.remove_vms(environ)
    assert caught.value.code == "vms_left"


def test_machine_without_compose_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the plugin nor the command: what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LauncherError, match="version 2") as raised:
        composing.find_compose()
    assert raised.value.code == "compose_missing"
    assert "docs.docker.com" in raised.value.hint
