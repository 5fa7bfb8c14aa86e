"""The chart's manifests, as a real API server takes them: admission, defaults and Pod Security's `restricted` included.

Runs where `kube-apiserver`, `etcd` and `kubectl` are, on PATH or in `.tools`: deploy/kubernetes/README.md says how they are had.
"""

import csv
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from deploy.kubernetes import render
from deploy.local.ports import free_port
from tests.deploy.manifests import CASES, manifests
from tests.deploy.waiting import eventually

ROOT = Path(__file__).parents[2]
TOKEN = "chart-test"
UP_TIMEOUT_S = 120.0
FOREIGN = {"PodMonitor"}
"""Kinds that the server has no definition of."""


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(ROOT / ".tools"))


TOOLS = {name: _tool(name) for name in ("kube-apiserver", "etcd", "kubectl")}
pytestmark = pytest.mark.skipif(
    None in TOOLS.values(),
    reason=f"not here, on PATH or in .tools: {', '.join(name for name, path in TOOLS.items() if path is None)}",
)


@pytest.fixture
async def kubeconfig(tmp_path: Path) -> AsyncIterator[Path]:
    """An API server of its own, with a namespace that admits `restricted` pods alone."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    (tmp_path / "sa.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    )
    (tmp_path / "sa.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with (tmp_path / "tokens.csv").open("w", newline="") as file:
        csv.writer(file).writerow([TOKEN, "admin", "1", "system:masters"])
    store, peers, port = free_port(), free_port(), free_port()
    processes = [
        _started("etcd", tmp_path, _etcd(store, peers)),
        _started("kube-apiserver", tmp_path, _server(store, port)),
    ]
    try:
        url = f"https://127.0.0.1:{port}"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            await eventually(lambda: _answers(session, f"{url}/readyz"), UP_TIMEOUT_S)
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(_config(url)), "utf-8")
        kubectl(path, "create", "namespace", render.NAMESPACE)
        kubectl(path, "label", "namespace", render.NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield path
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(30)


def _started(name: str, folder: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen([str(TOOLS[name]), *arguments], cwd=folder, stdout=log, stderr=log)


def _etcd(port: int, peers: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return [
        *("--data-dir", "etcd", "--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
    ]


def _server(store: int, port: int) -> list[str]:
    return [
        *(f"--etcd-servers=http://127.0.0.1:{store}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
        *("--service-account-key-file=sa.pub", "--service-account-signing-key-file=sa.key"),
        *("--service-account-issuer=https://drape.test", "--token-auth-file=tokens.csv", "--cert-dir=certs"),
        *("--authorization-mode=RBAC", "--service-cluster-ip-range=10.98.0.0/16"),
    ]


def _config(url: str) -> dict[str, Any]:
    cluster = {"server": url, "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "one", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "admin"}}],
        "current-context": "one",
    }


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url, ssl=False) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


def kubectl(config: Path, *arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    """One call, which has to work."""
    done = _called([str(TOOLS["kubectl"]), *arguments], config, {}, given)
    assert done.returncode == 0, done.stderr
    return done


def _called(
    argv: list[str], config: Path, env: Mapping[str, str], given: str = ""
) -> "subprocess.CompletedProcess[str]":
    # kubectl writes what it has found out about the server below HOME.
    env = {**os.environ, "KUBECONFIG": str(config), "HOME": str(config.parent), **env}
    return subprocess.run(
        argv, input=given, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


async def test_a_server_admits_all_of_the_chart(kubeconfig: Path) -> None:
    """Every object of every rendering, fields checked strictly, and without a warning."""
    for case in CASES:
        ours = [each for each in manifests(case) if each["kind"] not in FOREIGN]

        done = kubectl(
            kubeconfig,
            *("apply", "-n", render.NAMESPACE, "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-"),
            given=yaml.safe_dump_all(ours),
        )

        assert (len(done.stdout.splitlines()), done.stderr) == (len(ours), "")


async def test_secrets_are_made_once(kubeconfig: Path) -> None:
    """Each that the chart mounts and that can be made is there after `make-secrets`, and a second run changes none."""
    kubectl_dir = str(Path(str(TOOLS["kubectl"])).parent)
    env = {
        "PATH": f"{kubectl_dir}:{os.environ['PATH']}",
        "DRAPE": f"{ROOT}/.venv/bin/drape",
        "TMPDIR": str(kubeconfig.parent),
    }
    script = str(render.FOLDER / "make-secrets")

    first = _called([script, render.NAMESPACE], kubeconfig, env)
    made = kubectl(kubeconfig, "-n", render.NAMESPACE, "get", "secrets", "-o", "yaml").stdout
    again = _called([script, render.NAMESPACE], kubeconfig, env)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert kubectl(kubeconfig, "-n", render.NAMESPACE, "get", "secrets", "-o", "yaml").stdout == made
    names = {each["metadata"]["name"] for each in yaml.safe_load(made)["items"]}
    assert {"drape-nats-auth", "drape-platform", "drape-api-tokens", "drape-database"} <= names
