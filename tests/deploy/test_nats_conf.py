"""deploy/nats/server.conf is taken by the server that it is for, and says what the log depends on."""

import asyncio
import datetime
import os
import shutil
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local.nats import find_nats_server
from deploy.local.nats_config import USER, NatsOptions, Node, cluster_of, config_of
from deploy.nats.authorization import open_authorization

CONF = Path(__file__).parents[2] / "deploy" / "nats" / "server.conf"


def _certificate(folder: Path) -> dict[str, str]:
    """A certificate that vouches for itself, as the variables that the configuration reads."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "drape-nats-1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "NATS_CERT": str(folder / "cert.pem"),
        "NATS_KEY": str(folder / "key.pem"),
        "NATS_CA": str(folder / "cert.pem"),
    }


async def _checked(config: Path, env: dict[str, str]) -> tuple[int | None, str]:
    """Exit code and words of `nats-server -t`."""
    child = await asyncio.create_subprocess_exec(
        str(find_nats_server()),
        *("-t", "-c", str(config)),
        env={"PATH": os.environ["PATH"], **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await child.communicate()
    return child.returncode, said.decode()


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The configuration as it lies on a machine, and that machine's variables."""
    config = tmp_path / "server.conf"
    shutil.copy(CONF, config)
    (tmp_path / "server-auth.conf").write_text(open_authorization(USER, "correct-horse_battery"))
    return config, {"NATS_NAME": "drape-nats-1", "NATS_STORE": str(tmp_path / "store"), **_certificate(tmp_path)}


async def test_the_server_takes_it(deployed: tuple[Path, dict[str, str]]) -> None:
    """Every setting in it is one, and all variables that it reads are named in its head."""
    code, said = await _checked(*deployed)

    assert code == 0, said
    assert "is valid" in said


@pytest.mark.parametrize("missing", ["NATS_NAME", "NATS_STORE", "NATS_CERT", "NATS_KEY", "NATS_CA"])
async def test_what_is_not_set_is_named(deployed: tuple[Path, dict[str, str]], missing: str) -> None:
    """A machine that lacks one of the variables does not start with a default."""
    config, env = deployed
    code, said = await _checked(config, {key: value for key, value in env.items() if key != missing})

    assert code != 0
    assert missing in said


def test_it_keeps_what_it_acknowledges() -> None:
    """Synced at every append, three servers, and no clients that learn addresses without credentials."""
    lines = {line.strip() for line in CONF.read_text().splitlines()}

    assert {"sync_interval: always", "no_advertise: true", "feature_flags { js_ack_fc_v2: false }"} <= lines
    assert sum(line.startswith('"nats://') for line in lines) == 3


async def test_the_embedded_nodes_configuration_is_valid_too(tmp_path: Path) -> None:
    """What `drape up` writes for one server and for three."""
    nodes = [
        Node(name=f"nats-{n}", port=n, monitor_port=n + 10, cluster_port=n + 20, store=tmp_path, log=tmp_path / "log")
        for n in (1, 2, 3)
    ]
    for cluster in ("", cluster_of(nodes[0], nodes, "between-them")):
        config = tmp_path / "nats.conf"
        config.write_text(config_of(nodes[0], open_authorization(USER, "word"), NatsOptions(), cluster))
        code, said = await _checked(config, {})
        assert code == 0, said
