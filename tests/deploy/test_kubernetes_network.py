"""The chart's NetworkPolicies: exactly who must reach whom, worked out from the rendered policies by both ends."""

import pytest

from tests.deploy.manifests import CASES, SERVICES, Peer, allowed, edges, of_kind, pods

PORTS = (53, 80, 443, 2376, 4222, 4318, 5432, 6222, 8080, 8081, 8222, 40000)
NATS = {("nats", "nats", 6222), *((each, "nats", 4222) for each in (*SERVICES, "provision"))}
CONFIRMS = ("orchestrator", "gateway", 8080)
INSIDE = {
    "fly": {CONFIRMS, *NATS},
    "docker": {CONFIRMS},
    "trial": {CONFIRMS, *NATS, ("telemetry", "postgres", 5432)},
}
"""Connections within the release, by case."""
INTERNET, METADATA, ELSEWHERE = "93.184.216.34", "169.254.169.254", "10.99.0.1"
VM_HOST, NATS_HOST, DATABASE = "10.30.0.11", "10.40.0.5", "10.20.0.7"
SPEAK_TO_AGENTS = ("pool", "orchestrator", "gateway")
OUTSIDE = {
    "fly": {*((each, INTERNET, 443) for each in SPEAK_TO_AGENTS), ("telemetry", DATABASE, 5432)},
    "docker": {
        ("pool", VM_HOST, 2376),
        *((each, VM_HOST, 40000) for each in SPEAK_TO_AGENTS),
        *((each, NATS_HOST, 4222) for each in (*SERVICES, "provision")),
        ("telemetry", DATABASE, 5432),
    },
    "trial": {(each, INTERNET, 443) for each in SPEAK_TO_AGENTS},
}
"""Connections to addresses, by case."""
STRANGERS = [
    Peer({}, namespace="default"),
    Peer({"app.kubernetes.io/name": "drape"}, namespace="default"),
    Peer(address=INTERNET),
    Peer(address=VM_HOST),
    Peer({"app": "other"}),
]
"""A pod of another namespace, one that calls itself ours, the internet, a VM, another pod of the same namespace."""


@pytest.mark.parametrize("case", CASES)
def test_edges_within(case: str) -> None:
    """Within the release nobody reaches anybody but these."""
    assert set(edges(case, PORTS)) == INSIDE[case]


@pytest.mark.parametrize("case", CASES)
def test_ways_out(case: str) -> None:
    """To addresses, each component reaches what it needs: agents in VMs, the provider (the pool alone), what lies elsewhere;
    the cloud's metadata and other networks of the cluster are reached by nobody."""
    addresses = (INTERNET, METADATA, ELSEWHERE, VM_HOST, NATS_HOST, DATABASE)
    found = {
        (name, address, port)
        for name, labels in pods(case).items()
        for address in addresses
        for port in PORTS
        if allowed(case, labels, "egress", Peer(address=address), port)
    }

    assert found == OUTSIDE[case]


@pytest.mark.parametrize("case", CASES)
def test_ways_in(case: str) -> None:
    """From other namespaces come the ingress controller, to the gateway, and Prometheus, to health and metrics."""
    controller, monitoring = Peer(namespace="ingress-nginx"), Peer(namespace="monitoring")
    for name, labels in pods(case).items():
        in_by_controller = {port for port in PORTS if allowed(case, labels, "ingress", controller, port)}
        in_by_monitoring = {port for port in PORTS if allowed(case, labels, "ingress", monitoring, port)}
        assert in_by_controller == ({8080} if name == "gateway" else set()), name
        assert in_by_monitoring == ({8081} if name in SERVICES else set()), name


@pytest.mark.parametrize("case", CASES)
def test_strangers_stay_out(case: str) -> None:
    """Nobody else reaches any pod of the release at any port that something listens on: VMs neither."""
    for name, labels in pods(case).items():
        for stranger in STRANGERS:
            assert not any(allowed(case, labels, "ingress", stranger, port) for port in PORTS), (name, vars(stranger))


@pytest.mark.parametrize("case", CASES)
def test_names_can_be_looked_up(case: str) -> None:
    """Who calls somebody by name may ask the cluster's DNS, and no other DNS."""
    dns = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")
    for name, labels in pods(case).items():
        if name == "postgres":
            continue
        assert allowed(case, labels, "egress", dns, 53, "UDP"), name
        assert not allowed(case, labels, "egress", Peer(address="8.8.8.8"), 53, "UDP"), name


@pytest.mark.parametrize("case", CASES)
def test_collector(case: str) -> None:
    """Traces and metrics go out where an endpoint is set, and only there."""
    collector = Peer({"app": "collector"}, namespace="monitoring")
    sending = {name for name, labels in pods(case).items() if allowed(case, labels, "egress", collector, 4318)}

    assert sending == (set(SERVICES) if case == "fly" else set())


@pytest.mark.parametrize("case", CASES)
def test_everything_is_denied_first(case: str) -> None:
    """Each pod is under the policy that denies both directions, and under exactly one that allows."""
    policies = of_kind(case, "NetworkPolicy")
    (deny,) = (each["spec"] for each in policies if each["metadata"]["name"] == "drape-deny")

    assert set(deny) == {"podSelector", "policyTypes"}
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert len(policies) == len(pods(case)) + 1
