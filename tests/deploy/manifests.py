"""What the Helm chart renders to, as data, and who may reach whom by its NetworkPolicies."""

import ipaddress
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.kubernetes import render

Manifest = dict[str, Any]
SERVICES = ("pool", "orchestrator", "gateway", "telemetry")
CASES = [path.stem for path in render.cases()]
NATS_LABELS = {"app.kubernetes.io/name": "nats", "app.kubernetes.io/instance": render.RELEASE}
"""Labels of the pods that NATS's own chart makes."""
NAMESPACE = "kubernetes.io/metadata.name"


@cache
def manifests(case: str) -> tuple[Manifest, ...]:
    """Every document of one rendering."""
    text = (render.RENDERED / f"{case}.yaml").read_text("utf-8")
    return tuple(each for each in yaml.safe_load_all(text) if each)


def values(case: str) -> Manifest:
    """The values that a case is rendered with, its own over the chart's."""
    given = yaml.safe_load((render.FOLDER / "ci" / f"{case}.yaml").read_text("utf-8"))
    found: Manifest = merged(yaml.safe_load((render.CHART / "values.yaml").read_text("utf-8")), given)
    return found


def merged(under: Any, over: Any) -> Any:
    """As Helm merges values: map by map, anything else is replaced."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {key: merged(under.get(key), over[key]) if key in over else under[key] for key in {**under, **over}}


def of_kind(case: str, *kinds: str) -> list[Manifest]:
    """The documents of these kinds."""
    return [each for each in manifests(case) if each["kind"] in kinds]


def workloads(case: str) -> list[Manifest]:
    """Whatever makes pods."""
    return of_kind(case, "Deployment", "StatefulSet", "Job")


def component(manifest: Manifest) -> str:
    """Which part of Drape it is."""
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pod(manifest: Manifest) -> Manifest:
    """The pod that a workload makes."""
    return dict(manifest["spec"]["template"])


def service(case: str, name: str) -> Manifest:
    """The Deployment of a service."""
    (found,) = (each for each in of_kind(case, "Deployment") if component(each) == name)
    return found


def container(manifest: Manifest) -> Manifest:
    """The one container of a workload."""
    (found,) = pod(manifest)["spec"]["containers"]
    return dict(found)


def environment(manifest: Manifest) -> dict[str, str]:
    """Its environment; what comes from a field is named by the field."""
    found = {}
    for each in container(manifest).get("env", []):
        found[each["name"]] = each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"]
    return found


def matches(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels. Knows `matchLabels` and the operator `In`, which is all that is used."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def pods(case: str) -> dict[str, dict[str, str]]:
    """The labels of every pod of the release, NATS's included, by component."""
    found = {component(each): dict(pod(each)["metadata"]["labels"]) for each in workloads(case)}
    return {**found, "nats": NATS_LABELS} if values(case)["nats"]["enabled"] else found


class Peer:
    """One end of a connection: a pod of the release, a pod of another namespace, or an address."""

    def __init__(
        self, labels: Mapping[str, str] | None = None, namespace: str = render.NAMESPACE, address: str = ""
    ) -> None:
        self.labels = labels or {}
        self.namespace = namespace
        self.address = address

    def taken_by(self, rule: Manifest) -> bool:
        """Whether an entry of `from` or `to` means this peer."""
        if "ipBlock" in rule:
            if not self.address:
                return False
            address, block = ipaddress.ip_address(self.address), rule["ipBlock"]
            networks = [ipaddress.ip_network(each) for each in (block["cidr"], *block.get("except", []))]
            return address in networks[0] and not any(address in each for each in networks[1:])
        if self.address:
            return False
        if "namespaceSelector" in rule:
            if not matches(rule["namespaceSelector"], {NAMESPACE: self.namespace}):
                return False
        elif self.namespace != render.NAMESPACE:
            return False
        return matches(rule.get("podSelector", {}), self.labels)


def allowed(case: str, labels: Mapping[str, str], direction: str, peer: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let a pod with these labels exchange with a peer: `ingress` from it, `egress` to it."""
    selecting = [
        each["spec"] for each in of_kind(case, "NetworkPolicy") if matches(each["spec"]["podSelector"], labels)
    ]
    selecting = [each for each in selecting if direction.capitalize() in each["policyTypes"]]
    if not selecting:
        return True
    side = "from" if direction == "ingress" else "to"
    for rule in (rule for each in selecting for rule in each.get(direction, [])):
        ports = rule.get("ports")
        if ports is not None and not any(_port(each, port, protocol) for each in ports):
            continue
        if side not in rule or any(peer.taken_by(each) for each in rule[side]):
            return True
    return False


def _port(rule: Manifest, port: int, protocol: str) -> bool:
    last = int(rule["endPort"] if "endPort" in rule else rule["port"])
    return bool(rule["protocol"] == protocol) and int(rule["port"]) <= port <= last


def edges(case: str, ports: tuple[int, ...]) -> Iterator[tuple[str, str, int]]:
    """Who of the release may connect to whom of it, at which of these ports: both ends have to agree."""
    found = pods(case)
    for source, source_labels in found.items():
        for target, target_labels in found.items():
            for port in ports:
                if allowed(case, source_labels, "egress", Peer(target_labels), port) and allowed(
                    case, target_labels, "ingress", Peer(source_labels), port
                ):
                    yield source, target, port


def known_settings() -> set[str]:
    """Every setting that docs/settings.md names; a test holds that page against the code."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return {word for row in rows for word in row.replace("`", " ").replace(".", " ").split() if word.isupper()}
